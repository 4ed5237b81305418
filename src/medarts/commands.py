"""What the commands do, as Python functions over the rooms; the command line adds nothing but words."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from medarts.data.choosing import choose_sources
from medarts.data.doctor import Examination, examine
from medarts.data.manifest import PARTS
from medarts.errors import DataError, GenotypeError, RecipeError, RunError, did_you_mean
from medarts.evaluation.cost import Cost, measure_cost
from medarts.evaluation.evaluate import evaluate as evaluate_run
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.plan import Plan
from medarts.evaluation.plan import plan as plan_recipe
from medarts.evaluation.scores import Scores
from medarts.networks.inference import for_inference
from medarts.networks.registry import (
    MODELS,
    Architecture,
    build_network,
    task_of,
    usual_outputs,
    usual_size,
)
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe, apply_overrides, parse
from medarts.recipe import load as load_recipe
from medarts.reporting.drawings import describe, one_line, save_drawings
from medarts.reporting.page import write_report
from medarts.run.directory import RunDirectory, write_whole
from medarts.run.progress import progress_bar
from medarts.search import resume_search, start_search
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.registry import check
from medarts.training.start import resume_training, start_training


def search(recipe: Recipe, out: Path) -> RunDirectory:
    """Searches a genotype in a new run directory, and writes its drawings, cost and report.

    Raises:
        MedartsError: see ``medarts.search.start_search``.
    """
    return complete(start_search(recipe, out))


def train(recipe: Recipe, architecture: Architecture, out: Path) -> RunDirectory:
    """Trains a network in a new run directory, and writes its drawings, cost and report.

    Args:
        recipe: data and training.
        architecture: a genotype, or the name of a network made by hand.
        out: folder of the run.

    Raises:
        MedartsError: see ``medarts.training.start.start_training``.
    """
    return complete(start_training(recipe, architecture, out))


def resume(path: Path, *, kind: str) -> RunDirectory:
    """Goes on with a search or a training from its last checkpoint.

    Raises:
        RunError: the folder is no run of that kind, or its data have changed.
    """
    return complete({"search": resume_search, "train": resume_training}[kind](path))


def training_recipe(
    searched: Path | None, *, recipe: Path | None, changes: Iterable[str], data: tuple[str, ...]
) -> Recipe:
    """Returns the recipe of a training: that of a search run, or of a file, or the published defaults.

    Args:
        searched: a search run.
        recipe: a recipe file; together with ``searched`` it is the one used.
        changes: changes as key.path=value.
        data: domains of the recipe, or folders; all sources of the recipe where empty.

    Raises:
        RecipeError: there is neither a recipe nor data, or the recipe is wrong.
        DataError: ``data`` names what is not there.
    """
    base: Recipe | None = None
    if recipe is not None:
        base = load_recipe(recipe)
    elif searched is not None:
        base = RunDirectory.open(searched).recipe
    elif not data:
        raise RecipeError("There are no data to train on.", fix="Give --data FOLDER, or --recipe FILE.")
    content = base.model_dump(mode="json") if base is not None else {}
    if data:
        sources = choose_sources(data, known=base.data.sources if base is not None else ())
        content.setdefault("data", {})["sources"] = [source.model_dump(mode="json") for source in sources]
    return parse(apply_overrides(content, changes))


def network_to_train(
    recipe: Recipe,
    searched: Path | None,
    *,
    genotype: str | None,
    init_channel: int | None = None,
    changes: Iterable[str] = (),
) -> Architecture:
    """Returns what a training trains: the genotype, the recipe's model, or what a search has found.

    Args:
        recipe: of the training.
        searched: a finished search.
        genotype: a genotype of the zoo, a file, or a run.
        init_channel: another C of the genotype.
        changes: changes of the recipe as key.path=value; those of space are settings of the genotype.

    Raises:
        RecipeError: none of them is given, or a network made by hand has no such settings.
        GenotypeError: the genotype is damaged or unfit for the settings.
        RunError: the search has not finished.
    """
    changes, model = list(changes), recipe.train.model
    if genotype is not None:
        return genotype_of(genotype, init_channel=init_channel, changes=changes)
    if model is not None:
        if init_channel is not None or any(change.startswith("space.") for change in changes):
            raise RecipeError(f"{model} has no settings of a search space.", fix="Leave --init-channel and space out.")
        return model
    if searched is not None:
        return searched_genotype(searched, init_channel=init_channel, changes=changes)
    raise RecipeError("Nothing says which network to train.", fix="Give RUN, --genotype NAME or --model NAME.")


def genotype_of(name: str | Path, *, init_channel: int | None = None, changes: Iterable[str] = ()) -> Genotype:
    """Returns a genotype of the zoo, a file, or a run, with other settings where they are given.

    Args:
        name: where it is.
        init_channel: another C.
        changes: changes of a recipe as key.path=value; those of space are settings of the genotype.

    Raises:
        GenotypeError: there is none, or it is damaged or unfit for the settings.
    """
    genotype = load_genotype(name)
    settings = apply_overrides({}, [change for change in changes if change.startswith("space.")]).get("space", {})
    if init_channel is not None:
        settings["init_channel"] = init_channel
    if "intermediate_nodes" in settings:
        raise GenotypeError("The cells of a genotype fix its intermediate_nodes.", fix="Leave that change out.")
    changed = genotype.with_settings(**settings)
    check(changed)
    return changed


def searched_genotype(run: Path, *, init_channel: int | None = None, changes: Iterable[str] = ()) -> Genotype:
    """Returns what a finished search has found; see ``genotype_of`` for the arguments.

    Raises:
        RunError: the folder is no search, or it has not finished.
    """
    if not RunDirectory.open(run, kind="search").facts["finished"]:
        raise RunError(
            f"The search {run} has not finished.",
            fix=f"Go on with it: medarts search --resume {run}. Or train what it has so far: --genotype {run}.",
        )
    return genotype_of(run, init_channel=init_channel, changes=changes)


def evaluate(
    path: Path, *, data: tuple[str, ...] = (), split: str = "test", head: str | None = None
) -> Scores | FindingScores:
    """Scores a trained network, and renews the report of its run.

    Args:
        path: a training run.
        data: domains of its recipe, or folders; those it was trained on where empty.
        split: train, val, test or all.
        head: the head to use; the last where None.

    Raises:
        MedartsError: see ``medarts.evaluation.evaluate``.
    """
    chosen = next((part for part in PARTS if part == split), None)
    if chosen is None:
        raise DataError(f"There is no split '{split}'.", fix=did_you_mean(split, PARTS))
    run = RunDirectory.open(path, kind="train")
    sources = choose_sources(data, known=run.recipe.data.sources) if data else None
    scores = evaluate_run(path, sources=sources, split=chosen, head=head)
    write_report(path)
    return scores


def doctor(word: str) -> Examination:
    """Reads a data set, or those of a recipe, and collects what is wrong or suspicious.

    Args:
        word: a folder, or a recipe file.

    Raises:
        MedartsError: there is neither, or the layout is not known.
    """
    sources = load_recipe(Path(word)).data.sources if Path(word).is_file() else choose_sources([word])
    with progress_bar("doctor", 0) as bar:
        return examine(sources, progress=bar.reach)


def plan(recipe: Recipe, *, budget_mb: float | None = None) -> Plan:
    """Estimates what a search by a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that they are to fit into, by splitting batches; see ``medarts.evaluation.plan``.

    Raises:
        MedartsError: data, recipe, device or budget do not fit.
    """
    return plan_recipe(recipe, budget_mb=budget_mb)


def show(name: str, *, out: Path | None = None) -> tuple[str, list[Path]]:
    """Describes a genotype in text and draws it as SVG and PNG.

    Args:
        name: a genotype of the zoo, a file, or a run.
        out: folder of the drawings; pictures/ of a run, or drawings/<name>.

    Returns:
        The text, and the files of the drawings.
    """
    genotype = load_genotype(name)
    check(genotype)
    folder = out or (Path(name) / "pictures" if Path(name).is_dir() else Path("drawings") / genotype.name)
    return describe(genotype), save_drawings(genotype, folder)


def cost(
    name: str | Path,
    *,
    init_channel: int | None = None,
    in_channels: int | None = None,
    outputs: int | None = None,
    size: int | None = None,
) -> tuple[Cost, dict[str, int]]:
    """Measures a network on the CPU, as built and, where it has that form, as shipped for inference.

    Args:
        name: a genotype of the zoo, a file, a run, or a network made by hand.
        init_channel: another C.
        in_channels: channels of the image; those of the run, else 3, where None.
        outputs: outputs of the network; those of the run, else those of the published network.
        size: height and width of the image, in pixels; those of the run, else of the published network.

    Returns:
        The cost, and what it was measured with.

    Raises:
        GenotypeError: there is none of that name, or it does not fit its space.
        RecipeError: the network cannot take the size, or a number is below 1.
    """
    run = RunDirectory.open(Path(name)) if (Path(name) / "run.json").is_file() else None
    architecture = _architecture(name, run, init_channel=init_channel)
    data = run.recipe.data if run is not None else None
    about = {
        "in_channels": in_channels if in_channels is not None else data.in_channels if data else 3,
        "outputs": outputs if outputs is not None else data.outputs if data else usual_outputs(architecture),
        "size": size if size is not None else data.size if data else usual_size(architecture),
    }
    for key, value in about.items():
        if value < 1:
            raise RecipeError(f"--{key.replace('_', '-')} is {value}.", fix="Use 1 or more.")
    norm = run.recipe.train.norm if run is not None and task_of(architecture) == "segmentation" else "group"
    network = build_network(architecture, in_channels=about["in_channels"], outputs=about["outputs"], norm=norm)
    network.check_size(about["size"])
    shipped = for_inference(network) if isinstance(network, WeaveNetwork) else None
    return measure_cost(network, in_channels=about["in_channels"], size=about["size"], shipped=shipped), about


def _architecture(name: str | Path, run: RunDirectory | None, *, init_channel: int | None) -> Architecture:
    model = run.recipe.train.model if run is not None and run.facts["kind"] == "train" else name
    for known in MODELS:
        if model == known:
            if init_channel is not None:
                raise RecipeError(f"{known} has no init_channel.", fix="Leave --init-channel out.")
            return known
    return genotype_of(name, init_channel=init_channel)


def complete(run: RunDirectory) -> RunDirectory:
    """Writes what can be said of a finished search or training: drawings, cost, report."""
    if (run.path / "genotype.json").exists():
        genotype = load_genotype(run.path)
        save_drawings(genotype, run.path / "pictures")
        line = one_line(genotype)
        if line is not None:
            write_whole(run.path / "genotype.txt", line + "\n")
    measured, about = cost(run.path)
    run.write_json("cost.json", {**asdict(measured), **about})
    write_report(run.path)
    return run
