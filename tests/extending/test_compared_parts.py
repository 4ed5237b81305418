"""A baseline, a metric and a column of the comparison, from outside the package, up to the page of a comparison."""

from pathlib import Path

import pytest

from medarts import compare, cost, evaluate, report, train
from medarts.engine.directory import RunDirectory
from medarts.reporting import comparison_tables
from medarts.reporting.comparison_tables import Shown
from medarts.reporting.tables import Column

from ..conftest import write_folder_data
from .conftest import RECIPE

NARROW = ["train.model.width=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on disk."""
    return write_folder_data(tmp_path_factory.mktemp("data") / "blobs")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[RunDirectory]:
    """Two trained baselines, scored without anything of a user."""
    data = {"sources": [{"kind": "folder", "path": str(folder), "name": "blobs"}], "size": 32}
    recipe = RECIPE | {"data": data | {"cache": str(folder.parent / "cache")}}
    depths = {"unet": 2, "attention-unet": 2}
    found = [
        train(name, recipe, changes=[*NARROW, f"train.model.depth={depth}"], out=folder.parent / name)
        for name, depth in depths.items()
    ]
    for run in found:
        evaluate(run)
    return found


@pytest.mark.usefixtures("quick_costs", "nothing_rendered")
def test_a_baseline_is_trained_measured_and_compared(page, medarts, runs, tmp_path):
    settings = page("baseline").LinkNetSettings(width=4)
    linknet = train(settings, runs[0].recipe, out=tmp_path / "mine")
    assert "name: linknet" in (linknet.path / "recipe.yaml").read_text(encoding="utf-8")
    status, output, errors = medarts("cost", "linknet", "model.width=4", "--in-channels", 1, "--repeats", 0, "--json")
    assert (status, '"parameters": 497' in output) == (0, True), errors
    found = compare([linknet, runs[0]], out=tmp_path / "comparison")
    assert set(found.networks.network) == {"linknet", "unet"}
    assert "linknet" in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")


def test_a_baseline_is_known_to_the_process_that_measures_memory(page):
    page("baseline")
    measured = cost("linknet", changes=["model.width=4"], size=32, threads=[1], repeats=2)["linknet"]
    assert {"inference form", "onnxruntime"} <= {*measured.timings}
    assert measured.memory_mb[1] > 0


def test_a_baseline_is_trained_and_suggested_by_the_command_line(page, medarts, folder):
    page("baseline")
    words = ("--model", "linknet", "--data", folder, "data.size=32", "train.epochs=1", "train.batch=4")
    status, output, errors = medarts("train", *words, *NARROW, "--out", "mine")
    assert (status, output.strip()) == (0, "mine"), errors
    status, _, errors = medarts("train", "--model", "linknit", "--data", folder)
    assert (status, "Did you mean 'linknet'" in errors) == (1, True), errors


@pytest.mark.usefixtures("quick_costs", "nothing_rendered")
def test_a_metric_appears_everywhere(page, medarts, runs, tmp_path):
    assert "missed" not in set(evaluate(runs[0]).summary["metric"])
    page("metric")
    summary = evaluate(runs[0]).summary
    assert summary[summary["metric"] == "missed"]["value"].between(0, 1).all()
    assert ",missed," in (runs[0].path / "scores" / "test" / "scores.csv").read_text(encoding="utf-8")
    assert "Missed" in report(runs[0]).read_text(encoding="utf-8")
    status, output, errors = medarts("evaluate", runs[0].path)
    assert (status, "Missed" in output) == (0, True), errors

    # The scores of the other run lack the metric, so they are computed again.
    found = compare(runs, out=tmp_path / "comparison")
    assert set(found.networks[found.networks.metric == "missed"].network) == {"unet", "attention-unet"}
    assert found.about["metrics"]["missed"]["title"] == "Missed"
    assert ">Missed" in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert ",missed," in (tmp_path / "comparison" / "networks.csv").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick_costs", "nothing_rendered")
def test_a_column_is_on_the_page_and_on_the_terminal(page, medarts, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_tables, "COLUMNS", [*comparison_tables.COLUMNS])
    monkeypatch.setenv("COLUMNS", "100")  # one more than fits where a slow machine has long latencies
    page("comparison-column")
    comparison_tables.COLUMNS.append(Shown("patients", Column("cases", form="g"), "brief"))
    status, output, errors = medarts("compare", *(run.path for run in runs), "--out", tmp_path / "comparison")
    assert status == 0, errors
    assert "cases" in output
    assert "per M" not in output  # for the page alone
    text = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert "Dice per M parameters" in text
    assert ">cases" in text
