"""How both sides of contrasts were made: what they differ in besides their data sets, and how much they have seen."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medarts.comparison.candidates import listed_samples
from medarts.config import Recipe
from medarts.config.difference import differences
from medarts.config.study import NetworkEntry, Study, group_recipe, search_recipe
from medarts.engine.directory import RunDirectory
from medarts.study.generalization import Differing, Side

UNUSED = {"search": ("train",), "training": ("search", "derive", "space", "seed")}
"""Sections of a recipe that do not decide what becomes of it; trainings are paired by their seeds."""

_DATA_SETS = ("data.sources.", "data.findings.")
_SIZES = ("init_channel", "parameters")


@dataclass(frozen=True)
class Maker:
    """What a side of contrasts was made by.

    Attributes:
        recipe: of its search, or of its trainings.
        sizes: how the size of its network was chosen; empty for trainings.
        side: what is told of it.
    """

    recipe: Recipe
    sizes: Mapping[str, object]
    side: Side


def makers_of_trainings(study: Study, images: Mapping[str, int]) -> dict[str, Maker]:
    """Returns what the trainings on every group of data sets are made by.

    Args:
        study: the study.
        images: training images of the groups, where they are known.
    """
    found = {}
    for group in study.trained_on:
        recipe = group_recipe(study, group, seed=group.seeds[0])
        side = Side(group.name, recipe.train.epochs, images.get(group.name))
        found[group.name] = Maker(recipe, {}, side)
    return found


def makers_of_searches(study: Study, images: Mapping[str, int]) -> dict[str, Maker]:
    """Returns what the searched networks of a study are made by, also those searched elsewhere.

    Args:
        study: the study.
        images: training images of the searches, by network, where they are known.
    """
    found = {}
    for entry in study.networks:
        run = search_behind(entry)
        recipe = search_recipe(study, entry) if entry.searched_on is not None else None if run is None else run.recipe
        if recipe is not None:
            epochs = sum(stage.epochs for stage in recipe.search.stages)
            sizes = {name: getattr(entry, name) for name in _SIZES}
            found[entry.name] = Maker(recipe, sizes, Side(entry.name, epochs, images.get(entry.name)))
    return found


def search_behind(entry: NetworkEntry) -> RunDirectory | None:
    """Returns the search that an entry takes its genotype from; None where it is not known.

    Raises:
        RunError: the search is damaged.
    """
    if entry.genotype is None:
        return None
    path = Path(entry.genotype)
    folder = path.parent if path.name == "genotype.json" else path
    if not (folder / "run.json").is_file():
        return None
    run = RunDirectory.open(folder)
    return run if run.facts["kind"] == "search" else None


def training_images(run: RunDirectory) -> int:
    """Returns the number of images that a run is trained or searched on.

    Raises:
        RunError: its manifest is damaged.
    """
    return sum(about["split"] == "train" for about in listed_samples(run).values())


def differing(pairs: Iterable[tuple[Maker, Maker]], *, without: Collection[str]) -> tuple[Differing, ...]:
    """Returns what both sides of some contrasts differ in besides their data sets; what many share stands there once.

    Args:
        pairs: the side of several data sets, and the single one.
        without: sections of a recipe that do not count.
    """
    found: dict[Differing, None] = {}
    for several, single in pairs:
        for field, one, other in differences(several.recipe, single.recipe, without=without):
            if not f"{field}.".startswith(_DATA_SETS):
                found[Differing(field, one, other)] = None
        for name, size in several.sizes.items():
            if size != single.sizes[name]:
                found[Differing(name, _said(size), _said(single.sizes[name]))] = None
    return tuple(sorted(found, key=lambda one: one.field))


def _said(size: object) -> str:
    return "not given" if size is None else repr(size)
