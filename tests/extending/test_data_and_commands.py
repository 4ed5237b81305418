"""A data source and a command, from outside the package."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from medarts import cli, load_genotype, train
from medarts.system.console import say

from .conftest import RECIPE


def test_a_data_source_is_recognised_examined_and_trained_on(page, medarts, tmp_path):
    page("data-source")  # it writes nine images of three patients to my-data
    source = {"kind": "side-by-side", "path": "my-data", "suffix": "_mask"}
    recipe = RECIPE | {"data": {"size": 32, "sources": [source], "cache": str(tmp_path / "cache")}}
    changes = ["train.model.width=4", "train.batch=2"]
    run = train("unet", recipe, changes=changes, out="run")
    assert "kind: side-by-side" in (run.path / "recipe.yaml").read_text()

    status, output, errors = medarts("doctor", "my-data")
    assert (status, "9" in output + errors) == (0, True), output + errors
    words = ("--model", "unet", "--data", "my-data", "data.size=32", "train.epochs=1", "--out", "by-folder")
    status, output, errors = medarts("train", *words, *changes)
    assert status == 0, errors
    assert "kind: side-by-side" in Path("by-folder/recipe.yaml").read_text()
    status, output, errors = medarts("evaluate", "by-folder", "--data", "my-data")
    assert (status, "Dice" in output) == (0, True), output + errors

    Path("my-data/a-0.png").unlink()
    assert medarts("doctor", "my-data")[0] == 1


def count(
    genotype: Positional[Annotated[str, arg(metavar="GENOTYPE")]],
    *,
    kind: Annotated[str, arg(metavar="KIND")] = "normal",
) -> None:
    """Count the operations of a genotype.

    Args:
        genotype: A published genotype, a file, or a run.
        kind: Kind of the cells. Default: normal.
    """
    cell = load_genotype(genotype).cells[kind]
    for operation, number in Counter(edge[0] for node in cell for edge in node).most_common():
        say(f"{operation}: {number}")


def test_a_command_is_listed_and_runs(medarts, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "count", count)
    status, output, _ = medarts("--help")
    assert status == 0
    assert "Count the operations of a genotype." in " ".join(output.split())
    status, output, errors = medarts("count", "layer7_double_deep", "--kind", "up")
    assert (status, errors) == (0, "")
    assert output.splitlines()[0].startswith("up_")
    status, _, errors = medarts("count", "layer7_double_deeq")
    assert (status, "layer7_double_deep" in errors) == (1, True)
