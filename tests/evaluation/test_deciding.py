"""What other decisions, heads and mirrored images gain, against predictions made by hand."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from tests.deploy.engines_of_tests import masks_info
from torch import Tensor

import medarts
from medarts import terminal
from medarts.data.batches import Batch
from medarts.data.store import ImageStore
from medarts.deploy.calibration import kept_calibration
from medarts.deploy.decisions import decide
from medarts.deploy.runs import info_of
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.evaluation.deciding import COLUMNS, OtherWays, shown_ways
from medarts.evaluation.scores import Scores
from medarts.network import AVERAGE, Network
from medarts.profiling.cost import count_flops
from medarts.reporting.page import write_report
from medarts.training.trained import load_network

RECIPE: dict[str, Any] = {
    "train": {
        "epochs": 2, "batch": 4, "lr": 0.01, "optimizer": "adamw",
        "model": {"name": "unetpp", "width": 4, "depth": 3},
    },
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}  # fmt: skip
GENERATOR = np.random.default_rng(0)
BLOBS = torch.nn.functional.interpolate(torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 16)
IMAGES = (BLOBS[:, 0].numpy() * 200 + GENERATOR.random((24, 16, 16)) * 55).astype(np.uint8)
MASKS = BLOBS[:, 0].numpy() > 0.6


@pytest.fixture(scope="module")
def store() -> ImageStore:
    return medarts.from_arrays(IMAGES, MASKS)


@pytest.fixture(scope="module")
def run(store: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return medarts.train(None, RECIPE, data=store, out=tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def scores(run: RunDirectory, store: ImageStore) -> Scores:
    """With all that can be asked for."""
    return medarts.evaluate(run, data=store, heads=True, flip=True)


def means(scores: Scores, metric: str = "dice") -> pd.Series:
    """Returns the values by head, passes and decision."""
    assert scores.decisions is not None
    rows = scores.decisions[(scores.decisions["metric"] == metric) & (scores.decisions["dataset"] == "all")]
    return rows.set_index(["head", "passes", "decision"])["value"]


def mean_dice(masks: np.ndarray, store: ImageStore) -> float:
    """Returns the mean Dice of predicted masks of the test images."""
    true = store.targets[store.indices(store.manifest.part("test"))] == 1
    both = 2 * (masks & true).sum((1, 2)) / (masks.sum((1, 2)) + true.sum((1, 2)))
    return float(both.mean())


def predicted(run: RunDirectory, store: ImageStore) -> tuple[Network, Tensor]:
    images = store.images[store.indices(store.manifest.part("test"))]
    return load_network(run).eval(), torch.from_numpy(images).float()


def test_the_first_way_is_that_of_the_scores(scores: Scores) -> None:
    assert scores.decisions is not None
    assert scores.summary is not None
    assert tuple(scores.decisions) == COLUMNS
    first = scores.decisions[(scores.decisions["decision"] == "threshold") & (scores.decisions["head"] == "2")]
    first = first[first["passes"] == 1]
    of_scores = scores.summary[scores.summary["metric"].isin(["dice", "jaccard"])]
    np.testing.assert_array_equal(first[["value", "low", "high"]], of_scores[["value", "low", "high"]])
    assert first["gain"].isna().all()


def test_each_decision_is_that_of_the_calibrated_probabilities(
    scores: Scores, run: RunDirectory, store: ImageStore
) -> None:
    network, images = predicted(run, store)
    info = info_of(run, network, domain=None, head="2").model_copy(update={"calibration": kept_calibration(run)})
    with torch.no_grad():
        probabilities = torch.sigmoid(network(images)).numpy()
    for rule in ("validation", "dice"):
        masks = np.stack([decide(each, info, rule) for each in probabilities]) == 1
        assert means(scores)["2", 1, rule] == pytest.approx(mean_dice(masks, store), abs=1e-6)


def test_heads_and_their_average_are_scored(scores: Scores, run: RunDirectory, store: ImageStore) -> None:
    network, images = predicted(run, store)
    with torch.no_grad():
        early, last = network(images, all_heads=True)
    for head, logits in (("1", early), ("average", (early + last) / 2)):
        assert means(scores)[head, 1, "threshold"] == pytest.approx(mean_dice(logits[:, 0].numpy() >= 0, store))


def test_operations_are_those_of_each_head(scores: Scores, run: RunDirectory) -> None:
    assert scores.decisions is not None
    flops = scores.decisions.groupby(["head", "passes"])["flops"].first()
    network = load_network(run).eval()
    assert flops["2", 1] == count_flops(network, in_channels=1, size=16)
    assert flops["1", 1] == count_flops(lambda x: network(x, "1"), in_channels=1, size=16) < flops["2", 1]
    assert flops["average", 1] > flops["2", 1]
    assert flops["2", 4] == 4 * flops["2", 1]


def test_mirrored_images_are_averaged(scores: Scores, run: RunDirectory, store: ImageStore) -> None:
    network, images = predicted(run, store)
    with torch.no_grad():
        every = [torch.flip(torch.sigmoid(network(torch.flip(images, axes))), axes) for axes in ([], [2], [3], [2, 3])]
    masks = torch.stack(every).mean(0)[:, 0].numpy() >= 0.5
    assert means(scores)["2", 4, "threshold"] == pytest.approx(mean_dice(masks, store))


def test_the_gain_is_the_difference_to_the_scores(scores: Scores) -> None:
    assert scores.decisions is not None
    rows = scores.decisions[(scores.decisions["metric"] == "dice") & (scores.decisions["dataset"] == "all")]
    base, others = rows.iloc[0], rows.iloc[1:]
    np.testing.assert_allclose(others["gain"], others["value"] - base["value"], atol=1e-12)
    assert (others["gain_low"] <= others["gain"]).all()
    assert (others["gain"] <= others["gain_high"]).all()
    assert len(others) == 5


def test_the_table_is_read_as_it_was_written(scores: Scores, run: RunDirectory) -> None:
    read = Scores.read(run.path / "scores" / "test")
    assert read.decisions is not None
    assert scores.decisions is not None
    pd.testing.assert_frame_equal(read.decisions, scores.decisions, check_dtype=False)


def test_terminal_and_page_show_what_each_way_gains(
    scores: Scores, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show_scores(scores)
    page = write_report(run.path).read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert scores.decisions is not None
    for way in shown_ways(scores.decisions):
        assert way.name in printed
        assert f"<td>{way.name}</td>" in page
    for words in ("Dice-optimal", "average of heads", "mirrored, 4 passes", "400%"):
        assert words in printed
    assert 'href="scores/test/decisions.csv"' in page


def test_scores_are_the_same_whatever_is_scored_beside(scores: Scores, run: RunDirectory, store: ImageStore) -> None:
    plain = medarts.evaluate(run, data=store)
    pd.testing.assert_frame_equal(plain.table, scores.table)
    assert plain.summary is not None
    assert scores.summary is not None
    assert plain.decisions is not None
    pd.testing.assert_frame_equal(plain.summary, scores.summary)
    assert plain.made_of == scores.made_of
    assert list(dict.fromkeys(plain.decisions["decision"])) == ["threshold", "validation", "dice"]


def test_the_average_of_heads_can_be_what_is_scored(scores: Scores, run: RunDirectory, store: ImageStore) -> None:
    average = medarts.evaluate(run, data=store, head="average")
    assert means(average)["average", 1, "threshold"] == means(scores)["average", 1, "threshold"]
    assert (run.path / "calibration-average.json").is_file()


def test_other_images_are_scored_where_the_validation_images_are_gone(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "calibration.json").unlink()
    found = medarts.evaluate(run, data=(255 - IMAGES, MASKS))
    assert "Only the decision by threshold is scored" in capsys.readouterr().err
    assert found.decisions is not None
    assert set(found.decisions["decision"]) == {"threshold"}
    assert shown_ways(found.decisions) == []


def test_findings_have_neither_heads_nor_masks_to_mirror(tmp_path: Path, small_densenet: None) -> None:
    labels = (np.arange(24)[:, None] % np.array([2, 3]) == 0).astype(np.uint8)
    data = medarts.from_arrays(np.repeat(np.repeat(IMAGES, 2, 1), 2, 2), labels)
    run = medarts.train("chexnet", {**RECIPE, "train": {"epochs": 1, "batch": 4}}, data=data, out=tmp_path / "run")
    with pytest.raises(RunError, match="for masks alone"):
        medarts.evaluate(run, data=data, flip=True)


def test_the_average_of_heads_is_that_of_the_model() -> None:
    """Windows are blended after their heads are averaged, so that only the model knows it."""

    def model(images: Tensor, head: str = "", *, all_heads: bool = False) -> Any:
        heads = {"0": images - 1, "1": images + 1, AVERAGE: images * 3}
        return [heads["0"], heads["1"]] if all_heads else heads[head]

    ways = OtherWays(cast(Any, model), masks_info(head="1"), flops={"0": 1, "1": 1, AVERAGE: 1}, flip=False)
    images = torch.full((1, 1, 2, 2), 0.5)
    batch = Batch(images, torch.zeros(1, 2, 2, dtype=torch.uint8), np.array([0]), np.zeros((1, 1), np.uint8))
    found = ways.probabilities(batch, images + 1)
    torch.testing.assert_close(found[AVERAGE, 1], torch.sigmoid(images * 3))
    torch.testing.assert_close(found["0", 1], torch.sigmoid(images - 1))
