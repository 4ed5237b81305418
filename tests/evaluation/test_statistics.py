import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.evaluation import statistics
from medarts.evaluation.statistics import bootstrap_interval, bootstrap_means, percentile_interval


def cohort(seed, *, patients=8, spread=0.2):
    """Scores whose patients differ in mean and in number of images."""
    generator = np.random.default_rng(seed)
    values, names = [], []
    for patient in range(patients):
        images = generator.integers(1, 9)
        values += list(generator.normal(generator.normal(0.7, spread), 0.02, images))
        names += [f"p{patient}"] * images
    return np.array(values), names


def test_equals_a_slow_loop_over_drawn_patients():
    values, names = cohort(0)
    values[3] = np.nan
    ids = sorted(set(names))
    images_of = {name: [v for v, n in zip(values, names, strict=True) if n == name] for name in ids}
    generator = np.random.default_rng(7)
    means = []
    for _ in range(300):
        drawn = [image for i in generator.integers(len(ids), size=len(ids)) for image in images_of[ids[i]]]
        means.append(np.nanmean(drawn))
    np.testing.assert_allclose(bootstrap_means(values, names, draws=300, seed=7), means)
    low, high = bootstrap_interval(values, names, draws=300, seed=7, level=0.9)
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [5, 95])))


def test_one_image_a_patient_agrees_with_scipy():
    from scipy import stats

    values = np.random.default_rng(1).beta(5, 2, 60)
    ours = bootstrap_interval(values, [str(i) for i in range(60)], draws=20_000, seed=0)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_patients_and_not_images_carry_the_uncertainty():
    values, names = cohort(2)
    by_patient = bootstrap_interval(values, names, draws=1000, seed=0)
    by_image = bootstrap_interval(values, [str(i) for i in range(len(values))], draws=1000, seed=0)
    assert by_patient.high - by_patient.low > 1.5 * (by_image.high - by_image.low)
    # Every image copied ten times says nothing new about the patients.
    copied = bootstrap_interval(np.repeat(values, 10), np.repeat(names, 10).tolist(), draws=1000, seed=0)
    assert copied == pytest.approx(by_patient)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), patients=st.integers(2, 12))
def test_interval_lies_among_the_values_is_ordered_and_ignores_the_order_of_images(seed, patients):
    values, names = cohort(seed, patients=patients)
    low, high = bootstrap_interval(values, names, draws=200, seed=seed)
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12
    order = np.random.default_rng(seed).permutation(len(values))
    shuffled = bootstrap_interval(values[order], [names[i] for i in order], draws=200, seed=seed)
    assert shuffled == pytest.approx((low, high))


def test_nan_values_are_left_out_with_patients_that_have_nothing_else():
    values, names = cohort(3)
    with_nan = bootstrap_interval([*values, np.nan, np.nan], [*names, "p0", "new"], draws=200, seed=0)
    assert with_nan == bootstrap_interval(values, names, draws=200, seed=0)


@pytest.mark.parametrize(
    ("values", "patients"),
    [([], []), ([0.5], ["a"]), ([0.5, 0.6, 0.7], ["a"] * 3), ([0.5, np.nan], ["a", "b"])],
)
def test_fewer_than_two_patients_have_no_interval(values, patients):
    assert all(math.isnan(end) for end in bootstrap_interval(values, patients, draws=100, seed=0))


def test_equal_seeds_give_equal_draws_and_chunks_change_nothing(monkeypatch):
    values, names = cohort(4)
    whole = bootstrap_means(values, names, draws=101, seed=5)
    np.testing.assert_array_equal(whole, bootstrap_means(values, names, draws=101, seed=5))
    assert not np.array_equal(whole, bootstrap_means(values, names, draws=101, seed=6))
    monkeypatch.setattr(statistics, "_CHUNK", 30)
    np.testing.assert_array_equal(whole, bootstrap_means(values, names, draws=101, seed=5))


def test_coverage_of_the_mean_is_near_the_level():
    hits = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        values = (generator.normal(0.7, 0.1, (40, 1)) + generator.normal(0, 0.05, (40, 4))).ravel()
        names = np.repeat(np.arange(40), 4).astype(str).tolist()
        low, high = bootstrap_interval(values, names, draws=400, seed=trial)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_percentile_interval_is_central():
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="3 patients"):
        bootstrap_interval([0.1, 0.2], ["a", "b", "c"], draws=100, seed=0)
