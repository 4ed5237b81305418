"""What can be looked at before anything long: the data, the time and memory of a recipe, a genotype."""

from pathlib import Path

from medarts.data.choosing import choose_sources
from medarts.data.doctor import Examination, examine
from medarts.evaluation.plan import Plan
from medarts.evaluation.plan import plan as plan_recipe
from medarts.recipe import Recipe
from medarts.recipe import load as load_recipe
from medarts.reporting.drawings import describe, save_drawings
from medarts.run.progress import progress_bar
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.registry import check


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
