"""Statistics against enumeration, published values, SciPy and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from medarts.evaluation import stats
from medarts.evaluation.stats import (
    ALPHA,
    FLIPS,
    Contrast,
    Difference,
    as_repeats,
    bootstrap_means,
    bootstrap_weights,
    corrected,
    counting_sets,
    flip_interval,
    flip_p,
    holm,
    jackknife_interval,
    least_p,
    left_out_means,
    left_out_weights,
    mean_of_contrasts,
    mean_over_sets,
    percentile_interval,
    verdict,
)


def bootstrap_interval(values, patients, *, draws, seed, level=0.95):
    return percentile_interval(bootstrap_means(values, patients, draws=draws, seed=seed), level=level)


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
    values = np.random.default_rng(1).beta(5, 2, 60)
    ours = bootstrap_interval(values, [str(i) for i in range(60)], draws=20_000, seed=0)
    theirs = scipy_stats.bootstrap(
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
    monkeypatch.setattr(stats, "_CHUNK", 30)
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


def test_weights_are_those_of_the_draws():
    people = np.array([0, 0, 1, 2, 2, 2, 3])
    values = np.random.default_rng(0).random(7)
    weights = bootstrap_weights(people, draws=50, seed=4).astype(float)
    expected = bootstrap_means(values, [str(one) for one in people], draws=50, seed=4)
    np.testing.assert_allclose(weights @ values / weights.sum(1), expected)
    weights = left_out_weights(people).astype(float)
    np.testing.assert_allclose(weights @ values / weights.sum(1), left_out_means(values, [str(one) for one in people]))


def test_the_jackknife_of_one_image_a_patient_is_the_t_interval():
    values = np.random.default_rng(0).normal(0.7, 0.1, 6)
    ours = jackknife_interval(values.mean(), [left_out_means(values, [*"abcdef"])], limits=(-9, 9))
    theirs = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ours == pytest.approx((theirs.low, theirs.high))


def test_the_jackknife_of_two_data_sets_is_that_of_welch():
    one, other = np.random.default_rng(1).normal(0.7, 0.1, 5), np.random.default_rng(2).normal(0.5, 0.3, 8)
    left_out = [left_out_means(values, [str(i) for i in range(len(values))]) for values in (one, -other)]
    ours = jackknife_interval((one.mean() - other.mean()) / 2, left_out, limits=(-9, 9))
    theirs = scipy_stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert ours == pytest.approx((theirs.low / 2, theirs.high / 2))


def test_the_jackknife_is_cut_at_the_limits_and_undefined_for_one_patient():
    assert jackknife_interval(0.9, [np.array([0.8, 0.95, 0.99])], limits=(0, 1)).high == 1
    assert jackknife_interval(0.5, [np.full(4, 0.5)], limits=(0, 1)) == (0.5, 0.5)
    for left_out in ([], [np.empty(0)], [np.array([0.5, np.nan])]):
        assert all(math.isnan(end) for end in jackknife_interval(0.5, left_out, limits=(0, 1)))


@pytest.mark.parametrize("patients", [3, 5, 9])
def test_intervals_of_few_patients_cover_as_often_as_promised(patients):
    """Percentiles of a bootstrap cover the mean of three patients in 3 of 4 trials."""
    generator = np.random.default_rng(patients)
    hits, of_bootstrap, trials = 0, 0, 400
    for trial in range(trials):
        names = np.repeat(np.arange(patients), 3).astype(str).tolist()
        values = (generator.normal(0.7, 0.1, (patients, 1)) + generator.normal(0, 0.05, (patients, 3))).ravel()
        low, high = jackknife_interval(values.mean(), [left_out_means(values, names)], limits=(-9, 9))
        hits += low <= 0.7 <= high
        low, high = bootstrap_interval(values, names, draws=200, seed=trial)
        of_bootstrap += low <= 0.7 <= high
    assert hits / trials == pytest.approx(0.95, abs=0.03)
    assert of_bootstrap < hits


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
    theirs = scipy_stats.permutation_test(
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


def test_equal_differences_of_all_patients_are_as_far_from_chance_as_can_be():
    assert least_p(6) == 2 / 64
    alike = np.full((6, 18), 0.01)
    assert holm([*flip_p(alike)]) == pytest.approx([0.5625] * 18)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), patients=st.integers(2, 16))
def test_the_interval_is_what_the_test_does_not_reject(seed, patients):
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(patients, 3.0))
    terms = shares * (generator.normal(0.5, 1) + generator.normal(0, 1, patients))
    low, high = flip_interval(terms, shares, seed=1)
    assert low <= terms.sum() <= high
    assert (float(flip_p(terms, seed=1)) > ALPHA) == (low <= 0 <= high)
    for end, out in ((low, -1e-6), (high, 1e-6)):
        if math.isfinite(end):
            assert flip_p(terms - shares * (end + out), seed=1) <= ALPHA < flip_p(terms - shares * (end - out), seed=1)
    assert math.isfinite(low) == (patients > 5)  # with five, even equal signs have p = 1/16


def contrast(terms, *, sets="x", shares=None):
    """A difference of which every patient adds so much, with one seed."""
    terms = np.asarray(terms, dtype=float)
    return Contrast(
        {"one": terms[None] + 0.1, "other": np.full((1, len(terms)), -0.1)},
        np.full(len(terms), 1 / len(terms)) if shares is None else shares,
        np.full(len(terms), sets),
    )


def test_single_seeds_are_tested_over_patients():
    terms = np.random.default_rng(0).normal(0.03, 0.01, 7)
    found = contrast(terms).difference()
    assert found.mean == pytest.approx(terms.sum())
    assert found.p == flip_p(terms)
    assert (found.low, found.high) == pytest.approx(flip_interval(terms, np.full(7, 1 / 7)))
    assert (found.patients, found.seeds, found.least_p) == (7, 1, 2 / 128)
    few = contrast(terms[:4]).difference()
    assert (few.low, few.high, few.p) == (None, None, 0.125)
    assert contrast(terms[:1]).difference() == Difference(pytest.approx(terms[0]), None, None, None, None, patients=1)


def test_single_seeds_on_many_patients_have_the_percentiles_of_the_bootstrap():
    terms, drawn = np.random.default_rng(0).normal(0.03, 0.1, 12), np.linspace(-1, 1, 101)
    one = contrast(terms)
    many = Contrast(one.sides, one.shares, one.sets, drawn).difference()
    assert (many.low, many.high) == pytest.approx((-0.95, 0.95))
    few = Contrast(one.sides, one.shares, np.repeat(["x", "y"], 6), drawn).difference()
    assert (few.low, few.high) == pytest.approx(flip_interval(terms, one.shares))


def crossed(generator, *, seeds, patients, of_seeds, of_patients=0.5, of_both=0.5, effect=0.0):
    """What patients add to a network's score, with random effects of patients, seeds and both together."""
    values = generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, of_patients, patients)
    return (values + generator.normal(0, of_both, (seeds, patients)) + effect) / patients


def pair_of(generator, seeds, *, patients, effect=0.0, **spreads):
    one = crossed(generator, seeds=seeds[0], patients=patients, effect=effect, **spreads)
    other = crossed(generator, seeds=seeds[1], patients=patients, **spreads)
    return Contrast({"one": one, "other": -other}, np.full(patients, 1 / patients), np.full(patients, "x"))


def test_the_variance_of_the_mixed_model_by_hand():
    """For a balanced design it is that of Hillis (2014): MS_reader + MS_case - MS_both, over readers times cases."""
    generator = np.random.default_rng(4)
    found = pair_of(generator, (3, 3), patients=9, of_seeds=1.0)
    mean_squares = 0.0
    for side in found.sides.values():
        values = side * 9
        rows, columns = values.mean(1), values.mean(0)
        both = values - rows[:, None] - columns + values.mean()
        mean_squares += 9 * rows.var(ddof=1) - (both**2).sum() / (2 * 8)
    cases = 9 * sum(found.sides.values()).sum(0) / 3
    by_hand = mean_squares / (3 * 9) + cases.var(ddof=1) / 9
    error, freedom = found._seeds_error()
    assert error**2 == pytest.approx(by_hand)
    assert 2 < freedom < 12
    assert found.seeds_p() == pytest.approx(2 * scipy_stats.t.sf(abs(found.mean) / error, freedom))


def test_seeds_that_do_not_differ_leave_the_t_test_of_patients():
    values = np.random.default_rng(0).normal(0.2, 1, 15) / 15
    found = Contrast({"one": np.stack([values] * 3)}, np.full(15, 1 / 15), np.full(15, "x"))
    assert found.seeds_p() == pytest.approx(scipy_stats.ttest_1samp(values * 15, 0).pvalue)


def test_patients_that_do_not_differ_leave_the_t_test_of_seeds():
    one, other = np.random.default_rng(0).normal(0.2, 1, (2, 4))
    sides = {"one": np.outer(one, np.full(20, 1 / 20)), "other": -np.outer(other, np.full(20, 1 / 20))}
    found = Contrast(sides, np.full(20, 1 / 20), np.full(20, "x"))
    assert found.seeds_p() == pytest.approx(scipy_stats.ttest_ind(one, other, equal_var=False).pvalue)


@pytest.mark.parametrize(("seeds", "patients"), [((2, 2), 12), ((3, 3), 8), ((5, 3), 12), ((3, 1), 12)])
@pytest.mark.parametrize("of_seeds", [0.0, 1.0])
def test_equal_networks_of_several_seeds_are_called_different_as_rarely_as_promised(seeds, patients, of_seeds):
    """A test over patients alone takes the luck of seeds for a difference; coverage is the same question."""
    generator = np.random.default_rng(patients)
    trials = 300
    found = [pair_of(generator, seeds, patients=patients, of_seeds=of_seeds) for _ in range(trials)]
    differences = [one.difference() for one in found]
    rejected = np.mean([one.p < ALPHA for one in differences])
    assert rejected <= 0.085
    for one in differences:
        assert (one.p < ALPHA) == (not one.low <= 0 <= one.high)
    if of_seeds == 1.0 and patients > 8:
        assert np.mean([flip_p(one.terms) < ALPHA for one in found]) > 0.25


def test_a_real_difference_is_found_beyond_the_seeds():
    generator = np.random.default_rng(0)
    found = [pair_of(generator, (3, 3), patients=12, effect=1.5, of_seeds=0.2).difference() for _ in range(100)]
    assert np.mean([one.p < ALPHA for one in found]) > 0.8


def test_searches_are_the_repeats_of_a_method():
    """Trainings of one search resemble each other; taken for independent repeats they would promise too much."""
    generator = np.random.default_rng(0)
    trials, hits, of_all = 150, 0, 0
    for _ in range(trials):
        searches = {
            f"search {n}": generator.normal(0, 1) / 12 + crossed(generator, seeds=3, patients=12, of_seeds=0.1)
            for n in range(3)
        }
        baseline = crossed(generator, seeds=3, patients=12, of_seeds=0.1)
        shares, sets = np.full(12, 1 / 12), np.full(12, "x")
        of = [Contrast({name: side, "unet": -baseline}, shares, sets) for name, side in searches.items()]
        mean = mean_of_contrasts(of)
        method = as_repeats(mean, [*searches], name="nas")
        assert method.mean == pytest.approx(mean.mean)
        assert {name: len(side) for name, side in method.sides.items()} == {"unet": 3, "nas": 3}
        hits += method.difference().p < ALPHA
        together = Contrast({"nas": np.concatenate([*searches.values()]), "unet": -baseline}, shares, sets)
        of_all += together.difference().p < ALPHA
    assert hits / trials <= 0.085
    assert of_all > 2 * hits


def test_a_mean_of_contrasts_counts_a_shared_network_once():
    generator = np.random.default_rng(0)
    ours, *others = (crossed(generator, seeds=2, patients=5, of_seeds=0.1) for _ in range(3))
    shares, sets = np.full(5, 0.2), np.full(5, "x")
    of = [Contrast({"ours": ours, f"r{n}": -side}, shares, sets, np.array([n, 1.0])) for n, side in enumerate(others)]
    mean = mean_of_contrasts(of)
    assert [*mean.sides] == ["ours", "r0", "r1"]
    np.testing.assert_allclose(mean.sides["ours"], ours)
    np.testing.assert_allclose(mean.sides["r1"], -others[1] / 2)
    assert mean.drawn == pytest.approx([0.5, 1.0])
    assert mean.mean == pytest.approx(np.mean([one.mean for one in of]))


def test_a_mean_over_data_sets_is_tested_over_all_of_their_patients():
    one, two = contrast([0.2, 0.1, 0.1]), contrast([0.02, -0.04, 0.1, 0.03])
    mean = mean_over_sets({"one": one, "two": two})
    assert mean.mean == pytest.approx((0.4 + 0.11) / 2)
    assert (mean.patients, mean.shares.sum(), [*mean.sides]) == (7, pytest.approx(1), ["one", "other"])
    sums = [
        abs(np.dot(signs[:3], one.terms) / 2 + np.dot(signs[3:], two.terms) / 2)
        for signs in itertools.product((-1, 1), repeat=7)
    ]
    assert mean.difference().p == np.mean(np.array(sums) >= 0.255 - 1e-9)
    other = mean_over_sets({"two": two, "one": one})
    np.testing.assert_array_equal(mean.terms, other.terms)
    uneven = Contrast({"one": np.full((2, 4), 0.1)}, two.shares, two.sets)
    assert [*mean_over_sets({"one": one, "two": uneven}).sides] == ["one", "other", "one on two"]


def test_draws_of_data_sets_are_independent():
    """Draws of one order, as those of data sets of equal size are, would make the interval of a mean too wide."""
    drawn = np.random.default_rng(0).normal(0, 1, 4000)
    one = contrast([0.1, 0.2])
    mean = mean_over_sets({name: Contrast(one.sides, one.shares, one.sets, drawn.copy()) for name in "abcd"})
    assert mean.drawn.std() == pytest.approx(0.5, abs=0.03)


def test_differences_are_corrected_for_those_that_were_tested():
    given = {"b": contrast([0.1, 0.2, 0.3]), "c": contrast([0.4]), "d": None, "e": contrast([-0.1] * 6)}
    of = dict(zip(given, corrected(one and one.difference() for one in given.values()), strict=True))
    assert (of["b"].p, of["b"].p_corrected, of["b"].least_p) == (0.25, 0.25, 0.25)
    assert (of["e"].p, of["e"].p_corrected, of["e"].least_p) == (2 / 64, 4 / 64, 4 / 64)
    assert (of["c"].p, of["c"].p_corrected) == (None, None)  # of one patient
    assert of["d"] is None
    assert corrected([]) == []


def test_verdicts_are_words_of_a_fixed_list():
    def words(mean, p, least=0.001, **options):
        return verdict(Difference(mean, None, None, p=p, p_corrected=p, least_p=least), **options)

    assert [words(mean, 0.049) for mean in (0.1, -0.1)] == ["better", "worse"]
    assert words(-0.1, 0.049, larger_is_better=False) == "better"
    assert words(0.1, 0.05) == "no significant difference"
    for difference in (None, Difference(0.1, None, None, p=None, p_corrected=None)):
        assert verdict(difference) == "too few patients to decide"
    assert words(0.1, 0.2, least=0.0625) == "too few patients to decide"


def test_data_sets_that_count():
    assert counting_sets({"a": 1, "b": 1}) == ("a", "b")
    assert counting_sets({"a": 1, "b": 2}) == ("b",)
