"""Comparisons: networks trained and tested alike, on one group of data sets or on several.

What may be compared is checked first; then runs are scored, and everything found becomes tidy tables.
"""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medarts import __version__
from medarts.comparison.candidates import Group, check_comparable, training_seconds
from medarts.comparison.costs import cost_row, on_pareto_front
from medarts.comparison.design import Budget, Design, contrasts_of, methods_table
from medarts.comparison.measures import MaskMeasures, Measures, measures_of
from medarts.comparison.overall import (
    OVERALL,
    Found,
    differences_table,
    overall_tables,
    rank_networks,
    score_cells,
)
from medarts.comparison.overlays import Overlays, as_arrays, from_arrays, most_differing, predict_overlays
from medarts.comparison.prunings import TEXTS, pruning_columns
from medarts.comparison.result import read_result, write_result
from medarts.config import ComputeSettings, SourceSettings
from medarts.data.manifest import Part
from medarts.data.store import ImageStore
from medarts.engine.device import environment, make_fabric, preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError, did_you_mean
from medarts.evaluation.scores import without_patients
from medarts.profiling.cost import Cost

NOTHING_KNOWN = Design()

NAME = "comparison"
TABLES = ("networks", "seeds", "differences", "methods", "costs", "images", "differing")
_DIFFERING = ("group", "dataset", "image", "patient", "spread")
_NEEDS = ("title", "note", "task", "score", "metrics", "split", "machine", "groups", "missing")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks side by side.

    Attributes:
        about: title, note, task, main score, metrics, split, machine; ``groups``: by name data sets, images, patients,
            external (data sets of which no network was trained on any image), units of metrics,
            size, reference, excluded classes and networks with kind, seeds, runs and changes of the recipe of their
            own; ``missing``: planned runs that could not be compared; ``methods``: by name the networks that stand for
            one; ``budget``: limits, size and threads of the one that all networks were scaled to, None without.
        networks: group, network, metric, mean, low, high, undefined values left out, unit, patients, seeds, and the
            rank by the main score. The group `OVERALL` holds means over all groups of one data set.
        seeds: group, network, seed, metric, value.
        differences: family, group, network, reference, metric, difference, low, high, p, p_corrected, patients, seeds,
            verdict. Each family and group is corrected by itself: "reference" compares every network with the
            reference, "random" a searched network with the mean of random ones of its size, "methods" the means of
            networks that stand for one method, such as searches that differ in their seed alone, with the reference,
            unless it is one of them, and with random ones. Where no reference was given, "methods" has them with each
            other too; where one was, these are in "pairs", beside all of "methods".
        methods: group, method, its networks, their mean, standard deviation, lowest and highest score, mean latency
            and mean time of a search.
        costs: group, network, kind, began_from, how it was pruned (see
            `medarts.comparison.prunings.pruning_columns`), parameters, flops, latency_ms_T and its interquartile range
            latency_spread_ms_T on T threads in ONNX Runtime, the same of other backends (torch_latency_ms_T, ...),
            memory_mb, training_seconds, search_seconds, of what a budget limits the amount that was measured when the
            network was scaled to it (budget_latency_ms, ...), and whether it is on the Pareto front of score and
            latency.
        images: group, dataset, image, patient, network, value of the main score; masks only.
        differing: group, dataset, image, patient, spread: the images of the overlays; masks only.
        overlays: by group, in the order of `differing`.
    """

    about: dict[str, Any]
    networks: pd.DataFrame
    seeds: pd.DataFrame
    differences: pd.DataFrame
    methods: pd.DataFrame
    costs: pd.DataFrame
    images: pd.DataFrame
    differing: pd.DataFrame
    overlays: Mapping[str, Overlays] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that have a finished run."""
        return tuple(name for name, group in self.about["groups"].items() if group["networks"])

    def write(self, folder: Path) -> None:
        """Writes ``comparison.json``, a CSV file for each table, and ``overlays.npz``."""
        numbers = {name: number for number, name in enumerate(self.about["groups"])}
        arrays = as_arrays([(numbers[name], one) for name, one in self.overlays.items()])
        write_result(folder, NAME, self.about, {name: getattr(self, name) for name in TABLES}, arrays)

    @classmethod
    def read(cls, folder: Path) -> "Comparison":
        """Reads what `write` wrote."""
        about, tables, arrays = read_result(folder, NAME, TABLES, needs=_NEEDS, fix="Compare again.")
        overlays = {name: from_arrays(arrays, number) for number, name in enumerate(about["groups"])}
        return cls(about, **tables, overlays={name: one for name, one in overlays.items() if one is not None})


@preserved_process_state()
def compare(
    groups: Mapping[str, Group],
    *,
    title: str,
    scores: Mapping[RunDirectory, pd.DataFrame],
    costs: Sequence[Mapping[str, Cost]],
    references: Mapping[str, str] | None = None,
    design: Design = NOTHING_KNOWN,
    split: Part = "test",
    note: str = "",
    data: ImageStore | None = None,
    sources: tuple[SourceSettings, ...] | None = None,
    external: Collection[str] = (),
) -> Comparison:
    """Compares networks on groups of data sets.

    With several seeds a value of an image is its mean over the seeds; differences are over the seeds that both networks
    have.

    Args:
        groups: by name; those without a finished run are listed as missing.
        title: of the result.
        scores: long table of every run.
        costs: of the networks of every group with a finished run, by name.
        references: by group the planned network, or method, with which the others are compared. Default, and where it
            has no finished run: the first.
        design: what is known of the networks.
        split: the images.
        note: a remark for readers.
        data: the images of runs that were started with arrays.
        sources: other data sets that were scored. Default: those of the runs.
        external: those of which no network was trained on any image.

    Raises:
        RunError: the runs may not be compared, there is none, or no such reference.
        MedartsError: the overlays cannot be predicted.
    """
    available = {name: group for name, group in groups.items() if group.candidates}
    if not available:
        raise RunError("There is no run to compare.", fix="Give training runs, or wait until one has finished.")
    planned = references or {}
    chosen = {name: reference_of(group, planned.get(name), design) for name, group in available.items()}
    for group in available.values():
        check_comparable(group.candidates, same_seeds=not group.missing, own=design.own)
    found = [
        _found(name, group, scores, reference=chosen[name], planned=planned.get(name), design=design)
        for name, group in available.items()
    ]
    tables = [_tables(one, available[one.group], of, design) for one, of in zip(found, costs, strict=True)]
    together = overall_tables([one for one in found if len(one.measures.datasets) == 1])
    joined = {
        name: pd.concat([*(of[name] for of in tables), *together.get(name, [])], ignore_index=True)
        for name in tables[0]
    }
    main = found[0].measures.metrics[0].name
    joined["costs"] = _with_overall_costs(joined["costs"], joined["networks"], main)
    methods = methods_table(joined["networks"], joined["costs"], design, metric=main)
    differing, overlays = _most_differing(joined["images"], available, split=split, data=data, sources=sources)
    about = {
        "title": title,
        "note": note,
        "medarts": __version__,
        **_shared(available.values(), found[0].measures),
        "split": split,
        "machine": _machine(),
        "groups": {name: {"networks": {}} for name in groups}
        | {one.group: _about(one, available[one.group], planned.get(one.group), design, external) for one in found},
        "methods": {name: [*networks] for name, networks in design.methods.items()},
        "budget": None
        if design.budget is None
        else {"limits": {**design.budget.limits}, "size": design.budget.size, "threads": design.budget.threads},
        "missing": [{"group": name, **run._asdict()} for name, group in groups.items() for run in group.missing],
    }
    return Comparison(about, **joined, methods=methods, differing=differing, overlays=overlays)


def reference_of(group: Group, planned: str | None, design: Design = NOTHING_KNOWN) -> str:
    """Returns the name of the network, or method, with which the others are compared."""
    names = [candidate.name for candidate in group.candidates]
    if planned is None:
        return names[0]
    there = design.members(planned, names)
    if there:
        return planned if len(there) > 1 else there[0]
    if not design.members(planned, [run.network for run in group.missing]):
        raise RunError(f"There is no network '{planned}' to compare with.", fix=did_you_mean(planned, names))
    return names[0]


def _found(
    name: str,
    group: Group,
    scores: Mapping[RunDirectory, pd.DataFrame],
    *,
    reference: str,
    planned: str | None,
    design: Design,
) -> Found:
    """Measures the networks of a group and pairs them."""
    candidates = group.candidates
    table = pd.concat(
        [
            scores[run].assign(network=candidate.name, seed=seed)
            for candidate in candidates
            for run, seed in zip(candidate.runs, candidate.seeds, strict=True)
        ],
        ignore_index=True,
    )
    seed = min(min(candidate.seeds) for candidate in candidates)
    measures = measures_of(table, draws=candidates[0].recipes[0].evaluation.bootstrap, seed=seed)
    names = [candidate.name for candidate in candidates]
    is_given = planned is not None and reference in (planned, *design.members(planned, names))
    contrasts = contrasts_of(measures, reference=reference, design=design, reference_is_given=is_given)
    measured = {one: measures.measured(one) for one in names}
    return Found(name, measures, measured, reference, contrasts)


def _tables(found: Found, group: Group, costs: Mapping[str, Cost], design: Design) -> dict[str, pd.DataFrame]:
    measures, main = found.measures, found.measures.metrics[0].name
    networks = pd.DataFrame(
        {
            "group": found.group,
            "network": network,
            "metric": metric,
            **score_cells(measured),
            "unit": measures.units.get(metric, ""),
            "patients": measures.patients,
            "seeds": len(measured.by_seed),
        }
        for network, of in found.measured.items()
        for metric, measured in of.items()
    )
    seeds = pd.DataFrame(
        {"group": found.group, "network": candidate.name, "seed": seed, "metric": metric, "value": value}
        for candidate in group.candidates
        for metric, measured in found.measured[candidate.name].items()
        for seed, value in zip(candidate.seeds, measured.by_seed, strict=True)
    )
    differences = [
        differences_table(contrasts, family=family, group=found.group, metric=main, seed=measures.seed)
        for family, contrasts in found.contrasts.items()
    ]
    prunings = pruning_columns(group.candidates)
    rows = [
        {
            "group": found.group,
            "network": candidate.name,
            "kind": candidate.kind,
            "began_from": candidate.began_from or "",
            **prunings[candidate.name],
            **cost_row(costs[candidate.name]),
            "training_seconds": statistics.mean(map(training_seconds, candidate.runs)),
            "search_seconds": design.search_seconds.get(candidate.name, math.nan),
            **_within_budget(candidate.name, design.budget),
        }
        for candidate in group.candidates
    ]
    return {
        "networks": rank_networks(networks, main),
        "seeds": seeds,
        "differences": pd.concat(differences, ignore_index=True),
        "costs": pd.DataFrame(rows),
        "images": _images(found),
    }


def _within_budget(name: str, budget: Budget | None) -> dict[str, float]:
    """Returns what a network was measured to cost when it was scaled to the budget, of what that limits."""
    if budget is None:
        return {}
    amounts = budget.amounts.get(name, {})
    return {f"budget_{limit}": amounts.get(limit, math.nan) for limit in budget.limits}


def _images(found: Found) -> pd.DataFrame:
    """Returns the main score of every image and network; of findings, whose metrics are of whole sets, nothing."""
    columns = ["group", "dataset", "image", "patient", "network", "value"]
    measures = found.measures
    if not isinstance(measures, MaskMeasures):
        return pd.DataFrame(columns=columns)
    parts = [measures.images.assign(network=name, value=measures.values(name)) for name in found.measured]
    return pd.concat(parts, ignore_index=True).assign(group=found.group)[columns]


def _with_overall_costs(costs: pd.DataFrame, networks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns costs with their means over groups, and which networks are on the Pareto front of each group."""
    scores = networks[networks.metric == metric].set_index(["group", "network"])["mean"].rename("score")
    together = networks[networks.group == OVERALL].network.unique()
    if len(together):
        groups = costs[costs.group.isin(networks[networks.group != OVERALL].group) & costs.network.isin(together)]
        numbers = [*costs.select_dtypes("number").columns]
        means = groups.groupby("network", sort=False).agg(
            dict.fromkeys(("kind", "began_from", *TEXTS), "first") | dict.fromkeys(numbers, "mean")
        )
        costs = pd.concat([costs, means.reset_index().assign(group=OVERALL)], ignore_index=True)
        costs = costs.astype({"parameters": int, "flops": int})
    scored = costs.join(scores, on=["group", "network"])
    fronts = [on_pareto_front(of_group) for _, of_group in scored.groupby("group", sort=False)]
    return costs.assign(front=pd.concat(fronts))


def _most_differing(
    images: pd.DataFrame,
    groups: Mapping[str, Group],
    *,
    split: Part,
    data: ImageStore | None,
    sources: tuple[SourceSettings, ...] | None,
) -> tuple[pd.DataFrame, dict[str, Overlays]]:
    """Returns the images on which the networks of a group differ most, and their overlays by group."""
    differing = {name: most_differing(images[images.group == name]) for name in groups}
    overlays = {
        name: predict_overlays(
            groups[name].candidates,
            [*zip(of.dataset, of.image, strict=True)],
            split=split,
            data=data,
            sources=sources,
        )
        for name, of in differing.items()
        if len(of)
    }
    rows = [of.assign(group=name)[[*_DIFFERING]] for name, of in differing.items()]
    return pd.concat(rows, ignore_index=True), overlays


def _shared(groups: Iterable[Group], measures: Measures) -> dict[str, Any]:
    """Returns what holds for the networks of all groups."""
    recipe = next(iter(groups)).candidates[0].recipes[0]
    return {
        "task": recipe.data.task,
        "score": measures.metrics[0].name,
        "metrics": {
            one.name: {"title": one.title, "larger_is_better": one.larger_is_better} for one in measures.metrics
        },
        "bootstrap": recipe.evaluation.bootstrap,
    }


def _about(
    found: Found, group: Group, planned: str | None, design: Design, external: Collection[str]
) -> dict[str, Any]:
    measures = found.measures
    return {
        "datasets": [*measures.datasets],
        "images": len(measures.images),
        "patients": measures.patients,
        "external": [name for name in measures.datasets if name in external],
        "units": measures.units,
        "size": group.candidates[0].recipes[0].data.size,
        "reference": found.reference,
        "planned_reference": planned,
        "excluded": measures.excluded,
        "without_patients": [*without_patients(measures.images)],
        "networks": {
            candidate.name: {
                "kind": candidate.kind,
                "seeds": [*candidate.seeds],
                "runs": [str(run.path) for run in candidate.runs],
                "own": [*design.own.get(candidate.name, ())],
            }
            for candidate in group.candidates
        },
    }


def _machine() -> dict[str, str | int]:
    """Returns the machine that measured latencies, which need not be that of the runs."""
    settings = ComputeSettings(device="cpu")
    facts = environment(make_fabric(settings), settings)
    return {name: facts[name] for name in ("processor", "cores", "platform", "python", "torch")}
