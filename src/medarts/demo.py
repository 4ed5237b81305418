"""The whole pipeline on synthetic images: search, training, evaluation, report."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from medarts import api
from medarts.config import Recipe, SourceSettings, Task, parse
from medarts.config.yaml_text import read_yaml
from medarts.data.synthetic import write_chest_phantoms, write_phantoms
from medarts.engine.directory import RunDirectory
from medarts.evaluation.scores import Scores
from medarts.nas.guard import verdict
from medarts.system.console import inform

IMAGES, SIZE = 100, 96
FILMS, FILM_SIZE = 600, 64


def demo(out: Path, task: Task = "segmentation") -> tuple[Path, Scores]:
    """Searches, trains and scores a network on three synthetic data sets with masks, or on synthetic chest X-rays.

    Finished parts in ``out`` are kept and an interrupted one is resumed, so the demo can be stopped at any time.

    Args:
        out: folder of the images and of the runs ``search`` and ``train``.
        task: segmentation of lesions, or classification of findings.

    Returns:
        The page of the training run, and its scores.
    """
    recipe = demo_recipe(out, task)
    searched = _run(out / "search", lambda path: api.search(recipe, out=path))
    api.report(searched)
    trained = _run(out / "train", lambda path: api.train(searched, recipe, out=path))
    scores = api.evaluate(trained)
    inform(verdict(searched.read_json("summary.json")))
    return api.report(trained), scores


def demo_recipe(out: Path, task: Task = "segmentation") -> Recipe:
    """Returns the recipe of the demo, and writes its images into ``out`` unless they exist."""
    name = f"demo_{task}.yaml"
    content = read_yaml((resources.files("medarts") / name).read_text(encoding="utf-8"))
    sources = phantoms(out / "phantoms", task, images=IMAGES if task == "segmentation" else FILMS)
    content["data"]["sources"] = [source.model_dump(mode="json") for source in sources]
    return parse(content, origin=name)


def phantoms(
    folder: Path, task: Task, *, images: int, size: int | None = None, seed: int = 0
) -> tuple[SourceSettings, ...]:
    """Writes synthetic images for a task, unless they exist, and returns the sources that read them.

    Args:
        folder: where they are written.
        task: three data sets with masks, or chest X-rays with findings.
        images: number in each data set.
        size: height and width in pixels. Default: that of the demo.
        seed: seed of the images.

    Raises:
        DataError: the folder holds something else, or there would be too few or too small images.
    """
    if task == "segmentation":
        return write_phantoms(folder, seed=seed, images=images, size=SIZE if size is None else size)
    return (write_chest_phantoms(folder, seed=seed, images=images, size=FILM_SIZE if size is None else size),)


def _run(path: Path, start: Callable[[Path], RunDirectory]) -> RunDirectory:
    """Starts a run, or resumes an existing one."""
    return api.resume(path) if (path / "run.json").exists() else start(path)
