"""The command line: one thin function a command, over the functions of ``medarts.commands``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from medarts.errors import MedartsError, RecipeError
from medarts.run.interruption import InterruptedRunError

# Heavy rooms are imported by the commands that use them, so that --help answers at once.

Words = Annotated[tuple[str, ...], arg(metavar="[WORD ...]")]


def demo(out: Path = Path("runs/demo")) -> None:
    """The whole walk on generated images: search, retrain, evaluate, report. About five minutes on two cores.

    Args:
        out: folder for the phantoms and the runs; finished parts are not done again.
    """
    from medarts.demo import demo as walk

    print(walk(out))


def doctor(data: Positional[str]) -> None:
    """Read a data set and report, file by file, what is wrong or suspicious. Exit status 1 on errors.

    Args:
        data: folder of a data set (its layout is recognised), or a recipe.
    """
    from medarts import commands

    examination = commands.doctor(data)
    print(examination.to_text())
    sys.exit(1 if examination.errors else 0)


def plan(recipe: Positional[Path], changes: Positional[Words] = (), *, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Estimate parameters, peak memory and time of a recipe from a few trial steps, before running it.

    Args:
        recipe: the recipe (YAML).
        changes: changes of the recipe, as key.path=value.
        as_json: print one JSON object.
    """
    from medarts import commands

    estimate = commands.plan(_recipe(recipe, changes))
    print(estimate.to_json() if as_json else estimate.to_text())


def search(words: Positional[Words] = (), *, out: Path | None = None, resume: Path | None = None) -> None:
    """Search a genotype: medarts search RECIPE [key=value ...] [--out FOLDER], or medarts search --resume RUN.

    Args:
        words: the recipe (YAML), then changes of it as key.path=value.
        out: folder of the run; runs/<name of the recipe> where not given.
        resume: a search to go on with; it takes no recipe.
    """
    from medarts import commands

    files, changes = _split(words)
    if resume is not None:
        _nothing_else(words, "medarts search --resume RUN")
        run = commands.resume(resume, kind="search")
    else:
        path = _one(files, "medarts search RECIPE [key=value ...]")
        run = commands.search(_recipe(path, changes), out or Path("runs") / path.stem)
    print(run.path / "report.html")


def train(
    words: Positional[Words] = (),
    *,
    genotype: str | None = None,
    recipe: Path | None = None,
    data: tuple[str, ...] = (),
    init_channel: int | None = None,
    out: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Train the network of a genotype from scratch.

    medarts train RUN [key=value ...] trains what a search found, by the recipe of the search;
    medarts train --genotype NAME|FILE --data FOLDER trains a published or saved genotype;
    medarts train --resume RUN goes on with a training.

    Args:
        words: a search run, then changes of its recipe as key.path=value.
        genotype: a genotype of the zoo, a file, or a run; instead of the one that the search found.
        recipe: the recipe to train by, where there is no search run.
        data: data sets to train on: domains of the recipe, or folders; all of the recipe where not given.
        init_channel: C of the network, instead of the genotype's.
        out: folder of the new run; runs/<genotype>-<data> where not given.
        resume: a training to go on with; it takes nothing else.
    """
    from medarts import commands

    if resume is not None:
        _nothing_else(words, "medarts train --resume RUN")
        run = commands.resume(resume, kind="train")
    else:
        files, changes = _split(words)
        searched = _one(files, "medarts train RUN") if files else None
        run = commands.train_from(
            searched,
            genotype=genotype,
            recipe=recipe,
            changes=changes,
            data=data,
            init_channel=init_channel,
            out=out,
        )
    print(run.path / "report.html")


def evaluate(
    run: Positional[Path],
    *,
    data: tuple[str, ...] = (),
    split: Annotated[str, arg(metavar="{train,val,test}")] = "test",
    head: str | None = None,
) -> None:
    """Score a trained network: per image, then averaged, with 95 % intervals over patients.

    Args:
        run: a training run.
        data: data sets to score on: domains of its recipe, or folders; those it was trained on where not given.
        split: the split to score.
        head: an early head such as 4,0, which is faster; the last where not given.
    """
    from medarts import commands

    print(commands.evaluate_to_text(run, data=data, split=split, head=head))


def show(genotype: Positional[str], *, out: Path | None = None) -> None:
    """Print a genotype, and draw its cells and its lattice as SVG and PNG.

    Args:
        genotype: a genotype of the zoo, a file, or a run.
        out: folder of the drawings; pictures/ of the run, or drawings/<name>.
    """
    from medarts import commands

    print(commands.show(genotype, out=out))


def cost(
    genotype: Positional[str],
    *,
    init_channel: int | None = None,
    in_channels: int = 3,
    classes: int = 1,
    size: int = 256,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Count parameters and FLOPs of a network and measure its CPU latency for one image.

    Args:
        genotype: a genotype of the zoo, a file, or a run.
        init_channel: C of the network, instead of the genotype's.
        in_channels: channels of the image.
        classes: outputs of the network.
        size: height and width of the image, in pixels.
        as_json: print one JSON object.
    """
    from medarts import commands

    measured = commands.cost(
        commands.genotype_of(genotype, init_channel=init_channel), in_channels=in_channels, classes=classes, size=size
    )
    print(json.dumps(measured.as_dict()) if as_json else measured.to_text())


def report(run: Positional[Path]) -> None:
    """Write the HTML page of a run again.

    Args:
        run: a search or training run.
    """
    from medarts.reporting.page import write_report

    print(write_report(run))


COMMANDS = {
    "demo": demo,
    "doctor": doctor,
    "plan": plan,
    "search": search,
    "train": train,
    "evaluate": evaluate,
    "show": show,
    "cost": cost,
    "report": report,
}


def main() -> None:
    """Runs a command; what a user can mend is said in one line, with exit status 1 (130 where it was stopped)."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="medarts",
            description="Designs compact neural networks for medical images by differentiable architecture search.",
        )
    except InterruptedRunError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(130)
    except MedartsError as error:
        print(f"medarts: {error}", file=sys.stderr)
        sys.exit(1)
