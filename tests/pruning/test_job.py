"""Pruning as a job: all methods end to end, steps, what is kept of them, and that it goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medarts as library
from medarts.engine.directory import RunDirectory
from medarts.pruning.record import read_record
from medarts.spaces.nas_wdan import all_paths, to_kept
from medarts.training.trained import load_network

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (16, 32, 32)).astype(np.uint8)
BINARY, SEVERAL = GREY > 128, np.digitize(GREY, (80, 160))
LABELS = np.stack([np.arange(16) % 2, np.arange(16) // 2 % 2], 1)
DATA = library.from_arrays(GREY, BINARY)
FINDINGS = library.from_arrays(GREY, LABELS)
RECIPE: dict[str, Any] = {
    "train": {"epochs": 2, "batch": 4, "lr": 0.1, "ema": 0.9, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained U-Net, of batch norms and with a moving average."""
    return library.train(None, RECIPE, data=DATA, out=tmp_path_factory.mktemp("masks") / "run")


@pytest.fixture(scope="module")
def lattice(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained network of a lattice, of group norms and with several heads."""
    published = library.load_genotype("alpha0_5_stage1_double_deep_ep80")
    settings = {**published.settings, "depth": 3, "init_channel": 8, "intermediate_nodes": 2}
    cells = {kind: cell[:2] for kind, cell in published.cells.items()}
    genotype = replace(published, cells=cells, settings=settings, paths=to_kept(all_paths(3)))
    recipe = {**RECIPE, "train": {"epochs": 1, "batch": 4}}
    return library.train(genotype, recipe, data=DATA, out=tmp_path_factory.mktemp("lattice") / "run")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained derived network of findings, with an auxiliary head."""
    genotype = library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=True)
    recipe = {**RECIPE, "space": {"name": "darts"}, "train": {"epochs": 1, "batch": 4, "lr": 0.02}}
    return library.train(genotype, recipe, data=FINDINGS, out=tmp_path_factory.mktemp("findings") / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lasting(folder: Path) -> dict[str, Any]:
    """Returns the files of a pruning, without times."""
    found: dict[str, Any] = {}
    for name, content in files(folder).items():
        if name.endswith("pruning.json"):
            record = json.loads(content)
            for step in record["steps"]:
                for key in ("sparse_seconds", "cut_seconds", "fine_seconds"):
                    assert step.pop(key) is None or True
            found[name] = record
        elif name.endswith("run.json"):
            facts = json.loads(content)
            found[name] = {key: facts[key] for key in ("kind", "network", "weights_fingerprint", "recipe", "finished")}
        elif not name.endswith("timing.jsonl"):
            found[name] = content
    return found


@pytest.mark.parametrize("method", ["taylor", "l1", "fpgm", "slim", "soft", "gradual"])
def test_every_method_gives_a_smaller_network_that_is_a_run_as_any_other(
    masks: RunDirectory, tmp_path: Path, method: str
) -> None:
    before = files(masks.path)
    run = library.prune(masks, method=method, keep_flops=0.6, epochs=1, data=DATA, out=tmp_path / "run")
    assert files(masks.path) == before
    facts, record = run.facts, read_record(run)
    assert (facts["kind"], facts["finished"], facts["network"]) == ("train", True, f"unet-{method}-60")
    assert (run.recipe.train.epochs, run.recipe.prune.epochs) == (1, 1)
    network, original = load_network(run), load_network(masks)
    outputs = {name: module.out_channels for name, module in network.named_modules() if hasattr(module, "out_channels")}
    assert record.last.size.channels == outputs
    assert record.last.kept == record.last.size.flops / record.size.flops <= 0.6
    assert record.last.size.parameters == sum(each.numel() for each in network.parameters())
    assert record.size.parameters == sum(each.numel() for each in original.parameters())
    assert record.method["name"] == method
    assert "outputs of the network" in record.uncut.values()
    assert record.original == pytest.approx(masks.read_json("summary.json")["best_score"], abs=1e-6)
    assert record.last.fine_tuned == run.read_json("summary.json")["best_score"]
    trains_before = method in ("slim", "soft", "gradual")
    assert (tmp_path / "run/steps/1/run.json").exists() == trains_before == (record.last.sparse_seconds is not None)
    assert {"cut_seconds", "fine_seconds"} <= {name for name, value in record.last if value}
    assert library.load(run).predict(GREY[0]).shape == (32, 32)


def test_depth_takes_parts_and_heads_away_also_from_what_it_has_left(lattice: RunDirectory, tmp_path: Path) -> None:
    once = library.prune(lattice, method="depth", keep_flops=0.7, data=DATA, out=tmp_path / "once")
    one = read_record(once)
    assert one.last.kept == pytest.approx(one.last.size.flops / one.size.flops)
    assert one.last.kept <= 0.7
    assert one.removed or one.heads
    twice = library.prune(once, method="depth", keep_flops=0.8, data=DATA, out=tmp_path / "twice")
    channels = library.prune(twice, method="l1", keep_flops=0.8, data=DATA, out=tmp_path / "channels")
    two, three = read_record(twice), read_record(channels)
    assert two.last.size.flops <= 0.8 * one.last.size.flops
    assert {*one.removed} <= {*two.removed}
    assert (three.removed, three.heads) == (two.removed, two.heads)
    network = load_network(channels)
    assert network.heads == (load_network(lattice).heads if two.heads is None else two.heads)
    assert library.load(channels).predict(GREY[0]).shape == (32, 32)


def test_findings(findings: RunDirectory, tmp_path: Path) -> None:
    run = library.prune(findings, method="l1", keep_parameters=0.6, data=FINDINGS, out=tmp_path / "run")
    record = read_record(run)
    assert record.last.size.parameters / record.size.parameters <= 0.6
    assert record.score == "auroc"
    assert library.load(run).predict(GREY[0]).shape == (2,)


def test_steps_share_the_epochs_and_keep_equal_shares(masks: RunDirectory, tmp_path: Path) -> None:
    run = library.prune(masks, method="taylor", keep_channels=0.5, steps=2, epochs=3, data=DATA, out=tmp_path / "run")
    first = RunDirectory(tmp_path / "run/steps/1")
    one, both = read_record(first), read_record(run)
    assert (first.facts["network"], run.facts["network"]) == ("unet-taylor-70.7", "unet-taylor-50")
    assert (first.recipe.train.epochs, run.recipe.train.epochs) == (1, 2)
    assert 0.5 < one.last.kept <= 0.5**0.5
    assert both.last.kept <= 0.5
    assert both.steps[0] == one.last
    assert (both.size, both.original) == (one.size, one.original)
    assert both.last.before == one.last.fine_tuned
    assert both.last.size.parameters < one.last.size.parameters < both.size.parameters


def test_a_pruned_network_is_pruned_further(masks: RunDirectory, tmp_path: Path) -> None:
    once = library.prune(masks, method="l1", keep_flops=0.7, epochs=1, data=DATA, out=tmp_path / "once")
    twice = library.prune(once, method="taylor", keep_flops=0.7, data=DATA, out=tmp_path / "twice")
    one, two = read_record(once), read_record(twice)
    assert two.size == one.last.size
    assert two.last.size.flops <= 0.7 * one.last.size.flops
    assert twice.facts["network"] == "unet-l1-70-taylor-70"
    history = json.loads((twice.path / "structure.json").read_text())["history"]
    assert [asked["method"]["name"] for asked in history] == ["l1", "taylor"]
    assert twice.recipe.train.epochs == 1  # as before, where it is not given
