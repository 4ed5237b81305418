"""How well the networks of a study carry over: what has been trained is tested everywhere and put together."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from medarts.comparison.candidates import Kind
from medarts.comparison.readable import read_files, readable
from medarts.config.study import NetworkEntry, Study, load_study
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.spaces.reading import zoo
from medarts.study.benchmark import what_is_there
from medarts.study.claims import Planned, search_claim, training_claim
from medarts.study.generalization import Domain, Generalization, Group, MissingRun, MissingTest, Network
from medarts.study.jobs import is_begun
from medarts.study.layout import Layout
from medarts.study.matrices import retrained_matrix, trained_matrices
from medarts.study.measures import Measures, Scored
from medarts.study.sides import Maker, makers_of_searches, makers_of_trainings, search_behind, training_images
from medarts.study.testing import score_everything
from medarts.study.words import TITLES, definitions
from medarts.system.files import check_writable

FILE = "generalization.json"


def generalize(out: Path) -> Generalization:
    """Tests the networks of a study, as far as they are trained, on all of its data sets, and writes the result.

    Runs that are not there are listed as missing, as are tests that cannot be made.

    Args:
        out: folder of the study, as of ``medarts benchmark``; gets `FILE`.

    Raises:
        RunError: there is no study in it, or it cannot be written.
        RecipeError: the file of the study is damaged.
    """
    there = what_is_there(out)
    study = load_study(Layout(out).study)
    check_writable(out)
    candidates, missing = {}, []
    for group, runs in there.items():
        candidates[group], damaged = readable(runs.candidates, read_files)
        missing += [MissingRun(group, one.name, one.seed, one.state, one.reason) for one in (*runs.missing, *damaged)]
    tested, untested = score_everything(study, candidates)
    kinds = {candidate.name: candidate.kind for of_group in candidates.values() for candidate in of_group}
    found = put_together(
        study,
        tested,
        kinds=kinds,
        missing=missing,
        untested=untested,
        searches=makers_of_searches(study, _images_of_searches(study, Layout(out))),
        trainings=makers_of_trainings(
            study, {group: training_images(of[0].runs[0]) for group, of in candidates.items() if of}
        ),
    )
    found.write(out / FILE)
    return found


def put_together(
    study: Study,
    tested: Sequence[Scored],
    *,
    kinds: Mapping[str, Kind],
    missing: Sequence[MissingRun] = (),
    untested: Sequence[MissingTest] = (),
    searches: Mapping[str, Maker] | None = None,
    trainings: Mapping[str, Maker] | None = None,
) -> Generalization:
    """Makes matrices and verdicts of scores.

    Args:
        study: what was planned.
        tested: all scores; those of one data set are all of the same images.
        kinds: where the networks come from, by name; those without a finished run may be left out.
        missing: runs that are not there.
        untested: tests that are not there.
        searches: what its searched networks are made by; with unknown numbers of images where None.
        trainings: what the trainings on its groups are made by, likewise.
    """
    task, settings = study.recipe.data.task, study.recipe.evaluation
    measures = Measures(tested, task=task, draws=settings.bootstrap, seed=study.recipe.seed)
    groups = tuple(Group(group.name, group.data) for group in study.trained_on)
    networks = tuple(
        Network(name, kinds.get(name) or _planned_kind(entry), _searched_on(entry, study))
        for entry in study.networks
        for name in entry.names
    )
    domains = tuple(
        Domain(
            name,
            name in study.external,
            *measures.size(name),
            problem=measures.unranked.get(name, ""),
            excluded=measures.excluded(name),
        )
        for name in sorted(study.domains, key=study.external.__contains__)
    )
    groups_of = {
        name: [own for own, group in zip(groups, study.trained_on, strict=True) if name in study.networks_of(group)]
        for name in study.names
    }
    planned = Planned(
        networks,
        groups,
        domains,
        trainings=frozenset((group.name, name) for name, of in groups_of.items() for group in of),
        searches=makers_of_searches(study, {}) if searches is None else searches,
        training=makers_of_trainings(study, {}) if trainings is None else trainings,
    )
    title = TITLES[task]
    return Generalization(
        task=task,
        score="dice" if task == "segmentation" else "auroc",
        note=study.note,
        domains=domains,
        groups=groups,
        networks=networks,
        retrained=retrained_matrix(networks, groups, measures, planned=planned.trainings),
        trained=trained_matrices(groups_of, domains, measures),
        claims=(
            search_claim(planned, measures, title=title),
            training_claim(planned, measures, title=title),
        ),
        missing=tuple(missing),
        untested=tuple(untested),
        definitions=definitions(task, draws=settings.bootstrap),
    )


def _planned_kind(entry: NetworkEntry) -> Kind:
    if entry.model is not None:
        return "made by hand"
    if entry.random is not None:
        return "random"
    return "published" if entry.genotype in zoo() else "searched"


def _searched_on(entry: NetworkEntry, study: Study) -> tuple[str, ...]:
    """Returns the data sets that the study searches a network on, or those of the search that it takes it from.

    A search from elsewhere counts only where all of its data sets are known here by the same names.
    """
    if entry.searched_on is not None:
        return entry.searched_on
    run = search_behind(entry)
    names = () if run is None else tuple(source.domain for source in run.recipe.data.sources)
    return names if set(names) <= set(study.domains) else ()


def _images_of_searches(study: Study, layout: Layout) -> dict[str, int]:
    """Returns the number of training images of the searches that are there, by network."""
    found = {}
    for entry in study.networks:
        own = RunDirectory(layout.search(entry.name).run)
        run = own if entry.searched_on is not None and is_begun(own.path) else search_behind(entry)
        if run is not None:
            with suppress(RunError):  # it is damaged: the number is not known then
                found[entry.name] = training_images(run)
    return found
