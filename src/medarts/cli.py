"""The command line: one thin function a command, over the functions of ``medarts.commands``."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from medarts.errors import MedartsError, RecipeError
from medarts.run.interruption import InterruptedRunError

# Heavy rooms are imported by the commands that use them, so that --help answers at once.

Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
Run = Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")]
RunFolder = Annotated[Path, arg(metavar="RUN", help_behavior_hint="")]
Name = Annotated[str, arg(metavar="GENOTYPE|RUN", help_behavior_hint="")]
Channel = Annotated[int | None, arg(metavar="C", help_behavior_hint="")]
DataSets = Annotated[tuple[str, ...], arg(metavar="DATA [DATA ...]", help_behavior_hint="")]
Megabytes = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Json = Annotated[bool, arg(name="json", help="Print one JSON object.", help_behavior_hint="")]
Changes = Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")]


def demo(out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/demo")) -> None:
    """Take the whole walk on generated images: search, retrain, evaluate, report. Some minutes on two cores.

    Args:
        out: Folder for the phantoms and the runs. Parts that are finished are not done again.
    """
    from medarts import terminal
    from medarts.demo import demo as walk

    run, scores = walk(out)
    terminal.show_scores(scores)
    _show_run(run.path)


def doctor(data: Positional[Annotated[str, arg(metavar="DATA", help_behavior_hint="")]]) -> None:
    """Read a data set and report, file by file, what is wrong or suspicious. Exit status 1 on errors.

    Args:
        data: Folder of a data set (its layout is recognised), or a recipe.
    """
    from medarts import commands, terminal

    examination = commands.doctor(data)
    terminal.show_examination(examination)
    sys.exit(1 if examination.failed else 0)


def plan(
    recipe: Positional[Annotated[Path, arg(metavar="RECIPE", help_behavior_hint="")]],
    changes: Positional[Changes] = (),
    *,
    memory_mb: Megabytes = None,
    as_json: Json = False,
) -> None:
    """Estimate parameters, peak memory and time of a recipe from a few trial steps, before running it.

    Args:
        recipe: The recipe (YAML).
        changes: Changes of the recipe, such as space.init_channel=8.
        memory_mb: Megabytes that are to do. Batches are split until they fit; the changes that do it are printed.
    """
    from medarts import commands, terminal
    from medarts.recipe import load

    planned = commands.plan(load(recipe, changes), budget_mb=memory_mb)
    if as_json:
        print(planned.to_json())
    else:
        terminal.show_plan(planned)


def search(
    words: Positional[Annotated[tuple[str, ...], arg(metavar="[RECIPE] [KEY=VALUE ...]", help_behavior_hint="")]] = (),
    *,
    out: Folder = None,
    resume: Run = None,
) -> None:
    """Search a genotype on the data of a recipe. Ctrl-C leaves a run that can be resumed.

    Args:
        words: The recipe (YAML), then changes of it, such as search.arch_lr=1e-3.
        out: Folder of the run. runs/<name of the recipe> where not given.
        resume: A search to go on with; takes no recipe.
    """
    from medarts import commands
    from medarts.recipe import load

    files, changes = _split(words)
    if resume is not None:
        _expect(not words and out is None, "medarts search --resume RUN")
        run = commands.resume(resume, kind="search")
    else:
        _expect(len(files) == 1, "medarts search RECIPE [KEY=VALUE ...] [--out FOLDER]")
        recipe = Path(files[0])
        run = commands.search(load(recipe, changes), out or Path("runs") / recipe.stem)
    _show_run(run.path)


def train(
    words: Positional[Annotated[tuple[str, ...], arg(metavar="[RUN] [KEY=VALUE ...]", help_behavior_hint="")]] = (),
    *,
    genotype: Annotated[str | None, arg(metavar="GENOTYPE", help_behavior_hint="")] = None,
    recipe: Annotated[Path | None, arg(metavar="RECIPE", help_behavior_hint="")] = None,
    data: DataSets = (),
    init_channel: Channel = None,
    out: Folder = None,
    resume: Run = None,
) -> None:
    """Train from scratch what a search found (medarts train RUN), or a genotype (--genotype NAME --data FOLDER).

    Ctrl-C leaves a run that can be resumed.

    Args:
        words: A search run, then changes of its recipe, such as data.size=128.
        genotype: A genotype of the zoo, a file, or a run, instead of what RUN found.
        recipe: A recipe to train by, instead of that of RUN or the published defaults.
        data: Data sets to train on: names in the recipe, or folders. All of the recipe where not given.
        init_channel: C of the network, instead of the genotype's.
        out: Folder of the new run. runs/<genotype>-<data> where not given.
        resume: A training to go on with; takes nothing else.
    """
    from medarts import commands

    files, changes = _split(words)
    folders, swallowed = _split(data)  # --data takes every word behind it
    changes += swallowed
    if resume is not None:
        others = (genotype, recipe, init_channel, out)
        _expect(not (words or data) and all(other is None for other in others), "medarts train --resume RUN")
        run = commands.resume(resume, kind="train")
    else:
        _expect(
            len(files) <= 1 and bool(files or genotype),
            "medarts train RUN [KEY=VALUE ...], or medarts train --genotype NAME --data FOLDER",
        )
        searched = Path(files[0]) if files else None
        if genotype is None and searched is not None:
            chosen = commands.searched_genotype(searched, init_channel=init_channel, changes=changes)
        else:
            chosen = commands.genotype_of(genotype or "", init_channel=init_channel, changes=changes)
        rules = commands.training_recipe(searched, recipe=recipe, changes=changes, data=tuple(folders))
        domains = "-".join(source.domain for source in rules.data.sources)
        run = commands.train(rules, chosen, out or Path("runs") / f"{chosen.name}-{domains}")
    _show_run(run.path)


def evaluate(
    run: Positional[RunFolder],
    *,
    data: DataSets = (),
    split: Annotated[str, arg(metavar="SPLIT")] = "test",
    head: Annotated[str | None, arg(metavar="HEAD", help_behavior_hint="")] = None,
) -> None:
    """Score a trained network: each image by itself, then averaged, with 95 % intervals over patients.

    Args:
        run: A training run.
        data: Data sets to score on: names in its recipe, or folders. What it was trained on where not given.
        split: train, val, test, or all images whatever their split.
        head: An early, faster head such as 4,0. The last where not given.
    """
    from medarts import commands, terminal

    terminal.show_scores(commands.evaluate(run, data=data, split=split, head=head))
    _show_run(run)


def show(genotype: Positional[Name], *, out: Folder = None) -> None:
    """Print a genotype, and draw its cells and its lattice as SVG and PNG.

    Args:
        genotype: A genotype of the zoo, a file, or a run.
        out: Folder of the drawings. pictures/ of the run, or drawings/<name>, where not given.
    """
    from medarts import commands

    text, drawings = commands.show(genotype, out=out)
    print(text)
    for path in drawings:
        print(path)


def cost(
    genotype: Positional[Name],
    *,
    init_channel: Channel = None,
    in_channels: int = 3,
    classes: int = 1,
    size: int = 256,
    as_json: Json = False,
) -> None:
    """Count parameters and FLOPs (2 a multiply-add) of a network, and measure its CPU latency for one image.

    Latency is measured of the network as built, and as shipped for inference, which is the one that scores images.

    Args:
        genotype: A genotype of the zoo, a file, or a run.
        init_channel: C of the network, instead of the genotype's.
        in_channels: Channels of the image.
        classes: Outputs of the network.
        size: Height and width of the image in pixels.
    """
    from medarts import commands, terminal

    network = commands.genotype_of(genotype, init_channel=init_channel)
    norm = commands.norm_of(genotype)
    measured = commands.cost(network, in_channels=in_channels, classes=classes, size=size, norm=norm)
    if as_json:
        print(json.dumps(asdict(measured)))
    else:
        terminal.show_cost(measured, size=size)


def report(run: Positional[RunFolder]) -> None:
    """Write the HTML page of a run again.

    Args:
        run: A search or training run.
    """
    from medarts.reporting.page import write_report

    print(write_report(run))


COMMANDS: dict[str, Callable[..., Any]] = {
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
    """Runs a command. What a user can mend is said in one line, with exit status 1; 130 where a run was stopped."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="medarts",
            description="Designs compact neural networks for medical images by differentiable architecture search.",
            config=(OmitArgPrefixes,),
        )
    except InterruptedRunError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(130)
    except MedartsError as error:
        print(f"medarts: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # of a folder that is no folder, may not be written, or lies on a full disk
        print(f"medarts: {error}.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # outside of search and training, which save first
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _split(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Returns the words that name files, and those that are changes of a recipe."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def _expect(fits: bool, usage: str) -> None:
    if not fits:
        raise RecipeError("These words do not go together.", fix=f"Usage: {usage}.")


def _show_run(path: Path) -> None:
    print(f"{path / 'report.html'}")


if __name__ == "__main__":
    main()
