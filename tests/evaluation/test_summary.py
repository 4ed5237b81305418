"""Means with intervals, of masks and of findings, against plain loops."""

import json
import math
from typing import Any

import numpy as np
import pytest

from medarts.config.data import IGNORE
from medarts.evaluation.scores import Scores, excluded, table_of
from medarts.evaluation.scoring import calibrate, finding_table
from medarts.evaluation.stats import bootstrap_means, jackknife_interval, left_out_means, percentile_interval
from medarts.evaluation.summary import (
    ALL,
    FEW_POSITIVES,
    MEAN_OF_CLASSES,
    MEAN_OF_DATASETS,
    MEAN_OF_FINDINGS,
    MEAN_OF_FREQUENT,
    reasons,
    summarized,
    without_repetition,
)
from medarts.metrics import register_metric
from medarts.metrics.calibration import expected_calibration_error, fit_temperature, probabilities_of
from medarts.metrics.ranking import auroc, average_precision, operating_point, threshold_youden
from medarts.registry import metrics

NAN = float("nan")


def mask_scores(*images, draws=200, seed=3):
    """Scores of images given as data set, patient, name, Dice, distance, class and truth."""
    rows = []
    for dataset, patient, image, dice, *rest in images:
        hd95, name, truth = (*rest, *(1.0, "foreground", "present")[len(rest) :])
        values = {"dice": dice, "hd95": hd95, "specificity": 0.9}
        rows += [(dataset, image, patient, name, truth, metric, value) for metric, value in values.items()]
    return summarized(Scores(table_of(rows), "test", draws=draws, seed=seed))


def row_of(scores, dataset, name="foreground", metric="dice"):
    summary = scores.summary
    found = (summary["dataset"] == dataset) & (summary["class"] == name) & (summary["metric"] == metric)
    return summary[found].iloc[0]


@pytest.fixture
def two_sets():
    """Twelve patients of one data set, and ten of another."""
    generator = np.random.default_rng(0)
    images: list[tuple[Any, ...]] = [
        ("isic", f"{i // 2}", f"i{i}", x) for i, x in enumerate(generator.uniform(0.6, 1, 24).tolist())
    ]
    images += [("cvc", f"{i // 3}", f"c{i}", x) for i, x in enumerate(generator.uniform(0.2, 0.7, 30).tolist())]
    images[1] = ("isic", "0", "i1", 0.0, NAN)
    return mask_scores(*images)


def values_of(scores, *datasets, metric="dice"):
    table = scores.table[scores.table["metric"] == metric]
    table = table[table["dataset"].isin(datasets)]
    return table["value"].to_numpy(), [json.dumps([*pair]) for pair in zip(table.dataset, table.patient, strict=True)]


def test_rows_hold_means_counts_and_undefined(two_sets):
    assert [*two_sets.summary["dataset"].unique()] == ["isic", "cvc", ALL, MEAN_OF_DATASETS]
    isic, cvc, whole = (row_of(two_sets, name) for name in ("isic", "cvc", ALL))
    # Patients "0" of isic and of cvc are two people.
    assert [(one.images, one.patients, one.positives) for one in (isic, cvc, whole)] == [
        (24, 12, 24), (30, 10, 30), (54, 22, 54)
    ]  # fmt: skip
    assert isic.value == pytest.approx(values_of(two_sets, "isic")[0].mean())
    distance = row_of(two_sets, "isic", metric="hd95")
    assert (distance.value, distance.undefined) == (1.0, 1)
    assert whole.value == pytest.approx(values_of(two_sets, "isic", "cvc")[0].mean())
    mean = row_of(two_sets, MEAN_OF_DATASETS)
    assert mean.value == pytest.approx((isic.value + cvc.value) / 2) != pytest.approx(whole.value)
    assert (mean.images, mean.patients) == (54, 22)


def test_intervals_are_those_of_the_cluster_bootstrap(two_sets):
    for name, datasets in (("isic", ["isic"]), (ALL, ["isic", "cvc"])):
        row = row_of(two_sets, name)
        drawn = bootstrap_means(*values_of(two_sets, *datasets), draws=200, seed=(3, 0))
        assert (row.low, row.high) == pytest.approx(percentile_interval(drawn))
    by_dataset = [
        bootstrap_means(*values_of(two_sets, name), draws=200, seed=(3, place))
        for place, name in enumerate(("isic", "cvc"))
    ]
    row = row_of(two_sets, MEAN_OF_DATASETS)
    assert (row.low, row.high) == pytest.approx(percentile_interval(np.mean(by_dataset, axis=0)))


def test_few_patients_have_the_interval_of_the_jackknife(two_sets):
    images = [("ct", str(i // 2), f"{i}", 0.1 * i) for i in range(6)]
    scores = mask_scores(*images)
    row = row_of(scores, "ct")
    expected = jackknife_interval(row.value, [left_out_means(*values_of(scores, "ct"))], limits=(0, 1))
    assert (row.low, row.high) == pytest.approx(expected)
    assert row.high - row.low > 0.5
    alone = mask_scores(("ct", "1", "a", 0.5, NAN), ("ct", "1", "b", 0.7, NAN))
    row, distance = row_of(alone, "ct"), row_of(alone, "ct", metric="hd95")
    assert row.value == pytest.approx(0.6)
    assert distance.undefined == 2
    assert np.isnan([row.low, row.high, distance.value, distance.low]).all()


def test_mean_of_data_sets_treats_them_as_independent():
    """Its variance is that of a mean of independent means; equal draws for both would double it."""
    values = np.random.default_rng(1).normal(0.5, 0.1, 30)
    scores = mask_scores(*((d, str(i), f"{i}", x) for d in ("a", "b") for i, x in enumerate(values)), draws=4000)
    one, mean = row_of(scores, "a"), row_of(scores, MEAN_OF_DATASETS)
    assert (mean.high - mean.low) / (one.high - one.low) == pytest.approx(1 / math.sqrt(2), rel=0.08)


def test_the_mean_of_classes_is_that_of_each_image_over_its_defined_values():
    scores = mask_scores(
        ("ct", "p", "a", 0.2, NAN, "liver"),
        ("ct", "p", "a", 0.6, 4.0, "spleen"),
        ("ct", "q", "b", 1.0, 2.0, "liver"),
        ("ct", "q", "b", 0.0, 6.0, "spleen"),
    )
    assert [*scores.summary["class"].unique()] == [MEAN_OF_CLASSES, "liver", "spleen"]
    row = row_of(scores, "ct", MEAN_OF_CLASSES)
    assert (row.classes, row.images, row.patients) == (2, 2, 2)
    assert row.value == pytest.approx((0.4 + 0.5) / 2)
    assert row_of(scores, "ct", MEAN_OF_CLASSES, "hd95").value == pytest.approx((4.0 + 4.0) / 2)


def test_a_class_that_no_image_of_a_data_set_shows_is_left_out():
    images = [
        (dataset, str(number), f"{dataset}{number}", dice, 1.0, name, truth)
        for dataset, truths in (("ct", ("empty", "empty")), ("mr", ("empty", "vanished")))
        for number, of_spleen in enumerate(truths)
        for name, truth, dice in (
            ("liver", "present", 0.5),
            ("spleen", of_spleen, 0.0 if of_spleen == "vanished" else 1.0),
        )
    ]
    scores = mask_scores(*images)
    means = {(row.dataset, row[1]): row.value for row in scores.summary.itertuples(index=False) if row.metric == "dice"}
    assert math.isnan(means["ct", "spleen"])
    assert row_of(scores, "ct", "spleen", "specificity").value == 0.9
    assert means["mr", "spleen"] == means[ALL, "spleen"] == means[MEAN_OF_DATASETS, "spleen"] == 0.5
    assert means["ct", MEAN_OF_CLASSES] == 0.5  # of the liver alone, not (0.5 + 1) / 2
    assert means["mr", MEAN_OF_CLASSES] == ((0.5 + 1) / 2 + (0.5 + 0) / 2) / 2
    assert means[MEAN_OF_DATASETS, MEAN_OF_CLASSES] == 0.5


def test_a_split_that_shows_nothing_has_no_scores_of_overlap():
    scores = mask_scores(*(("ct", str(n), f"k{n}", 1.0, 0.0, "foreground", "empty") for n in range(3)))
    for dataset in ("ct", ALL, MEAN_OF_DATASETS):
        row = row_of(scores, dataset)
        assert math.isnan(row.value)
        assert (row.undefined, row.positives) == (3, 0)
        assert row_of(scores, dataset, metric="specificity").value == 0.9


def test_one_data_set_is_shown_once(two_sets):
    one = mask_scores(("ct", "1", "a", 0.5))
    assert [*without_repetition(one.summary)["dataset"].unique()] == ["ct"]
    assert len(without_repetition(two_sets.summary)) == len(two_sets.summary)


NAMES = ("Mass", "Edema", "Nodule", "Hernia")


class Films:
    """Predictions of images, three a patient; Mass is frequent, Edema less, Nodule rare, Hernia absent."""

    def __init__(self, images=60, *, seed=0, dataset="nih", each=3, labels=None, temperature=1.0):
        generator = np.random.default_rng(seed)
        if labels is None:
            labels = (generator.random((images, 4)) < [0.5, 0.2, 0, 0]).astype(np.uint8)
            labels[[1, -1], 2] = 1
        self.labels = labels
        self.logits = temperature * (generator.normal(-1, 1, labels.shape) + 1.5 * labels)
        self.about = [(dataset, f"{i:03d}.png", str(i // each)) for i in range(len(labels))]

    def and_(self, other):
        found = Films(2)
        found.labels, found.logits = (
            np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("labels", "logits")
        )
        found.about = [*self.about, *other.about]
        return found


def finding_scores(films, validation=None, *, draws=200, findings=NAMES, sensitivity=0.9):
    validation = Films(90, seed=9) if validation is None else validation
    calibration = calibrate(validation.logits, validation.labels, findings=findings, sensitivity=sensitivity)
    table = finding_table(films.about, findings, films.logits, films.labels, temperature=calibration.temperature)
    return summarized(Scores(table, "test", draws=draws, seed=3, calibration=calibration))


def value_of(scores, name, metric, dataset="nih"):
    return row_of(scores, dataset, name, metric).value


def naive_draws(films, *, draws, seed):
    """AUROC of every finding in every draw, patient by patient; nan where a class is absent."""
    people = sorted({(dataset, patient) for dataset, _, patient in films.about})
    images_of = {one: [i for i, (d, _, p) in enumerate(films.about) if (d, p) == one] for one in people}
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = [i for place in generator.integers(len(people), size=len(people)) for i in images_of[people[place]]]
        known = [[row for row in rows if films.labels[row, f] != IGNORE] for f in range(films.labels.shape[1])]
        found.append([auroc(films.logits[of, f], films.labels[of, f]) for f, of in enumerate(known)])
    return np.array(found).T


def test_rows_hold_the_scores_of_every_finding():
    films = Films()
    scores = finding_scores(films)
    assert [*scores.summary["class"].unique()] == [MEAN_OF_FINDINGS, MEAN_OF_FREQUENT, *NAMES]
    for f, name in enumerate(NAMES[:3]):
        row, labels, logits = row_of(scores, "nih", name, "auroc"), films.labels[:, f], films.logits[:, f]
        probabilities = probabilities_of(logits, scores.calibration.temperature)
        assert (row.images, row.patients, row.positives, row.classes) == (60, 20, labels.sum(), 1)
        assert row.value == auroc(logits, labels)
        assert value_of(scores, name, "average_precision") == average_precision(logits, labels)
        for rule in ("youden", "sensitive"):
            point = operating_point(probabilities, labels, scores.calibration.thresholds[rule][name])
            assert [value_of(scores, name, f"{rule}_{key}") for key in point._fields] == [*point]
        assert value_of(scores, name, "ece_uncalibrated") == expected_calibration_error(
            probabilities_of(logits), labels
        )
        assert value_of(scores, name, "ece") == expected_calibration_error(probabilities, labels)
        assert row.low < row.value < row.high


def test_absent_findings_are_excluded_from_the_means_and_named():
    films = Films()
    films.labels[:, 1] = 1
    scores = finding_scores(films)
    assert reasons(scores.summary, "nih") == {"Edema": "no negatives", "Hernia": "no positives"}
    for name in ("Edema", "Hernia"):
        row = row_of(scores, "nih", name, "auroc")
        assert np.isnan([row.value, row.low]).all()
        assert row.undefined == 200
    mean = row_of(scores, "nih", MEAN_OF_FINDINGS, "auroc")
    assert (mean.classes, mean.positives) == (2, films.labels[:, [0, 2]].sum())
    for metric in ("auroc", "average_precision", "ece", "youden_ppv"):
        of = [value_of(scores, name, metric) for name in ("Mass", "Nodule")]
        assert value_of(scores, MEAN_OF_FINDINGS, metric) == pytest.approx(np.mean(of))
    assert math.isnan(value_of(scores, MEAN_OF_FINDINGS, "youden_threshold"))
    frequent, mass = (row_of(scores, "nih", name, "auroc") for name in (MEAN_OF_FREQUENT, "Mass"))
    assert (frequent.value, frequent.low, frequent.high) == (mass.value, mass.low, mass.high)


def test_few_positives_make_a_second_mean_only_where_it_differs():
    labels = np.zeros((40, 2), dtype=np.uint8)
    labels[:FEW_POSITIVES, 0] = labels[: FEW_POSITIVES - 1, 1] = 1

    def names(labels):
        films = Films(labels=labels)
        return [*finding_scores(films, films, findings=("a", "b")).summary["class"].unique()]

    assert names(labels) == [MEAN_OF_FINDINGS, MEAN_OF_FREQUENT, "a", "b"]
    for count in (FEW_POSITIVES, FEW_POSITIVES - 1):  # both in the mean, or none
        labels[:] = 0
        labels[:count] = 1
        assert names(labels) == [MEAN_OF_FINDINGS, "a", "b"]


def test_intervals_equal_a_naive_loop_over_drawn_patients():
    films = Films()
    scores, drawn = finding_scores(films, draws=150), naive_draws(films, draws=150, seed=3)
    for f, name in enumerate(NAMES[:3]):
        row, defined = row_of(scores, "nih", name, "auroc"), drawn[f][~np.isnan(drawn[f])]
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(defined, [0.025, 0.975])), abs=1e-12)
        assert row.undefined == 150 - len(defined)
    # Two patients have Nodule: many draws have none of them, and their mean is that of the others.
    assert row_of(scores, "nih", "Nodule", "auroc").undefined > 5
    row, means = row_of(scores, "nih", MEAN_OF_FINDINGS, "auroc"), np.nanmean(drawn[:3], axis=0)
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert row.undefined == 0


def test_patients_and_not_images_carry_the_uncertainty():
    """Every image copied, as images of the same patient, says nothing new."""
    once = Films(each=1)
    copied = once.and_(once)
    copied.about = [(d, f"{i}", p) for i, (d, _, p) in enumerate(copied.about)]
    others = once.and_(once)
    others.about = [(d, f"{i}", f"{i}") for i, (d, _, _) in enumerate(others.about)]
    one, same, narrow = (row_of(finding_scores(films), "nih", "Mass", "auroc") for films in (once, copied, others))
    assert (same.low, same.high) == (one.low, one.high)
    assert narrow.high - narrow.low < 0.85 * (one.high - one.low)


def test_data_sets_have_rows_of_their_own_and_patients_of_different_sets_are_different():
    films = Films(30).and_(Films(45, seed=1, dataset="shenzhen"))
    films.labels[:30, 2] = 0
    scores = finding_scores(films, draws=150)
    assert [*scores.summary["dataset"].unique()] == ["nih", "shenzhen", ALL]
    assert reasons(scores.summary, ALL) == {"Hernia": "no positives"}
    assert [row_of(scores, name, "Mass", "auroc").patients for name in ("nih", "shenzhen", ALL)] == [10, 15, 25]
    row = row_of(scores, ALL, "Mass", "auroc")
    drawn = naive_draws(films, draws=150, seed=3)[0]
    assert row.value == auroc(films.logits[:, 0], films.labels[:, 0])
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)


def test_few_patients_have_the_jackknife_and_one_on_a_side_has_no_interval():
    few = finding_scores(Films(24))
    row = row_of(few, "nih", "Mass", "auroc")
    assert 0 <= row.low < row.value < row.high <= 1
    for films in (Films(12, each=12), Films(labels=np.repeat([[1], [0]], [2, 28], axis=0).astype(np.uint8))):
        scores = finding_scores(films, films, findings=NAMES[: films.labels.shape[1]])
        for name in (MEAN_OF_FINDINGS, "Mass"):
            row = row_of(scores, "nih", name, "auroc")
            assert 0 <= row.value <= 1
            assert np.isnan([row.low, row.high]).all()


def test_temperature_and_thresholds_come_from_validation():
    validation = Films(300, seed=9, temperature=3.0)
    one, other = finding_scores(Films(), validation), finding_scores(Films(seed=8), validation)
    assert one.calibration == other.calibration
    temperature = one.calibration.temperature
    assert temperature == fit_temperature(validation.logits, validation.labels) > 1.5
    probabilities = probabilities_of(validation.logits, temperature)
    thresholds = one.calibration.thresholds
    assert thresholds["youden"]["Mass"] == threshold_youden(probabilities[:, 0], validation.labels[:, 0])
    for f, name in enumerate(NAMES[:3]):
        point = operating_point(probabilities[:, f], validation.labels[:, f], thresholds["sensitive"][name])
        assert point.sensitivity >= 0.9


def test_findings_that_validation_cannot_rank_have_no_thresholds_and_are_named():
    validation = Films(90, seed=9)
    validation.labels[:, 0] = 1
    scores = finding_scores(Films(), validation)
    assert scores.calibration.without_thresholds == {
        "Mass": "no negatives in validation",
        "Hernia": "no positives in validation",
    }
    assert math.isnan(value_of(scores, "Mass", "youden_sensitivity"))
    assert not math.isnan(value_of(scores, "Mass", "auroc"))
    others = [value_of(scores, name, "youden_sensitivity") for name in ("Edema", "Nodule")]
    assert value_of(scores, MEAN_OF_FINDINGS, "youden_sensitivity") == pytest.approx(np.mean(others))


def test_labels_that_are_ignored_leave_the_others_as_they_are():
    """The rows of a finding are those of the images whose label of it counts, and its draws those of all patients."""
    films, validation = Films(), Films(90, seed=9)
    for one, step in ((films, 4), (validation, 5)):
        one.labels[::step, 0] = IGNORE
        one.labels[:, 3] = IGNORE
        one.logits[one.labels == IGNORE] += 1e3  # what is ignored may be as wrong as it likes
    found = finding_scores(films, validation)
    temperature = fit_temperature(*(of[validation.labels != IGNORE] for of in (validation.logits, validation.labels)))
    assert found.calibration.temperature == temperature
    known = films.labels[:, 0] != IGNORE
    assert value_of(found, "Mass", "auroc") == pytest.approx(auroc(films.logits[known, 0], films.labels[known, 0]))
    drawn = naive_draws(films, draws=200, seed=3)
    assert row_of(found, "nih", "Mass", "auroc")[["low", "high"]].tolist() == pytest.approx(
        percentile_interval(drawn[0])
    )
    mass, hernia, mean = (row_of(found, "nih", name, "auroc") for name in ("Mass", "Hernia", MEAN_OF_FINDINGS))
    assert (mass.images, mass.positives, hernia.images, mean.images) == (45, (films.labels[:, 0] == 1).sum(), 0, 60)
    assert excluded(found.table) == {"nih": {"Hernia": "no labels"}} == {"nih": reasons(found.summary, "nih")}
    assert found.calibration.without_thresholds == {"Hernia": "no labels in validation"}
    assert value_of(found, "Edema", "auroc") == value_of(finding_scores(Films()), "Edema", "auroc")


def test_nothing_to_rank_is_undefined():
    scores = finding_scores(Films(labels=np.zeros((12, 4), dtype=np.uint8)))
    mean = row_of(scores, "nih", MEAN_OF_FINDINGS, "auroc")
    assert (mean.classes, mean.positives) == (0, 0)
    assert math.isnan(mean.value)


def test_a_metric_of_a_user_is_in_the_summary_with_its_interval():
    try:

        @register_metric("brier", task="classification", per="set", scores="probability", larger_is_better=False)
        def brier(scores, labels):
            return float(np.mean((scores - labels) ** 2))

        films = Films()
        scores = finding_scores(films, draws=100)
    finally:
        metrics.remove("brier")
    row = row_of(scores, "nih", "Mass", "brier")
    probabilities = probabilities_of(films.logits[:, 0], scores.calibration.temperature)
    assert row.value == pytest.approx(np.mean((probabilities - films.labels[:, 0]) ** 2))
    assert row.low < row.value < row.high


def test_metrics_of_empty_truths_are_of_these_images_alone() -> None:
    rows = []
    for number, (truth, found) in enumerate([("present", NAN), ("empty", 1.0), ("empty", 0.0), ("empty", 0.0)]):
        about = ("ct", f"i{number}", f"p{number}", "foreground", truth)
        rows += [(*about, "dice", 0.5), (*about, "false_positive", found)]
        rows += [(*about, "false_area", found * 40, "image", "mm2")]
    scores = summarized(Scores(table_of(rows), "test", draws=50))
    rate, area = (row_of(scores, "ct", metric=name) for name in ("false_positive", "false_area"))
    assert (rate.value, rate.images, rate.patients, rate.undefined) == (pytest.approx(1 / 3), 3, 3, 0)
    assert (area.value, area.unit) == (pytest.approx(40 / 3), "mm2")
    assert row_of(scores, "ct").images == 4


def test_values_in_mm_and_in_pixels_have_no_common_mean() -> None:
    rows = [
        (
            dataset,
            f"i{n}",
            f"p{n}",
            "foreground",
            "present",
            "hd95",
            2.0,
            "image",
            "mm" if dataset == "a" or n else "px",
        )
        for dataset in ("a", "b")
        for n in range(3)
    ]
    scores = summarized(Scores(table_of(rows), "test", draws=50))
    own, mixed, together = (row_of(scores, name, metric="hd95") for name in ("a", "b", ALL))
    assert (own.value, own.unit) == (2.0, "mm")
    assert math.isnan(mixed.value)
    assert math.isnan(together.value)
    assert {*mixed.unit.split(" and ")} == {"mm", "px"}


def test_volumes_have_a_summary_of_their_own() -> None:
    rows = [("ct", f"v/{n}", "v", "foreground", "present", "dice", 0.2) for n in range(4)]
    rows += [("ct", "v", "v", "foreground", "present", "dice", 0.6, "volume", "")]
    scores = summarized(Scores(table_of(rows), "test", draws=50))
    assert (row_of(scores, "ct").value, row_of(scores, "ct").images) == (pytest.approx(0.2), 4)
    (volume,) = scores.volumes[scores.volumes["dataset"] == "ct"].to_dict("records")
    assert (volume["value"], volume["images"]) == (0.6, 1)
