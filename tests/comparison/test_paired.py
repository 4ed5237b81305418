"""Paired tests against enumeration, published values, scipy and simulation; the Pareto front."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medarts.comparison.front import pareto_front
from medarts.comparison.paired import FLIPS, Measured, bootstrap_p, differences, flip_p_values, holm


def measured(mean: float, drawn: list[float]) -> Measured:
    return Measured(mean=mean, by_seed=(mean,), drawn=np.array(drawn), undefined=0)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.02, 0.6]) == pytest.approx([1.0, 0.06, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_flips_by_hand():
    # Of the 8 flips of 1, 2 and 4, only both of one sign reach 7; 5 = 4 + 2 - 1 is reached by 4 of them.
    shares = np.array([[1.0, -1.0, 0.0], [2.0, 2.0, 0.0], [4.0, 4.0, 0.0]])
    assert flip_p_values(shares, seed=0) == pytest.approx([2 / 8, 4 / 8, 1.0])


def test_flips_equal_slow_enumeration():
    shares = np.random.default_rng(0).normal(0.1, 0.3, (7, 3)).round(1)
    for column, p in zip(shares.T, flip_p_values(shares, seed=0), strict=True):
        sums = [
            abs(sum(s * c for s, c in zip(signs, column, strict=True)))
            for signs in itertools.product((-1, 1), repeat=7)
        ]
        assert p == np.mean([total >= abs(column.sum()) - 1e-9 for total in sums])


@pytest.mark.parametrize(("patients", "tolerance"), [(12, 1e-12), (14, 0.02)])
def test_flips_agree_with_scipy(patients, tolerance):
    generator = np.random.default_rng(patients)
    one, two = generator.normal(0.75, 0.1, (2, patients))
    two += 0.04
    theirs = stats.permutation_test(
        (one, two),
        lambda x, y, axis: np.mean(x - y, axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    ours = flip_p_values((one - two)[:, None] / patients, seed=0)
    assert ours[0] == pytest.approx(theirs.pvalue, abs=tolerance)


def test_random_flips_never_give_zero_and_are_repeatable():
    shares = np.full((60, 1), 0.01)
    assert flip_p_values(shares, seed=0) == pytest.approx([1 / (FLIPS + 1)])
    uncertain = np.random.default_rng(3).normal(0.2, 1, (60, 1))
    assert flip_p_values(uncertain, seed=1) == flip_p_values(uncertain, seed=1) != flip_p_values(uncertain, seed=2)


@pytest.mark.parametrize("patients", [8, 20])
def test_equal_networks_are_called_different_as_often_as_promised(patients):
    """Images of a patient resemble each other; tests that take them for independent would reject far too often."""
    generator = np.random.default_rng(patients)
    trials, images = 600, 6
    values = generator.normal(0, 1, (patients, 1, trials)) + generator.normal(0, 0.3, (patients, images, trials))
    by_patient = flip_p_values(values.mean(1) / patients, seed=0)
    assert 0.03 < np.mean(by_patient <= 0.05) < 0.07
    by_image = flip_p_values(values.reshape(patients * images, trials), seed=0)
    assert np.mean(by_image <= 0.05) > 0.3


def test_a_real_difference_is_found():
    shares = np.random.default_rng(0).normal(0.8, 1, (40, 100)) / 40
    assert np.mean(flip_p_values(shares, seed=0) <= 0.05) > 0.95


def test_bootstrap_p():
    assert bootstrap_p(np.arange(1, 100.0)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.array([-1.0, 1, 2, 3, np.nan])) == pytest.approx(2 * 2 / 5)
    assert bootstrap_p(np.zeros(50)) == 1
    assert bootstrap_p(-np.arange(1, 100.0)) == bootstrap_p(np.arange(1, 100.0))
    assert bootstrap_p(np.full(3, np.nan)) is None


def test_bootstrap_p_is_that_of_a_normal_mean():
    generator = np.random.default_rng(1)
    values = generator.normal(0.2, 1, 100)
    means = generator.choice(values, (20_000, 100)).mean(1)
    assert bootstrap_p(means) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.015)


def test_differences_come_from_the_same_draws():
    spread = [0.1, 0.5, 0.9] * 20
    scores = {
        "a": measured(0.5, spread),
        "b": measured(0.6, [value + 0.1 for value in spread]),
        "c": measured(0.4, [math.nan] * 60),
    }
    found = differences(scores, {"b": 0.02, "c": None}, reference="a")
    assert list(found) == ["b", "c"]
    assert (found["b"].mean, found["b"].low, found["b"].high) == pytest.approx((0.1, 0.1, 0.1))
    assert (found["b"].p, found["b"].p_corrected) == (0.02, 0.02)  # c was not tested
    assert (found["c"].low, found["c"].high, found["c"].p, found["c"].p_corrected) == (None,) * 4


def test_front():
    points = {"best": (0.9, 30.0), "fast": (0.7, 5.0), "beaten": (0.7, 6.0), "worse": (0.69, 5.0), "twin": (0.9, 30.0)}
    assert pareto_front(points) == {"best", "fast", "twin"}
    assert pareto_front({"none": (math.nan, 1.0), "some": (0.1, 2.0)}) == {"some"}
