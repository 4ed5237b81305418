"""What networks cost that are given by name: published genotypes, files, runs, baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from medarts.config import apply_overrides
from medarts.config.explaining import explain
from medarts.config.section import LARGEST_SIZE, MOST_CHANNELS, MOST_OUTPUTS
from medarts.deploy.info import is_package
from medarts.deploy.package import open_package
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, check_number
from medarts.models import Architecture, architecture_named, published_outputs, published_size, task_of
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.profiling.cost import Cost, measure_costs
from medarts.profiling.latency import usable_cores, usual_threads
from medarts.spaces import genotype_with
from medarts.spaces.genotype import Genotype
from medarts.system.console import progress_bar
from medarts.system.files import exists
from medarts.training.trained import architecture_of


def costs_by_name(
    names: Sequence[str | Path],
    *,
    changes: Sequence[str] = (),
    init_channel: int | None = None,
    in_channels: int | None = None,
    outputs: int | None = None,
    size: int | None = None,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1,),
    repeats: int = 20,
    memory: bool = True,
) -> dict[str, Cost]:
    """Measures networks on the CPU, in turns, in PyTorch and exported.

    Args:
        names: genotypes of the zoo, files, runs, packages, or baselines.
        changes: as key.path=value: model.width=16 of baselines, space.layers=14 of genotypes.
        init_channel: another C of the genotypes.
        in_channels: channels of the images. Default: those of the runs, or 3.
        outputs: outputs of the networks; those of the runs, else those of the published networks.
        size: height and width of the images, in pixels; those of the runs, else of the published networks.
        threads: numbers of threads of the CPU; 1, and 2 where there are two cores, where empty.
        batches: images of a pass.
        repeats: timed passes; with 0, parameters and FLOPs are counted alone.
        memory: whether peak memory is measured, which takes some seconds for every network and batch.

    Returns:
        The costs by name.

    Raises:
        GenotypeError: there is none of that name, or it does not fit its space.
        MedartsError: a network cannot be exported.
        RecipeError: a network cannot take the size or a change, the networks differ in what they are made for, or a
            number is out of range.
    """
    for option, number, low, high in (
        ("init_channel", init_channel, 2, MOST_CHANNELS),
        ("in_channels", in_channels, 1, 64),
        ("outputs", outputs, 1, MOST_OUTPUTS),
        ("size", size, 16, LARGEST_SIZE),
    ):
        check_number(option, number, low=low, high=high)
    threads = threads or usual_threads()
    _check_measurement(names, threads=threads, batches=batches, repeats=repeats)
    runs = {str(name): RunDirectory.open(Path(name)) for name in names if (Path(name) / "run.json").is_file()}
    packed = {str(name): open_package(Path(name)).trained for name in names if is_package(name)}
    architectures = {
        str(name): _architecture(
            packed[str(name)].architecture if str(name) in packed else _named(name, runs.get(str(name))),
            init_channel=init_channel,
            changes=changes,
        )
        for name in names
    }
    _check_changes(architectures, init_channel=init_channel, changes=changes)
    recipes = {name: run.recipe for name, run in runs.items()} | {name: of.recipe for name, of in packed.items()}
    data, published = [recipe.data for recipe in recipes.values()], architectures.values()
    norms = {
        name: recipes[name].train.norm if name in recipes and task_of(architecture) == "segmentation" else None
        for name, architecture in architectures.items()
    }
    with progress_bar("cost", 0) as bar:
        return measure_costs(
            architectures,
            in_channels=_common("in_channels", in_channels, {each.in_channels for each in data} or {3}),
            outputs=_common(
                "outputs", outputs, {each.outputs for each in data} or set(map(published_outputs, published))
            ),
            size=_common("size", size, {each.size for each in data} or set(map(published_size, published))),
            norm=norms,
            threads=threads,
            batches=batches,
            repeats=repeats,
            memory=memory,
            progress=bar.reach,
        )


def _named(name: str | Path, run: RunDirectory | None) -> Architecture:
    if run is not None and run.facts["kind"] == "train":
        return architecture_of(run)
    return architecture_named(str(name))


def _architecture(model: Architecture, *, init_channel: int | None, changes: Sequence[str]) -> Architecture:
    if isinstance(model, Pruned | Ensemble):
        return model
    if isinstance(model, Genotype):
        return genotype_with(model, init_channel=init_channel, changes=changes)
    own = [change for change in changes if change.startswith("model.")]
    content = apply_overrides({"model": model.model_dump(mode="json")}, own)["model"]
    try:
        return type(model).model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{model.name}: {explain(error, type(model), noun='model')}", fix="") from None


def _check_changes(
    architectures: Mapping[str, Architecture], *, init_channel: int | None, changes: Sequence[str]
) -> None:
    """Refuses changes of what none of the networks has; pruned ones and ensembles keep theirs."""
    names = ", ".join(architectures)
    own = [each for each in architectures.values() if not isinstance(each, Pruned | Ensemble)]
    are_genotypes = {isinstance(each, Genotype) for each in own}
    if init_channel is not None and True not in are_genotypes:
        raise RecipeError(f"{names} has no init_channel.", fix="Leave init_channel out.")
    valid = {"space": True in are_genotypes, "model": False in are_genotypes}
    for change in changes:
        key = change.partition("=")[0]
        if not valid.get(key.partition(".")[0], False):
            raise RecipeError(
                f"{names} has no {key}.",
                fix="Genotypes have space.layers and the like, baselines have model.width and the like.",
            )


def _check_measurement(
    names: Sequence[str | Path],
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    repeats: int,
) -> None:
    for number in threads:
        check_number("threads", number, low=1, high=usable_cores(), reason="as this machine has no more cores")
    for number in batches:
        check_number("batch", number, low=1, high=1024)
    if repeats != 0:
        check_number("repeats", repeats, low=2, high=10_000, reason="or 0, to count without measuring")
    for option, numbers in (("threads", threads), ("batch", batches)):
        if len(set(numbers)) < len(numbers):
            raise RecipeError(f"{option} has a number twice.", fix="Give each number once.")
    there = [str(Path(name).resolve()) if exists(Path(name)) else str(name) for name in names]
    double = next((name for name, where in zip(names, there, strict=True) if there.count(where) > 1), None)
    if double is not None:
        raise RecipeError(f"{double} is named twice.", fix="Name every network once.")


def _common(option: str, given: int | None, usual: set[int]) -> int:
    """Returns a number that all networks are measured with: what is given, else what is usual for all of them."""
    if given is None and len(usual) > 1:
        numbers = ", ".join(map(str, sorted(usual)))
        raise RecipeError(f"The networks differ in {option}: {numbers}.", fix=f"Give {option}, one for all.")
    return min(usual) if given is None else given
