"""Comparisons of a benchmark from its runs to page, terminal and exit status."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medarts import cli, terminal
from medarts.commands import comparisons
from medarts.comparison.candidates import Candidate
from medarts.comparison.paired import Difference
from medarts.comparison.result import Comparison, Missing
from medarts.errors import RunError
from medarts.evaluation import cost
from medarts.evaluation.cost import Cost, Timing
from medarts.recipe import Recipe, apply_overrides, parse
from medarts.recipe.models import UNetSettings
from medarts.run.directory import RunDirectory
from medarts.study.benchmark import GroupRuns
from medarts.training.start import start_training

LONG = "stage1_layer9_110epoch_double_deep_final"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces the measuring of costs; returns which networks were measured in which call."""
    calls: list[list[str]] = []

    def measure(architectures: dict[str, Any], *, size: int, in_channels: int, outputs: int, **_: Any) -> Any:
        calls.append([*architectures])
        built = (Timing(1, 1, 5.0, 0.1),)
        return {
            name: Cost(51300, 200, size, in_channels, outputs, built, memory_mb={1: 30.0}) for name in architectures
        }

    monkeypatch.setattr(cost, "measure_costs", measure)
    return calls


@pytest.fixture
def study(small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of two groups with a network each, of one without a finished run."""
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), ["data.size=16", "train.epochs=1"]))
    runs = [
        RunDirectory(start_training(recipe, UNetSettings(width=width, depth=2), tmp_path / str(width)).path)
        for width in (4, 8)
    ]
    unet, wide = Candidate("unet", (runs[0],)), Candidate("wide", (runs[1],))
    failed, waiting = Missing("wide", 0, "failed", "it diverged"), Missing("unet", 0, "not begun", "")
    groups = {
        "blobs": GroupRuns((unet,), (failed,)),
        "all": GroupRuns((unet, wide), ()),
        "none": GroupRuns((), (failed, waiting)),
    }
    settings = SimpleNamespace(reference="wide", names=("unet", "wide"), note="")
    monkeypatch.setattr(comparisons, "what_is_there", lambda _: groups)
    monkeypatch.setattr(comparisons, "load_study", lambda _: settings)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.yaml").touch()
    return folder


def test_what_there_is_of_a_benchmark(
    study: Path, measured: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.compare((study,))
    assert measured == [["unet", "wide"]]  # once for all groups
    said = " ".join(capsys.readouterr().out.split())
    assert "The planned reference wide has no finished run." in said
    assert "wide, seed 0: failed. it diverged" in said
    assert said.endswith(
        f"none wide, seed 0: failed. it diverged not begun, by network and seed: unet (0) 3 of 6 runs are missing: see "
        f"{study}/failures {study}/report.html"
    )
    page = (study / "report.html").read_text(encoding="utf-8")
    assert '<section id="none-1">' in page
    assert Comparison.read(study / "comparisons" / "blobs").planned_reference == "wide"
    assert Comparison.read(study / "comparisons" / "all").reference == "wide"

    found = comparisons.compare_study(study)
    assert not found.is_whole
    monkeypatch.setattr("medarts.recipe.study.load_study", lambda *_: None)
    for missing, status in ((found.without_runs, 1), ({}, 0)):
        whole = {name: replace(one, missing=()) for name, one in found.comparisons.items()}
        ended = replace(found, comparisons=whole, without_runs=missing)
        monkeypatch.setattr(comparisons, "benchmark", lambda *_, ended=ended, **__: ended)
        with pytest.raises(SystemExit) as caught:
            cli.benchmark(Path("b.yaml"))
        assert caught.value.code == status
    assert "missing" not in capsys.readouterr().out.rpartition("failures")[2]


def test_a_benchmark_is_compared_elsewhere_and_otherwise(
    study: Path, measured: list[list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere"
    for _ in range(2):  # the second time over the first
        found = comparisons.compare_study(study, out=out, reference="unet", split="val")
    assert found.page == out / "report.html"
    assert not (study / "report.html").exists()
    again = {name: Comparison.read(out / "comparisons" / name) for name in ("blobs", "all")}
    assert {(one.split, one.reference, one.planned_reference) for one in again.values()} == {("val", "unet", None)}
    with pytest.raises(RunError, match=r"has no network 'unit'\. Did you mean 'unet'"):
        comparisons.compare_study(study, reference="unit")
    with pytest.raises(RunError, match="already holds files"):
        comparisons.compare_study(study, out=tmp_path)


def test_tables_fit_a_terminal_of_eighty_columns(
    study: Path, measured: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = comparisons.compare_study(study).comparisons["all"]
    capsys.readouterr()
    unet, wide = found.networks
    difference = Difference(-0.0123, -0.02, -0.004, p=0.0001, p_corrected=0.0004)
    score = replace(unet.scores["dice"], mean=0.8, low=0.7, high=0.9)
    networks = (
        replace(unet, name=LONG, difference=difference, parameters=12_345_678, latency_ms={1: 1234.5}),
        replace(wide, latency_ms={1: 0.01244}),
    )
    scores = {"auroc": score, "average_precision": score}
    findings = replace(
        found,
        metrics=("auroc", "average_precision"),
        score="auroc",
        networks=tuple(replace(network, scores=scores) for network in networks),
    )
    monkeypatch.setattr(terminal.console, "_width", 80)
    terminal.show_comparisons({"rays": findings})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    words = said.split()
    assert {"AUROC", "AP", "<0.001", "0.0513", "12.3", "1,234", "0.0124", "param."} <= {*words}
