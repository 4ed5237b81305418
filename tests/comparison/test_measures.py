"""Scores of several networks: equal to the tables of single runs, to hand computation, and to known answers."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from medarts.comparison.findings import FindingMeasures
from medarts.comparison.masks import MaskMeasures
from medarts.comparison.overlays import most_differing
from medarts.comparison.paired import FLIPS
from medarts.comparison.pooled import differences_of
from medarts.comparison.words import excluded_words
from medarts.errors import RunError
from medarts.evaluation.finding_table import MEAN_OF_FINDINGS, SENSITIVE, YOUDEN
from medarts.evaluation.findings import FindingScores, Predictions
from medarts.evaluation.mask_scores import MEAN_OF_CLASSES, MEAN_OF_DOMAINS, ImageScore, Scores
from medarts.metrics.ranking import auroc

DRAWS = 500


def p_of(measures: MaskMeasures | FindingMeasures, one: str, other: str) -> float | None:
    return measures.paired(one, other).difference(seed=0).p


def scores_of(rows: list[tuple], *, draws: int = DRAWS) -> Scores:
    """Rows are (domain, key, patient, dice, hd95) and, with several classes, their index."""
    scores = Scores(split="test", checkpoint="best", head="4,0", draws=draws)
    for domain, key, patient, dice, hd95, *index in rows:
        metrics = {"dice": dice, "jaccard": dice / (2 - dice), "precision": 0.5, "hd95": hd95}
        number = index[0] if index else 1
        scores.add(ImageScore(key, domain, patient, number, f"class {number}", metrics))
    return scores


def random_rows(seed: int, *, shift: float = 0.0) -> list[tuple]:
    """Two domains of unlike size with patients of several images; both have a patient 1."""
    generator = np.random.default_rng(seed)
    places = [(domain, i) for domain, images in (("a", 24), ("b", 9)) for i in range(images)]
    return [
        (domain, f"{i:02d}", str(i // 3), float(generator.uniform(0.3, 0.8) + shift), float(generator.uniform(1, 9)))
        for domain, i in places
    ]


def test_a_network_of_one_seed_has_the_scores_of_its_run():
    rows = random_rows(0)
    rows[4] = (*rows[4][:4], math.nan)
    scores = scores_of(rows)
    table = next(row for row in scores.table() if row.domain == MEAN_OF_DOMAINS).metrics
    measured = MaskMeasures({"one": [scores]}, draws=DRAWS, seed=0).measured("one")
    assert list(measured) == ["dice", "jaccard", "hd95"]
    for metric, found in measured.items():
        assert found.mean == pytest.approx(table[metric].mean)
        assert found.interval() == pytest.approx((table[metric].low, table[metric].high))
        assert found.undefined == table[metric].undefined == (metric == "hd95")
        assert found.by_seed == pytest.approx((found.mean,))


def test_classes_and_domains_without_examples_are_left_out_and_named():
    scores = scores_of([(*row, index) for row in random_rows(1) for index in (1, 2)])
    shown = {("a", 1)}
    for place, score in enumerate(scores.images):
        if (score.domain, score.class_index) not in shown:
            scores.images[place] = replace(score, truth="empty", metrics=score.metrics | {"dice": 1.0})
    measures = MaskMeasures({"one": [scores]}, draws=DRAWS, seed=0)
    assert measures.excluded == {"a": ("class 2",), "b": ("class 1", "class 2")}
    assert measures.domains == ("a",)
    of_class = [one.metrics["dice"] for one in scores.images if (one.domain, one.class_index) in shown]
    assert measures.measured("one")["dice"].mean == pytest.approx(np.mean(of_class))
    assert excluded_words(measures.excluded, task="segmentation") == [
        "a: left out of the means, as no image shows it: class 2.",
        "b: left out of the means, as no image shows it: class 1, class 2.",
    ]


def test_classes_are_averaged_as_in_a_table():
    rows = [(*row, index) for row in random_rows(1) for index in (1, 2)]
    rows[3] = (*rows[3][:3], 0.0, math.nan, 2)
    scores = scores_of(rows)
    table = next(r for r in scores.table() if (r.domain, r.class_name) == (MEAN_OF_DOMAINS, MEAN_OF_CLASSES)).metrics
    measured = MaskMeasures({"one": [scores]}, draws=DRAWS, seed=0).measured("one")
    for metric, found in measured.items():
        assert (found.mean, *found.interval()) == pytest.approx(
            (table[metric].mean, table[metric].low, table[metric].high)
        )


def test_classes_and_domains_without_examples_are_left_out_as_in_a_table():
    scores = scores_of([(*row, index) for row in random_rows(2) for index in (1, 2)])
    healthy = [replace(score, domain="c") for score in scores.images if score.domain == "b"]
    without = [("a", 2), ("c", 1), ("c", 2)]
    scores.images = [
        replace(score, truth="empty") if (score.domain, score.class_index) in without else score
        for score in (*scores.images, *healthy)
    ]
    table = next(r for r in scores.table() if (r.domain, r.class_name) == (MEAN_OF_DOMAINS, MEAN_OF_CLASSES)).metrics
    measures = MaskMeasures({"one": [scores], "two": [scores]}, draws=DRAWS, seed=0)
    assert measures.domains == ("a", "b")
    assert measures.measured("one")["dice"].mean == pytest.approx(table["dice"].mean)
    assert measures.difference("one", "two").mean == 0
    scores.images = [replace(score, truth="empty") for score in scores.images]
    with pytest.raises(RunError, match="No image shows a class"):
        MaskMeasures({"one": [scores]}, draws=DRAWS, seed=0)


def test_seeds_and_domains_by_hand():
    places = [("a", "1", "p"), ("a", "2", "p"), ("a", "3", "q"), ("b", "1", "p"), ("b", "2", "r")]
    one = scores_of([(*place, dice, 2.0) for place, dice in zip(places, (0.9, 0.7, 0.2, 0.5, 0.1), strict=True)])
    hd95 = (2.0, math.nan, 2.0, 6.0, math.nan)
    # The other seed has its images in another order.
    rows = zip(places, (0.7, 0.5, 0.0, 0.7, 0.3), hd95, strict=True)
    two = scores_of([(*place, dice, distance) for place, dice, distance in rows][::-1])
    reference = scores_of([(*place, 0.4, math.nan) for place in places])
    measures = MaskMeasures({"net": [one, two], "flat": [reference, reference]}, draws=DRAWS, seed=0)
    assert measures.values("net")[:, 0] == pytest.approx([0.8, 0.6, 0.1, 0.6, 0.2])
    assert measures.values("net")[:, 2] == pytest.approx([2, 2, 2, 4, 2])
    dice = measures.measured("net")["dice"]
    assert dice.mean == pytest.approx((0.5 + 0.4) / 2)
    assert dice.by_seed == pytest.approx(((0.6 + 0.3) / 2, (0.4 + 0.5) / 2))
    assert measures.measured("net")["hd95"].undefined == 2
    assert (measures.images[0], measures.people, measures.domains) == (("a", "1"), 4, ("a", "b"))
    flat = measures.measured("flat")
    assert math.isnan(flat["hd95"].mean)
    assert flat["hd95"].interval() == (None, None)
    assert flat["hd95"].undefined == 10
    # Shares of the patients in the difference: (0.4 + 0.2)/6, -0.3/6, 0.2/4, -0.2/4: 0.1 - 0.05 + 0.05 - 0.05 = 0.05.
    # 12 of the 16 sums of +-0.1 +-0.05 +-0.05 +-0.05 are at least 0.05 away from 0.
    shares = [s * 0.1 + 0.05 * (t + u + v) for s in (-1, 1) for t in (-1, 1) for u in (-1, 1) for v in (-1, 1)]
    expected = np.mean(np.abs(shares) > 0.049)
    assert p_of(measures, "net", "flat") == pytest.approx(expected)


def test_what_is_hard_for_all_does_not_widen_a_difference():
    rows = random_rows(2)
    better = [(*row[:3], row[3] + 0.01, row[4]) for row in rows]
    measures = MaskMeasures({"a": [scores_of(rows)], "b": [scores_of(better)]}, draws=DRAWS, seed=0)
    difference = differences_of({"b": measures.paired("b", "a")}, seed=0)["b"]
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.01, 0.01, 0.01))
    assert difference.p == difference.p_corrected == pytest.approx(2 / 2**11)
    low, high = measures.measured("a")["dice"].interval()
    assert high - low > 0.05


def test_differences_are_over_the_seeds_that_both_have():
    rows = [scores_of(random_rows(n, shift=shift)) for n, shift in ((0, 0.0), (1, 0.1), (0, 0.02), (1, 0.15))]
    seeds = {"net": (0, 1), "late": (1,), "other": (0, 1), "none": (7,)}
    scores = {"net": rows[:2], "late": [rows[3]], "other": rows[2:], "none": [rows[0]]}
    measures = MaskMeasures(scores, draws=DRAWS, seed=0, seeds=seeds)
    assert measures.difference("late", "net").mean == pytest.approx(0.05)  # by the means it would be 0.1
    assert measures.difference("other", "net").mean == pytest.approx(0.035)
    assert measures.difference("other", "net").interval() == pytest.approx((0.035, 0.035))
    assert measures.difference("none", "net") is None
    assert measures.paired("none", "net") is None
    assert p_of(measures, "late", "net") == pytest.approx(2 / 2**11)
    assert measures.contributions("late", "net").sum() == pytest.approx(0.05)


def test_one_patient_says_nothing_of_others():
    rows = [("a", str(i), "only", 0.1 * i, 1.0) for i in range(5)]
    measures = MaskMeasures({"a": [scores_of(rows)], "b": [scores_of(rows)]}, draws=DRAWS, seed=0)
    assert measures.measured("a")["dice"].interval() == (None, None)
    assert p_of(measures, "b", "a") is None


def test_sixteen_networks_take_seconds():
    generator = np.random.default_rng(0)
    rows = {
        f"net-{n}": [("a", str(i), str(i // 2), float(generator.uniform()), 1.0) for i in range(200)] for n in range(16)
    }
    began = time.perf_counter()
    measures = MaskMeasures({name: [scores_of(of)] for name, of in rows.items()}, draws=2000, seed=0)
    assert len([measures.measured(name) for name in rows]) == 16
    assert len(differences_of({name: measures.paired(name, "net-0") for name in [*rows][1:]}, seed=0)) == 15
    assert time.perf_counter() - began < 10  # it takes less than one


def test_images_on_which_networks_differ():
    values = {"a": np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.2]), "b": np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.3])}
    images = [("s", str(i)) for i in range(6)]
    chosen = most_differing(values, images, ["p", "q", "q", "q", "q", "r"])
    assert [position for position, _ in chosen] == [1, 2, 3, 5]  # at most three of q; on image 0 they agree
    assert [spread for _, spread in chosen] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert most_differing({"a": values["a"]}, images, list("pqrstu")) == []
    many = {"a": np.linspace(0, 1, 20), "b": np.zeros(20)}
    assert [n for n, _ in most_differing(many, [("s", str(i)) for i in range(20)], list(map(str, range(20))))] == [
        *range(19, 11, -1)
    ]


def predictions(seed: int, *, noise: float, patients: int = 20, order: int = 1) -> Predictions:
    """Two domains whose labels do not depend on the seed; b never shows the third finding."""
    truth = np.random.default_rng(9)
    labels = (truth.random((2 * patients * 2, 3)) < 0.4).astype(np.uint8)
    labels[2 * patients :, 2] = 0
    logits = labels + np.random.default_rng(seed).normal(0, noise, labels.shape)
    rows = np.arange(len(labels))[::order]
    return Predictions(
        keys=[f"{i % (2 * patients):03d}" for i in rows],
        domains=["a" if i < 2 * patients else "b" for i in rows],
        patients=[str(i % (2 * patients) // 2) for i in rows],
        logits=logits[rows],
        labels=labels[rows],
    )


def finding_scores(given: Predictions) -> FindingScores:
    return FindingScores(
        split="test",
        checkpoint="best",
        findings=("x", "y", "z"),
        predictions=given,
        temperature=1.0,
        sensitivity=0.9,
        thresholds={rule: np.full(3, np.nan) for rule in (YOUDEN, SENSITIVE)},
        without_thresholds={},
        draws=DRAWS,
    )


def test_findings_of_one_domain_have_the_scores_of_the_run():
    given = predictions(0, noise=1.0)
    half = Predictions(
        given.keys[:40], given.domains[:40], given.patients[:40], given.logits[:40], labels=given.labels[:40]
    )
    scores = finding_scores(half)
    row = next(row for row in scores.table() if row.finding == MEAN_OF_FINDINGS)
    measured = FindingMeasures({"one": [scores]}, draws=DRAWS, seed=0).measured("one")
    for metric, summary in (("auroc", row.auroc), ("average_precision", row.average_precision)):
        assert (measured[metric].mean, *measured[metric].interval()) == pytest.approx(
            (summary.mean, summary.low, summary.high)
        )


def test_findings_of_seeds_and_domains():
    one, two = predictions(0, noise=1.0), predictions(1, noise=1.0, order=-1)
    measures = FindingMeasures({"net": [finding_scores(one), finding_scores(two)]}, draws=DRAWS, seed=0)

    def area(of: Predictions, domain: str, finding: int) -> float:
        rows = [i for i, name in enumerate(of.domains) if name == domain]
        return auroc(of.logits[rows, finding], of.labels[rows, finding])

    by_seed = [
        (np.mean([area(of, "a", f) for f in range(3)]) + np.mean([area(of, "b", f) for f in range(2)])) / 2
        for of in (one, two)
    ]
    measured = measures.measured("net")["auroc"]
    assert measured.by_seed == pytest.approx(by_seed)
    assert measured.mean == pytest.approx(np.mean(by_seed))
    assert measured.undefined == 1  # z in b
    assert (measures.domains, measures.people, len(measures.images)) == (("a", "b"), 40, 80)
    low, high = measured.interval()
    assert low < measured.mean < high


def test_findings_a_real_difference_is_found_and_none_is_not():
    scores = {
        name: [finding_scores(predictions(seed, noise=noise))]
        for name, seed, noise in (("good", 0, 0.5), ("alike", 1, 0.5), ("poor", 2, 3.0))
    }
    measures = FindingMeasures(scores, draws=DRAWS, seed=0)
    assert p_of(measures, "poor", "good") == pytest.approx(1 / (FLIPS + 1))
    assert p_of(measures, "alike", "good") > 0.05


def test_exchanging_findings_of_patients_equals_computing_the_areas_again():
    """Ties among the logits, several images of a patient, two domains, two seeds, findings that nobody shows."""
    patients = 3
    given = [predictions(n, noise=1.5, patients=patients, order=(-1) ** n) for n in range(4)]
    for one in given:
        one.logits[:] = one.logits.round(1)
    scores = [finding_scores(one) for one in given]
    measures = FindingMeasures({"net": scores[:2], "flat": scores[2:]}, draws=2, seed=0)
    shares = measures.contributions("net", "flat")
    assert shares.shape == (2 * patients,)
    assert shares.sum() == pytest.approx(measures.difference("net", "flat").mean)

    rows = sorted(zip(given[0].domains, given[0].patients, given[0].keys, strict=True))
    people = sorted({row[:2] for row in rows})

    def in_order(of: Predictions) -> tuple[np.ndarray, np.ndarray]:
        place = {name: n for n, name in enumerate(zip(of.domains, of.patients, of.keys, strict=True))}
        order = [place[row] for row in rows]
        return of.logits[order], of.labels[order]

    domains = np.array([row[0] for row in rows])
    labels = in_order(given[0])[1]
    ranks = [np.empty_like(in_order(one)[0]) for one in given]
    for rank, one in zip(ranks, given, strict=True):
        for domain in "ab":
            rank[domains == domain] = stats.rankdata(in_order(one)[0][domains == domain], axis=0)

    def mean_area(of: list[np.ndarray]) -> float:
        return np.mean(
            [
                np.mean(
                    [
                        auroc(rank[domains == domain, f], labels[domains == domain, f])
                        for f in range(3)
                        if 0 < labels[domains == domain, f].sum() < (domains == domain).sum()
                    ]
                )
                for rank in of
                for domain in "ab"
            ]
        )

    statistics = []
    for signs in itertools.product((1, -1), repeat=len(people)):
        exchanged = np.array([signs[people.index(row[:2])] < 0 for row in rows])[:, None]
        one = [np.where(exchanged, b, a) for a, b in zip(ranks[:2], ranks[2:], strict=True)]
        two = [np.where(exchanged, a, b) for a, b in zip(ranks[:2], ranks[2:], strict=True)]
        statistics.append(mean_area(one) - mean_area(two))
        assert statistics[-1] == pytest.approx(np.dot(signs, shares))
    expected = np.mean(np.abs(statistics) >= abs(statistics[0]) - 1e-9)
    assert p_of(measures, "net", "flat") == pytest.approx(expected)


@pytest.mark.parametrize(("patients", "promised"), [(3, 0.0), (5, 0.0), (10, 0.05), (30, 0.05)])
def test_networks_that_find_equally_well_are_told_apart_as_often_as_promised(patients, promised):
    generator = np.random.default_rng(patients)
    rejected, trials, images = 0, 400, 4
    labels = np.stack([np.tile(of_patient, patients) for of_patient in ([0, 0, 1, 1], [0, 1, 1, 1], [1, 0, 0, 0])], 1)
    about = {
        "keys": [str(i) for i in range(len(labels))],
        "domains": ["a"] * len(labels),
        "patients": [str(i // images) for i in range(len(labels))],
        "labels": labels.astype(np.uint8),
    }

    def network() -> FindingScores:
        # Networks of different scales; what one of them makes of a patient's images resembles each other.
        of_patient = np.repeat(generator.normal(0, 1, (patients, 1)), images, axis=0)
        logits = labels + of_patient * (2 * labels - 1) + generator.normal(0, 0.7, labels.shape)
        return finding_scores(Predictions(logits=generator.uniform(1, 9) * logits, **about))

    for _ in range(trials):
        measures = FindingMeasures({"one": [network()], "two": [network()]}, draws=1, seed=0)
        rejected += p_of(measures, "one", "two") <= 0.05
    assert rejected / trials == pytest.approx(promised, abs=0.025)


def test_findings_that_cannot_be_ranked():
    given = predictions(0, noise=1.0)
    same = Predictions(given.keys, given.domains, given.patients, given.logits, labels=np.zeros_like(given.labels))
    with pytest.raises(RunError, match="All images of a, or none, show every finding"):
        FindingMeasures({"net": [finding_scores(same)]}, draws=DRAWS, seed=0)
    alone = Predictions(given.keys, ["a"] * 80, ["only"] * 80, given.logits, labels=given.labels)
    alone.keys[:] = [str(i) for i in range(80)]
    measures = FindingMeasures({"a": [finding_scores(alone)], "b": [finding_scores(alone)]}, draws=DRAWS, seed=0)
    assert measures.measured("a")["auroc"].interval() == (None, None)
    assert p_of(measures, "b", "a") is None
