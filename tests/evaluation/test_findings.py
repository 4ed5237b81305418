import csv
import json
import math

import numpy as np
import pytest

from medarts.errors import RunError
from medarts.evaluation.finding_table import (
    FEW,
    MEAN_OF_FINDINGS,
    MEAN_OF_FREQUENT,
    SENSITIVE,
    YOUDEN,
)
from medarts.evaluation.findings import CURVE_POINTS, FindingScores, Predictions
from medarts.evaluation.mask_scores import ALL
from medarts.evaluation.statistics import bootstrap_means, draw_patients
from medarts.metrics.calibration import expected_calibration_error, fit_temperature, probabilities_of
from medarts.metrics.ranking import auroc, average_precision, operating_point, threshold_youden

NAMES = ("Mass", "Edema", "Nodule", "Hernia")
FILES = ("predictions.csv", "findings.csv", "calibration.csv", "curves.csv", "scores.json")


def predictions(*, images=60, seed=0, domain="nih", each=3, labels=None, temperature=1.0):
    """Predictions of images, ``each`` a patient; Mass is frequent, Edema less, Nodule rare, Hernia absent."""
    generator = np.random.default_rng(seed)
    if labels is None:
        labels = (generator.random((images, 4)) < [0.5, 0.2, 0, 0]).astype(np.uint8)
        labels[[1, -1], 2] = 1
    logits = temperature * (generator.normal(-1, 1, labels.shape) + 1.5 * labels)
    return Predictions(
        keys=[f"{i:03d}.png" for i in range(len(labels))],
        domains=[domain] * len(labels),
        patients=[str(i // each) for i in range(len(labels))],
        logits=logits.astype(np.float32),
        labels=labels,
    )


def joined(*parts):
    return Predictions(
        keys=[key for part in parts for key in part.keys],
        domains=[domain for part in parts for domain in part.domains],
        patients=[patient for part in parts for patient in part.patients],
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def scored(given, validation=None, *, draws=200, seed=3, findings=NAMES, sensitivity=0.9):
    return FindingScores.of(
        given,
        predictions(images=90, seed=9) if validation is None else validation,
        findings=findings,
        split="test",
        checkpoint="best",
        sensitivity=sensitivity,
        draws=draws,
        seed=seed,
    )


def row_of(scores, finding, domain="nih"):
    [row] = [row for row in scores.table() if (row.domain, row.finding) == (domain, finding)]
    return row


def naive_draws(given, *, draws, seed):
    """AUROC of every finding in every draw, patient by patient; nan where a class is absent."""
    people = sorted(set(zip(given.domains, given.patients, strict=True)))
    images_of = {
        person: [i for i, one in enumerate(zip(given.domains, given.patients, strict=True)) if one == person]
        for person in people
    }
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = [i for place in generator.integers(len(people), size=len(people)) for i in images_of[people[place]]]
        found.append([auroc(given.logits[rows, f], given.labels[rows, f]) for f in range(given.labels.shape[1])])
    return np.array(found).T


def test_rows_hold_the_scores_of_every_finding():
    given = predictions()
    scores = scored(given)
    assert [row.finding for row in scores.table()] == [MEAN_OF_FINDINGS, MEAN_OF_FREQUENT, *NAMES]
    for f, name in enumerate(NAMES[:3]):
        row, labels, logits = row_of(scores, name), given.labels[:, f], given.logits[:, f]
        probabilities = probabilities_of(logits, scores.temperature)
        assert (row.images, row.patients, row.positives, row.findings) == (60, 20, labels.sum(), 1)
        assert row.auroc.mean == auroc(logits, labels)
        assert row.average_precision.mean == average_precision(logits, labels)
        assert row.youden == operating_point(probabilities, labels, scores.thresholds[YOUDEN][f])
        assert row.sensitive == operating_point(probabilities, labels, scores.thresholds[SENSITIVE][f])
        assert row.ece_before == expected_calibration_error(probabilities_of(logits), labels)
        assert row.ece_after == expected_calibration_error(probabilities, labels)
        assert row.auroc.low < row.auroc.mean < row.auroc.high


def test_absent_findings_are_excluded_from_the_means_and_named():
    given = predictions()
    given.labels[:, 1] = 1
    scores = scored(given)
    assert scores.excluded() == {"nih": {"Edema": "no negatives", "Hernia": "no positives"}}
    for name in ("Edema", "Hernia"):
        row = row_of(scores, name)
        assert math.isnan(row.auroc.mean)
        assert math.isnan(row.average_precision.mean)
        assert math.isnan(row.auroc.low)
        assert row.auroc.undefined == 200
    mean, present = row_of(scores, MEAN_OF_FINDINGS), [row_of(scores, name) for name in ("Mass", "Nodule")]
    assert (mean.findings, mean.positives) == (2, sum(row.positives for row in present))
    assert mean.auroc.mean == pytest.approx(np.mean([row.auroc.mean for row in present]))
    assert mean.average_precision.mean == pytest.approx(np.mean([row.average_precision.mean for row in present]))
    assert mean.ece_after == pytest.approx(np.mean([row.ece_after for row in present]))
    assert mean.youden.ppv == pytest.approx(np.mean([row.youden.ppv for row in present]))
    assert math.isnan(mean.youden.threshold)
    assert scores.mean_auroc == mean.auroc.mean
    frequent = row_of(scores, MEAN_OF_FREQUENT)
    assert (frequent.findings, frequent.auroc) == (1, present[0].auroc)


def test_few_positives_make_a_second_mean_only_where_it_differs():
    labels = np.zeros((40, 2), dtype=np.uint8)
    labels[:FEW, 0] = labels[: FEW - 1, 1] = 1
    names = [
        row.finding
        for row in scored(
            predictions(labels=labels), findings=("a", "b"), validation=predictions(labels=labels)
        ).table()
    ]
    assert names == [MEAN_OF_FINDINGS, MEAN_OF_FREQUENT, "a", "b"]
    for count in (FEW, FEW - 1):  # both in the mean, or none
        labels[:] = 0
        labels[:count] = 1
        given = predictions(labels=labels)
        names = [row.finding for row in scored(given, given, findings=("a", "b")).table()]
        assert names == [MEAN_OF_FINDINGS, "a", "b"]


def test_intervals_equal_a_naive_loop_over_drawn_patients():
    given = predictions()
    scores = scored(given, draws=150, seed=5)
    drawn = naive_draws(given, draws=150, seed=5)
    for f, name in enumerate(NAMES[:3]):
        summary, defined = row_of(scores, name).auroc, drawn[f][~np.isnan(drawn[f])]
        assert (summary.low, summary.high) == pytest.approx(tuple(np.quantile(defined, [0.025, 0.975])), abs=1e-12)
        assert summary.undefined == 150 - len(defined)
    # Two patients have Nodule: many draws have none of them, and their mean is that of the others.
    assert row_of(scores, "Nodule").auroc.undefined > 5
    summary, means = row_of(scores, MEAN_OF_FINDINGS).auroc, np.nanmean(drawn[:3], axis=0)
    assert (summary.low, summary.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert summary.undefined == 0


def test_draws_are_those_of_the_other_bootstrap():
    people = np.array([0, 0, 1, 2, 2, 2, 3])
    values = np.random.default_rng(0).random(7)
    weights = draw_patients(people, draws=50, seed=4).astype(float)
    expected = bootstrap_means(values, [str(one) for one in people], draws=50, seed=4)
    np.testing.assert_allclose(weights @ values / weights.sum(1), expected)


def test_patients_and_not_images_carry_the_uncertainty():
    """Every image copied four times, as images of the same patient, says nothing new."""
    once = predictions(each=1)
    copied = joined(*[once] * 4)
    assert row_of(scored(copied), "Mass").auroc == row_of(scored(once), "Mass").auroc
    as_others = predictions(each=1)
    as_others = joined(
        once,
        *(
            Predictions([*once.keys], [*once.domains], [f"{n} {p}" for p in once.patients], once.logits, once.labels)
            for n in range(3)
        ),
    )
    narrow, wide = row_of(scored(as_others), "Mass").auroc, row_of(scored(copied), "Mass").auroc
    assert narrow.high - narrow.low < 0.7 * (wide.high - wide.low)


def test_domains_have_rows_of_their_own_and_patients_of_different_domains_are_different():
    given = joined(predictions(images=30), predictions(images=45, seed=1, domain="shenzhen"))
    given.labels[:30, 2] = 0
    scores = scored(given, draws=150)
    assert list(dict.fromkeys(row.domain for row in scores.table())) == ["nih", "shenzhen", ALL]
    assert scores.excluded() == {
        "nih": {"Nodule": "no positives", "Hernia": "no positives"},
        "shenzhen": {"Hernia": "no positives"},
        ALL: {"Hernia": "no positives"},
    }
    assert [row_of(scores, "Mass", name).patients for name in ("nih", "shenzhen", ALL)] == [10, 15, 25]
    assert row_of(scores, "Mass", ALL).auroc.mean == auroc(given.logits[:, 0], given.labels[:, 0])
    assert row_of(scores, "Mass", "nih").auroc == row_of(scored(predictions(images=30), draws=150), "Mass").auroc
    drawn = naive_draws(given, draws=150, seed=3)[0]
    found = row_of(scores, "Mass", ALL).auroc
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
    assert scores.mean_auroc == row_of(scores, MEAN_OF_FINDINGS, ALL).auroc.mean


def test_one_patient_and_one_patient_with_the_finding_have_no_interval():
    alone = scored(predictions(images=12, each=12))
    for name in (MEAN_OF_FINDINGS, "Mass"):
        assert 0 <= row_of(alone, name).auroc.mean <= 1
        assert math.isnan(row_of(alone, name).auroc.low)
    labels = np.zeros((30, 1), dtype=np.uint8)
    labels[:2] = 1  # of one patient
    given = predictions(labels=labels)
    scores = scored(given, given, findings=("Mass",))
    assert math.isnan(row_of(scores, "Mass").auroc.high)
    assert 0 < row_of(scores, "Mass").auroc.undefined < 200


def test_temperature_and_thresholds_come_from_validation():
    validation = predictions(images=300, seed=9, temperature=3.0)
    one, other = scored(predictions(), validation), scored(predictions(seed=8), validation)
    assert one.temperature == other.temperature == fit_temperature(validation.logits, validation.labels)
    assert one.temperature > 1.5
    probabilities = probabilities_of(validation.logits, one.temperature)
    assert one.thresholds[YOUDEN][0] == threshold_youden(probabilities[:, 0], validation.labels[:, 0])
    for f in range(3):
        point = operating_point(probabilities[:, f], validation.labels[:, f], one.thresholds[SENSITIVE][f])
        assert point.sensitivity >= 0.9
    np.testing.assert_array_equal(one.thresholds[YOUDEN], other.thresholds[YOUDEN])


def test_findings_that_validation_cannot_rank_have_no_thresholds_and_are_named():
    validation = predictions(images=90, seed=9)
    validation.labels[:, 0] = 1
    scores = scored(predictions(), validation)
    assert scores.without_thresholds == {
        "Mass": "no negatives in validation",
        "Hernia": "no positives in validation",
    }
    assert [math.isnan(value) for value in scores.thresholds[SENSITIVE]] == [True, False, False, True]
    row, mean = row_of(scores, "Mass"), row_of(scores, MEAN_OF_FINDINGS)
    assert all(math.isnan(value) for value in (*row.youden, *row.sensitive))
    assert not math.isnan(row.auroc.mean)
    # The mean of what the others' thresholds do.
    others = [row_of(scores, name).youden.sensitivity for name in ("Edema", "Nodule")]
    assert mean.youden.sensitivity == pytest.approx(np.mean(others))


def test_nothing_to_rank_is_undefined_and_not_a_number(tmp_path):
    scores = scored(predictions(labels=np.zeros((12, 4), dtype=np.uint8)))
    assert math.isnan(scores.mean_auroc)
    mean = row_of(scores, MEAN_OF_FINDINGS)
    assert (mean.findings, mean.positives) == (0, 0)
    assert math.isnan(mean.auroc.mean)
    scores.write(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert content["tables"][0]["auroc"] == {"mean": None, "low": None, "high": None, "undefined": 200}
    assert content["excluded"] == {"nih": dict.fromkeys(NAMES, "no positives")}
    assert (tmp_path / "curves.csv").read_text() == "finding,curve,x,y,threshold\n"
    with (tmp_path / "findings.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["auroc_mean"], first["youden_threshold"], first["images"]) == ("", "", "12")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_have_the_documented_form(tmp_path):
    given = predictions(images=900)
    scores = scored(given, draws=20)
    scores.write(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    content = json.loads((folder / "scores.json").read_text())
    assert content["bootstrap"] == {"draws": 20, "seed": 3, "level": 0.95}
    assert content["thresholds"][YOUDEN]["Hernia"] is None
    assert content["thresholds"][YOUDEN]["Mass"] == scores.thresholds[YOUDEN][0]
    assert content["tables"] == [row.as_json() for row in scores.table()]
    assert {"auroc", "ppv", "ece", "temperature", "low, high", MEAN_OF_FINDINGS, ALL} <= content["definitions"].keys()

    images = read_csv(folder / "predictions.csv")
    assert [*images[0]][:6] == ["domain", "key", "patient", "Mass label", "Mass logit", "Mass probability"]
    assert float(images[7]["Edema probability"]) == scores.probabilities[7, 1]

    rows = read_csv(folder / "findings.csv")
    assert [row["finding"] for row in rows] == [row.finding for row in scores.table()]
    assert float(rows[2]["average_precision_high"]) == row_of(scores, "Mass").average_precision.high
    assert float(rows[2]["sensitive_npv"]) == row_of(scores, "Mass").sensitive.npv

    bins = read_csv(folder / "calibration.csv")
    assert [(row["stage"], float(row["low"])) for row in bins[::15]] == [("before", 0), ("after", 0)]
    for stage, temperature in (("before", 1.0), ("after", scores.temperature)):
        gaps = [
            int(row["predictions"]) * abs(float(row["mean_probability"]) - float(row["observed"]))
            for row in bins
            if row["stage"] == stage and row["predictions"] != "0"
        ]
        expected = expected_calibration_error(probabilities_of(given.logits, temperature), given.labels)
        assert sum(gaps) / given.labels.size == pytest.approx(expected)

    curves = read_csv(folder / "curves.csv")
    assert list(dict.fromkeys((row["finding"], row["curve"]) for row in curves)) == [
        (name, kind) for name in NAMES[:3] for kind in ("roc", "pr")
    ]
    roc = [row for row in curves if (row["finding"], row["curve"]) == ("Mass", "roc")]
    assert 50 < len(roc) <= CURVE_POINTS
    assert (roc[0]["x"], roc[0]["y"], roc[0]["threshold"], roc[-1]["x"], roc[-1]["y"]) == (
        "0.0",
        "0.0",
        "inf",
        "1.0",
        "1.0",
    )
    for name in NAMES[:3]:
        points = [row for row in curves if (row["finding"], row["curve"]) == (name, "roc")]
        x, y = np.array([[float(row["x"]), float(row["y"])] for row in points]).T
        assert np.trapezoid(y, x) == pytest.approx(row_of(scores, name).auroc.mean, abs=0.005)


def test_reading_gives_back_what_was_written(tmp_path):
    odd = Predictions(["a,b;c"], ['the "set"'], ["p\nq"], [[1 / 3, -1e-17, 5e8, 0]], [[1, 0, 1, 0]])
    scores = scored(joined(predictions(), odd))
    scores.write(tmp_path)
    back = FindingScores.read(tmp_path)
    assert repr(back.table()) == repr(scores.table())  # repr, because nan differs from itself
    for name in (
        "split",
        "checkpoint",
        "findings",
        "temperature",
        "sensitivity",
        "without_thresholds",
        "draws",
        "seed",
    ):
        assert getattr(back, name) == getattr(scores, name)
    for name in ("keys", "domains", "patients", "logits", "labels"):
        np.testing.assert_array_equal(getattr(back.predictions, name), getattr(scores.predictions, name))
    assert back.predictions.labels.dtype == np.uint8
    for rule in (YOUDEN, SENSITIVE):
        np.testing.assert_array_equal(back.thresholds[rule], scores.thresholds[rule])
    back.write(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_no_images_make_empty_tables(tmp_path):
    nothing = Predictions([], [], [], np.empty((0, 4)), np.empty((0, 4)))
    scores = scored(nothing, nothing)
    assert scores.temperature == 1
    assert scores.table() == []
    assert math.isnan(scores.mean_auroc)
    scores.write(tmp_path)
    assert FindingScores.read(tmp_path).table() == []


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"scores\.json does not exist"):
        FindingScores.read(tmp_path)
    scored(predictions(images=12)).write(tmp_path)
    path = tmp_path / "predictions.csv"
    whole = path.read_text()
    header, first, *_ = whole.splitlines()
    damages = [
        "",
        header + "\nnih,1,1",
        first,
        header.replace("Mass", "Fat") + "\n" + first,
        header + "\n" + first + ",1",
    ]
    damages += [header + "\n" + first.replace("nih,000.png,0,", "nih,000.png,0,2"), whole + '"nih']
    damages += [header + "\nnih,0,0," + ",".join(["0", "much", "0.5"] * 4)]
    damages += [header + "\nnih,0,0," + ",".join(["0", "nan", "0.5"] * 4)]
    for damaged in damages:
        path.write_text(damaged)
        with pytest.raises(RunError):
            FindingScores.read(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"predictions\.csv does not exist"):
        FindingScores.read(tmp_path)
    path.write_text(whole)
    content = json.loads((tmp_path / "scores.json").read_text())
    for change in ({"thresholds": {}}, {"thresholds": []}, {"temperature": None}, {"findings": 3}, {"bootstrap": {}}):
        (tmp_path / "scores.json").write_text(json.dumps(content | change))
        with pytest.raises(RunError, match=r"is damaged: .* medarts evaluate"):
            FindingScores.read(tmp_path)
    (tmp_path / "scores.json").write_text('{"split": ')
    with pytest.raises(RunError, match=r"is damaged: .* medarts evaluate"):
        FindingScores.read(tmp_path)


def test_outputs_that_are_not_finite_are_refused():
    logits = np.zeros((3, 2))
    logits[1] = math.nan
    with pytest.raises(RunError, match="1 of 3 images are not finite"):
        Predictions(["a", "b", "c"], ["d"] * 3, ["p"] * 3, logits, np.zeros((3, 2)))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="labels"):
        Predictions(["a"], ["d"], ["p"], np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="logits"):
        Predictions(["a", "b"], ["d"], ["p"], np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="findings"):
        scored(predictions(), findings=("Mass", "Mass", "Edema", "Nodule"))
