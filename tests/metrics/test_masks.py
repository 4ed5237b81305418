import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from medarts.data.reading import MaskState
from medarts.metrics import Confusion, MaskPair, definitions
from medarts.metrics.masks import (
    dice_per_image,
    foreground_masks,
    mask_scores,
    predicted_classes,
    shown_classes,
)

OVERLAP = ("dice", "jaccard", "precision", "recall", "specificity", "f1", "accuracy")
PERFECT = dict.fromkeys((*OVERLAP, "nsd"), 1.0) | {"hd95": 0.0, "assd": 0.0}
OF_SHOWN = dict.fromkeys(("false_positive", "false_area"), math.nan)
"""Of what is there nothing can be found falsely."""
masks = hnp.arrays(bool, (9, 7))


def blob(*, centre, radius, size=(40, 50)):
    rows, columns = np.indices(size)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def pair(seed):
    """Two ragged overlapping masks, some of which touch the border."""
    generator = np.random.default_rng(seed)
    disc = blob(centre=generator.integers(0, 40, 2), radius=generator.integers(4, 20))
    other = blob(centre=generator.integers(0, 40, 2), radius=generator.integers(4, 20))
    return disc ^ (generator.random(disc.shape) < 0.02), other ^ (generator.random(disc.shape) < 0.02)


def test_overlap_of_a_hand_computed_case():
    predicted = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    true = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    scores = mask_scores(predicted, true)  # TP 2, FP 1, FN 1, TN 4
    expected = {
        "dice": 4 / 6,
        "jaccard": 2 / 4,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "specificity": 4 / 5,
        "f1": 2 / 3,
        "accuracy": 6 / 8,
        "hd95": 0.9,  # both ways 0, 0 and 1, of which 0.9 is the interpolated 95th percentile
        "assd": 2 / 6,
        "nsd": 1.0,
    }
    assert scores == pytest.approx(expected | OF_SHOWN, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_equals_monai(seed):
    from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix

    predicted, true = pair(seed)
    scores = mask_scores(predicted, true)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    assert scores["dice"] == pytest.approx(compute_dice(*tensors).item(), abs=1e-6)
    assert scores["jaccard"] == pytest.approx(compute_iou(*tensors).item(), abs=1e-6)
    matrix = get_confusion_matrix(*tensors)
    for ours in ("precision", "recall", "specificity", "accuracy"):
        theirs = compute_confusion_matrix_metric(ours, matrix).item()
        assert scores[ours] == pytest.approx(theirs, abs=1e-6), ours
    assert scores["f1"] == pytest.approx(compute_confusion_matrix_metric("f1 score", matrix).item(), abs=1e-6)


@pytest.mark.parametrize("spacing", [None, (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_monai(seed, spacing):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    predicted, true = pair(seed)
    scores = mask_scores(predicted, true, spacing=spacing)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    options = {"include_background": True, "spacing": spacing}
    hausdorff = compute_hausdorff_distance(*tensors, percentile=95, **options).item()
    average = compute_average_surface_distance(*tensors, symmetric=True, **options).item()
    assert scores["hd95"] == pytest.approx(hausdorff, rel=1e-5)
    assert scores["assd"] == pytest.approx(average, rel=1e-5)


def test_distances_of_shifted_squares_are_known_and_scale_with_the_spacing():
    predicted, true = np.zeros((2, 20, 20), dtype=bool)
    predicted[2, 3], true[2, 13] = True, True
    assert mask_scores(predicted, true)["hd95"] == 10
    assert mask_scores(predicted, true)["assd"] == 10
    assert mask_scores(predicted, true, spacing=(3.0, 0.5))["hd95"] == 5
    assert mask_scores(predicted.T, true.T, spacing=(3.0, 0.5))["assd"] == 30
    there, back = MaskPair(np.ones((4, 5), dtype=bool), np.ones((4, 5), dtype=bool)).surface_distances
    assert len(there) == len(back) == 14  # the image's rim is boundary


def test_empty_masks_count_as_documented():
    empty, some = np.zeros((4, 4), dtype=bool), np.eye(4, dtype=bool)
    both = mask_scores(empty, empty)
    assert both == PERFECT | {"false_positive": 0.0, "false_area": 0.0}
    for scores in (mask_scores(empty, some), mask_scores(some, empty)):
        assert all(scores[name] == 0 for name in ("dice", "jaccard", "precision", "recall", "f1", "nsd"))
        assert math.isnan(scores["hd95"])
        assert math.isnan(scores["assd"])
    full = np.ones((4, 4), dtype=bool)
    assert mask_scores(full, full) == pytest.approx(PERFECT | OF_SHOWN, nan_ok=True)
    assert mask_scores(some, full)["specificity"] == 0  # no negative pixel, and the masks differ


@settings(max_examples=60, deadline=None)
@given(predicted=masks, true=masks)
def test_ranges_symmetries_and_identities(predicted, true):
    scores, reverse = mask_scores(predicted, true), mask_scores(true, predicted)
    assert set(scores) == set(definitions("segmentation"))
    assert all(0 <= scores[name] <= 1 for name in OVERLAP)
    for name in ("dice", "jaccard", "f1", "accuracy", "hd95", "assd", "nsd"):
        assert scores[name] == pytest.approx(reverse[name], nan_ok=True), name
    assert scores["precision"] == reverse["recall"]
    assert scores["dice"] == pytest.approx(scores["f1"])
    assert scores["jaccard"] == pytest.approx(scores["dice"] / (2 - scores["dice"]))
    if predicted.any() and true.any():
        assert 0 <= scores["hd95"] <= math.hypot(8, 6)
        assert (scores["assd"] == 0) == (predicted == true).all()


@settings(max_examples=20, deadline=None)
@given(mask=masks)
def test_a_mask_against_itself_is_perfect(mask):
    false = OF_SHOWN if mask.any() else dict.fromkeys(OF_SHOWN, 0.0)
    assert mask_scores(mask, mask) == pytest.approx(PERFECT | false, nan_ok=True)


def test_flipped_and_read_only_views_are_taken_without_a_warning():
    predicted, true = pair(0)
    flipped, view = predicted[::-1, ::-1], true[::-1, ::-1].copy()
    view.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mask_scores(flipped, view) == pytest.approx(mask_scores(predicted, true), nan_ok=True)


def test_masks_of_another_size_or_type_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        mask_scores(np.zeros((3, 4), dtype=bool), np.zeros((4, 3), dtype=bool))
    with pytest.raises(ValueError, match="uint8"):
        mask_scores(np.zeros((3, 4), dtype=bool), np.zeros((3, 4), dtype=np.uint8))


def test_counts_of_a_batch_are_those_of_its_masks():
    first, second = torch.rand(2, 3, 2, 5, 6) > 0.5
    counts = Confusion.of(first, second)
    assert counts.tp.shape == (3, 2)
    assert counts.fp[2, 1] == (first[2, 1] & ~second[2, 1]).sum()
    assert counts.fn[2, 1] == (~first[2, 1] & second[2, 1]).sum()
    assert (counts.tp + counts.fp + counts.fn + counts.tn == 30).all()


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_validation_dice_is_the_dice_of_the_full_scores(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(3, classes, 12, 10, generator=generator)
    targets = torch.randint(0, max(classes, 2), (3, 12, 10), generator=generator, dtype=torch.uint8)
    targets[0] = 0
    logits[0, 0] = 100 if classes > 1 else -100
    truths = np.ones((3, max(classes - 1, 1)), np.uint8)
    dice = dice_per_image(logits, targets, truths, classes=classes, threshold=0.4)
    indices = predicted_classes(logits, classes=classes, threshold=0.4).numpy()
    for image in range(3):
        for index in range(1, max(classes, 2)):
            scores = mask_scores(indices[image] == index, targets[image].numpy() == index)
            assert dice[image, index - 1].item() == scores["dice"]
    assert dice.shape == (3, max(classes - 1, 1))
    assert (dice[0] == 1).all()
    truths[0] = MaskState.VANISHED  # the file shows what the mask of this size does not
    lost = dice_per_image(logits, targets, truths, classes=classes, threshold=0.4)
    assert (lost[0] == 0).all()
    assert (lost[1:] == dice[1:]).all()


@pytest.mark.parametrize("predicted", [np.zeros((4, 4), bool), np.eye(4, dtype=bool)])
def test_what_vanished_cannot_be_found(predicted):
    true = np.zeros((4, 4), bool)
    scores, empty = mask_scores(predicted, true, vanished=True), mask_scores(predicted, true)
    assert {scores[name] for name in ("dice", "jaccard", "precision", "recall", "f1")} == {0}
    assert math.isnan(scores["hd95"])
    assert math.isnan(scores["assd"])
    assert scores["specificity"] == empty["specificity"]
    assert scores["accuracy"] == empty["accuracy"]


def test_classes_are_shown_in_each_domain_by_itself():
    truths = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 0]], np.uint8)
    shown = shown_classes(truths, ["a", "a", "b"])
    assert shown.tolist() == [[False, True, False], [False, True, False], [True, False, False]]


def test_threshold_is_the_least_probability_of_foreground():
    logits = torch.tensor([0.2, 0.5, 0.9]).logit().view(1, 1, 1, 3)
    assert predicted_classes(logits, classes=1, threshold=0.5).tolist() == [[[0, 1, 1]]]
    assert predicted_classes(logits, classes=1, threshold=0.6).tolist() == [[[0, 0, 1]]]
    assert predicted_classes(logits.bfloat16(), classes=1).dtype == torch.uint8


def test_foreground_masks_leave_out_the_background():
    indices = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    assert foreground_masks(indices, classes=3).tolist() == [
        [[[False, True], [False, True]], [[False, False], [True, False]]]
    ]
    assert foreground_masks(indices, classes=1).tolist() == [[[[False, True], [True, True]]]]
