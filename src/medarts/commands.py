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
from medarts.evaluation.plan import Plan
from medarts.evaluation.plan import plan as plan_recipe
from medarts.evaluation.scores import Scores
from medarts.networks.inference import for_inference
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe, apply_overrides, parse
from medarts.recipe import load as load_recipe
from medarts.reporting.drawings import describe, save_drawings
from medarts.reporting.page import write_report
from medarts.run.directory import RunDirectory
from medarts.run.progress import progress_bar
from medarts.search import resume_search, start_search
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load as load_genotype
from medarts.spaces.layers import Norm
from medarts.spaces.weave.genotypes import check
from medarts.training.start import resume_training, start_training


def search(recipe: Recipe, out: Path) -> RunDirectory:
    """Searches a genotype in a new run directory, and writes its drawings, cost and report.

    Raises:
        MedartsError: see ``medarts.search.start_search``.
    """
    return complete(start_search(recipe, out))


def train(recipe: Recipe, genotype: Genotype, out: Path) -> RunDirectory:
    """Trains the network of a genotype in a new run directory, and writes its drawings, cost and report.

    Raises:
        MedartsError: see ``medarts.training.start.start_training``.
    """
    return complete(start_training(recipe, genotype, out))


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


def evaluate(path: Path, *, data: tuple[str, ...] = (), split: str = "test", head: str | None = None) -> Scores:
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


def norm_of(name: str | Path) -> Norm:
    """Returns the kind of norms that a run trains with, and group for what is no run."""
    return RunDirectory.open(Path(name)).recipe.train.norm if Path(name).is_dir() else "group"


def cost(genotype: Genotype, *, in_channels: int = 3, classes: int = 1, size: int = 256, norm: Norm = "group") -> Cost:
    """Measures the network of a genotype on the CPU, as built and as shipped for inference.

    Args:
        genotype: the architecture.
        in_channels: channels of the image.
        classes: outputs of the network.
        size: height and width of the image, in pixels.
        norm: the kind of its norms.

    Raises:
        GenotypeError: the genotype does not fit its space.
        RecipeError: the lattice cannot halve the size, or a number is below 1.
    """
    for name, value in (("in-channels", in_channels), ("classes", classes)):
        if value < 1:
            raise RecipeError(f"--{name} is {value}.", fix="Use 1 or more.")
    network = WeaveNetwork(genotype, in_channels=in_channels, outputs=classes, norm=norm)
    network.check_size(size)
    return measure_cost(network, in_channels=in_channels, size=size, shipped=for_inference(network))


def complete(run: RunDirectory) -> RunDirectory:
    """Writes what can be said of a finished search or training: drawings, cost, report."""
    genotype, data = load_genotype(run.path), run.recipe.data
    save_drawings(genotype, run.path / "pictures")
    about = {"size": data.size, "in_channels": data.in_channels, "classes": data.classes}
    measured = cost(genotype, **about, norm=run.recipe.train.norm)
    run.write_json("cost.json", {**asdict(measured), **about})
    write_report(run.path)
    return run
