"""The whole walk on generated images: phantoms, search, training, evaluation, report."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import yaml

from medarts import commands
from medarts.data.phantom import write_phantoms
from medarts.evaluation.scores import Scores
from medarts.recipe import Recipe, parse
from medarts.run.directory import RunDirectory
from medarts.spaces.genotype import load as load_genotype

IMAGES = 100
SIZE = 96


def demo(out: Path) -> tuple[RunDirectory, Scores]:
    """Searches, trains and scores a network on three phantom domains.

    Every part that is finished in ``out`` is left as it is, and one that was stopped goes on, so that the demo can be
    stopped at any time.

    Args:
        out: folder of the phantoms and of the runs ``search`` and ``train``.

    Returns:
        The training run, whose report holds the scores, and the scores.
    """
    recipe = demo_recipe(out)
    searched = _run(out / "search", "search", lambda path: commands.search(recipe, path))
    genotype = load_genotype(searched.path)
    trained = _run(out / "train", "train", lambda path: commands.train(recipe, genotype, path))
    return trained, commands.evaluate(trained.path)


def demo_recipe(out: Path) -> Recipe:
    """Returns the recipe of the demo, and writes the phantoms it is about into ``out`` where they are not there."""
    sources = write_phantoms(out / "phantoms", seed=0, images=IMAGES, size=SIZE)
    text = (resources.files("medarts") / "demo.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    content["data"]["sources"] = [source.model_dump(mode="json") for source in sources]
    return parse(content, origin="demo.yaml")


def _run(path: Path, kind: str, start: Callable[[Path], RunDirectory]) -> RunDirectory:
    """Starts a run, or goes on with the one that is there."""
    return commands.resume(path, kind=kind) if (path / "run.json").exists() else start(path)
