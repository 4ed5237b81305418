"""Comparisons of networks that were trained here, and the files they are kept in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medarts.api import compare as compare_runs
from medarts.comparison import costs
from medarts.comparison.candidates import Candidate, Group, Missing, group_runs
from medarts.comparison.compare import TABLES, Comparison, compare
from medarts.comparison.costs import REPEATS, costs_of_groups
from medarts.comparison.design import RANDOM, Design
from medarts.comparison.overlays import predict_overlays
from medarts.config import Recipe, apply_overrides, parse
from medarts.data.opening import open_data
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.evaluation.evaluate import current_scores
from medarts.evaluation.pictures import Pictures
from medarts.metrics.ranking import auroc
from medarts.models.unet import UNetSettings
from medarts.profiling import cost
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.spaces.genotype import load_genotype
from medarts.spaces.nas_wdan import NasWdan
from medarts.system.randomness import seed_torch
from medarts.training.trainer import start_training

MILLISECONDS = {"unet": 5.0, "small": 4.0}


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the measuring of costs, which takes seconds; returns what it was asked for."""
    given: dict[str, Any] = {}

    def measure(architectures: dict[str, Any], **options: Any) -> dict[str, Cost]:
        given.update(options, architectures=architectures)
        shape = {name: options[name] for name in ("size", "in_channels", "outputs")}
        return {
            name: Cost(
                parameters=100,
                flops=200,
                timings={
                    "torch": tuple(Timing(n, 1, 99.0, 0.1) for n in options["threads"]),
                    "onnxruntime": tuple(
                        Timing(n, 1, MILLISECONDS.get(name, 9.0) / n, 0.1) for n in options["threads"]
                    ),
                },
                memory_mb={1: 30.0},
                **shape,
            )
            for name in architectures
        }

    monkeypatch.setattr(cost, "measure_costs", measure)
    monkeypatch.setattr(costs, "usual_threads", lambda: (1, 2))
    return given


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    of_network = "evaluation.resolution=network"  # at which overlays are drawn
    return changed(small_recipe, "data.size=16", of_network, "train.epochs=1", "train.optimizer=adamw", "train.lr=0.01")


@pytest.fixture
def unets(recipe: Recipe, tmp_path: Path) -> list[Path]:
    """Two seeds of a U-Net."""
    model = UNetSettings(width=4, depth=2)
    return [start_training(changed(recipe, f"seed={n}"), model, tmp_path / f"unet-{n}").path for n in (0, 1)]


def nas_wdan(recipe: Recipe, out: Path) -> Path:
    seed_torch(0, "genotype")
    space = NasWdan(recipe.space, in_channels=3, outputs=1)
    supernet = space.supernet(recipe.search.stages[0], None)
    genotype = supernet.derive(recipe.derive, name="small", provenance={"source": "random", "seed": 0})
    return start_training(recipe, genotype, out).path


def compared(
    *candidates: Candidate, split: Any = "test", missing: tuple[Missing, ...] = (), **options: Any
) -> Comparison:
    group = Group(candidates, missing)
    runs = [run for candidate in candidates for run in candidate.runs]
    scores = {run: current_scores(run, split) for run in runs}
    measured = costs_of_groups([candidates]) if candidates else []
    return compare({"blobs": group}, title="T", scores=scores, costs=measured, split=split, **options)


def test_masks_from_runs_to_files(recipe, unets, tmp_path, asked):
    searched = [nas_wdan(changed(recipe, f"seed={n}"), tmp_path / f"searched-{n}") for n in (0, 1)]
    missing = (Missing("gone", 0, "failed", "it diverged"),)
    likes = {"unet": ("small", "gone"), "absent": ("small",)}  # whatever kinds they are
    found = compared(
        *group_runs([*unets, *searched]),
        split="all", missing=missing, design=Design(controls=likes), references={"blobs": "small"},
    )  # fmt: skip
    assert {name: asked[name] for name in ("threads", "repeats", "size", "outputs", "norm")} == {
        "threads": (1, 2), "repeats": REPEATS, "size": 16, "outputs": 1, "norm": None
    }  # fmt: skip
    about = found.about["groups"]["blobs"]
    assert (about["images"], about["patients"], about["datasets"]) == (24, 12, ["blobs"])
    costs = found.costs.set_index("network")
    assert [*costs.kind] == ["baseline", "random"]
    assert (costs.latency_ms_1["unet"], costs.latency_ms_2["unet"], costs.memory_mb["unet"]) == (5.0, 2.5, 30.0)
    assert (costs.torch_latency_ms_1["unet"], costs.torch_latency_spread_ms_2["unet"]) == (99.0, 0.1)
    seconds = [json.loads((path / "timing.jsonl").read_text())["seconds"] for path in unets]
    assert costs.training_seconds["unet"] == pytest.approx(np.mean(seconds))

    # The scores are those of the runs.
    dice = {}
    for path in (*unets, *searched):
        table = current_scores(RunDirectory(path), "all")
        dice[path.name] = table[table.metric == "dice"].set_index("image").value
    means = {name: of.mean() for name, of in dice.items()}
    networks = found.networks[found.networks.metric == "dice"].set_index("network")
    assert networks["mean"]["unet"] == pytest.approx((means["unet-0"] + means["unet-1"]) / 2)
    seeds = found.seeds[(found.seeds.metric == "dice") & (found.seeds.network == "unet")]
    assert [*seeds.value] == pytest.approx([means["unet-0"], means["unet-1"]])
    difference, random = found.differences.itertuples()
    assert (difference.family, difference.network, difference.reference) == ("reference", "unet", "small")
    assert difference.difference == pytest.approx(networks["mean"]["unet"] - networks["mean"]["small"])
    assert difference.low <= difference.difference <= difference.high
    assert (difference.patients, difference.seeds, difference.p) == (12, 2, difference.p_corrected)
    assert (random.family, random.network, random.reference) == ("random", "unet", RANDOM)
    assert random.difference == difference.difference  # of one random network, which is the reference
    on_front = networks["mean"]["unet"] > networks["mean"]["small"]
    assert [*costs.front] == [on_front, True]

    # The overlays are the masks that were scored, of the lowest seed.
    overlays = found.overlays["blobs"]
    assert [image.shape for image in overlays.images] == [(16, 16, 3)] * len(found.differing)
    assert [*found.differing.spread] == sorted(found.differing.spread, reverse=True)
    for number, image in enumerate(found.differing.image):
        true = overlays.targets[number] == 1
        for column, path in enumerate((unets[0], searched[0])):
            predicted = overlays.predictions[number][column] == 1
            overlap = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
            assert overlap == pytest.approx(dice[path.name][image], abs=1e-6)

    found.write(tmp_path / "comparison")
    again = Comparison.read(tmp_path / "comparison")
    assert json.loads(json.dumps(found.about)).items() <= again.about.items()
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name), check_dtype=False, check_exact=True)
    for part in ("images", "targets", "predictions"):
        kept = zip(getattr(again.overlays["blobs"], part), getattr(overlays, part), strict=True)
        assert all(np.array_equal(*both) for both in kept)
    check_damage(tmp_path / "comparison")


def check_damage(folder: Path) -> None:
    """Every file, missing, cut or changed, is named."""
    for path in [path for path in folder.iterdir() if path.suffix in (".json", ".csv", ".npz")]:
        whole = path.read_bytes()
        for damaged in (whole[:-40], b"", whole[:30] + b"#" + whole[31:]):
            path.write_bytes(damaged)
            with pytest.raises(RunError, match=rf"{path.name} (is damaged|is of another).*Compare again"):
                Comparison.read(folder)
        path.unlink()
        with pytest.raises(RunError, match=rf"{path.name} does not exist"):
            Comparison.read(folder)
        path.write_bytes(whole)
    Comparison.read(folder)


@pytest.mark.parametrize(("resolution", "side"), [("network", 16), ("file", 32)])
def test_overlays_of_patches_have_the_size_at_which_they_are_scored(recipe, resolution, side):
    content = recipe.model_dump(mode="json")
    content["data"] |= {"resize": "patches", "size": 16}
    recipe = changed(parse(content), f"evaluation.resolution={resolution}")
    store = open_data(recipe.data, needs=("test",))
    pictures = Pictures(store, recipe)
    assert pictures.image(0).shape == (side, side, 3)
    target = pictures.target(0)
    assert target.shape == (side, side)
    perfect = torch.from_numpy(np.where(store.targets[0] == 1, 9.0, -9.0)[None])
    np.testing.assert_array_equal(pictures.predicted(0, perfect), target)


def test_one_network_alone_and_a_missing_reference(unets):
    missing = (Missing("small", 0, "failed", "it diverged"), Missing("unet", 1, "not started", ""))
    found = compared(*group_runs(unets[:1]), missing=missing, references={"blobs": "small"})
    about = found.about["groups"]["blobs"]
    assert (about["reference"], about["planned_reference"]) == ("unet", "small")
    assert (len(found.differences), len(found.differing), found.overlays) == (0, 0, {})
    assert np.isnan(found.networks.low.iloc[0])  # one patient
    assert found.about["missing"][0] == {
        "group": "blobs", "network": "small", "seed": 0, "state": "failed", "reason": "it diverged"
    }  # fmt: skip
    with pytest.raises(RunError, match="no network 'smal' to compare with"):
        compared(*group_runs(unets[:1]), missing=missing, references={"blobs": "smal"})
    with pytest.raises(RunError, match="no run to compare"):
        compare({"blobs": Group((), missing)}, title="T", scores={}, costs=[])


def test_networks_of_several_groups_are_measured_once(unets, recipe, tmp_path, asked, monkeypatch):
    (unet,) = group_runs(unets)
    wide = start_training(recipe, UNetSettings(width=8, depth=2), tmp_path / "wide").path
    batch = start_training(changed(recipe, "train.norm=group"), UNetSettings(width=4, depth=2), tmp_path / "gn").path
    other, normed = (Candidate(name, group_runs([path])[0].runs) for name, path in (("wide", wide), ("unet", batch)))
    calls = []
    measure = cost.measure_costs

    def counted(of, **options):
        calls.append([*of])
        return measure(of, **options)

    monkeypatch.setattr(cost, "measure_costs", counted)
    one, two, three = costs_of_groups([[unet], [unet, other], [normed]])
    assert calls == [["unet", "wide"], ["unet"]]  # other norms are another network
    assert one["unet"] is two["unet"]
    assert ([*one], [*two], [*three]) == (["unet"], ["unet", "wide"], ["unet"])
    assert asked["norm"] == "group"


def test_what_cannot_be_compared_is_said_before_anything_is_done(unets, recipe, tmp_path, asked, folder_data):
    out = tmp_path / "out"
    other = start_training(changed(recipe, "train.lr=0.1"), UNetSettings(width=8, depth=2), tmp_path / "other").path
    with pytest.raises(RunError, match=r"train\.lr is 0\.01 in .*unet-0, but 0\.1 in .*other"):
        compare_runs([unets[0], other], out=out)
    with pytest.raises(RunError, match=r"no network 'unit' to compare with\. Did you mean 'unet'"):
        compare_runs(unets, out=out, against="unit")
    with pytest.raises(RunError, match="no run to compare"):
        compare_runs([], out=out)
    RunDirectory.open(unets[1]).write_json("run.json", {**RunDirectory.open(unets[1]).facts, "finished": False})
    with pytest.raises(RunError, match="unet-1 has not finished"):
        compare_runs(unets, out=out)
    assert not asked
    assert not (unets[0] / "scores").exists()
    table = folder_data / "splits.csv"
    table.write_text(table.read_text().replace("p10,val", "p10,test"))
    with pytest.raises(RunError, match=r"The data of .*unet-0 have changed since it began"):
        predict_overlays(group_runs(unets[:1]), [("blobs", "blob_22")], split="test")
    with pytest.raises(RunError, match=r"The data of .*unet-0 have changed since it began"):
        compare_runs(unets[:1], out=out)
    assert not out.exists()


def test_findings_from_runs_to_files(finding_recipe, tmp_path):
    recipe = changed(
        finding_recipe, "train.epochs=1", "train.optimizer=adamw", "train.lr=0.01", "space.drop_path_prob=0"
    )
    published = load_genotype("darts_v2").with_settings(init_channel=4, layers=3, stem="cifar")
    paths = [
        start_training(recipe, replace(published.with_settings(layers=n), name=f"net-{n}"), tmp_path / f"{n}").path
        for n in (3, 4)
    ]
    found = compared(*group_runs(paths), split="all")
    assert (found.about["task"], found.about["score"]) == ("classification", "auroc")
    assert [*found.about["metrics"]][:2] == ["auroc", "average_precision"]
    areas = []
    for path in paths:
        wide = current_scores(RunDirectory(path), "all").pivot(
            index=["class", "image"], columns="metric", values="value"
        )
        areas.append(np.mean([auroc(of.logit, of.label) for _, of in wide.groupby("class")]))
    means = found.networks[found.networks.metric == "auroc"]["mean"]
    assert [*means] == pytest.approx(areas)
    assert found.differences.difference.iloc[0] == pytest.approx(areas[1] - areas[0])
    assert 0 < found.differences.p.iloc[0] <= 1
    found.write(tmp_path / "comparison")
    assert not (tmp_path / "comparison" / "overlays.npz").exists()
    again = Comparison.read(tmp_path / "comparison")
    pd.testing.assert_frame_equal(again.differences, found.differences, check_dtype=False)
    assert (len(again.images), again.overlays) == (0, {})
