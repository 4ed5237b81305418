"""The command line: one thin function for each command, over the functions of ``medarts.api``.

A command reads its words, calls one function, and prints what it returns.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from medarts import __version__
from medarts.arguments import changes_first, check_repeated, split
from medarts.config import Task
from medarts.config.section import LARGEST_SIZE
from medarts.errors import OF_TRAINING, MedartsError, RecipeError, RunError, check_number, not_installed, of_system
from medarts.system.console import Wrapping, be_mute, be_quiet, say, tolerate_encodings
from medarts.system.memory import is_out_of_memory, keep_freed_memory
from medarts.system.names import printable
from medarts.system.place import place, quiet_library, refuse_several
from medarts.system.process import InterruptedRunError, interrupted_by_schedulers

MOST_JOBS = 64
PAGE = "report.html"

_VERBOSE, _QUIET, _REQUEUE = ("-v", "--verbose"), ("-q", "--quiet"), ("--requeue",)
_DESCRIPTION = (
    "Designs compact neural networks for medical images by differentiable architecture search. "
    "With any command: -q, --quiet prints no progress; -v, --verbose prints tracebacks of errors and warnings of "
    "libraries; --requeue gives a command that was stopped, with Ctrl-C or by a scheduler, exit status 75 instead of "
    "130. medarts --version prints the version."
)

_NARROWEST = 20
"""Columns of the help."""


def _choices(literal: Any) -> str:
    """Returns the choices of an option as the help names them; tyro would name None as well, which is none."""
    return f"{{{','.join(get_args(literal))}}}"


# Heavy rooms are imported by the commands that use them, so that --help answers at once.

Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
Run = Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")]
RunFolder = Annotated[Path, arg(metavar="RUN", help_behavior_hint="")]
Study = Annotated[Path, arg(metavar="RECIPE", help_behavior_hint="")]
Name = Annotated[str, arg(metavar="GENOTYPE|RUN", help_behavior_hint="")]
Channel = Annotated[int | None, arg(metavar="C", help_behavior_hint="")]
DataSets = Annotated[tuple[str, ...], arg(metavar="DATA [DATA ...]", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Count = Annotated[int, arg(metavar="N")]
Cluster = Annotated[str | None, arg(metavar="ADDRESS|local", help_behavior_hint="")]
Address = Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="")]
Numbers = Annotated[tuple[int, ...], arg(metavar="N [N ...]", help_behavior_hint="")]
Share = Annotated[float | None, arg(metavar="X", help_behavior_hint="")]
Megabytes = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Json = Annotated[bool, arg(name="json", help="Print JSON.", help_behavior_hint="")]
Switch = FlagCreatePairsOff[Annotated[bool, arg(help_behavior_hint="")]]
Requeue = FlagCreatePairsOff[
    Annotated[
        bool,
        arg(help="Exit status 75 instead of 130 where the command was stopped, for schedulers.", help_behavior_hint=""),
    ]
]
"""An option of every command, which `main` takes away and acts on; those that save and go on have it in their help."""
Engine = Literal["onnxruntime", "openvino"]
Decision = Literal["threshold", "validation", "dice"]
Changes = Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")]


def demo(
    out: Folder = None,
    *,
    task: Annotated[Task, arg(help_behavior_hint="")] = "segmentation",
) -> None:
    """Run the whole pipeline on synthetic images: search, train, evaluate, report. A few minutes on two cores.

    Args:
        out: Folder for the images and the runs; finished parts are skipped. Default: runs/demo, or
            runs/demo-findings for classification.
        task: Segmentation of lesions and livers, or classification of findings in chest X-rays.
    """
    from medarts import terminal
    from medarts.demo import demo as run_demo

    page, scores = run_demo(out or Path("runs") / ("demo" if task == "segmentation" else "demo-findings"), task)
    terminal.show_scores(scores)
    say(str(page), whole=True)


def phantoms(
    folder: Positional[Annotated[Path, arg(metavar="FOLDER", help_behavior_hint="")]],
    *,
    task: Annotated[Task, arg(help_behavior_hint="")] = "segmentation",
    images: Annotated[int, arg(metavar="N")] = 600,
    size: Number = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
) -> None:
    """Write synthetic images with known masks or findings, in the folder layouts of real data sets.

    Args:
        folder: Folder of the images, new or written by the same command.
        task: Skin lesions, polyps and livers for segmentation; chest X-rays for classification.
        images: Images in each data set.
        size: Height and width in pixels. Default: 96, or 64 for X-rays.
        seed: Seed of the images.
    """
    from medarts.demo import phantoms as write

    check_number("images", images, low=25, high=100_000)
    check_number("size", size, low=32, high=LARGEST_SIZE)
    check_number("seed", seed, low=0, high=2**31 - 1)
    for source in write(folder, task, images=images, size=size, seed=seed):
        say(f"{source.kind}: {source.path}")


def init(
    words: Positional[
        Annotated[tuple[str, ...], arg(metavar="DATA [DATA ...] [KEY=VALUE ...]", help_behavior_hint="")]
    ],
    *,
    out: Annotated[Path, arg(metavar="FILE", help_behavior_hint="")] = Path("recipe.yaml"),
    task: Annotated[Task | None, arg(metavar=_choices(Task), help_behavior_hint="")] = None,
    budget: Annotated[int, arg(metavar="MINUTES", help_behavior_hint="")] = 60,
    yes: Switch = False,
    no_plan: Switch = False,
    force: Switch = False,
) -> None:
    """Look at data and write a first recipe for them: layout, splits, patients, classes, and settings that fit.

    Args:
        words: Folders, or lists of images (CSV, JSON), then changes to the recipe, such as data.size=96.
        out: The recipe. Default: recipe.yaml.
        task: What is to be learned, where a folder has both masks and findings.
        budget: Minutes that the search and the training may take together, as measured here. Default: 60.
        yes: Ask nothing and take the usual answers.
        no_plan: Do not measure how long it will take.
        force: Replace a recipe that exists.
    """
    from medarts import api, terminal

    check_number("budget", budget, low=1, high=100_000)
    data, changes = split(words)
    _expect(bool(data), "medarts init DATA [DATA ...] [KEY=VALUE ...]")
    found = api.init(
        *data,
        out=out,
        task=task,
        minutes=budget,
        measure=not no_plan,
        force=force,
        changes=changes,
        ask=(lambda question: 0) if yes else terminal.ask,
    )
    terminal.show_proposal(found, out)


def recipe(
    key: Positional[Annotated[str | None, arg(metavar="[KEY]", help_behavior_hint="")]] = None,
    *,
    schema: Switch = False,
) -> None:
    """Explain the keys of recipes: type, range, default and meaning.

    Args:
        key: Key or section, such as data.size or data.sources.folder. Default: all sections.
        schema: Print a JSON schema of recipes, for editors.
    """
    from medarts import terminal
    from medarts.config.reference import keys_of, schema_of_recipes

    _expect(not (schema and key), "medarts recipe [KEY], or medarts recipe --schema")
    if schema:
        print(json.dumps(schema_of_recipes(), indent=1))
    else:
        terminal.show_keys(keys_of(key or ""))


def doctor(
    data: Positional[Annotated[str, arg(metavar="DATA", help_behavior_hint="")]],
    *,
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None,
) -> None:
    """Check a data set and report errors and warnings, one line for each kind. Exit status 1 on errors.

    Args:
        data: Folder of a data set (its layout is recognised), or a recipe, which also checks masks at its size.
        out: CSV file with one row for each problem. Default: runs/doctor/<data>.csv, if the summary leaves any out.
    """
    from medarts import api, terminal
    from medarts.system.files import check_writable, make_folder, write_whole
    from medarts.system.names import name_of

    if out is not None:
        check_writable(out, kind="file")
    examination = api.doctor(data)
    terminal.show_examination(examination)
    if out is not None or not examination.whole:
        name = name_of(Path(data).with_suffix("") if Path(data).is_file() else Path(data))
        path = out or Path("runs") / "doctor" / f"{name}.csv"
        try:
            make_folder(path.parent)
            write_whole(path, examination.to_csv())
        except RunError as error:
            say(f"medarts: {error}", to=sys.stderr)
        else:
            say(f"All findings: {path}")
    sys.exit(1 if examination.failed else 0)


def plan(
    recipe: Positional[Annotated[Path, arg(metavar="RECIPE", help_behavior_hint="")]],
    changes: Positional[Changes] = (),
    *,
    memory_mb: Megabytes = None,
    as_json: Json = False,
) -> None:
    """Estimate the parameters, peak memory and time of a recipe from a few trial steps, or the time of a study.

    Args:
        recipe: The recipe, or the study of a benchmark (YAML).
        changes: Changes to the recipe, such as space.init_channel=8.
        memory_mb: Memory budget in megabytes. Batches are split until they fit, and the changes are printed.
    """
    from medarts import api, terminal
    from medarts.config.study import is_study

    if is_study(recipe):
        _expect(memory_mb is None, "medarts plan STUDY [KEY=VALUE ...]")
        of_study = api.plan_study(recipe, changes=changes)
        if as_json:
            print(of_study.to_json())
        else:
            terminal.show_study_plan(of_study)
        return
    check_number("memory_mb", memory_mb, low=1, high=100_000_000)
    planned = api.plan(recipe, changes=changes, memory_mb=memory_mb)
    if as_json:
        print(planned.to_json())
    else:
        terminal.show_plan(planned)


def search(
    words: Positional[Annotated[tuple[str, ...], arg(metavar="[RECIPE] [KEY=VALUE ...]", help_behavior_hint="")]] = (),
    *,
    out: Folder = None,
    jobs: Annotated[int, arg(metavar="N")] = 1,
    cluster: Cluster = None,
    devices: Count = 1,
    nodes: Count = 1,
    node_rank: Count = 0,
    address: Address = None,
    resume: Run = None,
    requeue: Requeue = False,
) -> None:
    """Search for a genotype on the data of a recipe. A run stopped with Ctrl-C can be resumed.

    Args:
        words: The recipe (YAML), then changes to it, such as search.arch_lr=1e-3.
        out: Folder of the run. Default: runs/<name of the recipe>.
        jobs: Trainings that run in parallel, for search.method pool and random.
        cluster: Ray cluster that does them: HOST:PORT of its head, auto for that of this machine, or local for a new
            one on it. Default: processes of this machine.
        devices: Processes that share the search of a supernet, on this machine: one for each GPU.
        nodes: Machines that share it. The same command is given on each.
        node_rank: Number of this machine, from 0.
        address: The first machine and a free port of it, where the processes of several machines meet.
        resume: Search run to resume. No recipe is needed. Paths, the note, device and threads, the parts of a batch
            (search.stages.0.accumulate=2) can be changed, and the last stage can get more epochs.
    """
    _launch_several(devices, nodes, node_rank, address)
    from medarts import api, terminal

    files, changes = split(words)
    if resume is not None:
        _expect(not files and out is None, "medarts search --resume RUN [KEY=VALUE ...]")
        run = api.resume(resume, kind="search", changes=changes, jobs=jobs, cluster=cluster)
    else:
        _expect(len(files) == 1, "medarts search RECIPE [KEY=VALUE ...] [--out FOLDER]")
        run = api.search(files[0], changes=changes, out=out, jobs=jobs, cluster=cluster)
    terminal.show_search(run)
    say(str(run.path), whole=True)
    terminal.say_next("train", run.path)


def train(
    words: Positional[
        Annotated[tuple[str, ...], arg(metavar="[RUN|RECIPE] [KEY=VALUE ...]", help_behavior_hint="")]
    ] = (),
    *,
    genotype: Annotated[str | None, arg(metavar="GENOTYPE", help_behavior_hint="")] = None,
    model: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None,
    recipe: Annotated[Path | None, arg(metavar="RECIPE", help_behavior_hint="")] = None,
    from_: Annotated[Path | None, arg(name="from", metavar="RUN|PACKAGE", help_behavior_hint="")] = None,
    data: DataSets = (),
    init_channel: Channel = None,
    out: Folder = None,
    jobs: Annotated[int, arg(metavar="N")] = 1,
    cluster: Cluster = None,
    devices: Count = 1,
    nodes: Count = 1,
    node_rank: Count = 0,
    address: Address = None,
    resume: Run = None,
    requeue: Requeue = False,
) -> None:
    """Train the network of a search (RUN), a genotype (--genotype) or a baseline (--model), or fine-tune one (--from).

    With data.folds=5 a network is trained for each of five folds, and all are used as one. A run stopped with Ctrl-C
    can be resumed.

    Args:
        words: Search run, or recipe with train.model, then changes, such as data.size=128.
        genotype: Genotype from the zoo, a file or a run. Default: the one RUN found.
        model: Baseline, instead of a genotype, such as unet for masks or chexnet for findings; a wrong name lists all.
            Set its options with train.model.width=16 and the like; train.model.weights=FILE initialises chexnet.
        recipe: Recipe to train with. Default: that of RUN, or the published values.
        from_: Training run or package to fine-tune on other data, at train.finetune_lr (0.1) times the learning rate of
            the recipe. Heads are replaced if the data have other classes or findings.
        data: Data sets to train on, as names in the recipe or folders. Default: all of the recipe.
        init_channel: Initial channels C of the network. Default: the genotype's.
        out: Folder of the new run. Default: runs/<network>-<data>.
        jobs: Folds that are trained in parallel.
        cluster: Ray cluster that does them: HOST:PORT of its head, auto for that of this machine, or local for a new
            one on it. Default: processes of this machine.
        devices: Processes that share the training, on this machine: one for each GPU.
        nodes: Machines that share it. The same command is given on each.
        node_rank: Number of this machine, from 0.
        address: The first machine and a free port of it, where the processes of several machines meet.
        resume: Training run to resume. Only paths, the note, device and threads, and the parts of a batch
            (train.accumulate=2) can be changed, and train.epochs raised.
    """
    _launch_several(devices, nodes, node_rank, address)
    from medarts import api, terminal

    files, changes = split(words)
    if resume is not None:
        others = (genotype, model, recipe, from_, init_channel, out)
        alone = not (files or data) and all(other is None for other in others)
        _expect(alone, "medarts train --resume RUN [KEY=VALUE ...]")
        run = api.resume(resume, kind="train", changes=changes, jobs=jobs, cluster=cluster)
    else:
        _expect(
            len(files) <= 1
            and bool(files or genotype or model or recipe or from_)
            and not (genotype and model)
            and not (from_ and (files or genotype or model)),
            "medarts train RUN|RECIPE [KEY=VALUE ...], or medarts train --genotype NAME|--model NAME|--from RUN --data "
            "FOLDER",
        )
        if files and Path(files[0]).is_file():  # a recipe, whose network is train.model, --genotype or --model
            recipe, files = Path(files[0]), []
        network, base, of_model = _what_to_train(files, genotype, model, recipe)
        run = api.train(
            network,
            base,
            initial=from_,
            data=data or None,
            init_channel=init_channel,
            changes=[*of_model, *changes],
            out=out,
            jobs=jobs,
            cluster=cluster,
        )
    terminal.show_training(run)
    say(str(run.path), whole=True)
    terminal.say_next("evaluate", run.path, *terminal.scored_split(run))


def _what_to_train(
    files: list[str], genotype: str | None, model: str | None, recipe: Path | None
) -> tuple[Any, Any, list[str]]:
    """Returns the genotype or search whose network is trained, the recipe, and the changes that name a baseline."""
    from medarts.coercion import model_change
    from medarts.engine.directory import RunDirectory
    from medarts.pool.search import recipe_after
    from medarts.spaces import load_genotype

    searched = RunDirectory.open(Path(files[0]), kind="search") if files else None
    base = recipe if recipe is not None or searched is None else recipe_after(searched)
    of_model = [] if model is None else model_change({} if base is None else base, model)
    return searched if genotype is None else load_genotype(genotype), base, of_model


def prune(
    run: Positional[Annotated[Path, arg(metavar="RUN|PACKAGE", help_behavior_hint="")]],
    changes: Positional[Changes] = (),
    *,
    method: Annotated[str | None, arg(metavar="METHOD", help_behavior_hint="")] = None,
    keep_flops: Share = None,
    keep_parameters: Share = None,
    keep_latency: Share = None,
    keep_channels: Share = None,
    steps: Number = None,
    epochs: Number = None,
    sparse_epochs: Number = None,
    data: DataSets = (),
    out: Folder = None,
    requeue: Requeue = False,
) -> None:
    """Prune a trained network: cut out what matters least, to a share of its size, and fine-tune what is left.

    One of the --keep options gives the share that is kept. What is not given is as in the recipe of the run, section
    prune. The same command continues where it was stopped.

    Args:
        run: Finished training run, which is not changed, or package, which needs --data. A pruned network is pruned
            further, by shares of what it has now.
        changes: Changes to its recipe, such as train.finetune_lr=0.2 or prune.method.batches=50.
        method: taylor, l1, fpgm, slim, soft, gradual, or depth, which removes whole cells and late heads instead of
            channels. Default: taylor.
        keep_flops: Share of the FLOPs that is kept, such as 0.5.
        keep_parameters: Share of the parameters.
        keep_latency: Share of the latency of the exported network, measured in ONNX Runtime on one thread.
        keep_channels: Share of the channels that can be cut.
        steps: Number of cuts, with a part of the fine-tuning after each. Default: 1.
        epochs: Epochs of the fine-tuning, at train.finetune_lr (0.1) times the learning rate. Default: those of the
            training.
        sparse_epochs: Epochs of the training before the cut, for slim, soft and gradual. Default: as --epochs.
        data: Data sets to fine-tune on, as names in the recipe or folders. Default: all of the recipe.
        out: Folder of the new run. Default: runs/<run>-<method>-<percent>.
    """
    from medarts import api, terminal

    pruned = api.prune(
        run,
        method=method,
        keep_flops=keep_flops,
        keep_parameters=keep_parameters,
        keep_latency=keep_latency,
        keep_channels=keep_channels,
        steps=steps,
        epochs=epochs,
        sparse_epochs=sparse_epochs,
        data=data or None,
        changes=changes,
        out=out,
    )
    terminal.show_pruning(pruned, of=run)
    say(str(pruned.path), whole=True)


def evaluate(
    run: Positional[RunFolder],
    *,
    data: DataSets = (),
    split: Annotated[str, arg(metavar="SPLIT")] = "test",
    head: Annotated[str | None, arg(metavar="HEAD", help_behavior_hint="")] = None,
    heads: Switch = False,
    flip: Switch = False,
    by: Annotated[str | None, arg(metavar="COLUMN", help_behavior_hint="")] = None,
    worst: Number = None,
) -> None:
    """Score a trained network image by image, and average with 95 % confidence intervals over patients.

    Masks are also scored with the threshold chosen on the validation images and with the Dice-optimal decision.

    Args:
        run: Training run or package. A package needs --data; its scores are written beside it, into NAME-scores/.
        data: Data sets to score on, as names in its recipe or folders. Default: those it was trained on.
        split: train, val, test, or all for every image.
        head: Earlier, faster head, such as 4,0, or average, the mean of all. Default: the last.
        heads: Also score masks of every head and of their average.
        flip: Also score masks averaged over mirrored copies of each image (four passes).
        by: Column of splits.csv or another table of the data, such as centre, by which scores are grouped. Default:
            group, if there is such a column.
        worst: Images in the gallery of the worst on the page of the run, which medarts report writes. Default: 12, at
            most a third of the images.
    """
    from medarts import api, terminal
    from medarts.deploy.info import is_package
    from medarts.engine.directory import RunDirectory
    from medarts.evaluation.evaluate import folder_of_package
    from medarts.training.searched import search_line

    scores = api.evaluate(run, data=data or None, split=split, head=head, heads=heads, flip=flip, by=by, worst=worst)
    packed = is_package(run)
    has_tested = not packed and not data and scores.split in ("test", "all")
    remark = search_line(RunDirectory.open(run)) if has_tested else ""
    terminal.show_scores(scores, folder=f"{folder_of_package(run)}/" if packed else "scores/", remark=remark)
    folders = [each for each in data if Path(each).is_dir()]
    if not packed:
        terminal.say_next("report", run)
    elif folders:
        terminal.say_next("export", run, "--images", *folders)


def predict(
    model: Positional[Annotated[Path, arg(metavar="MODEL", help_behavior_hint="")]],
    paths: Positional[Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]", help_behavior_hint="")]],
    *,
    out: Annotated[Path, arg(metavar="FOLDER", help_behavior_hint="")],
    batch: Annotated[int, arg(metavar="N")] = 8,
    engine: Annotated[Engine | None, arg(metavar=_choices(Engine), help_behavior_hint="")] = None,
    threads: Number = None,
    probabilities: Switch = False,
    overlay: Switch = False,
    window: Annotated[int | None, arg(metavar="SIZE", help_behavior_hint="")] = None,
    flip: Switch = False,
    largest: Switch = False,
    decision: Annotated[Decision, arg(help_behavior_hint="")] = "threshold",
    force: Switch = False,
    requeue: Requeue = False,
) -> None:
    """Predict masks or findings of images, volumes and DICOM series, and write them with tables into a folder.

    The same command continues where it was stopped. Bad files are reported and skipped; the exit status is then 1.

    Args:
        model: Exported network (ONNX), which runs without PyTorch, package or training run.
        paths: PNG, JPEG, TIFF, DICOM and NIfTI files, folders, searched recursively, or patterns ("scans/**/*.png").
        out: Folder of masks, predictions.csv and errors.csv; new, empty, or of the same prediction.
        batch: Images, slices or windows in one pass.
        engine: What runs an exported network. Default: onnxruntime.
        threads: CPU threads for an exported network. Default: as the engine chooses.
        probabilities: Write the probabilities of masks as well.
        overlay: Write each image with the contours of its mask as PNG.
        window: Predict larger images in half overlapping windows of this height and width. Default: whole.
        flip: Average over mirrored copies of each image; four times as slow for masks, twice for findings.
        largest: Keep only the largest connected component of each class, in three dimensions for volumes.
        decision: How probabilities become a mask: the threshold of the recipe, the one chosen on the validation images,
            or the mask with the largest expected Dice of each image (dice). Default: threshold.
        force: Start over in a folder that holds something else, and overwrite.
    """
    from medarts import api

    found = api.predict(
        model,
        paths,
        out=out,
        batch=batch,
        engine=engine,
        threads=threads,
        probabilities=probabilities,
        overlay=overlay,
        window=window,
        flip=flip,
        largest=largest,
        decision=decision,
        force=force,
    )
    words = [f"{found.predicted:,} predicted", f"{len(found.skipped):,} skipped"]
    if found.kept:
        words.insert(1, f"{found.kept:,} predicted before")
    if found.skipped:
        words[-1] += f" (see {found.folder / 'errors.csv'})"
    say(f"{', '.join(words)}: {found.folder}")
    sys.exit(1 if found.skipped else 0)


def show(genotype: Positional[Name], *, out: Folder = None) -> None:
    """Print a genotype, and draw its cells and its lattice as SVG and PNG.

    Args:
        genotype: Genotype from the zoo, a file or a run.
        out: Folder of the drawings. Default: pictures/ in the run, or drawings/<name>.
    """
    from medarts import api, terminal
    from medarts.engine.directory import RunDirectory, is_begun

    text, drawings = api.show(genotype, out=out)
    say(text)
    if is_begun(Path(genotype)):
        terminal.show_kept(RunDirectory.open(Path(genotype)))
    for path in drawings:
        say(str(path), whole=True)


def cost(
    words: Positional[
        Annotated[tuple[str, ...], arg(metavar="GENOTYPE|RUN|MODEL [...] [KEY=VALUE ...]", help_behavior_hint="")]
    ],
    *,
    init_channel: Channel = None,
    in_channels: Number = None,
    outputs: Number = None,
    size: Number = None,
    threads: Numbers = (),
    batch: Numbers = (1,),
    repeats: Annotated[int, arg(metavar="N")] = 20,
    figure: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    as_json: Annotated[
        bool,
        arg(name="json", help="Print JSON: an object, or a list for several networks.", help_behavior_hint=""),
    ] = False,
) -> None:
    """Count the parameters and FLOPs of networks (a multiply-add is 2), and measure CPU latency and peak memory.

    Latency is the time of one forward pass of the batch in PyTorch, as built and in the inference form that scores
    images, and exported, in ONNX Runtime and OpenVINO if it is installed. All are measured in turns. Peak memory is
    that of a separate process with the largest number of threads.

    Args:
        words: Genotypes from the zoo, files, runs or baselines (unet, chexnet, ...), then changes: to baselines, such
            as model.width=16, or to genotypes, such as space.layers=14.
        init_channel: Initial channels C of the networks. Default: those of the genotypes.
        in_channels: Channels of the images. Default: those of the runs, or 3.
        outputs: Number of classes or findings. Default: that of the runs, or of the published networks.
        size: Height and width of the images in pixels. Default: that of the runs, or of the published networks.
        threads: CPU threads, one number or several. Default: 1, and 2 on two or more cores.
        batch: Images per pass, one number or several. Default: 1.
        repeats: Timed passes. 0 counts parameters and FLOPs only.
        figure: SVG or PNG file for a plot of latency against parameters.
    """
    from medarts import api

    names, changes = split(words)
    _expect(bool(names), "medarts cost GENOTYPE|RUN|MODEL [...] [KEY=VALUE ...]")
    measured = api.cost(
        *names,
        changes=changes,
        init_channel=init_channel,
        in_channels=in_channels,
        outputs=outputs,
        size=size,
        threads=threads,
        batches=batch,
        repeats=repeats,
        figure=figure,
    )
    if as_json:
        found = [{"name": name, **one.as_json()} for name, one in measured.items()]
        print(json.dumps(found if len(found) > 1 else found[0]))
    else:
        from medarts import terminal
        from medarts.engine.directory import RunDirectory, is_begun

        terminal.show_costs(measured)
        for path in filter(is_begun, map(Path, names)):
            terminal.show_kept(RunDirectory.open(path))
        if figure is not None:
            say(str(figure), whole=True)


def compare(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]", help_behavior_hint="")]],
    *,
    against: Annotated[str | None, arg(metavar="NETWORK", help_behavior_hint="")] = None,
    data: DataSets = (),
    split: Annotated[str, arg(metavar="SPLIT")] = "test",
    out: Folder = None,
) -> None:
    """Compare trained networks: scores with intervals, paired tests, costs, and the images on which they differ most.

    The runs must have the same recipe, splits and seeds.

    Args:
        runs: Training runs; seeds of one network are grouped. Or the folder of a benchmark, finished or not.
        against: Network that the others are compared with. Default: that of the first run, or the benchmark's
            reference.
        data: Other data sets to compare on, as folders or names in the recipe of the runs; those that no network was
            trained on are marked as external. Default: those of the runs.
        split: train, val, test, or all for every image.
        out: Folder of the comparison. Default: runs/comparison, or comparison/ in the benchmark.
    """
    from medarts import api, terminal

    of_study = len(runs) == 1 and (runs[0] / "study.yaml").is_file()
    folder = out or (runs[0] / "comparison" if of_study else Path("runs") / "comparison")
    found = api.compare(runs, against=against, data=data or None, split=split, out=folder)
    terminal.show_comparison(found, failures=runs[0] / "failures" if of_study else None)
    say(str(folder / PAGE), whole=True)


def benchmark(
    recipe: Positional[Study],
    changes: Positional[Changes] = (),
    *,
    out: Folder = None,
    jobs: Annotated[int, arg(metavar="N")] = 1,
    cluster: Cluster = None,
    requeue: Requeue = False,
) -> None:
    """Train and compare a list of networks on several data sets with several seeds.

    Finished trainings are skipped, and a failed one does not stop the others. After Ctrl-C the same command resumes.

    Args:
        recipe: Study (YAML) with a recipe, networks, data sets and seeds; see recipes/benchmark-cpu.yaml.
        changes: Changes to the study, such as recipe.train.epochs=20.
        out: Folder of the benchmark. Default: runs/<name of the recipe>.
        jobs: Trainings that run in parallel.
        cluster: Ray cluster that does them: HOST:PORT of its head, auto for that of this machine, or local for a new
            one on it. Default: processes of this machine.
    """
    from medarts import api, terminal

    check_number("jobs", jobs, low=1, high=MOST_JOBS)
    folder = out or Path("runs") / recipe.stem
    found = api.benchmark(recipe, changes=changes, out=folder, jobs=jobs, cluster=cluster)
    terminal.show_comparison(found, failures=folder / "failures")
    say(str(folder / "comparison" / PAGE), whole=True)
    sys.exit(1 if found.about["missing"] else 0)


def noise(
    run: Positional[RunFolder],
    *,
    seeds: Annotated[int, arg(metavar="N")] = 3,
    jobs: Annotated[int, arg(metavar="N")] = 1,
    cluster: Cluster = None,
    as_json: Json = False,
    requeue: Requeue = False,
) -> None:
    """Train a run's recipe again with other seeds, and tell which differences between networks are more than chance.

    The trainings are in RUN/noise. After Ctrl-C the same command resumes.

    Args:
        run: Finished training run.
        seeds: Trainings beside that of the run.
        jobs: Trainings that run in parallel.
        cluster: Ray cluster that does them: HOST:PORT of its head, auto for that of this machine, or local for a new
            one on it. Default: processes of this machine.
    """
    from medarts import api, terminal

    check_number("jobs", jobs, low=1, high=MOST_JOBS)
    found = api.noise(run, seeds=seeds, jobs=jobs, cluster=cluster)
    if as_json:
        print(found.to_json())
    else:
        terminal.show_noise(found)


def generalize(
    recipe: Positional[Annotated[Path, arg(metavar="RECIPE|FOLDER", help_behavior_hint="")]],
    changes: Positional[Changes] = (),
    *,
    out: Folder = None,
    jobs: Annotated[int, arg(metavar="N")] = 1,
    cluster: Cluster = None,
    requeue: Requeue = False,
) -> None:
    """Test how well networks generalize to other data sets, retrained on them or only tested on them.

    Networks of the benchmark that are not trained yet are trained first.

    Args:
        recipe: Study (YAML) with a recipe, networks, data sets and seeds; see recipes/benchmark-cpu.yaml. Or the folder
            of a benchmark, to test only the networks trained so far.
        changes: Changes to the study, such as recipe.train.epochs=20.
        out: Folder of the benchmark. Default: runs/<name of the recipe>.
        jobs: Trainings that run in parallel.
        cluster: Ray cluster that does them: HOST:PORT of its head, auto for that of this machine, or local for a new
            one on it. Default: processes of this machine.
    """
    from medarts import api, terminal

    check_number("jobs", jobs, low=1, high=MOST_JOBS)
    if recipe.is_dir():
        _expect(not changes and out is None, "medarts generalize FOLDER, or RECIPE [KEY=VALUE ...] [--out FOLDER]")
    folder = recipe if recipe.is_dir() else out or Path("runs") / recipe.stem
    found = api.generalize(recipe, changes=changes, out=folder, jobs=jobs, cluster=cluster)
    terminal.show_generalization(found)
    say(str(folder / "generalization" / PAGE), whole=True)
    sys.exit(1 if found.about["missing"] or found.about["untested"] else 0)


def report(run: Positional[RunFolder]) -> None:
    """Write the HTML page of a run with curves, architecture, scores and cost. The page opens offline.

    Args:
        run: Search or training run.
    """
    from medarts import api

    say(str(api.report(run)), whole=True)


def export(
    run: Positional[RunFolder],
    *,
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    head: Annotated[str | None, arg(metavar="HEAD", help_behavior_hint="")] = None,
    checkpoint: Annotated[str, arg(metavar="best|last", help_behavior_hint="")] = "best",
    domain: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None,
    int8: Switch = False,
    torch: Switch = False,
    bundle: Switch = False,
    images: Annotated[tuple[Path, ...], arg(metavar="PATH [PATH ...]", help_behavior_hint="")] = (),
    allow_loss: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None,
    force: Switch = False,
) -> None:
    """Export a trained network as one ONNX file that runs without PyTorch, and verify it on real images.

    The file takes images as stored, of any size, and gives masks or findings: scaling, resizing and the threshold are
    part of it.

    Args:
        run: Training run or package. A package needs --images.
        out: File, or folder of a bundle. Default: RUN/<network>.onnx, or beside the package.
        head: Earlier, faster head, such as 4,0, or average, the mean of all heads. Default: the last.
        checkpoint: best, by the validation score, or last. Default: best.
        domain: Data set whose scaling of intensities is used, if those of the run differ.
        int8: Quantize weights and feature maps to 8-bit integers, calibrated on the validation images, and print the
            score before and after.
        torch: Write an archive of torch.export (.pt2) instead.
        bundle: Write a MONAI bundle instead, a folder that MONAI runs without medarts.
        images: Files or folders of images to verify it on. Default: those of the run.
        allow_loss: Largest accepted fall of mean Dice (or mean AUROC) on the validation images with --int8. Default:
            0.01.
        force: Replace the file if it exists; a bundle needs a new folder.
    """
    from medarts import api

    exported = api.export(
        run,
        out,
        checkpoint=checkpoint,
        domain=domain,
        head=head,
        int8=int8,
        torch=torch,
        bundle=bundle,
        images=images or None,
        allow_loss=allow_loss,
        force=force,
    )
    say(exported.summary)
    say(str(exported.path), whole=True)


def pack(
    run: Positional[RunFolder],
    *,
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    domain: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None,
    examples: Switch = False,
) -> None:
    """Pack a trained network into one file for others: weights, recipe, scores and a model card.

    The file names no patient, file or folder. load, evaluate, predict, export and train --from take it like a run.

    Args:
        run: Training run; it is evaluated first if it has no scores.
        out: File whose name ends in .medarts. Default: beside the run, with its name.
        domain: Data set whose scaling of intensities is used, if those of the run differ.
        examples: Add a few images of the validation set, with true and predicted masks.
    """
    from medarts import api

    say(str(api.pack(run, out, domain=domain, examples=examples)), whole=True)


def cache(
    folder: Positional[Annotated[Path | None, arg(metavar="[FOLDER]", help_behavior_hint="")]] = None,
    *,
    clear: Switch = False,
) -> None:
    """List or remove the cached resized images. They are rebuilt when needed.

    Args:
        folder: Cache folder, as in data.cache of a recipe. Default: the user's cache folder.
        clear: Remove everything that no process is using.
    """
    from medarts import terminal
    from medarts.data import cache as room

    if clear:
        terminal.show_cleared(*room.cleared(folder))
    else:
        terminal.show_cache(*room.listed(folder))


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "phantoms": phantoms,
    "init": init,
    "recipe": recipe,
    "doctor": doctor,
    "plan": plan,
    "search": search,
    "train": train,
    "prune": prune,
    "evaluate": evaluate,
    "predict": predict,
    "show": show,
    "cost": cost,
    "compare": compare,
    "benchmark": benchmark,
    "generalize": generalize,
    "noise": noise,
    "report": report,
    "export": export,
    "pack": pack,
    "cache": cache,
}

_SHARED = ("search", "train")
"""Commands whose work several processes can share; every one of them would do all of the others."""


STOPPED, TO_REQUEUE = 130, 75
"""Exit status of a command that was stopped: that of shells for Ctrl-C; with --requeue, EX_TEMPFAIL of sysexits.h."""


def main() -> None:
    """Runs a command. Prints errors that a user can fix on one line (exit status 1, or `STOPPED`)."""
    tolerate_encodings()
    keep_freed_memory()
    words, verbose, requeue = _without_flags(sys.argv[1:])
    status = TO_REQUEUE if requeue else STOPPED
    try:
        _let_first_speak()
        try:
            with interrupted_by_schedulers():
                _run_command(words)
        finally:
            if sys.stdout is not None:  # None where the shell has closed it
                _flush_output()  # here, where a full disk and a closed pipe are still errors of the command
    except (InterruptedRunError, KeyboardInterrupt) as stopped:  # of jobs, which save first, and of all else
        if not place().rank:
            say(str(stopped) or "Stopped.", to=sys.stderr)
        sys.exit(status)
    except MedartsError as error:
        _fail(error, verbose=verbose)
    except ModuleNotFoundError as error:
        if error.name not in OF_TRAINING:
            raise
        _fail(not_installed(error.name), verbose=verbose)
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        sys.exit(1)
    except OSError as error:  # of a folder that is no folder, may not be written, or lies on a full disk
        if error.filename in (None, "standard output"):
            _drop_output()
        _fail(of_system(error), verbose=verbose)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(_OUT_OF_MEMORY, verbose=verbose)


_OUT_OF_MEMORY = MedartsError(
    "Out of memory.",
    fix="Use smaller images, batches or networks, or raise the limit (ulimit -v).",
)


def _without_flags(words: list[str]) -> tuple[list[str], bool, bool]:
    """Acts on the options of all commands; returns the other words, and whether --verbose and --requeue are given."""
    end = words.index("--") if "--" in words else len(words)
    flags = {word for word in words[:end] if word in (*_VERBOSE, *_QUIET, *_REQUEUE)}
    verbose = bool(flags & {*_VERBOSE})
    if verbose:
        warnings.simplefilter("default")
        logging.basicConfig(level=logging.INFO)
    be_quiet(bool(flags & {*_QUIET}))
    return [word for word in words[:end] if word not in flags] + words[end:], verbose, bool(flags & {*_REQUEUE})


def _run_command(words: list[str]) -> None:
    if words == ["--version"]:
        print(f"medarts {__version__}")
        return
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)  # in less than ten, tyro looks for room for its boxes without end
    check_repeated(words, _options(words))
    if {"-h", "--help"}.isdisjoint(words):
        if words and words[0] in COMMANDS and words[0] not in _SHARED:
            refuse_several(f"medarts {words[0]}")
        return _run(words)
    with contextlib.redirect_stdout(_Help(sys.stdout, shutil.get_terminal_size().columns)):
        _run(words)


class _Help(Wrapping):
    """Where tyro writes the help: it leaves usage and descriptions in lines of any length."""

    def write(self, text: str) -> int:
        """Writes a part of the help; the usage names the commands once more, which are listed below it."""
        return super().write(text.replace(f"{{{','.join(COMMANDS)}}}", "COMMAND"))


def _run(words: list[str]) -> None:
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=changes_first(words),
        prog="medarts",
        description=_DESCRIPTION,
        config=(OmitArgPrefixes,),
    )


def _options(words: list[str]) -> set[str]:
    """Returns the options of the command that the words begin with; none where there is no such command."""
    command = COMMANDS.get(words[0]) if words else None
    names = signature(command).parameters if command is not None else ()
    # as_json is --json, and from_ is --from
    return {f"--{name.removeprefix('as_').removesuffix('_').replace('_', '-')}" for name in names}


def _launch_several(devices: int, nodes: int, node_rank: int, address: str | None) -> None:
    """Gives this command to several processes and ends with them, where several are asked for and this is none of them.

    Raises:
        MedartsError: the numbers or the address do not fit.
    """
    if place().size > 1:
        return
    if (devices, nodes) == (1, 1):
        for option, given in (("--node-rank", node_rank != 0), ("--address", address is not None)):
            if given:
                raise MedartsError(
                    f"{option} says where one of several processes is, but there is one.",
                    fix="Give --devices or --nodes, too.",
                )
    else:
        from medarts.system.launching import launch

        sys.exit(launch(sys.argv[1:], devices=devices, nodes=nodes, node_rank=node_rank, address=address))


def _let_first_speak() -> None:
    """Prints nothing from now on where this is another process of a job than the first, which speaks for all."""
    if place().size > 1:
        quiet_library()  # torchrun has not
    if place().rank:
        be_mute()
        _drop_output()


def _fail(error: MedartsError, *, verbose: bool) -> NoReturn:
    if verbose:
        traceback.print_exception(error)
    if os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1":
        sys.exit(1)  # the first process of this machine has the same error
    say(f"medarts: {printable(str(error))}", to=sys.stderr)
    sys.exit(1)


def _flush_output() -> None:
    """Writes what is left for standard output, which has no name of its own in errors of the system."""
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        raise


def _drop_output() -> None:
    """Lets nothing more be written to standard output, which would fail once more when Python ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _expect(fits: bool, usage: str) -> None:
    if not fits:
        raise RecipeError("These arguments do not fit together.", fix=f"Usage: {usage}.")


if __name__ == "__main__":
    main()
