import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.metrics.calibration import (
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    probabilities_of,
    reliability,
)


def drawn(*, temperature=1.0, images=4000, seed=0):
    """Logits whose labels were drawn with the probabilities of logits / temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, (images, 3))
    labels = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits / temperature))).astype(np.uint8)
    return logits, labels


def loss(logits, labels, temperature):
    z = logits / temperature
    return np.mean(np.logaddexp(0, z) - labels * z)


def slow_ece(probabilities, labels, bins):
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (p, y) for p, y in zip(probabilities, labels, strict=True) if low < p <= high or (number == 0 and p == 0)
        ]
        if inside:
            total += abs(sum(p - y for p, y in inside)) / len(probabilities)
    return total


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), bins=st.sampled_from([1, 4, 15]))
def test_ece_equals_the_definition_written_out(seed, count, bins):
    generator = np.random.default_rng(seed)
    probabilities, labels = generator.random(count), generator.integers(0, 2, count)
    found = expected_calibration_error(probabilities, labels, bins=bins)
    assert found == pytest.approx(slow_ece(probabilities, labels, bins), abs=1e-12)
    assert 0 <= found <= 1


def test_known_errors():
    assert expected_calibration_error([1.0, 1.0, 0.0], [1, 1, 0]) == 0
    assert expected_calibration_error([1.0, 1.0, 0.0], [0, 0, 1]) == 1
    assert expected_calibration_error([0.9] * 10, [1] * 7 + [0] * 3) == pytest.approx(0.2)
    # Equal mean and frequency hide nothing across bins.
    assert expected_calibration_error([0.1, 0.9], [1, 0]) == pytest.approx(0.9)
    assert math.isnan(expected_calibration_error([], []))


def test_bins_hold_their_upper_edge_and_empty_ones_are_nan():
    found = reliability([[0.0, 0.25], [0.26, 1.0]], [[0, 1], [1, 1]], bins=4)
    np.testing.assert_array_equal(found.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.counts, [2, 1, 0, 1])
    np.testing.assert_allclose(found.mean_probability, [0.125, 0.26, np.nan, 1])
    np.testing.assert_allclose(found.observed, [0.5, 1, np.nan, 1])
    assert len(reliability([0.5], [1]).counts) == 15


@pytest.mark.parametrize(("values", "labels"), [([0.5], [0, 1]), ([1.2], [1]), ([math.nan], [0])])
def test_what_are_no_probabilities_is_refused(values, labels):
    with pytest.raises(ValueError, match="probabilities"):
        reliability(values, labels)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found_and_mends_the_calibration(true):
    logits, labels = drawn(temperature=true)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.1)
    if true != 1:
        before = expected_calibration_error(probabilities_of(logits), labels)
        after = expected_calibration_error(probabilities_of(logits, found), labels)
        assert after < before / 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), true=st.floats(0.4, 4))
def test_the_temperature_has_the_least_cross_entropy(seed, true):
    from scipy.optimize import minimize_scalar

    logits, labels = drawn(temperature=true, images=60, seed=seed)
    found = fit_temperature(logits, labels)
    result = minimize_scalar(lambda t: loss(logits, labels, np.exp(t)), bounds=np.log(TEMPERATURES), method="bounded")
    assert loss(logits, labels, found) <= result.fun + 1e-9
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]


def test_degenerate_data_have_the_stated_temperature():
    labels = np.array([[0], [1], [1]])
    parted = np.where(labels == 1, 3.0, -2.0)
    assert fit_temperature(parted, labels) == TEMPERATURES[0]
    assert fit_temperature(-parted, labels) == TEMPERATURES[1]
    assert fit_temperature(np.zeros((3, 1)), labels) == 1
    assert fit_temperature(parted, np.zeros((3, 1))) == 1
    assert fit_temperature(parted, np.ones((3, 1))) == 1
    assert fit_temperature(np.empty((0, 2)), np.empty((0, 2))) == 1


def test_logits_that_are_not_finite_or_do_not_fit_are_refused():
    for logits in ([[math.inf], [1.0]], [[math.nan], [1.0]], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="finite logits"):
            fit_temperature(logits, [[0], [1]])


def test_probabilities_of_large_logits_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(probabilities_of([-1e4, 0, 1e4], 0.1), [0, 0.5, 1])
