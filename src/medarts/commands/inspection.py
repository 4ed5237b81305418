"""What can be looked at before anything long: the data, the time and memory of a recipe, a genotype."""

from pathlib import Path

from medarts.config import Recipe
from medarts.config import load as load_recipe
from medarts.data.doctor import examine
from medarts.data.examination import Examination
from medarts.data.opening import choose_sources
from medarts.engine.directory import RunDirectory
from medarts.profiling.plan import Plan
from medarts.profiling.plan import plan as plan_recipe
from medarts.reporting.drawings import describe, save_drawings
from medarts.spaces import space_settings
from medarts.spaces.genotype import load_genotype
from medarts.system.console import progress_bar
from medarts.system.files import check_writable, exists, make_folder, writing
from medarts.system.names import name_of


def doctor(word: str) -> Examination:
    """Reads a data set, or those of a recipe, and collects what is wrong or suspicious.

    Of a recipe it knows the findings, channels and classes, and the size at which networks see the masks.

    Args:
        word: a folder, or a recipe file.

    Raises:
        MedartsError: there is neither, or the layout is not known.
    """
    with progress_bar("doctor", 0) as bar:
        if exists(Path(word)) and not Path(word).is_dir():
            data = load_recipe(Path(word)).data
            return examine(data.sources, needs=data, progress=bar.reach)
        return examine(choose_sources([word]), progress=bar.reach)


def findings_file(word: str) -> Path:
    """Returns where the doctor lists all it found, unless told otherwise: a file of ``runs/doctor``."""
    path = Path(word)
    return Path("runs") / "doctor" / f"{name_of(path.with_suffix('') if path.is_file() else path)}.csv"


def write_findings(examination: Examination, path: Path) -> None:
    """Writes every finding as a row of a CSV file.

    Raises:
        RunError: the file cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        path.write_text(examination.to_csv(), encoding="utf-8")


def plan(recipe: Recipe, *, budget_mb: float | None = None) -> Plan:
    """Estimates what a search by a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that they are to fit into, by splitting batches; see ``medarts.profiling.plan``.

    Raises:
        MedartsError: data, recipe, device or budget do not fit.
    """
    return plan_recipe(recipe, budget_mb=budget_mb)


def show(name: str, *, out: Path | None = None) -> tuple[str, list[Path]]:
    """Describes a genotype in text and draws it as SVG and PNG.

    Args:
        name: a genotype of the zoo, a file, or a run.
        out: folder of the drawings. Default: pictures/ of a run, else drawings/<name>.

    Returns:
        The text, and the files of the drawings.

    Raises:
        GenotypeError: there is no such genotype, or it is damaged.
        RunError: the folder cannot be written, or is that of a run at which another process is at work.
    """
    genotype = load_genotype(name)
    space_settings(genotype)
    if out is None and (Path(name) / "run.json").is_file():
        run = RunDirectory.open(Path(name))
        with run.at_work("show"):
            return describe(genotype), save_drawings(genotype, run.path / "pictures")
    folder = out or Path("drawings") / genotype.name
    check_writable(folder)
    return describe(genotype), save_drawings(genotype, folder)
