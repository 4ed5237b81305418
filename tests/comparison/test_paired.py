"""Paired tests against enumeration, published values, scipy and simulation; the Pareto front."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medarts.comparison.front import Place, beats, pareto_front
from medarts.comparison.paired import FLIPS, Difference, beyond_chance, flip_p, holm, least_corrected_p, least_p


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.02, 0.6]) == pytest.approx([1.0, 0.06, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_flips_by_hand():
    # Of the 8 flips of 1, 2 and 4, only both of one sign reach 7; 5 = 4 + 2 - 1 is reached by 4 of them.
    shares = np.array([[1.0, -1.0, 0.0], [2.0, 2.0, 0.0], [4.0, 4.0, 0.0]])
    assert flip_p(shares) == pytest.approx([2 / 8, 4 / 8, 1.0])
    assert flip_p(shares[:, 1]).shape == ()
    assert float(flip_p(shares[:, 1])) == 4 / 8


def test_flips_equal_slow_enumeration():
    shares = np.random.default_rng(0).normal(0.1, 0.3, (7, 3)).round(1)
    for column, p in zip(shares.T, flip_p(shares, seed=0), strict=True):
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
    ours = flip_p((one - two)[:, None] / patients, seed=0)
    assert ours[0] == pytest.approx(theirs.pvalue, abs=tolerance)


def test_random_flips_never_give_zero_and_are_repeatable():
    shares = np.full((60, 1), 0.01)
    assert flip_p(shares, seed=0) == pytest.approx([1 / (FLIPS + 1)])
    uncertain = np.random.default_rng(3).normal(0.2, 1, (60, 1))
    assert flip_p(uncertain, seed=1) == flip_p(uncertain, seed=1) != flip_p(uncertain, seed=2)


@pytest.mark.parametrize("patients", [3, 5, 8, 10, 20, 30])
def test_equal_networks_are_called_different_as_often_as_promised(patients):
    """Images of a patient resemble each other; tests that take them for independent would reject far too often."""
    generator = np.random.default_rng(patients)
    trials, images = 600, 6
    values = generator.normal(0, 1, (patients, 1, trials)) + generator.normal(0, 0.3, (patients, images, trials))
    by_patient = flip_p(values.mean(1) / patients, seed=0)
    promised = math.floor(0.05 * 2**patients / 2) / (2**patients / 2) if patients <= 12 else 0.05
    assert np.mean(by_patient <= 0.05) == pytest.approx(promised, abs=0.02)  # nothing below 6 patients
    by_image = flip_p(values.reshape(patients * images, trials), seed=0)
    assert np.mean(by_image <= 0.05) > 0.3


def test_a_real_difference_is_found():
    shares = np.random.default_rng(0).normal(0.8, 1, (40, 100)) / 40
    assert np.mean(flip_p(shares, seed=0) <= 0.05) > 0.95


def test_no_corrected_p_is_below_the_least():
    assert least_p(6) == 2 / 64
    assert least_corrected_p(6, comparisons=18) == pytest.approx(0.5625)
    alike = np.full((6, 18), 0.01)  # as far from chance as six patients can be
    assert holm([*flip_p(alike)]) == pytest.approx([0.5625] * 18)
    assert least_corrected_p(600, comparisons=18) == pytest.approx(18 / (FLIPS + 1))


def test_beyond_chance_follows_the_corrected_p():
    def difference(mean: float, p_corrected: float | None) -> Difference:
        return Difference(mean, None, None, p=0.001, p_corrected=p_corrected)

    assert [beyond_chance(difference(mean, 0.049)) for mean in (0.1, -0.1)] == [1, -1]
    assert [beyond_chance(one) for one in (difference(0.1, 0.05), difference(0.1, None), None)] == [0, 0, 0]


def test_front():
    points = {"best": (0.9, 30.0), "fast": (0.7, 5.0), "beaten": (0.7, 6.0), "worse": (0.69, 5.0), "twin": (0.9, 30.0)}
    assert pareto_front({name: Place(*point) for name, point in points.items()}) == {"best", "fast", "twin"}
    assert pareto_front({"none": Place(math.nan, 1.0), "some": Place(0.1, 2.0)}) == {"some"}


def test_latencies_within_the_larger_half_spread_are_equal():
    fast, slow = Place(0.8, 10.0, spread_ms=0.2), Place(0.8, 10.5, spread_ms=1.0)
    assert not beats(fast, slow)  # half of the larger spread is 0.5
    assert not beats(slow, fast)
    assert beats(fast, slow._replace(latency_ms=10.6))
    assert beats(slow._replace(score=0.81), fast)  # as fast, and better
    assert not beats(slow._replace(score=0.81, latency_ms=10.6), fast)
    assert pareto_front({"fast": fast, "slow": slow}) == {"fast", "slow"}


def test_somebody_is_always_on_the_front():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = zip(
            generator.integers(3, size=6) / 10, generator.uniform(1, 3, 6), generator.uniform(0, 3, 6), strict=True
        )
        assert pareto_front({str(n): Place(*map(float, value)) for n, value in enumerate(values)})
