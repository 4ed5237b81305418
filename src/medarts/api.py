"""One function for each verb of the command line, for scripts and notebooks; ``import medarts`` has them at the top.

A verb takes a recipe (a file, a mapping, or a `Recipe`) or objects: runs, genotypes, networks, arrays. It does the
work and returns the result; nothing is printed but progress on standard error.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medarts.coercion import (
    Changes,
    DataLike,
    RecipeLike,
    architecture_of,
    changes_of,
    changes_that_keep_network,
    data_of,
    finished_training,
    folder_of,
    images_in_memory,
    model_change,
    pruning_method,
    recipe_of,
    recipe_without,
    search_behind,
    store_of,
    study_of,
    task_of,
    trained_network,
)
from medarts.config import Recipe, Task
from medarts.config import load as load_recipe
from medarts.config.study import Study
from medarts.deploy.info import is_package
from medarts.engine.directory import RunDirectory, path_of
from medarts.errors import DataError, RecipeError, RunError, check_number, did_you_mean, quoted
from medarts.registry import Settings, models
from medarts.spaces import genotype_with, load_genotype, space_of, zoo
from medarts.spaces.genotype import Genotype
from medarts.system.files import check_writable, exists, make_folder, write_whole, writing
from medarts.system.names import name_of

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from medarts.comparison.compare import Comparison
    from medarts.data.examination import Examination
    from medarts.data.store import ImageStore
    from medarts.deploy.decisions import Rule
    from medarts.deploy.engines import Runtime
    from medarts.deploy.exporting import Exported, Form
    from medarts.deploy.model import TrainedModel
    from medarts.deploy.prediction import Prediction
    from medarts.evaluation.scores import Scores
    from medarts.profiling.cost import Cost
    from medarts.profiling.plan import Plan
    from medarts.proposal import Ask, Proposal
    from medarts.study.generalize import Generalization
    from medarts.study.noise import Noise
    from medarts.study.planning import StudyPlan

# Rooms that bring PyTorch and other large libraries are imported by the verbs that need them.

_PASSES = 10
"""Timed passes for the page of a run; `cost` takes more."""

_PATIENCE = 10.0
"""Seconds to wait for another process that writes the page of the same run."""


def search(
    recipe: RecipeLike,
    *,
    data: "DataLike | None" = None,
    changes: Changes = (),
    out: Path | str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> RunDirectory:
    """Searches an architecture on the data of a recipe.

    Args:
        recipe: what to do; what it does not set has the published value.
        data: images in memory (of `from_arrays` or `from_dataset`, a torch data set, or a pair of arrays (images,
            targets)), or folders, instead of the data sets of the recipe.
        changes: changes of the recipe, such as ``"search.arch_lr=1e-3"``.
        out: folder of the run, new or empty. Default: runs/NAME, the name of the recipe file or "search".
        jobs: trainings at a time, for the methods pool and random.
        cluster: Ray cluster that does them: HOST:PORT of its head, "auto" for the one that this machine is part of, or
            "local" for a new one on this machine. Default: processes of this machine.

    Returns:
        The run; ``load_genotype(run)`` is what it found.

    Raises:
        MedartsError: recipe, data, device or folder do not fit; nothing was written then.
        DivergedError: a loss became NaN or infinite.
        InterruptedRunError: Ctrl-C; `resume` continues the run.
    """
    from medarts.pool.search import start

    _check_cluster(cluster)
    given = data_of(data)
    chosen = recipe_of(recipe, given, changes)
    folder = folder_of(out, Path(recipe).stem if isinstance(recipe, str | Path) else "search")
    return start(chosen, folder, jobs=jobs, cluster=cluster, data=store_of(given))


def train(
    network: RunDirectory | Genotype | Settings | str | Path | None = None,
    recipe: RecipeLike | None = None,
    *,
    initial: RunDirectory | Path | str | None = None,
    data: "DataLike | None" = None,
    init_channel: int | None = None,
    changes: Changes = (),
    out: Path | str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> RunDirectory:
    """Trains a network from scratch, or fine-tunes a trained one; with ``data.folds`` one for each fold.

    Args:
        network: a finished search, a genotype (its name, file or value), or a baseline (its name or settings).
            Default: the baseline of the recipe, ``train.model``.
        recipe: what to do. Default: the recipe of the search or of the trained network, else the published values.
        initial: the trained network that is fine-tuned instead of ``network``, a run or a package. All of its weights
            are taken over, but those of its heads where the data have other classes or findings; the learning rate is
            that of the recipe times ``train.finetune_lr``.
        data: as in `search`.
        init_channel: C of a genotype's network. Default: the genotype's own.
        changes: changes of the recipe; those of ``space`` are settings of the genotype.
        out: folder of the run, new or empty. Default: runs/NETWORK-DATA. Of folds it may be begun: the same call goes
            on.
        jobs: trainings that run in parallel, for folds.
        cluster: as in `search`, for folds.

    Returns:
        The run; `evaluate` scores it, `load` makes it predict.

    Raises:
        MedartsError: recipe, network, data, device or folder do not fit; nothing was written then.
        DivergedError: a loss became NaN or infinite.
        InterruptedRunError: Ctrl-C; `resume` continues the run.
    """
    from medarts.study.folds import train_folds
    from medarts.training.trainer import start_training

    _check_cluster(cluster)
    changes = changes_of(changes)
    if initial is not None:
        if network is not None or init_channel is not None:
            raise RecipeError("A trained network is fine-tuned as it is.", fix="Leave network and init_channel out.")
        return _fine_tune(initial, recipe, data, changes, out)
    searched = search_behind(network)
    base = recipe if recipe is not None else recipe_without(searched, has_data=data is not None)
    if isinstance(network, Settings):
        changes = [f"train.model={models.choose(network).model_dump_json()}", *changes]
    elif isinstance(network, str) and network in models:
        changes = [*model_change(base, network), *changes]
    given = data_of(data)
    chosen = recipe_of(base, given, changes)
    architecture = architecture_of(network, searched, chosen, init_channel=init_channel, changes=changes)
    domains = "-".join(source.domain for source in chosen.data.sources)
    if chosen.data.is_divided and store_of(given) is None:
        folder = folder_of(out, f"{architecture.name}-{domains}-{chosen.data.folds}-folds")
        return train_folds(chosen, architecture, folder, jobs=jobs, cluster=cluster)
    _check_one_job(jobs, cluster)
    return start_training(chosen, architecture, folder_of(out, f"{architecture.name}-{domains}"), data=store_of(given))


def prune(
    run: RunDirectory | Path | str,
    *,
    method: Settings | Mapping[str, Any] | str | None = None,
    keep_flops: float | None = None,
    keep_parameters: float | None = None,
    keep_latency: float | None = None,
    keep_channels: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    sparse_epochs: int | None = None,
    data: "DataLike | None" = None,
    changes: Changes = (),
    out: Path | str | None = None,
) -> RunDirectory:
    """Prunes a trained network: what matters least is cut out of it, and the smaller network is fine-tuned.

    Of FLOPs, parameters, latency and channels one share is given that is kept. What is not given at all is as in the
    recipe of the network, section ``prune``. The same call goes on where it was stopped.

    Args:
        run: a finished training run, or a package, which needs ``data``; a pruned one is pruned further, by shares of
            what it has now. It is not changed.
        method: "taylor", "l1", "fpgm", "slim", "soft", "gradual", "depth" or one that is registered; or a mapping with
            the name and its settings. Default: taylor.
        keep_flops: share of the FLOPs, above 0 and below 1.
        keep_parameters: share of the parameters.
        keep_latency: share of the latency of the exported network, in ONNX Runtime on one thread.
        keep_channels: share of the channels that can be cut.
        steps: cuts, each followed by its share of the fine-tuning. Default: 1.
        epochs: of the fine-tuning, at ``train.finetune_lr`` times the learning rate. Default: those of the training.
        sparse_epochs: of the training before the cut that slim, soft and gradual need. Default: ``epochs``.
        data: as in `search`, of the same classes or findings. Default: those of the recipe.
        changes: changes of the recipe, such as ``"train.finetune_lr=0.2"``.
        out: folder of the run, new, empty, or of the same pruning. Default: runs/RUN-METHOD-PERCENT.

    Returns:
        The run of the pruned network, a training run as any other; its pruning.json says what was cut.

    Raises:
        RunError: the run has not finished, the target cannot be reached, or the folder holds something else.
        RecipeError: there is no target, or several, or another value does not fit.
        DivergedError: a loss became NaN or infinite.
        InterruptedRunError: Ctrl-C; the same call goes on.
        MedartsError: data or device do not fit; nothing was written then.

    >>> prune("runs/t", method="l1", keep_flops=0.5)  # doctest: +SKIP
    """
    from medarts.pruning.job import prune_network

    source, given = finished_training(run), data_of(data)
    trained = trained_network(run)
    if source is None and given is None:
        raise RecipeError(
            "There are no data to fine-tune on: a package has none.", fix="Give data (--data on the command line)."
        )
    shares = {"flops": keep_flops, "parameters": keep_parameters, "latency": keep_latency, "channels": keep_channels}
    keep = {name: share for name, share in shares.items() if share is not None}
    numbers = {"steps": steps, "epochs": epochs, "sparse_epochs": sparse_epochs}
    options = {"method": method, **{f"keep_{name}": share for name, share in keep.items()}, **numbers}
    asked = {"method": pruning_method(method), "keep": keep or None, **numbers}
    changes = changes_that_keep_network(changes_of(changes), trained, "pruned")
    words = [f"prune.{name}={json.dumps(value, default=str)}" for name, value in asked.items() if value is not None]
    recipe = recipe_of(trained.recipe, given, [*words, *changes])  # these may be settings of the method
    folder = folder_of(out, _name_of_pruned(path_of(run), recipe))
    return prune_network(
        trained,
        recipe,
        folder,
        command=_prune_command(path_of(run), changes, options, given, folder),
        run=source if given is None else None,
        data=store_of(given),
    )


def noise(run: RunDirectory | Path | str, *, seeds: int = 3, jobs: int = 1, cluster: str | None = None) -> "Noise":
    """Trains the network of a run again with other seeds, and says by how much scores differ by chance.

    The trainings are in the folder noise/ of the run. The same call goes on where it was stopped; with more seeds it
    adds the others.

    Args:
        run: a finished training run, from scratch.
        seeds: trainings beside that of the run.
        jobs: trainings that run in parallel.
        cluster: as in `search`.

    Returns:
        Of each metric the spread between seeds and between patients, and the smallest difference that is more than
        chance; see `medarts.study.noise`.

    Raises:
        RunError: the run does not fit, or a training failed.
        InterruptedRunError: Ctrl-C; the same call goes on.
    """
    from medarts.study.noise import measure_noise

    _check_cluster(cluster)
    return measure_noise(path_of(run), seeds=seeds, jobs=jobs, cluster=cluster)


def resume(
    run: RunDirectory | Path | str,
    *,
    kind: Literal["search", "train"] | None = None,
    changes: Changes = (),
    data: "ImageStore | Dataset[Any] | tuple[Any, Any] | None" = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> RunDirectory:
    """Continues a search or training from its last checkpoint; a finished one is left as it is.

    Args:
        run: the run.
        kind: what the run must be. Default: either.
        changes: changes of its recipe, such as ``"train.epochs=200"`` or ``"compute.threads=8"``; whatever would make
            it another experiment is refused.
        data: the images, for a run that was started with images in memory; a finished one needs them only to be longer.
        jobs: trainings at a time, for searches by the methods pool and random, and for folds.
        cluster: as in `search`, for the same; it need not be that of before, nor any.

    Raises:
        RunError: there is no run, another process is working on it, or its data or recipe have changed.
    """
    from medarts.pool.search import resume as resume_search
    from medarts.study.folds import resume_folds
    from medarts.training.trained import is_ensemble
    from medarts.training.trainer import resume_training

    _check_cluster(cluster)
    path, given = path_of(run), images_in_memory(data)
    verbs: dict[str, Callable[..., RunDirectory]]
    verbs = {"search": partial(resume_search, jobs=jobs, cluster=cluster), "train": resume_training}
    found = RunDirectory.open(path).facts["kind"] if kind is None else kind
    if found not in verbs:
        raise RunError(f"There is no kind of run {quoted(kind)}.", fix=did_you_mean(str(kind), verbs))
    if found == "train":
        opened = RunDirectory.open(path, kind="train")
        if is_ensemble(opened):
            return resume_folds(path, changes_of(changes), jobs=jobs, cluster=cluster)
        _check_one_job(jobs, cluster)
    return verbs[found](path, changes_of(changes), data=given)


def evaluate(
    run: RunDirectory | Path | str,
    *,
    data: "DataLike | None" = None,
    split: str = "test",
    head: str | None = None,
    heads: bool = False,
    flip: bool = False,
    by: str | None = None,
    worst: int | None = None,
) -> "Scores":
    """Scores a trained network: every image by itself, then means with 95 % intervals over patients.

    Of masks, ``decisions`` of the scores says what the threshold of validation and the Dice-optimal decision gain.

    Args:
        run: a training run, or a package, which needs ``data``; its scores are written beside it, into NAME-scores/.
        data: data sets to score on: names in its recipe, folders, or images in memory. Default: those of its recipe.
        split: train, val, test, or all.
        head: an early, faster head, such as "4,0", or "average", the mean of all. Default: the last.
        heads: whether ``decisions`` says what every head of a network for masks gives.
        flip: whether it says what the mean over mirrored copies of the images gives, in four passes.
        by: column of ``splits.csv``, or of another table of the data, such as centre or device, by which images are
            grouped; ``groups`` has their scores. Default: the column group, if there is.
        worst: images in the gallery of the worst on the page of the run, which `report` writes. Default: 12, at most a
            third of the images.

    Raises:
        MedartsError: the run has no checkpoint, or the data or the head do not fit.
    """
    from medarts.data.choosing import sources_alike
    from medarts.data.manifest import part_named
    from medarts.deploy.package import open_package
    from medarts.evaluation.evaluate import evaluate as evaluate_run
    from medarts.evaluation.evaluate import evaluate_package

    check_number("worst", worst, low=0, high=1000)
    given = data_of(data)
    if is_package(run):
        package = open_package(path_of(run))
        return evaluate_package(
            package,
            sources=sources_alike(given, package.trained.recipe.data, named=False)
            if isinstance(given, tuple)
            else None,
            split=part_named(split),
            head=head,
            data=store_of(given),
            heads=heads,
            flip=flip,
            by=by,
            worst=worst,
        )
    opened = RunDirectory.open(path_of(run), kind="train")
    sources = sources_alike(given, opened.recipe.data) if isinstance(given, tuple) else None
    return evaluate_run(
        opened.path,
        sources=sources,
        split=part_named(split),
        head=head,
        data=store_of(given),
        heads=heads,
        flip=flip,
        by=by,
        worst=worst,
    )


def predict(
    model: "TrainedModel | RunDirectory | Path | str",
    paths: Sequence[Path | str] | Path | str,
    *,
    out: Path | str,
    batch: int = 8,
    engine: "Runtime | None" = None,
    threads: int | None = None,
    probabilities: bool = False,
    overlay: bool = False,
    window: int | None = None,
    flip: bool = False,
    largest: bool = False,
    decision: "Rule" = "threshold",
    force: bool = False,
) -> "Prediction":
    """Predicts images, volumes and DICOM series on disk, and writes masks and tables into a folder.

    The same call continues where it was stopped. What cannot be read is reported, listed in errors.csv, and skipped. An
    exported network runs without PyTorch.

    Args:
        model: an exported network, a package or a training run, or one that is loaded.
        paths: files, folders with all that is in them, and patterns such as ``"scans/**/*.png"``.
        out: folder of the results, new, empty, or of the same prediction.
        batch: images, slices or windows in one pass.
        engine: what runs an exported network, "onnxruntime" or "openvino". Default: ONNX Runtime.
        threads: threads of the CPU for an exported network. Default: as the engine chooses.
        probabilities: write the probabilities of masks too.
        overlay: write the images with the contours of their masks as PNG.
        window: side in pixels of the windows in which larger images are predicted, half overlapping, blended by a
            Gaussian. Default: every image is predicted whole.
        flip: average the probabilities of each image and its mirrored copies: four passes for masks, two for findings.
        largest: keep only the largest connected component of each class, of a volume in space.
        decision: how probabilities become a mask: "threshold", "validation" (the threshold of the largest Dice on
            validation images) or "dice" (the mask of the largest expected Dice of each image).
        force: start over in a folder that holds something else, and overwrite.

    Raises:
        RunError: the folder holds something else, another process writes into it, or it cannot be written.
        InterruptedRunError: Ctrl-C; the same call continues.
        MedartsError: model, paths or options do not fit.
    """
    from medarts.deploy.model import TrainedModel, load
    from medarts.deploy.prediction import Options, predict_files

    options = Options(batch, probabilities, overlay, window, flip, largest, decision)
    if isinstance(model, TrainedModel) and (engine is not None or threads is not None):
        raise RecipeError("The engine of a loaded network is chosen.", fix="Give engine and threads to load.")
    if decision in ("validation", "dice") and not isinstance(model, TrainedModel) and Path(path_of(model)).is_dir():
        from medarts.evaluation.calibrating import calibration_of

        calibration_of(RunDirectory.open(path_of(model), kind="train"))  # is kept in the run, and loaded with it
    loaded = model if isinstance(model, TrainedModel) else load(model, engine=engine, threads=threads)
    every = [paths] if isinstance(paths, str | Path) else [*paths]
    return predict_files(loaded, every, Path(out), options, force=force)


def compare(
    runs: Sequence[RunDirectory | Path | str] | RunDirectory | Path | str,
    *,
    against: str | None = None,
    data: "DataLike | None" = None,
    split: str = "test",
    out: Path | str | None = None,
) -> "Comparison":
    """Compares trained networks: scores with intervals, paired tests, costs, and the images on which they differ.

    Args:
        runs: training runs by one recipe, on the same splits, with the same seeds; those of one network with several
            seeds count as one, and those whose searches differ in their seed alone are also compared as repeats of one
            method. Or the folder of a study, whose finished runs are compared.
        against: network with which the others are compared. Default: that of the first run, or that of the study.
        data: other data sets to compare on: folders, or names in the recipe of the runs. Data of which no network was
            trained on any image are marked as external. Or the images of runs that were started with images in memory.
        split: train, val, test, or all.
        out: folder of the tables and of report.html. Default: runs/comparison, or comparison/ in the study.

    Raises:
        RunError: the runs are not comparable, or the folder holds something else.
        MedartsError: a run cannot be scored, or a network not be measured.
    """
    from medarts.data.manifest import part_named
    from medarts.reporting.comparison import write_comparison
    from medarts.study.comparing import compare_runs, compare_study
    from medarts.study.jobs import Layout

    paths = [path_of(run) for run in (runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs])]
    for path in filter(is_package, paths):
        raise RunError(f"{path} is packed, without scores of single images.", fix="Compare the run it was made of.")
    part = part_named(split)
    given = data_of(data)
    of_study = len(paths) == 1 and Layout(paths[0]).study.is_file()
    if of_study and given is not None:
        raise DataError("A study is on its own data sets.", fix="Leave data out.")
    folder = Path(out) if out is not None else paths[0] / "comparison" if of_study else Path("runs") / "comparison"
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "comparison.json").exists():
        raise RunError(f"{folder} already holds files.", fix="Choose another folder.")
    found = (
        compare_study(paths[0], reference=against, split=part)
        if of_study
        else compare_runs(
            paths,
            reference=against,
            split=part,
            data=store_of(given),
            words=given if isinstance(given, tuple) else (),
        )
    )
    found.write(folder)
    write_comparison(found, folder)
    return found


def benchmark(
    study: Study | Path | str,
    *,
    changes: Changes = (),
    out: Path | str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> "Comparison":
    """Trains, scores and compares all networks of a study on all of its data sets.

    What has finished is kept, and a run that fails does not end the others: call it again to continue.

    Args:
        study: networks, data sets and seeds (YAML).
        changes: changes of it, such as ``"recipe.train.epochs=20"``.
        out: folder of the study; the comparison is in its comparison/. Default: runs/NAME, the name of the file.
        jobs: runs at a time.
        cluster: as in `search`.

    Raises:
        MedartsError: something of the study cannot work; nothing was trained then.
        InterruptedRunError: Ctrl-C; the same call continues.
    """
    folder = _run_study(study, changes, out, jobs, cluster)
    return compare(folder)


def plan_study(study: Study | Path | str, *, changes: Changes = (), out: Path | str | None = None) -> "StudyPlan":
    """Estimates the time of all searches and trainings of a study from a few trial steps.

    Args:
        study: as in `benchmark`.
        changes: changes of the study.
        out: folder of the study, which need not exist. Default: runs/NAME, the name of the file.

    Raises:
        MedartsError: data, a recipe or a network does not fit.
    """
    from medarts.study.planning import plan_study as plan_all

    chosen = study_of(study, changes)
    return plan_all(chosen, folder_of(out, Path(chosen.file).stem))


def generalize(
    study: Study | Path | str,
    *,
    changes: Changes = (),
    out: Path | str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> "Generalization":
    """Tests how the networks of a study carry over to its other data sets; trains what is missing first.

    Args:
        study: as in `benchmark`, or the folder of a benchmark, whose finished runs are tested.
        changes: changes of the study.
        out: folder of the study; the result is in its generalization/. Default: runs/NAME, the name of the file.
        jobs: runs at a time.
        cluster: as in `search`.

    Raises:
        MedartsError: see `benchmark`.
    """
    from medarts.reporting.generalization import write_generalization
    from medarts.study.generalize import generalize as generalize_study

    is_folder = isinstance(study, str | Path) and Path(study).is_dir()
    if is_folder and (every := changes_of(changes)):
        raise RecipeError(
            f"{quoted(every[0])} would change the study of {study}, which has been trained.",
            fix="Leave it out, or give the file of the study.",
        )
    folder = Path(study) if is_folder else _run_study(study, changes, out, jobs, cluster)  # type: ignore[arg-type]  # no folder
    found = generalize_study(folder)
    found.write(folder / "generalization")
    write_generalization(found, folder / "generalization")
    return found


def cost(
    *networks: RunDirectory | Path | str,
    changes: Changes = (),
    init_channel: int | None = None,
    in_channels: int | None = None,
    outputs: int | None = None,
    size: int | None = None,
    threads: int | Sequence[int] = (),
    batches: int | Sequence[int] = (1,),
    repeats: int = 20,
    figure: Path | str | None = None,
) -> "dict[str, Cost]":
    """Counts parameters and FLOPs of networks, and measures their latency and memory on the CPU, in turns.

    Latency is that of PyTorch, and of the exported network in ONNX Runtime, and in OpenVINO if it is installed.

    Args:
        networks: published genotypes, files, runs, packages, or baselines.
        changes: ``"model.width=16"`` of baselines, ``"space.layers=14"`` of genotypes.
        init_channel: another C of the genotypes.
        in_channels: channels of the images. Default: those of the runs, else 3.
        outputs: classes or findings. Default: those of the runs, else of the published networks.
        size: height and width of the images in pixels. Default: those of the runs, else of the published networks.
        threads: threads of the CPU, one number or several. Default: 1, and 2 if there are two cores.
        batches: images of a pass, one number or several.
        repeats: timed passes; 0 counts alone.
        figure: SVG or PNG file for a plot of latency against parameters.

    Returns:
        The cost of each network, by name.

    Raises:
        MedartsError: there is no such network, or it cannot take the size or a change.

    >>> cost("unet", changes=["model.width=8"], repeats=0)["unet"].parameters
    541929
    """
    from medarts.profiling.named import costs_by_name

    names = [network.path if isinstance(network, RunDirectory) else network for network in networks]
    if not names or not all(isinstance(name, str | Path) for name in names):
        raise RecipeError("No network is given.", fix=did_you_mean("", (*models.names(), *zoo())))
    drawing = None if figure is None else _figure(figure, names, repeats=repeats)
    measured = costs_by_name(
        names,
        changes=changes_of(changes),
        init_channel=init_channel,
        in_channels=in_channels,
        outputs=outputs,
        size=size,
        threads=(threads,) if isinstance(threads, int) else threads,
        batches=(batches,) if isinstance(batches, int) else batches,
        repeats=repeats,
    )
    if drawing is not None:
        from medarts.reporting.plots import plot_costs
        from medarts.reporting.style import save

        make_folder(drawing.parent)
        with writing(drawing):
            save(plot_costs(measured), drawing, file_format=drawing.suffix[1:])
    return measured


def plan(
    recipe: RecipeLike, *, data: "DataLike | None" = None, changes: Changes = (), memory_mb: int | None = None
) -> "Plan":
    """Estimates parameters, peak memory and time of a recipe from a few trial steps.

    Args:
        recipe: what would be done.
        data: as in `search`.
        changes: changes of the recipe.
        memory_mb: memory available, in MB; batches are split until they fit.

    Raises:
        MedartsError: recipe, data or device do not fit, or nothing fits into the memory.
    """
    from medarts.pool.search import plan as plan_recipe

    given = data_of(data)
    return plan_recipe(recipe_of(recipe, given, changes), budget_mb=memory_mb, data=store_of(given))


def init(
    *data: Path | str,
    out: Path | str = "recipe.yaml",
    task: Task | None = None,
    minutes: float = 60,
    measure: bool = True,
    force: bool = False,
    changes: Changes = (),
    ask: "Ask | None" = None,
) -> "Proposal":
    """Looks at data sets and writes a first recipe for them, with the reasons for its settings.

    Layout, splits, patients and classes are read from the names and from some of the files. What they do not say is
    asked, at most two questions. Beside the recipe lies a schema, by which editors know its keys.

    Args:
        data: folders, or lists of images (CSV, JSON).
        out: the recipe.
        task: what is to be learned, where a folder has both masks and findings.
        minutes: what the search and the training may take together, as measured on this machine.
        measure: run some steps to measure that; otherwise the epochs follow the number of images alone.
        force: replace a recipe that is there.
        changes: changes of the recipe, such as ``"data.size=96"``.
        ask: answers questions, see `medarts.proposal.Question`. Default: an ambiguous layout is an error, and other
            questions have their usual answer.

    Raises:
        MedartsError: a layout is not known or ambiguous, files do not fit together, or the recipe is there already.
    """
    from medarts.config.reference import schema_of_recipes
    from medarts.proposal import propose
    from medarts.proposal.writing import SCHEMA, write_recipe

    recipe = Path(out)
    if not data:
        raise DataError("There are no data to look at.", fix="Give the folder of a data set.")
    if exists(recipe) and not force:
        raise RecipeError(f"{recipe} exists already.", fix="Choose another name (out), or replace it (force).")
    check_writable(recipe, kind="file")
    found = propose(
        [Path(path) for path in data],
        ask=ask or (lambda question: None),
        task=task,
        minutes=minutes,
        measure=measure,
        changes=changes_of(changes),
    )
    write_whole(recipe, write_recipe(found.draft))
    write_whole(recipe.parent / SCHEMA, json.dumps(schema_of_recipes(), indent=1) + "\n")
    return found


def doctor(data: Path | str) -> "Examination":
    """Reads every file of a data set, and collects what is wrong or suspicious.

    Args:
        data: folder of a data set, or a recipe, at whose size masks are examined too.

    Raises:
        MedartsError: there is neither, or the layout is not known.
    """
    from medarts.data.choosing import choose_sources
    from medarts.data.doctor import examine
    from medarts.data.recognising import is_list
    from medarts.system.console import progress_bar

    if not isinstance(data, str | Path):
        raise DataError(f"{quoted(data)} is not a folder.", fix="Give the folder of a data set, or a recipe.")
    with progress_bar("doctor", 0) as bar:
        if exists(Path(data)) and not Path(data).is_dir() and not is_list(Path(data)):
            settings = load_recipe(Path(data)).data
            return examine(settings.sources, needs=settings, progress=bar.reach)
        return examine(choose_sources([str(data)]), progress=bar.reach)


def show(genotype: Genotype | Path | str, *, out: Path | str | None = None) -> tuple[str, list[Path]]:
    """Describes a genotype as text, and draws its cells, and its lattice if it has one, as SVG and PNG.

    Args:
        genotype: its published name, a file, a run, or its value.
        out: folder of the drawings. Default: pictures/ of a run, else drawings/NAME.

    Returns:
        The text, and the files of the drawings.

    Raises:
        MedartsError: there is no such genotype, or the folder cannot be written.
    """
    from medarts.reporting.drawings import describe, save_drawings
    from medarts.training.trained import structure_in

    found = genotype_with(genotype)
    if out is None and not isinstance(genotype, Genotype) and (Path(genotype) / "run.json").is_file():
        run = RunDirectory.open(Path(genotype))
        with run.at_work("show"):
            return describe(found), save_drawings(found, run.path / "pictures", structure=structure_in(run))
    folder = Path(out) if out is not None else Path("drawings") / found.name
    check_writable(folder)
    return describe(found), save_drawings(found, folder)


def report(run: RunDirectory | Path | str) -> Path:
    """Writes the HTML page of a search or training run: curves, architecture, scores, cost. It opens offline.

    Latency is measured the first time, and again where what is kept of it cannot be read.

    Args:
        run: the run, finished or not.

    Returns:
        The page.

    Raises:
        RunError: there is no run, it is damaged, or another process is working on it.
    """
    from medarts.engine.facts import signed
    from medarts.profiling.named import costs_by_name
    from medarts.reporting.drawings import save_drawings
    from medarts.reporting.page import has_cost, write_report
    from medarts.system.console import warn
    from medarts.training.trained import structure_in

    opened = RunDirectory.open(path_of(run))
    with opened.at_work("report", patience=_PATIENCE):
        if opened.facts["finished"] and not has_cost(opened):
            if exists(opened.path / "cost.json"):
                warn(f"{opened.path / 'cost.json'} cannot be read; the cost is measured again.")
            # Without memory, for which the network would have to run in a process of its own.
            measured = costs_by_name([opened.path], threads=(1,), repeats=_PASSES, memory=False)
            opened.write_json("cost.json", signed(measured[str(opened.path)].as_json()))
        if (opened.path / "genotype.json").exists():
            genotype = load_genotype(opened.path)
            save_drawings(genotype, opened.path / "pictures", structure=structure_in(opened))
            text = space_of(genotype).to_text(genotype)
            if text is not None:
                write_whole(opened.path / "genotype.txt", text + "\n")
        return write_report(opened.path)


def export(
    run: RunDirectory | Path | str,
    out: Path | str | None = None,
    *,
    checkpoint: str = "best",
    domain: str | None = None,
    head: str | None = None,
    int8: bool = False,
    torch: bool = False,
    bundle: bool = False,
    images: Path | str | Sequence[Path | str] | None = None,
    data: "ImageStore | Dataset[Any] | tuple[Any, Any] | None" = None,
    allow_loss: float | None = None,
    force: bool = False,
) -> "Exported":
    """Writes a trained network as one ONNX file, from stored values to masks or findings; `load` takes it.

    The file is written once its probabilities have been compared with those of PyTorch on real images.

    Args:
        run: a training run, or a package, which needs ``images`` or ``data``.
        out: the file, or the folder of a bundle. Default: in the folder of the run, with the name of the network, or
            beside the package.
        checkpoint: "best", by the validation score, or "last".
        domain: the data set whose scaling of intensities is used, where those of the run differ.
        head: an early, faster head, such as "4,0", or "average", the mean of all. Default: the last.
        int8: in 8-bit integers; ranges and the score that is lost are those of the validation images.
        torch: an archive of ``torch.export`` (.pt2) instead, for programs in PyTorch.
        bundle: a MONAI bundle instead, a folder that MONAI runs without medarts; the run is evaluated if it has no
            scores. Data sets and networks are named as in a package.
        images: files or folders of images that it is verified on, instead of those of the run. The calibration is then
            the one that the run keeps, if any.
        data: the images, for a run that was started with images in memory.
        allow_loss: by how much mean Dice, or mean AUROC, may fall in 8-bit integers. Default: 0.01.
        force: replace a file; a bundle needs a new folder.

    Returns:
        The file, its description, and how far it is from PyTorch.

    Raises:
        MedartsError: the run has no checkpoint or no such head, its images are gone, the file is there already, or the
            exported network differs from PyTorch by more than 1e-4, or loses too much.
    """
    from medarts.deploy.exporting import ALLOWED_LOSS, export_package, export_run
    from medarts.deploy.package import open_package
    from medarts.deploy.reference_images import check_present

    if int8 + torch + bundle > 1:
        raise RunError("A network is exported in one form at a time.", fix="Give one of int8, torch and bundle.")
    if allow_loss is not None and not int8:
        raise RunError("Only a network in int8 loses score, which allow_loss is for.", fix="Add int8, or leave it out.")
    if is_package(run) and (checkpoint, domain) != ("best", None):
        raise RunError(
            "A package has the best checkpoint and one scaling of intensities.", fix="Leave checkpoint and domain out."
        )
    store, given = images_in_memory(data), [images] if isinstance(images, str | Path) else images
    folder = None if out is None else Path(out)
    form: Form = "int8" if int8 else "torch" if torch else "onnx"
    if bundle:
        if force:
            raise RunError("A bundle does not replace a folder.", fix="Choose a new folder, without force.")
        chosen: dict[str, Any] = {"checkpoint": checkpoint, "domain": domain, "head": head}
        return _export_bundle(run, folder, **chosen, images=given, data=store)
    if is_package(run):
        package = open_package(path_of(run))
        return export_package(package, folder, form=form, head=head, images=given, data=store, force=force)
    opened = RunDirectory.open(path_of(run), kind="train")
    if checkpoint == "best" and images is None:
        from medarts.evaluation.calibrating import calibration_of

        check_present(opened, store)
        calibration_of(opened, head=head, data=store)  # is kept in the run, and exported with it
    return export_run(
        opened,
        folder,
        form=form,
        checkpoint=checkpoint,
        domain=domain,
        head=head,
        images=given,
        data=store,
        allow_loss=ALLOWED_LOSS if allow_loss is None else allow_loss,
        force=force,
    )


def _export_bundle(
    run: RunDirectory | Path | str,
    out: Path | None,
    *,
    checkpoint: str,
    domain: str | None,
    head: str | None,
    images: Sequence[Path | str] | None,
    data: "ImageStore | None",
) -> "Exported":
    from medarts.deploy.exporting import examples_for
    from medarts.deploy.package import open_package, read_package
    from medarts.deploy.reference_images import of_run
    from medarts.sharing.bundle import export_bundle
    from medarts.sharing.packing import packed

    path = path_of(run)
    if checkpoint != "best":
        raise RunError("A bundle has the scores of the best checkpoint.", fix="Leave checkpoint out.")
    if is_package(run):
        package, folder = open_package(path), path.with_name(f"{path.stem}-bundle")
    else:
        package = read_package(packed(RunDirectory.open(path, kind="train"), domain=domain), path)
        folder = path / f"{package.info.name}-bundle"
    if images is None and data is None and not is_package(run):
        examples = of_run(RunDirectory.open(path), domain=domain)
    else:
        examples = examples_for(package, images, data)
    return export_bundle(package, folder if out is None else out, examples, head=head)


def pack(
    run: RunDirectory | Path | str,
    out: Path | str | None = None,
    *,
    domain: str | None = None,
    examples: bool = False,
) -> Path:
    """Packs a training run into one file for others: weights, recipe, scores and a model card.

    `load`, `evaluate` and `train` (``initial``) take the file. Nothing in it names a patient, a file or a folder.

    Args:
        run: the training run; it is evaluated where it has no scores yet.
        out: the file, which ends in ``.medarts``. Default: beside the run, with its name.
        domain: the data set whose scaling of intensities is used, where those of the run differ.
        examples: adds a few images of the validation set, with true and predicted masks. Default: no image.

    Returns:
        The file.

    Raises:
        MedartsError: the run has no checkpoint or cannot be evaluated, or there is another file of that name.
    """
    from medarts.sharing.packing import pack as pack_run
    from medarts.sharing.packing import usual_file

    opened = RunDirectory.open(path_of(run), kind="train")
    return pack_run(opened, usual_file(opened) if out is None else Path(out), domain=domain, examples=examples)


def _run_study(
    study: Study | Path | str, changes: Changes, out: Path | str | None, jobs: int, cluster: str | None
) -> Path:
    """Trains what a study lacks, and returns its folder."""
    from medarts.study.benchmark import benchmark as run_study

    _check_cluster(cluster)
    chosen = study_of(study, changes)
    folder = folder_of(out, Path(chosen.file).stem)
    run_study(chosen, folder, jobs=jobs, cluster=cluster)
    return folder


def _figure(figure: Path | str, names: Sequence[Path | str], *, repeats: int) -> Path:
    """Returns the file of a plot that can be made."""
    if not isinstance(figure, str | Path) or Path(figure).suffix not in (".svg", ".png"):
        raise RecipeError(f"figure is {quoted(str(figure))}.", fix="Use a file that ends in .svg or .png.")
    if repeats == 0:
        raise RecipeError("A figure shows latency, which no pass measures: repeats is 0.", fix="Use 20 repeats.")
    if len({str(name) for name in names}) < 2:
        raise RecipeError("A figure compares networks, but there is one.", fix="Name several.")
    check_writable(Path(figure), kind="file")
    return Path(figure)


def _check_one_job(jobs: int, cluster: str | None) -> None:
    """Refuses several jobs, or a cluster, where there is one job."""
    if jobs != 1:
        raise RecipeError(f"jobs is {jobs}, but a training is one job.", fix="Leave jobs out, or divide data.folds=5.")
    if cluster is not None:
        raise RecipeError(
            "A training is one job, which is not done on a Ray cluster.",
            fix="Leave cluster out, or divide data.folds=5. For several GPUs use --devices.",
        )


def _check_cluster(cluster: str | None) -> None:
    """Refuses what is no cluster, before anything else takes time."""
    if cluster is not None:
        from medarts.system.cluster import check_address

        check_address(cluster)


def _fine_tune(
    initial: Any, recipe: RecipeLike | None, data: Any, changes: Sequence[str], out: Path | str | None
) -> RunDirectory:
    from medarts.training.trainer import check_task, start_training

    trained, given = trained_network(initial), data_of(data)
    changes = changes_that_keep_network(changes_of(changes), trained, "fine-tuned")
    if recipe is None and given is None and is_package(initial):
        raise RecipeError(
            "There are no data to train on: a package has none.",
            fix="Give data, or a recipe (on the command line --data FOLDER, --recipe FILE).",
        )
    if recipe is None:
        recipe = trained.recipe
        if given is not None:
            check_task(task_of(given, recipe), trained.architecture)
            if not isinstance(given, tuple) or {*given} - {source.domain for source in recipe.data.sources}:
                # Other data sets may have other findings.
                recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"findings": None})})
    chosen = recipe_of(recipe, given, changes)
    domains = "-".join(source.domain for source in chosen.data.sources)
    folder = folder_of(out, f"{trained.architecture.name}-{domains}-fine-tuned")
    return start_training(chosen, trained.architecture, folder, data=store_of(given), initial=trained)


def _name_of_pruned(path: Path, recipe: Recipe) -> str:
    """Returns the name of the folder of what is pruned of a run or a package."""
    percents = [f"{100 * share:.3g}" for share in recipe.prune.keep.given.values()]
    return "-".join((name_of(path.with_suffix("") if path.is_file() else path), recipe.prune.method.name, *percents))


def _prune_command(path: Path, changes: Sequence[str], options: Mapping[str, Any], data: Any, out: Path) -> str:
    """Returns what goes on with a pruning: a command, or, with images in memory, the same call."""
    if data is not None and not isinstance(data, tuple):
        return "the same call of medarts.prune."
    words = ["medarts", "prune", str(path), *changes]
    for name, value in options.items():
        if isinstance(value, Mapping | Settings):
            words.append(f"prune.{name}={json.dumps(pruning_method(value))}")
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    if isinstance(data, tuple):
        words += ["--data", *data]
    return shlex.join([*words, "--out", str(out)])
