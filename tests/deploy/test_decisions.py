"""From probabilities to masks: the rules, and the Dice-optimal one against all masks of tiny images."""

from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medarts.deploy.decisions import RULES, Rule, calibrated, decide, dice_optimal, integrated_dice
from medarts.deploy.info import Calibration, ModelInfo, Provenance
from medarts.errors import DataError, MedartsError

Floats = NDArray[np.floating[Any]]

PROVENANCE = Provenance(
    medarts="0", torch="0", created="2026-01-01", recipe="0", weights="0", architecture="unet", seed=0, images={}
)


def info_of(
    *outputs: str, thresholds: dict[str, float | None] | None = None, temperature: float = 1.0, **others: Any
) -> ModelInfo:
    calibration = None
    if thresholds is not None:
        calibration = Calibration(temperature=temperature, thresholds={"validation": thresholds})
    given = {"task": "segmentation", "in_channels": 1, "size": 8, "head": "last", **others}
    return ModelInfo(name="net", outputs=outputs, calibration=calibration, provenance=PROVENANCE, **given)


ONE = info_of("foreground", thresholds={"foreground": 0.3}, threshold=0.6)
THREE = info_of("class 0", "class 1", "class 2", thresholds={"class 1": 0.2, "class 2": 0.3})


def expected_dice(mask: NDArray[np.bool_], p: Floats) -> float:
    """Returns the expected Dice of a mask over all truths, by enumeration; 1 where both are empty."""
    total = 0.0
    for truth in product((False, True), repeat=p.size):
        true = np.array(truth)
        chance = float(np.where(true, p, 1 - p).prod())
        both = int(mask.sum() + true.sum())
        total += chance * (1.0 if both == 0 else 2 * int((mask & true).sum()) / both)
    return total


def expected_dice_of_top(p: Floats, count: int) -> float:
    """Returns the expected Dice of the most probable pixels, by the distribution of the others' number."""
    ordered = np.sort(p.astype(np.float64).ravel())[::-1]
    total = 0.0
    for pixel in range(count):
        others = np.array([1.0])
        for each in np.delete(ordered, pixel):
            others = np.convolve(others, [1 - each, each])
        total += ordered[pixel] * float((2 / (count + 1 + np.arange(len(others))) * others).sum())
    return total


@pytest.mark.parametrize("seed", range(12))
def test_the_dice_optimal_mask_is_the_best_of_all_masks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p = generator.random(7) ** generator.choice([0.3, 1, 3, 8])
    best = max(expected_dice(np.array(mask), p) for mask in product((False, True), repeat=7))
    assert expected_dice(dice_optimal(p), p) == pytest.approx(best, abs=1e-9)


def test_the_integral_is_the_expected_dice_of_independent_pixels() -> None:
    p = np.random.default_rng(0).random(9)
    integrated = integrated_dice(p, np.sort(p)[::-1])
    top = [expected_dice(p >= np.sort(p)[-count], p) for count in range(1, 10)]
    np.testing.assert_allclose(integrated, top, atol=1e-12)


def test_the_integral_holds_with_many_improbable_pixels() -> None:
    p = np.random.default_rng(0).random(400) ** 12
    integrated = integrated_dice(p, np.sort(p)[::-1][:30])
    for count in (1, 5, 30):
        assert integrated[count - 1] == pytest.approx(expected_dice_of_top(p, count), abs=1e-8)


@pytest.mark.parametrize("power", [0.5, 1, 4])
def test_the_ratio_of_expectations_loses_next_to_nothing(power: float) -> None:
    p = np.random.default_rng(1).random(120) ** power
    assert p.sum() > 16
    chosen = int(dice_optimal(p).sum())
    near = range(max(1, chosen - 6), min(len(p), chosen + 6) + 1)
    assert expected_dice_of_top(p, chosen) > max(expected_dice_of_top(p, count) for count in near) - 5e-4


@pytest.mark.parametrize("shape", [(3, 3), (64, 64)])
def test_certain_images_are_decided_as_they_are(shape: tuple[int, int]) -> None:
    assert not dice_optimal(np.zeros(shape, np.float32)).any()
    assert dice_optimal(np.ones(shape, np.float32)).all()


def test_an_image_that_probably_shows_nothing_gets_the_empty_mask() -> None:
    p = np.full((32, 32), 1e-5, np.float32)
    p[4, 4] = 0.45
    assert not dice_optimal(p).any()
    p[4, 4] = 0.6
    assert dice_optimal(p).sum() == 1


@pytest.mark.parametrize("level", [0.004, 0.2])
def test_pixels_of_equal_probability_are_decided_alike(level: float) -> None:
    p = np.full((40, 40), level, np.float32)
    p[:2, :2] = 0.9
    assert dice_optimal(p).sum() in (4, 1600)


def test_a_more_probable_pixel_is_never_left_out_for_a_less_probable_one() -> None:
    p = np.random.default_rng(2).random((50, 50)).astype(np.float32)
    mask = dice_optimal(p)
    assert 0 < mask.sum() < mask.size
    assert p[mask].min() > p[~mask].max()


def test_the_dice_optimal_threshold_is_half_of_the_dice_that_is_reached() -> None:
    p = np.random.default_rng(3).random((200, 200)).astype(np.float32)
    mask = dice_optimal(p)
    reached = 2 * p[mask].sum() / (mask.sum() + p.sum())
    assert p[mask].min() == pytest.approx(reached / 2, abs=1e-3)


def test_an_unsure_network_gets_a_larger_mask_than_at_one_half() -> None:
    row = np.linspace(0, 0.9, 64, dtype=np.float32)
    p = np.tile(row, (64, 1))
    assert dice_optimal(p).sum() > (p >= 0.5).sum()
    assert decide(p, info_of("foreground", thresholds={"foreground": 0.5}), "dice").sum() == dice_optimal(p).sum()


def test_temperature_divides_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 4, 4)) * 3
    softmax = np.exp(logits) / np.exp(logits).sum(0)
    cooled = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(0)
    np.testing.assert_allclose(calibrated(softmax.astype(np.float32), 2.5), cooled, rtol=1e-5)
    one = 1 / (1 + np.exp(-logits[:1]))
    np.testing.assert_allclose(calibrated(one.astype(np.float32), 0.5), 1 / (1 + np.exp(-logits[:1] * 2)), rtol=1e-4)
    ends = np.array([[[0.0, 1.0]]], np.float32)
    np.testing.assert_array_equal(calibrated(ends, 3.0), ends)


def test_temperature_changes_the_dice_optimal_mask() -> None:
    p = np.tile(np.linspace(0.01, 0.99, 64, dtype=np.float32), (64, 1))
    masks = [
        decide(p, info_of("foreground", thresholds={"foreground": 0.5}, temperature=t), "dice").sum() for t in (1, 4)
    ]
    assert masks[0] < masks[1]


def test_thresholds_are_reached_by_equal_probabilities() -> None:
    p = np.array([[0.29, 0.3, 0.59, 0.6]], np.float32)
    assert decide(p, ONE, "threshold").tolist() == [[0, 0, 0, 1]]
    assert decide(p[None], ONE, "validation").tolist() == [[0, 1, 1, 1]]


def test_exclusive_classes_have_thresholds_of_their_own() -> None:
    p = np.array([[0.7, 0.5, 0.45, 0.95], [0.1, 0.24, 0.25, 0.05], [0.2, 0.26, 0.3, 0]], np.float32)[:, None]
    assert decide(p, THREE, "threshold").tolist() == [[0, 0, 0, 0]]
    assert decide(p, THREE, "validation").tolist() == [[0, 1, 2, 0]]


def test_a_class_that_no_validation_image_shows_is_called_where_it_is_the_most_probable() -> None:
    info = info_of("class 0", "class 1", "class 2", thresholds={"class 1": 0.9, "class 2": None})
    p = np.array([[0.2, 0.2, 0.4], [0.5, 0.2, 0.3], [0.3, 0.6, 0.3]], np.float32)[:, None]
    assert decide(p, info, "validation").tolist() == [[0, 2, 0]]


def test_of_classes_with_dice_optimal_masks_the_most_probable_wins() -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet((1, 1, 1), (30, 30)).transpose(2, 0, 1).astype(np.float32)
    masks = np.stack([dice_optimal(each) for each in p[1:]])
    found = decide(p, THREE, "dice")
    np.testing.assert_array_equal(found > 0, masks.any(0))
    both = masks.all(0)
    assert both.any()
    np.testing.assert_array_equal(found[both], p[1:, both].argmax(0) + 1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("info", [ONE, THREE], ids=["one", "three"])
def test_masks_are_class_indices_of_the_size_of_the_image(info: ModelInfo, rule: Rule) -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), (5, 7)).transpose(2, 0, 1)[: len(info.outputs)]
    found = decide(p.astype(np.float32), info, rule)
    assert (found.shape, found.dtype) == ((5, 7), np.uint8)
    assert found.max() < max(2, len(info.outputs))


@pytest.mark.parametrize("rule", ["validation", "dice"])
def test_a_network_without_calibration_is_refused(rule: Rule) -> None:
    p = np.full((4, 4), 0.7, np.float32)
    with pytest.raises(MedartsError, match=r"net has no calibration .* Use the decision threshold"):
        decide(p, info_of("foreground"), rule)
    assert decide(p, info_of("foreground"), "threshold").all()


def test_a_single_class_that_no_validation_image_shows_has_no_threshold() -> None:
    info = info_of("foreground", thresholds={"foreground": None})
    with pytest.raises(MedartsError, match="no calibration"):
        decide(np.ones((4, 4), np.float32), info, "validation")


def test_rules_and_probabilities_are_checked() -> None:
    p = np.zeros((4, 4), np.float32)
    with pytest.raises(MedartsError, match=r"no decision 'dise'\. Did you mean 'dice'"):
        decide(p, ONE, "dise")
    with pytest.raises(DataError, match="has 3 outputs"):
        decide(p, THREE, "threshold")
    with pytest.raises(MedartsError, match="finds no masks"):
        decide(p, info_of("nodule", task="classification"), "dice")


def test_a_large_image_is_decided_at_once() -> None:
    logits = np.random.default_rng(0).normal(-1, 3, (1024, 1024)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits))
    info = info_of("foreground", thresholds={"foreground": 0.5}, temperature=1.3)
    seconds = []
    for _ in range(3):
        start = perf_counter()
        decide(p, info, "dice")
        seconds.append(perf_counter() - start)
    assert min(seconds) < 1.0  # 0.1 s on an idle core
