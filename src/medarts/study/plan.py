"""The plan of a study: its runs in their order, after everything that can be wrong was checked."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from medarts.config import SPLITS, Recipe, Split
from medarts.config.reading import first_difference
from medarts.config.study import (
    GroupEntry,
    NetworkEntry,
    Study,
    group_recipe,
    search_recipe,
    study_to_yaml,
    training_recipe,
)
from medarts.data.batches import check_fills_a_batch
from medarts.data.manifest import Manifest
from medarts.data.opening import open_manifest, with_findings
from medarts.data.reading import MaskState
from medarts.data.store import ImageStore, open_store
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.engine.directory import RunDirectory, is_begun
from medarts.errors import DataError, MedartsError, RecipeError, RunError
from medarts.models import Architecture, initial_weights, network_of
from medarts.pool import search
from medarts.profiling.budget import BudgetError
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.study.jobs import Job, Layout, RunPaths, damage_of, is_finished
from medarts.study.networks import Networks, search_behind, searches_of
from medarts.system.files import write_whole
from medarts.tasks import make_task
from medarts.training.trainer import check_sizes, check_task

_APART = {"search": ("train",), "train": ("search", "derive", "space", "budget")}
"""Sections of a recipe in which a run may differ from its study, by the kind of the run: it does not use them, or they
are compared separately, as the space of a genotype is, and what a budget has made of it. A search by training uses
all."""

UNDO = "Undo that change, remove that folder, or give another --out."


@dataclass(frozen=True)
class Step:
    """A run of a study.

    Attributes:
        paths: of the run.
        recipe: of the run, but for its baseline; see `Plan.recipe`.
        data: fingerprint of its images.
        network: what it trains; None for a search.
        needs: names of the networks whose searches must have finished.
        group: what it trains on; None for a search.
    """

    paths: RunPaths
    recipe: Recipe
    data: str
    network: str | None = None
    needs: frozenset[str] = frozenset()
    group: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return is_finished(self.paths.run, scored=self.network is not None)

    @property
    def damage(self) -> str:
        """Why the run cannot be read; nothing if it can, or has not begun."""
        return damage_of(self.paths.run, kind="search" if self.network is None else "train")

    @property
    def epochs(self) -> int:
        """Epochs in all, where it does not stop early."""
        if self.network is None:
            return search.epochs_of(self.recipe)
        return self.recipe.train.epochs


@dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Attributes:
        layout: paths of the study.
        networks: of the study.
        searches: that are needed, by network.
        trainings: by seed, then group, then network; see `_by_place`.
    """

    layout: Layout
    networks: Networks
    searches: Mapping[str, Step]
    trainings: tuple[Step, ...]
    _fitting: set[Path] = field(default_factory=set)

    @cached_property
    def damaged(self) -> dict[str, str]:
        """Why runs of an earlier call cannot be read, by the names of the runs."""
        return {step.paths.name: reason for step in self._planned() if (reason := step.damage)}

    @property
    def steps(self) -> tuple[Step, ...]:
        """All runs but the damaged ones, and those that need a damaged search; searches before what needs them."""
        lost = {name for name, search in self.searches.items() if search.paths.name in self.damaged}
        return tuple(step for step in self._planned() if step.paths.name not in self.damaged and not step.needs & lost)

    def _planned(self) -> tuple[Step, ...]:
        ordered: dict[str, Step] = {}
        for training in self.trainings:
            for step in (*(self.searches[name] for name in sorted(training.needs)), training):
                ordered[step.paths.name] = step
        return tuple(ordered.values())

    def is_ready(self, step: Step) -> bool:
        """Whether the searches that a step needs have finished."""
        return all(self.searches[name].is_finished for name in step.needs)

    def recipe(self, step: Step) -> Recipe:
        """Returns the recipe of a run, with its network where that is a baseline.

        Raises:
            BudgetError: it has no width within the budget.
        """
        model = None if step.network is None else self.networks.model(step.network)
        if model is None:
            return step.recipe
        return step.recipe.model_copy(update={"train": step.recipe.train.model_copy(update={"model": model})})

    def job(self, step: Step) -> Job:
        """Returns what a process has to do for a step that is ready.

        Raises:
            MedartsError: the network cannot be had or does not take the images, or its run has another genotype.
        """
        if step.network is None:
            return Job(step.paths, step.recipe, None)
        recipe, run = self.recipe(step), step.paths.run
        architecture = recipe.train.model or self.networks.architecture(step.network)
        if run.parent not in self._fitting:  # the same with all seeds
            _check_network(recipe, architecture)
            self._fitting.add(run.parent)
        if isinstance(architecture, Genotype) and is_begun(run):
            _check_genotype(run, architecture)
        return Job(step.paths, recipe, architecture)


@preserved_process_state()
def prepare(study: Study, out: Path) -> Plan:
    """Checks everything that can be wrong, quick checks first, reads the images, and writes study.yaml.

    Networks that come from a search are checked when it has finished. One that no width of is within the budget ends
    its own trainings alone.

    Args:
        out: its folder, new or of an earlier call.

    Raises:
        MedartsError: a recipe, the data, a network or the device does not fit, or an existing run has another recipe,
            network or data; nothing was written then. A damaged run does not stop the others: see `Plan.damaged`.
    """
    layout = Layout(out)
    _check_external(study)
    groups = {}
    for group in study.trained_on:
        with _named(study, group):
            groups[group.name] = _opened(group_recipe(study, group, seed=group.seeds[0]))
    first = next(iter(groups.values())).recipe.data
    networks = Networks(study, layout, first)
    trainings = tuple(_trainings(study, layout, groups))
    searches = {name: _search(study, layout, name) for name in sorted(_all_needs(trainings))}
    plan = Plan(layout, networks, searches, trainings)
    for step in plan.steps:
        begun = is_begun(step.paths.run)
        with _named(study, *_parts(study, step)), suppress(BudgetError):
            if begun:
                _check_same(step, plan.recipe(step))
            if plan.is_ready(step) and (begun or not step.needs):  # a searched network ends its own trainings alone
                plan.job(step)
    for group in study.trained_on:
        with _named(study, group):
            opened = groups[group.name]
            store = open_store(opened.manifest, opened.recipe.data, threads=opened.recipe.compute.threads)
            _check_masks_can_be_compared(store)
    for name, step in searches.items():
        if step.paths.name not in plan.damaged and not step.is_finished:
            with _named(study, study.entry_of(name)):
                search.check(step.recipe)
    out.mkdir(parents=True, exist_ok=True)
    networks.keep()  # measures, which may fail, before it writes
    write_whole(layout.study, study_to_yaml(study))
    return plan


@dataclass(frozen=True)
class _Opened:
    """A recipe, with the names of its outputs, and its images."""

    recipe: Recipe
    manifest: Manifest


def _opened(recipe: Recipe, needs: tuple[Split, ...] = SPLITS) -> _Opened:
    manifest = open_manifest(recipe.data, needs=needs)
    return _Opened(with_findings(recipe, manifest), manifest)


def _check_can_be_compared(manifest: Manifest) -> None:
    """Refuses findings that no test image of a data set ranks: the comparison would fail after all trainings."""
    test = manifest.of_split("test")
    for domain in manifest.domains if manifest.findings else ():
        if not _is_ranked(test, domain):
            raise DataError(
                f"All test images of {domain}, or none, show every finding, so that networks cannot be ranked.",
                fix="Move more patients to the split test.",
            )


def _check_masks_can_be_compared(store: ImageStore) -> None:
    """Refuses test images of which no mask shows a class, as `_check_can_be_compared` does for findings."""
    test = store.manifest.of_split("test")
    if not store.manifest.findings and (store.truths[store.indices(test)] == MaskState.EMPTY).all():
        raise DataError(
            f"All masks of the test images of {', '.join(test.domains)} are empty: they cannot compare networks.",
            fix="Move patients whose masks show a class to the split test.",
        )


def _is_ranked(manifest: Manifest, domain: str) -> bool:
    shown = manifest.where(lambda sample: sample.domain == domain).prevalence()
    return bool(((shown > 0) & (shown < 1)).any())


def _trainings(study: Study, layout: Layout, groups: Mapping[str, _Opened]) -> Iterator[Step]:
    """Yields all trainings in their order, after their groups were checked."""
    for group in study.trained_on:
        opened = groups[group.name]
        settings = opened.recipe.train
        with _named(study, group):
            make_fabric(opened.recipe.compute)
            make_task(opened.recipe, opened.manifest, loss=settings.loss, field="train.loss")
            check_fills_a_batch(opened.manifest.of_split("train"), settings.batch, name="training set")
            _check_can_be_compared(opened.manifest)
    data = {name: opened.manifest.fingerprint() for name, opened in groups.items()}
    for seed in sorted({seed for group in study.trained_on for seed in group.seeds}):
        for group in study.trained_on:
            for network in _by_place(study, group) if seed in group.seeds else ():
                recipe = training_recipe(study, groups[group.name].recipe, network)
                train = recipe.train.model_copy(update={"model": None})
                yield Step(
                    layout.training(group.name, network, seed),
                    recipe.model_copy(update={"seed": seed, "train": train}),
                    data=data[group.name],
                    network=network,
                    needs=searches_of(study, network),
                    group=group.name,
                )


def _by_place(study: Study, group: GroupEntry) -> list[str]:
    """Returns the networks of a group: the first of every entry, then the second, ...

    A study that is stopped early has then as many search seeds of one method as of another.
    """
    return sorted(study.networks_of(group), key=lambda name: study.entry_of(name).names.index(name))


def _search(study: Study, layout: Layout, network: str) -> Step:
    with _named(study, study.entry_of(network)):
        opened = _opened(search_recipe(study, network), needs=("train", "val"))
    return Step(layout.search(network), opened.recipe, data=opened.manifest.fingerprint())


def _all_needs(trainings: Iterable[Step]) -> set[str]:
    return {name for step in trainings for name in step.needs}


def _parts(study: Study, step: Step) -> tuple[NetworkEntry | GroupEntry, ...]:
    """Returns the entries of a study that a step belongs to."""
    if step.network is None:
        return (study.entry_of(Path(step.paths.name).name),)
    return study.entry_of(step.network), next(group for group in study.trained_on if group.name == step.group)


@contextmanager
def _named(study: Study, *parts: NetworkEntry | GroupEntry) -> Iterator[None]:
    """Names the file and the entries of a study in errors."""
    try:
        yield
    except MedartsError as error:
        where = " on ".join(map(study.place_of, parts))
        raise type(error)(f"{study.file}: {where}: {error.problem}", fix=error.fix) from error


def _check_external(study: Study) -> None:
    """Refuses a network that was searched on images of an external data set."""
    external = {source.identity: source for source in study.recipe.data.sources if source.domain in study.external}
    for entry in study.networks:
        run = search_behind(entry)
        for source in run.recipe.data.sources if run is not None else ():
            if run is not None and source.identity in external:
                raise RecipeError(
                    f"{study.file}: {study.place_of(entry)}.genotype: {run.path} was searched on {source.path}, which "
                    f"is '{external[source.identity].domain}' here and external.",
                    fix="Leave that network out, or remove the data set from external.",
                )


def _check_same(step: Step, recipe: Recipe) -> None:
    """Refuses a run that was begun by another recipe, or on other data."""
    kind = "search" if step.network is None else "train"
    run = RunDirectory.open(step.paths.run, kind=kind)
    apart = () if kind == "search" and recipe.search.method != "supernet" else _APART[kind]
    difference = first_difference(run.recipe, recipe, without=apart)
    if difference is not None:
        field, before, now = difference
        raise RunError(f"{run.path} was started with {field} {before}, but the study has {now}.", fix=UNDO)
    run.check_unchanged(step.data)


def _check_genotype(path: Path, genotype: Genotype) -> None:
    before, now = (replace(each, name="", provenance={}) for each in (load_genotype(path), genotype))
    if before != now:
        parts = ("settings", "cells", "paths")
        part = next(part for part in parts if getattr(before, part) != getattr(now, part))
        raise RunError(f"{path} was started with a genotype of other {part} than the study has now.", fix=UNDO)


def _check_network(recipe: Recipe, architecture: Architecture) -> None:
    """Refuses a network for another task, one that cannot take the images, or weights that do not fit it."""
    check_task(recipe.data.task, architecture)
    given = initial_weights(architecture) is not None
    with torch.device("cpu" if given else "meta"):  # without weights of its own it takes no memory
        network = network_of(recipe, architecture)
    check_sizes(recipe, network)
