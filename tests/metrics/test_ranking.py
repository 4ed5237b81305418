import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.metrics import ranking
from medarts.metrics.ranking import (
    DEFINITIONS,
    Curve,
    auroc,
    average_precision,
    operating_point,
    precision_recall_curve,
    roc_curve,
    threshold_for_sensitivity,
    threshold_youden,
    weighted_ranking,
)


def cases(*, least=2, most=40, levels=8):
    """Scores of few levels, so that there are ties, with labels of both classes."""
    rows = st.lists(st.tuples(st.integers(0, levels), st.integers(0, 1)), min_size=least, max_size=most)
    both = rows.filter(lambda found: len({label for _, label in found}) == 2)
    return both.map(lambda found: (np.array([s for s, _ in found]) / levels, np.array([y for _, y in found])))


def slow_auroc(scores, labels):
    pairs = [(p, n) for p in scores[labels == 1] for n in scores[labels == 0]]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def slow_average_precision(scores, labels):
    total, last = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        recall = labels[called].sum() / labels.sum()
        total += (recall - last) * labels[called].mean()
        last = recall
    return total


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equal_the_definitions_written_out(case):
    assert auroc(*case) == pytest.approx(slow_auroc(*case), abs=1e-12)
    assert average_precision(*case) == pytest.approx(slow_average_precision(*case), abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_equal_monai(tied):
    from monai.metrics import compute_average_precision, compute_roc_auc

    generator = np.random.default_rng(0)
    labels = (generator.random(500) < 0.1).astype(int)
    scores = generator.normal(size=500) + labels
    scores = np.round(scores, 1) if tied else scores
    tensors = torch.from_numpy(scores), torch.from_numpy(labels)
    assert auroc(scores, labels) == pytest.approx(compute_roc_auc(*tensors), abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(compute_average_precision(*tensors), abs=1e-6)


def test_known_values():
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == average_precision([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auroc([4, 3, 2, 1], [0, 0, 1, 1]) == 0
    # Equal scores say nothing: half, and the prevalence.
    assert auroc([1, 1, 1, 1], [0, 0, 0, 1]) == 0.5
    assert average_precision([1, 1, 1, 1], [0, 0, 0, 1]) == 0.25
    assert average_precision([0.8, 0.4, 0.35, 0.1], [1, 0, 1, 0]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert auroc([-math.inf, math.inf, math.inf], [0, 0, 1]) == 0.75


@pytest.mark.parametrize(
    ("scores", "labels"), [([1, 2], [0, 0]), ([1, 2], [1, 1]), ([], []), ([0.5], [1]), ([1, math.nan], [0, 1])]
)
def test_one_class_or_nan_is_undefined_and_not_a_number(scores, labels):
    for found in (auroc(scores, labels), average_precision(scores, labels)):
        assert math.isnan(found)
    drawn = weighted_ranking(scores, labels, np.ones((3, len(scores)), dtype=np.uint8))
    assert np.isnan(drawn).all()
    assert drawn.auroc.shape == (3,)


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 1000))
def test_rank_scores_do_not_change_under_monotone_maps_or_the_order_of_images(case, seed):
    scores, labels = case
    order = np.random.default_rng(seed).permutation(len(scores))
    for score in (auroc, average_precision):
        assert score(np.exp(3 * scores)[order], labels[order]) == pytest.approx(score(scores, labels), abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(case=cases(most=25), seed=st.integers(0, 10_000), dtype=st.sampled_from([np.uint8, np.uint16, np.int64]))
def test_weights_are_repetitions(case, seed, dtype):
    scores, labels = case
    weights = np.random.default_rng(seed).integers(0, 4, (6, len(scores))).astype(dtype)
    found = weighted_ranking(scores, labels, weights)
    for draw, area, precision in zip(weights, *found, strict=True):
        repeated = np.repeat(scores, draw), np.repeat(labels, draw)
        if len(set(repeated[1].tolist())) < 2:
            assert math.isnan(area)
            assert math.isnan(precision)
        else:
            assert area == pytest.approx(slow_auroc(*repeated), abs=1e-12)
            assert precision == pytest.approx(slow_average_precision(*repeated), abs=1e-12)


def test_chunks_change_nothing_and_counts_do_not_overflow(monkeypatch):
    generator = np.random.default_rng(1)
    labels = (generator.random(300) < 0.3).astype(np.uint8)
    scores = generator.normal(size=300).round(1)
    weights = generator.integers(200, 255, (7, 300)).astype(np.uint8)
    whole = weighted_ranking(scores, labels, weights)
    wide = weighted_ranking(scores, labels, weights.astype(np.int64))
    monkeypatch.setattr(ranking, "_CHUNK", 700)
    np.testing.assert_array_equal(whole, weighted_ranking(scores, labels, weights))
    np.testing.assert_array_equal(whole, wide)


def test_many_draws_need_little_memory():
    """Without chunks, the sums of 600 draws alone would be 105 MB."""
    generator = np.random.default_rng(2)
    labels = (generator.random(22_000) < 0.1).astype(np.uint8)
    scores, weights = generator.normal(size=22_000), generator.integers(0, 3, (600, 22_000), dtype=np.uint16)
    tracemalloc.start()
    weighted_ranking(scores, labels, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@settings(max_examples=60, deadline=None)
@given(cases())
def test_areas_under_the_curves_are_the_scores(case):
    roc, pr = roc_curve(*case), precision_recall_curve(*case)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(auroc(*case), abs=1e-12)
    steps = np.diff(np.concatenate([[0], pr.x]))
    assert (steps * pr.y).sum() == pytest.approx(average_precision(*case), abs=1e-12)
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1], roc.thresholds[0]) == (0, 0, 1, 1, math.inf)
    for curve in (roc, pr):
        assert (np.diff(curve.thresholds) < 0).all()
        assert set(curve.thresholds[np.isfinite(curve.thresholds)]) == set(case[0])


@settings(max_examples=40, deadline=None)
@given(cases())
def test_points_of_the_curves_are_operating_points(case):
    for x, y, threshold in zip(*roc_curve(*case), strict=True):
        point = operating_point(*case, threshold=threshold)
        assert (x, y) == pytest.approx((1 - point.specificity, point.sensitivity))
    for x, y, threshold in zip(*precision_recall_curve(*case), strict=True):
        point = operating_point(*case, threshold=threshold)
        assert (x, y) == pytest.approx((point.sensitivity, point.ppv))


def test_curves_of_an_absent_class_are_nan_where_undefined():
    roc, pr = roc_curve([1, 2], [0, 0]), precision_recall_curve([1, 2], [0, 0])
    assert np.isnan(roc.y).all()
    np.testing.assert_array_equal(roc.x, [0, 0.5, 1])
    assert np.isnan(pr.x).all()
    assert len(precision_recall_curve([], []).x) == 0
    with pytest.raises(ValueError, match="nan"):
        roc_curve([1, math.nan], [0, 1])


@settings(max_examples=80, deadline=None)
@given(cases())
def test_youden_is_the_largest_of_the_best_thresholds(case):
    points = {t: operating_point(*case, threshold=t) for t in sorted(set(case[0].tolist()))}
    gains = {t: round(point.sensitivity + point.specificity, 9) for t, point in points.items()}
    assert threshold_youden(*case) == max(t for t, gain in gains.items() if gain == max(gains.values()))


@settings(max_examples=80, deadline=None)
@given(case=cases(), sensitivity=st.sampled_from([0.05, 0.1, 0.5, 0.7, 0.9, 0.95, 1.0]))
def test_the_threshold_is_the_largest_that_reaches_the_sensitivity(case, sensitivity):
    found = threshold_for_sensitivity(*case, sensitivity=sensitivity)
    reached = [t for t in set(case[0].tolist()) if operating_point(*case, threshold=t).sensitivity >= sensitivity]
    assert found == max(reached)


def test_a_sensitivity_is_reached_exactly():
    scores, labels = np.arange(20), np.ones(20, dtype=int)
    assert threshold_for_sensitivity(scores, labels, 0.95) == 1
    assert threshold_for_sensitivity(scores, labels, 0.7) == 6
    for wrong in (0, 1.1):
        with pytest.raises(ValueError, match="sensitivity"):
            threshold_for_sensitivity(scores, labels, wrong)


def test_thresholds_of_an_absent_class_are_undefined():
    assert math.isnan(threshold_youden([1, 2], [0, 0]))
    assert math.isnan(threshold_youden([1, 2], [1, 1]))
    assert math.isnan(threshold_for_sensitivity([1, 2], [0, 0], 0.9))
    assert math.isnan(threshold_youden([], []))


def test_operating_point_counts():
    point = operating_point([0.1, 0.4, 0.5, 0.6, 0.9], [0, 1, 0, 1, 1], 0.5)
    assert point == (0.5, 2 / 3, 1 / 2, 2 / 3, 1 / 2)
    nothing = operating_point([0.1, 0.2], [0, 0], 0.5)
    assert nothing[2] == 1
    assert nothing[4] == 1
    assert math.isnan(nothing.sensitivity)
    assert math.isnan(nothing.ppv)
    assert all(math.isnan(value) for value in operating_point([0.1, 0.2], [0, 1], math.nan))


@pytest.mark.parametrize("points", [2, 20, 200])
def test_thinning_keeps_the_ends_and_the_shape(points):
    generator = np.random.default_rng(3)
    labels = (generator.random(5000) < 0.05).astype(int)
    scores = generator.normal(size=5000) + 1.5 * labels
    for curve in (roc_curve(scores, labels), precision_recall_curve(scores, labels)):
        thin = curve.thinned(points)
        assert len(thin.x) <= points
        for whole, kept in zip(curve, thin, strict=True):
            assert (whole[0], whole[-1]) == (kept[0], kept[-1])
        assert set(zip(*thin, strict=True)) <= set(zip(*curve, strict=True))
        length = np.abs(np.diff(curve.x)).sum() + np.abs(np.diff(curve.y)).sum()
        gaps = np.abs(curve.x[:, None] - thin.x).T + np.abs(curve.y[:, None] - thin.y).T
        assert gaps.min(0).max() <= length / (points - 1) + 1e-9
    short = Curve(*np.zeros((3, points)))
    assert short.thinned(points) is short


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 or 1"):
        auroc([1, 2], [0, 2])
    with pytest.raises(ValueError, match="shape"):
        auroc([1, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="2 images"):
        weighted_ranking([1, 2], [0, 1], np.ones((4, 3), dtype=int))


def test_every_score_is_defined_in_words():
    assert {*ranking.OperatingPoint._fields[1:]} == DEFINITIONS.keys()
