"""Comparisons of a benchmark from its runs to page, terminal and exit status."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medarts import api, cli
from medarts.comparison.candidates import Candidate, Group, Missing
from medarts.comparison.compare import Comparison
from medarts.comparison.design import RANDOM
from medarts.config import Recipe, apply_overrides, parse
from medarts.config.study import NetworkEntry
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.models.unet import UNetSettings
from medarts.profiling import cost
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.study import comparing
from medarts.study.comparing import repeated_searches
from medarts.training.trainer import start_training

pytestmark = pytest.mark.usefixtures("nothing_rendered")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces the measuring of costs; returns which networks were measured in which call."""
    calls: list[list[str]] = []

    def measure(architectures: dict[str, Any], *, size: int, in_channels: int, outputs: int, **_: Any) -> Any:
        calls.append([*architectures])
        timings = {"onnxruntime": (Timing(1, 1, 5.0, 0.1),)}
        return {
            name: Cost(51300, 200, size, in_channels, outputs, timings, memory_mb={1: 30.0}) for name in architectures
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
    failed, waiting = Missing("wide", 0, "failed", "it diverged"), Missing("unet", 0, "not started", "")
    groups = {
        "blobs": Group((unet,), (failed,)),
        "all": Group((unet, wide), ()),
        "none": Group((), (failed, waiting)),
    }
    drawn = SimpleNamespace(like="unet", names=("wide", "gone"), searched_on=None, is_several=True, train=())
    own = SimpleNamespace(like=None, names=("unet",), searched_on=None, is_several=False, train=())
    settings = SimpleNamespace(
        reference="wide", names=("unet", "wide", "gone"), note="", networks=(own, drawn), methods={}, recipe=recipe
    )
    monkeypatch.setattr(comparing, "available_runs", lambda _: groups)
    monkeypatch.setattr(comparing, "load_study", lambda *_, **__: settings)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.yaml").touch()
    return folder


def test_a_benchmark_is_compared_as_far_as_it_has_come(
    study: Path, measured: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.compare((study,))
    assert measured == [["unet", "wide"]]  # once for all groups
    said = " ".join(capsys.readouterr().out.split())
    assert "The planned reference wide has no finished run." in said
    assert "failed: wide on blobs, seed 0; wide on none, seed 0. it diverged" in said
    assert "not started: unet on none, seed 0." in said
    assert said.endswith(f"3 of 6 runs are missing: see {study}/failures {study}/comparison/report.html")
    found = Comparison.read(study / "comparison")
    assert found.groups == ("blobs", "all")
    groups = found.about["groups"]
    assert (groups["blobs"]["reference"], groups["blobs"]["planned_reference"]) == ("unet", "wide")
    assert groups["all"]["reference"] == "wide"
    (random,) = found.differences[found.differences.family == "random"].itertuples()
    assert (random.group, random.network, random.reference) == ("all", "unet", RANDOM)
    assert random.verdict == "too few patients to decide"  # there is one

    monkeypatch.setattr("medarts.config.study.load_study", lambda *_: None)
    monkeypatch.setattr(api, "benchmark", lambda *_, **__: found)
    for missing, status in ((found.about["missing"], 1), ([], 0)):
        found.about["missing"] = missing
        with pytest.raises(SystemExit) as caught:
            cli.benchmark(Path("b.yaml"))
        assert caught.value.code == status
    assert "missing" not in capsys.readouterr().out.rpartition("failures")[2]


def test_a_benchmark_is_compared_elsewhere_and_otherwise(
    study: Path, measured: list[list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere"
    for _ in range(2):  # the second time over the first
        api.compare(study, out=out, against="unet", split="val")
    assert (out / "report.html").exists()
    assert not (study / "comparison").exists()
    again = Comparison.read(out)
    assert again.about["split"] == "val"
    assert {again.about["groups"][name]["reference"] for name in again.groups} == {"unet"}
    with pytest.raises(RunError, match=r"has no network 'unit'\. Did you mean 'unet'"):
        api.compare(study, against="unit")
    with pytest.raises(RunError, match="already holds files"):
        api.compare(study, out=tmp_path)


@pytest.mark.parametrize("damaged", ["timing.jsonl", "manifest.csv", "checkpoints"])
def test_a_damaged_run_is_missing_and_the_rest_is_compared(
    study: Path, measured: list[list[str]], damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = study.parent / "8"
    for file in [run / damaged, *(run / damaged).rglob("*")]:
        if file.is_file():
            file.write_text("{}")
    with pytest.raises(MedartsError, match=damaged):
        api.compare([study.parent / "4", run], out=study.parent / "two")
    assert not (study.parent / "two").exists()
    found = api.compare(study)
    page = study / "comparison" / "report.html"
    assert [*found.about["groups"]["all"]["networks"]] == ["unet"]
    (missing,) = [run for run in found.about["missing"] if run["group"] == "all"]
    assert (missing["network"], missing["seed"], missing["state"]) == ("wide", 0, "failed")
    assert damaged in missing["reason"]
    assert found.about["groups"]["all"]["planned_reference"] == "wide"
    assert damaged in page.read_text(encoding="utf-8")
    (study.parent / "4" / "timing.jsonl").unlink()
    with pytest.raises(RunError, match=r"No finished run of .* can be read\. The first of them: it diverged|timing"):
        api.compare(study)


@dataclass
class Compared:
    """What stands for a comparison."""

    about: dict[str, Any] = field(default_factory=dict)


def test_runs_outside_a_study_are_compared_with_the_searches_that_they_repeat(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(comparing, "repeats_by_provenance", lambda candidates: [tuple(one.name for one in candidates)])
    monkeypatch.setattr(comparing, "compare_groups", lambda groups, **options: given.update(options) or Compared())
    monkeypatch.setattr(comparing, "costs_of_groups", lambda _: [])
    monkeypatch.setattr(comparing, "_noise_of", lambda *_: [])
    comparing.compare_runs([study.parent / "4", study.parent / "8"])
    assert given["design"].methods == {"2 searches: unet (4), unet (8)": ("unet (4)", "unet (8)")}


def test_searches_that_differ_in_their_seed_alone_are_one_method() -> None:
    def entry(name: str, *changes: str, **of: Any) -> NetworkEntry:
        return NetworkEntry.model_validate({"name": name, "changes": changes, **of})

    networks = [
        entry("one", searched_on=("a", "b")),
        entry("two", "seed=1", searched_on=("a", "b")),
        entry("longer", "seed=2", "search.stages.0.epochs=9", searched_on=("a", "b")),
        entry("single", "seed=1", searched_on=("a",)),
        entry("zoo", genotype="darts_v2"),
        entry("several", searched_on=("a", "b"), search_seeds=(0, 1)),
    ]
    found = repeated_searches(SimpleNamespace(networks=networks))
    assert found == [("one", "two")]
