"""Comparisons of networks that were trained here, and the files they are kept in."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medarts.comparison import costs
from medarts.comparison.candidates import Candidate, group_runs
from medarts.comparison.compare import Comparison, Missing, compare
from medarts.comparison.costs import REPEATS, costs_of, costs_of_groups
from medarts.comparison.overlays import predict_overlays
from medarts.comparison.pairs import Pairs
from medarts.config import Recipe, apply_overrides, parse
from medarts.config.models import UNetSettings
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.evaluation.evaluate import evaluate
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.mask_scores import Scores
from medarts.profiling import cost
from medarts.profiling.cost import Cost, Timing
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.weave.supernet import WeaveSpace
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
                built=tuple(Timing(n, 1, MILLISECONDS.get(name, 9.0) / n, 0.1) for n in options["threads"]),
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
    return changed(small_recipe, "data.size=16", "train.epochs=1", "train.optimizer=adamw", "train.lr=0.01")


@pytest.fixture
def unets(recipe: Recipe, tmp_path: Path) -> list[Path]:
    """Two seeds of a U-Net."""
    model = UNetSettings(width=4, depth=2)
    return [start_training(changed(recipe, f"seed={n}"), model, tmp_path / f"unet-{n}").path for n in (0, 1)]


def weave(recipe: Recipe, out: Path) -> Path:
    seed_torch(0, "genotype")
    space = WeaveSpace(recipe.space, in_channels=3, outputs=1)
    supernet = space.supernet(recipe.search.stages[0], None)
    genotype = supernet.derive(recipe.derive, name="small", provenance={"source": "random", "seed": 0})
    return start_training(recipe, genotype, out).path


def test_masks_from_runs_to_files(recipe, unets, tmp_path, asked):
    searched = [weave(changed(recipe, f"seed={n}"), tmp_path / f"weave-{n}") for n in (0, 1)]
    likes = {"unet": ("small", "gone"), "absent": ("small",)}  # whatever kinds they are
    missing = (Missing("gone", 0, "failed", "it diverged"),)
    candidates = group_runs([*unets, *searched])
    comparison = compare(candidates, reference="small", split="all", missing=missing, controls=likes)
    assert {name: asked[name] for name in ("threads", "repeats", "size", "outputs", "norm")} == {
        "threads": (1, 2),
        "repeats": REPEATS,
        "size": 16,
        "outputs": 1,
        "norm": None,
    }
    assert asked["architectures"]["unet"] == UNetSettings(width=4, depth=2)
    assert (comparison.images, comparison.patients, comparison.domains) == (24, 12, ("blobs",))
    unet, small = comparison.networks
    assert (unet.kind, small.kind, unet.seeds) == ("made by hand", "random", (0, 1))
    assert (unet.latency_ms, unet.memory_mb, small.front) == ({1: 5.0, 2: 2.5}, 30.0, True)
    assert unet.latency_spread_ms == {1: 0.1, 2: 0.1}
    assert unet.front == (unet.scores["dice"].mean > small.scores["dice"].mean)

    # The scores are those of the runs.
    dice = {
        path.name: {score.key: score.metrics["dice"] for score in Scores.read(path / "scores" / "all").images}
        for path in (*unets, *searched)
    }
    means = {name: np.mean([*of.values()]) for name, of in dice.items()}
    assert unet.scores["dice"].by_seed == pytest.approx((means["unet-0"], means["unet-1"]))
    assert unet.scores["dice"].mean == pytest.approx((means["unet-0"] + means["unet-1"]) / 2)
    assert small.difference is None
    assert unet.difference.mean == pytest.approx(unet.scores["dice"].mean - small.scores["dice"].mean)
    assert unet.difference.low <= unet.difference.mean <= unet.difference.high
    assert 2 / 2**12 <= unet.difference.p == unet.difference.p_corrected <= 1
    assert comparison.test.endswith("over 12 patients (all 4,096 flips). No p can be below 0.00049.")
    (control,) = comparison.controls
    assert (control.network, control.drawn, control.planned) == ("unet", ("small",), 2)
    assert control.difference == unet.difference  # of one drawn one, which is the reference
    assert "the search's own contribution" in comparison.definitions
    assert f"Median of {REPEATS} passes" in comparison.definitions["latency_ms"]
    seconds = [json.loads((path / "timing.jsonl").read_text())["seconds"] for path in unets]
    assert unet.training_seconds == pytest.approx(np.mean(seconds))

    # The overlays are the masks that were scored, of the lowest seed.
    overlays = comparison.overlays
    assert overlays.networks == ("unet", "small")
    assert overlays.images.shape == (len(comparison.differing_images), 16, 16, 3)
    spreads = [image.spread for image in comparison.differing_images]
    assert spreads == sorted(spreads, reverse=True)
    for number, image in enumerate(comparison.differing_images):
        assert image.spread == pytest.approx(abs(image.values["unet"] - image.values["small"]))
        true = overlays.targets[number] == 1
        for column, path in enumerate((unets[0], searched[0])):
            predicted = overlays.predictions[number, column] == 1
            total = predicted.sum() + true.sum()
            assert 2 * (predicted & true).sum() / total == pytest.approx(dice[path.name][image.key], abs=1e-6)

    folder = tmp_path / "comparison"
    comparison.write(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.json",
        "images.csv",
        "networks.csv",
        "overlays.npz",
        "pairs.npz",
    ]
    again = Comparison.read(folder)
    assert replace(again, overlays=None, pairs=Pairs()) == replace(comparison, overlays=None, pairs=Pairs())
    for pair, kept in (
        (comparison.pairs.to_reference["unet"], again.pairs.to_reference["unet"]),
        (comparison.pairs.of_controls["unet"], again.pairs.of_controls["unet"]),
    ):
        assert kept.measured.mean == pair.measured.mean == unet.difference.mean
        np.testing.assert_array_equal(kept.measured.drawn, pair.measured.drawn)
        np.testing.assert_array_equal(kept.contributions, pair.contributions)
        assert replace(kept.difference(seed=0), p_corrected=unet.difference.p) == unet.difference
    for name in ("images", "targets", "predictions", "networks"):
        np.testing.assert_array_equal(getattr(again.overlays, name), getattr(overlays, name))
    with (folder / "images.csv").open(newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert float(rows["blob_03"]["unet"]) == pytest.approx((dice["unet-0"]["blob_03"] + dice["unet-1"]["blob_03"]) / 2)
    content = json.loads((folder / "comparison.json").read_text())
    assert content["networks"][0]["latency_ms"] == {"1": 5.0, "2": 2.5}
    assert content["networks"][1]["difference"] is None
    assert {"dice", "jaccard", "hd95", "undefined", "difference", "front", "spread"} <= {*content["definitions"]}


def test_one_network_alone_and_what_is_missing(unets, tmp_path):
    missing = (Missing("small", 0, "failed", "it diverged"), Missing("unet", 1, "not begun", ""))
    comparison = compare(group_runs(unets[:1]), missing=missing)
    assert (comparison.reference, comparison.differing_images, comparison.overlays) == ("unet", (), None)
    assert comparison.test == "Nothing was tested: there is only one network."
    (unet,) = comparison.networks
    assert (unet.difference, unet.scores["dice"].low, comparison.patients) == (None, None, 1)
    comparison.write(tmp_path / "comparison")
    assert Comparison.read(tmp_path / "comparison") == comparison
    assert json.loads((tmp_path / "comparison" / "comparison.json").read_text())["missing"][0] == {
        "name": "small",
        "seed": 0,
        "state": "failed",
        "reason": "it diverged",
    }


def test_another_network_stands_in_for_a_missing_reference(unets, recipe, tmp_path, asked):
    other = start_training(changed(recipe, "seed=1"), UNetSettings(width=8, depth=2), tmp_path / "other").path
    narrow, wide = group_runs([*unets, other])
    missing = (Missing(wide.name, 0, "not begun", ""), Missing("small", 0, "failed", "it diverged"))
    measured = costs_of([narrow, wide])
    asked.clear()
    comparison = compare([narrow, wide], reference="small", missing=missing, costs=measured)
    assert not asked  # they were given
    assert (comparison.reference, comparison.planned_reference) == (narrow.name, "small")
    one, two = comparison.networks
    # The difference is over seed 1, which both have.
    assert two.difference.mean == pytest.approx(two.scores["dice"].mean - one.scores["dice"].by_seed[1])
    comparison.write(tmp_path / "comparison")
    assert Comparison.read(tmp_path / "comparison").planned_reference == "small"
    with pytest.raises(RunError, match="no network 'smal' to compare with"):
        compare([narrow, wide], reference="smal", missing=missing, costs=measured)


def test_networks_of_several_groups_are_measured_once(unets, recipe, tmp_path, asked, monkeypatch):
    (unet,) = group_runs(unets)
    wide = start_training(recipe, UNetSettings(width=8, depth=2), tmp_path / "wide").path
    batch = start_training(changed(recipe, "train.norm=group"), UNetSettings(width=4, depth=2), tmp_path / "gn").path
    other, normed = (Candidate(name, group_runs([path])[0].runs) for name, path in (("wide", wide), ("unet", batch)))
    calls = []
    measure = cost.measure_costs
    monkeypatch.setattr(cost, "measure_costs", lambda of, **options: calls.append([*of]) or measure(of, **options))
    one, two, three = costs_of_groups([[unet], [unet, other], [normed]])
    assert calls == [["unet", "wide"], ["unet"]]  # other norms are another network
    assert one["unet"] is two["unet"]
    assert ([*one], [*two], [*three]) == (["unet"], ["unet", "wide"], ["unet"])
    assert asked["norm"] == "group"


def test_scores_are_made_again_where_they_no_longer_hold(unets, folder_data):
    path = unets[0]
    folder = path / "scores" / "test"

    def score() -> float:
        return compare(group_runs([path])).networks[0].scores["dice"].mean

    first = score()
    forged = Scores.read(folder)
    forged.images = [replace(image, metrics=image.metrics | {"dice": 0.875}) for image in forged.images]
    forged.write(folder)
    assert score() == 0.875  # what is there is read
    for part in ("weights", "images", "metrics"):
        replace(forged, made_of=replace(forged.made_of, **{part: "0" * 16})).write(folder)
        assert score() == first  # of other ones
    forged.write(folder)
    (folder / "images.csv").write_bytes((folder / "images.csv").read_bytes()[:-20])
    assert score() == first

    # If the data are others today, there is nothing to compare.
    table = folder_data / "splits.csv"
    table.write_text(table.read_text().replace("p10,val", "p10,test"))
    changed_data = r"The data of .*unet-0 have changed since it began"
    with pytest.raises(RunError, match=changed_data):
        predict_overlays(group_runs([path]), [("blobs", "blob_22")], split="test")
    with pytest.raises(RunError, match=changed_data):
        compare(group_runs([path]))


def test_what_cannot_be_compared_is_said_before_anything_is_done(unets, recipe, tmp_path, asked):
    other = start_training(changed(recipe, "train.lr=0.1"), UNetSettings(width=8, depth=2), tmp_path / "other").path
    with pytest.raises(RunError, match=r"train\.lr is 0\.01 in .*unet-0, but 0\.1 in .*other"):
        compare(group_runs([unets[0], other]))
    with pytest.raises(RunError, match=r"no network 'unit' to compare with\. Did you mean 'unet'"):
        compare(group_runs(unets), reference="unit")
    with pytest.raises(RunError, match="no run to compare"):
        compare([])
    RunDirectory.open(unets[1]).write_json("run.json", {**RunDirectory.open(unets[1]).facts, "finished": False})
    with pytest.raises(RunError, match="unet-1 has not finished"):
        compare(group_runs(unets))
    assert not asked
    assert not (unets[0] / "scores").exists()


def test_findings_from_runs_to_files(finding_recipe, tmp_path):
    recipe = changed(
        finding_recipe, "train.epochs=1", "train.optimizer=adamw", "train.lr=0.01", "space.drop_path_prob=0"
    )
    published = load_genotype("darts_v2").with_settings(init_channel=4, layers=3, stem="cifar")
    paths = [
        start_training(recipe, replace(published.with_settings(layers=n), name=f"net-{n}"), tmp_path / f"{n}").path
        for n in (3, 4)
    ]
    comparison = compare(group_runs(paths), split="all")
    evaluate(paths[0], split="all")
    areas = [FindingScores.read(path / "scores" / "all").mean_auroc for path in paths]
    one, two = comparison.networks
    assert (comparison.task, comparison.score, comparison.metrics) == (
        "classification",
        "auroc",
        ("auroc", "average_precision"),
    )
    assert (one.scores["auroc"].mean, two.scores["auroc"].mean) == pytest.approx(tuple(areas))
    assert two.difference.mean == pytest.approx(areas[1] - areas[0])
    assert 0 < two.difference.p <= 1
    assert "exchanges the predictions of patients, over 16 patients (10,000 random exchanges)" in comparison.test
    comparison.write(tmp_path / "comparison")
    files = sorted(path.name for path in (tmp_path / "comparison").iterdir())
    assert files == ["comparison.json", "networks.csv", "pairs.npz"]
    again = Comparison.read(tmp_path / "comparison")
    assert replace(again, pairs=comparison.pairs) == comparison


def test_files_that_are_no_comparison(unets, tmp_path):
    with pytest.raises(RunError, match=r"comparison\.json does not exist"):
        Comparison.read(tmp_path)
    compare(group_runs(unets)).write(tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    del content["networks"][0]["kind"]
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"cannot be read"):
        Comparison.read(tmp_path)


def test_damaged_arrays_are_said_and_never_half_written(unets, recipe, tmp_path, monkeypatch):
    other = start_training(recipe, UNetSettings(width=8, depth=2), tmp_path / "other").path
    comparison = compare(group_runs([unets[0], other]), split="all")
    folder = tmp_path / "comparison"
    comparison.write(folder)
    for name in ("overlays.npz", "pairs.npz"):
        whole = (folder / name).read_bytes()
        middle = len(whole) // 2
        for damaged in (whole[:-40], b"", b"PK", b"no archive", whole[:middle] + b"\0" * 40 + whole[middle + 40 :]):
            (folder / name).write_bytes(damaged)
            with pytest.raises(RunError, match=r"cannot be read.*Compare again"):
                Comparison.read(folder)
        (folder / name).unlink()
        with pytest.raises(RunError, match=rf"{name} does not exist"):
            Comparison.read(folder)
        (folder / name).write_bytes(whole)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(RunError, match=r"networks\.csv could not be written"):
            comparison.write(folder)
    assert Comparison.read(folder).networks == comparison.networks  # those written before are whole
    few = compare(group_runs([unets[0], other]), split="test")
    few.pairs.write(folder / "pairs.npz")
    with pytest.raises(RunError, match=r"pairs\.npz is of another comparison"):
        Comparison.read(folder)
    compare(group_runs(unets)).write(folder)  # of one network, over the other
    assert not (folder / "pairs.npz").exists()
