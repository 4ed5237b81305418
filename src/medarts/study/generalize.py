"""How well the networks of a study generalise: trained on each group of data sets, and tested on every data set."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medarts import __version__
from medarts.comparison.candidates import Group, Kind, Missing, read_files
from medarts.comparison.measures import Measured, Measures, mean_measured, measures_of
from medarts.comparison.overall import OVERALL, score_cells, shared_sets
from medarts.comparison.result import read_result, write_result
from medarts.config import SourceSettings
from medarts.config.study import NetworkEntry, Study, load_study
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.engine.directory import RunDirectory, is_begun
from medarts.engine.listing import read_listing
from medarts.errors import MedartsError, RunError
from medarts.evaluation.evaluate import current_scores
from medarts.evaluation.scores import names_of_images
from medarts.evaluation.stats import counting_sets
from medarts.metrics import MAIN, metric
from medarts.spaces.genotype import zoo
from medarts.study.benchmark import available_runs
from medarts.study.contrasts import UNSEEN, Claim, Pair, contrasts_of, makers, search_pairs, sides_of, training_pairs
from medarts.study.jobs import Layout
from medarts.study.networks import search_behind
from medarts.system.console import progress_bar
from medarts.system.files import check_writable
from medarts.system.randomness import seed_of

NAME = "generalization"
TABLES = ("tested", "seeds", "retrained", "contrasts", "sides")
_NEEDS = ("title", "note", "task", "score", "datasets", "groups", "networks", "planned", "missing", "untested")

Found = dict[tuple[str, str, str], Measured]
"""By group, network and data set."""


class Untested(NamedTuple):
    """A finished run that could not be scored on a data set, and why."""

    group: str
    network: str
    seed: int
    dataset: str
    reason: str


@dataclass(frozen=True, eq=False)
class Generalization:
    """How well the networks of a study generalise.

    Attributes:
        about: title, note, task, score; by data set whether it is external, images, patients, excluded classes and the
            reason why it cannot be scored; groups with their data sets; networks with kind and data sets of the search;
            number of planned contrasts of each claim; runs that are missing or could not be tested.
        tested: group, network, dataset, mark, mean, low, high, undefined, patients, seeds: every planned network tested
            on every data set; undefined where it is missing. The mark says how the data set relates to the group:
            "own", "part of the mix", "unseen" or "external".
        seeds: group, network, dataset, seed, value.
        retrained: group, network, mean, low, high, undefined, patients, seeds, rank: trained and tested on one data
            set. The group `OVERALL` holds means over data sets, and mean ranks.
        contrasts: see ``medarts.study.contrasts.contrasts_of``.
        sides: see ``medarts.study.contrasts.sides_of``.
    """

    about: dict[str, Any]
    tested: pd.DataFrame
    seeds: pd.DataFrame
    retrained: pd.DataFrame
    contrasts: pd.DataFrame
    sides: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Writes ``generalization.json`` and a CSV file for each table."""
        write_result(folder, NAME, self.about, {name: getattr(self, name) for name in TABLES})

    @classmethod
    def read(cls, folder: Path) -> "Generalization":
        """Reads what `write` wrote."""
        about, tables, _ = read_result(folder, NAME, TABLES, needs=_NEEDS, fix="Make it again: medarts generalize.")
        return cls(about, **tables)


def generalize(out: Path) -> Generalization:
    """Tests the networks of a study, as far as they are trained, on all of its data sets.

    Args:
        out: folder of the study, as of ``medarts benchmark``.

    Raises:
        RunError: it holds no study, or cannot be written.
        RecipeError: the file of the study is damaged.
    """
    groups = {name: group.without_damaged(read_files) for name, group in available_runs(out).items()}
    layout = Layout(out)
    study = load_study(layout.study, kept=True)
    check_writable(out)
    table, untested = score_everything(study, groups)
    return put_together(
        study,
        table,
        title=f"Generalisation in {out.resolve().name}",
        kinds={one.name: one.kind for group in groups.values() for one in group.candidates},
        missing={name: group.missing for name, group in groups.items()},
        untested=untested,
        images=_images_of_searches(study, layout)
        | {
            ("training", name): training_images(group.candidates[0].runs[0])
            for name, group in groups.items()
            if group.candidates
        },
    )


def put_together(
    study: Study,
    table: pd.DataFrame,
    *,
    title: str = "",
    kinds: Mapping[str, Kind] | None = None,
    missing: Mapping[str, Sequence[Missing]] | None = None,
    untested: Sequence[Untested] = (),
    images: Mapping[tuple[Claim, str], int] | None = None,
) -> Generalization:
    """Makes the tables of a generalization.

    Args:
        table: the long table with group, network and seed; all scores of a data set are of the same images.
        missing: by group its planned runs that have not finished.
        images: training images of searches, by network, and of groups, where they are known.
    """
    seed, draws = study.recipe.seed, study.recipe.evaluation.bootstrap
    measures, problems = _measured(table, draws=draws, seed=seed)
    planned = [(group.name, name) for group in study.trained_on for name in study.networks_of(group)]
    score = metric(MAIN[study.recipe.data.task])
    found: Found = {
        (group, name, dataset): of.measured(f"{group}/{name}")[score.name]
        for group, name in planned
        for dataset, of in measures.items()
        if f"{group}/{name}" in of.networks
    }
    searched_on = {name: _searched_on(entry, study) for entry in study.networks for name in entry.names}
    pairs: dict[Claim, list[Pair]] = {
        "search": [*search_pairs(study, searched_on)],
        "training": [*training_pairs(study)],
    }
    contrasts = _joined([contrasts_of(claim, of, measures, seed=seed) for claim, of in pairs.items()])
    about: dict[str, Any] = {
        "title": title,
        "note": study.note,
        "medarts": __version__,
        "task": study.recipe.data.task,
        "score": score.name,
        "title_of_score": score.title,
        "bootstrap": draws,
        "datasets": {
            name: {"external": name in study.external, **_facts(name, measures), "problem": problems.get(name, "")}
            for name in sorted(study.domains, key=study.external.__contains__)
        },
        "groups": {group.name: [*group.data] for group in study.trained_on},
        "networks": {
            name: {"kind": (kinds or {}).get(name) or _planned_kind(entry), "searched_on": [*searched_on[name]]}
            for entry in study.networks
            for name in entry.names
        },
        "planned": {claim: sum(pair.relation in UNSEEN for pair in of) for claim, of in pairs.items()},
        "missing": [{"group": name, **run._asdict()} for name, of in (missing or {}).items() for run in of],
        "untested": [one._asdict() for one in untested],
    }
    rows = [
        {"group": group, "network": name, "dataset": dataset, "mark": _mark(study, group, dataset)}
        | _cells(found.get((group, name, dataset)), about["datasets"][dataset]["patients"])
        for group, name in planned
        for dataset in about["datasets"]
    ]
    return Generalization(
        about,
        tested=pd.DataFrame(rows),
        seeds=_seeds(found, table),
        retrained=_retrained(study, found, measures),
        contrasts=contrasts,
        sides=sides_of(contrasts, makers(study, images or {})),
    )


def _measured(table: pd.DataFrame, *, draws: int, seed: int) -> tuple[dict[str, Measures], dict[str, str]]:
    """Returns by data set the scores of the networks, named group/network, or the reason why there are none."""
    measures: dict[str, Measures] = {}
    problems: dict[str, str] = {}
    for dataset, of in table.groupby("dataset", sort=False):
        try:
            named = of.assign(network=of.group + "/" + of.network)
            measures[str(dataset)] = measures_of(named, draws=draws, seed=seed_of(seed, str(dataset)))
        except RunError as error:
            problems[str(dataset)] = error.problem
    return measures, problems


def _facts(dataset: str, measures: Mapping[str, Measures]) -> dict[str, Any]:
    of = measures.get(dataset)
    if of is None:
        return {"images": 0, "patients": 0, "excluded": ()}
    return {"images": len(of.images), "patients": of.patients, "excluded": of.excluded.get(dataset, ())}


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns the tables as one; pandas warns of empty ones, whose types it cannot tell."""
    filled = [one for one in tables if len(one)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def training_images(run: RunDirectory) -> int:
    """Returns the number of images that a run is trained or searched on."""
    return sum(about["split"] == "train" for about in read_listing(run.path / "manifest.csv").values())


def _cells(measured: Measured | None, patients: int) -> dict[str, Any]:
    if measured is None:
        return {"mean": np.nan, "low": np.nan, "high": np.nan, "undefined": 0, "patients": patients, "seeds": 0}
    return score_cells(measured) | {"patients": patients, "seeds": len(measured.by_seed)}


def _seeds(found: Found, table: pd.DataFrame) -> pd.DataFrame:
    seeds: Any = table.groupby(["group", "network", "dataset"]).seed.unique().map(sorted) if len(table) else {}
    rows = [
        {"group": group, "network": name, "dataset": dataset, "seed": seed, "value": value}
        for (group, name, dataset), measured in found.items()
        for seed, value in zip(seeds[group, name, dataset], measured.by_seed, strict=True)
    ]
    return pd.DataFrame(rows, columns=["group", "network", "dataset", "seed", "value"])


def _retrained(study: Study, found: Found, measures: Mapping[str, Measures]) -> pd.DataFrame:
    """Returns the networks trained and tested on one data set after another, their means and mean ranks."""
    singles = {group.name: group for group in study.trained_on if len(group.data) == 1}
    rows, table = [], {}
    for name, group in singles.items():
        (dataset,) = group.data
        of_group = {network: found.get((name, network, dataset)) for network in study.networks_of(group)}
        patients = measures[dataset].patients if dataset in measures else 0
        table[name] = {network: one for network, one in of_group.items() if one is not None}
        ranks = pd.Series({network: one.mean for network, one in table[name].items()}, dtype=float)
        ranks = ranks.rank(ascending=False)
        rows += [
            {"group": name, "network": network, **_cells(one, patients), "rank": ranks.get(network, np.nan)}
            for network, one in of_group.items()
        ]
    patients_of = {name: measures[singles[name].data[0]].patients for name, of in table.items() if of}
    counting = counting_sets(patients_of)
    scores = pd.DataFrame({name: {network: one.mean for network, one in table[name].items()} for name in counting})
    shared = shared_sets(scores)
    complete = scores[[*shared]].dropna()
    ranks = complete.rank(ascending=False).mean(axis=1)
    for network in complete.index if shared else ():
        mean = mean_measured({name: table[name][network] for name in shared})
        seeds = min(len(table[name][network].by_seed) for name in shared)
        cells = score_cells(mean) | {"patients": sum(patients_of[name] for name in shared), "seeds": seeds}
        rows.append({"group": OVERALL, "network": network, **cells, "rank": ranks[network]})
    columns = ["group", "network", "mean", "low", "high", "undefined", "patients", "seeds", "rank"]
    return pd.DataFrame(rows, columns=columns)


def _mark(study: Study, group: str, dataset: str) -> str:
    """Returns how a data set tested relates to the group trained on."""
    if dataset in study.external:
        return "external"
    datasets = next(one.data for one in study.trained_on if one.name == group)
    if dataset not in datasets:
        return "unseen"
    return "own" if len(datasets) == 1 else "part of the mix"


def _planned_kind(entry: NetworkEntry) -> Kind:
    if entry.model is not None:
        return "baseline"
    if entry.random is not None:
        return "random"
    return "published" if entry.genotype in zoo() else "searched"


def _searched_on(entry: NetworkEntry, study: Study) -> tuple[str, ...]:
    """Returns the data sets that a network was searched on, in the study or in the search that it comes from.

    A search from elsewhere counts only where all of its data sets are known here by the same names.
    """
    if entry.searched_on is not None:
        return entry.searched_on
    run = search_behind(entry)
    names = () if run is None else tuple(source.domain for source in run.recipe.data.sources)
    return names if set(names) <= set(study.domains) else ()


def _images_of_searches(study: Study, layout: Layout) -> dict[tuple[Claim, str], int]:
    """Returns the number of training images of the available searches."""
    found: dict[tuple[Claim, str], int] = {}
    for name in study.names:
        entry = study.entry_of(name)
        own = RunDirectory(layout.search(name).run)
        run = own if entry.searched_on is not None and is_begun(own.path) else search_behind(entry)
        if run is not None:
            with suppress(RunError):  # it is damaged, so that the number is unknown
                found["search", name] = training_images(run)
    return found


@dataclass(frozen=True)
class _Target:
    """A data set to score on.

    Attributes:
        source: where it is.
        part: its test images; all of an external one, since nothing was trained on it.
        images: data set and name of these images; None where they cannot be listed.
        reason: why not.
    """

    source: SourceSettings
    part: Part
    images: frozenset[tuple[str, str]] | None
    reason: str = ""


def score_everything(study: Study, groups: Mapping[str, Group]) -> tuple[pd.DataFrame, list[Untested]]:
    """Scores every run on the test images of every data set, and on all images of the external ones.

    Current scores of a run are reused. All scores of a data set are of the same images.

    Args:
        groups: by name the groups of data sets, with their finished runs.

    Returns:
        The long table with the columns group, network and seed, and what could not be scored.
    """
    targets = [_target(study, source) for source in study.recipe.data.sources]
    runs = [
        (name, candidate, run, seed)
        for name, group in groups.items()
        for candidate in group.candidates
        for run, seed in zip(candidate.runs, candidate.seeds, strict=True)
    ]
    tables: list[pd.DataFrame] = []
    untested: list[Untested] = []
    with progress_bar("tests", len(targets) * len(runs)) as bar:
        for group, candidate, run, seed in runs:
            for target in targets:
                try:
                    table = _score(run, target)
                    tables.append(table.assign(group=group, network=candidate.name, seed=seed))
                except MedartsError as error:
                    untested.append(Untested(group, candidate.name, seed, target.source.domain, reason=str(error)))
                bar.advance()
    empty = pd.DataFrame(columns=["group", "network", "seed", "dataset"])
    return pd.concat(tables, ignore_index=True) if tables else empty, untested


def _target(study: Study, source: SourceSettings) -> _Target:
    part: Part = "all" if source.domain in study.external else "test"
    settings = study.recipe.data.elsewhere((source,))
    try:
        samples = open_manifest(settings, needs=()).part(part).samples
    except MedartsError as error:
        return _Target(source, part, images=None, reason=str(error))
    return _Target(source, part, frozenset((sample.domain, sample.key) for sample in samples))


def _score(run: RunDirectory, target: _Target) -> pd.DataFrame:
    """Returns the scores of a run on a data set."""
    if target.images is None:
        raise RunError(target.reason, fix="")
    name = target.source.domain
    own = name in (source.domain for source in run.recipe.data.sources)
    table = current_scores(run, target.part, sources=None if own else (target.source,))
    table = table[table.dataset == name]
    if names_of_images(table) != target.images:
        raise RunError(
            f"The images of {name} that {run.path} is scored on differ from those that the study finds now.",
            fix="Restore the images and splits named in the manifest.csv of the run, or train it again.",
        )
    return table
