"""Comparisons of a benchmark from its runs to page, terminal and exit status."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medarts import cli, terminal
from medarts.commands import comparisons
from medarts.comparison.candidates import Candidate
from medarts.comparison.controls import Control
from medarts.comparison.paired import Difference
from medarts.comparison.result import Comparison, Missing
from medarts.config import Recipe, apply_overrides, parse
from medarts.config.models import UNetSettings
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.profiling import cost
from medarts.profiling.cost import Cost, Timing
from medarts.study.benchmark import GroupRuns
from medarts.training.trainer import start_training

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
    drawn = SimpleNamespace(like="unet", names=("wide", "gone"))
    own = SimpleNamespace(like=None, names=("unet",))
    settings = SimpleNamespace(reference="wide", names=("unet", "wide", "gone"), note="", networks=(own, drawn))
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
    found_on_all = Comparison.read(study / "comparisons" / "all")
    assert found_on_all.reference == "wide"
    (control,) = found_on_all.controls
    assert (control.network, control.drawn, control.planned) == ("unet", ("wide",), 1)
    better = "worse" if control.difference.mean < 0 else "better"
    sentence = (
        f"The search's own contribution: unet is {abs(control.difference.mean):.3f} Dice {better} than 1 random "
        "genotype of its size on average (not tested: there is one patient)."
    )
    assert sentence in said

    found = comparisons.compare_study(study)
    assert not found.is_whole
    monkeypatch.setattr("medarts.config.study.load_study", lambda *_: None)
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
    control = Control("wide", ("random-1", "random-2"), planned=3, difference=difference)
    terminal.show_comparisons({"rays": replace(findings, controls=(control,))})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    words = said.split()
    assert (
        "The search's own contribution: wide is 0.012 AUROC worse than 2 of the 3 random genotypes of its size on "
        "average (95 % interval -0.020 to -0.004, p <0.001)."
    ) in " ".join(words)
    assert {"AUROC", "AP", "<0.001", "0.0513", "12.3", "1,234", "0.0124", "param."} <= {*words}


@pytest.mark.parametrize("damaged", ["timing.jsonl", "manifest.csv", "checkpoints"])
def test_a_damaged_run_is_missing_and_the_rest_is_compared(
    study: Path, measured: list[list[str]], damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = study.parent / "8"
    for file in [run / damaged, *(run / damaged).rglob("*")]:
        if file.is_file():
            file.write_text("{}")
    with pytest.raises(MedartsError, match=damaged):
        comparisons.compare([study.parent / "4", run], out=study.parent / "two")
    assert not (study.parent / "two").exists()
    found = comparisons.compare_study(study)
    both = found.comparisons["all"]
    assert [network.name for network in both.networks] == ["unet"]
    (missing,) = both.missing
    assert (missing.name, missing.seed, missing.state) == ("wide", 0, "failed")
    assert damaged in missing.reason
    assert both.planned_reference == "wide"
    page = found.page.read_text(encoding="utf-8")
    assert "wide, seed 0: failed." in page
    (study.parent / "4" / "timing.jsonl").unlink()
    with pytest.raises(RunError, match=r"No finished run of .* can be read\. The first of them: it diverged|timing"):
        comparisons.compare_study(study)
