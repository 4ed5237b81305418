"""Groups of images: where they come from, their means, and how far they are apart."""

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_folder_data

from medarts.config import make_source
from medarts.data.groups import groups_of
from medarts.data.opening import open_sources
from medarts.errors import DataError
from medarts.evaluation.grouping import with_groups
from medarts.evaluation.scores import Scores, table_of
from medarts.evaluation.scoring import calibrate, examples_of, finding_table
from medarts.evaluation.stats import bootstrap_means, jackknife_interval, left_out_means, percentile_interval
from medarts.evaluation.summary import MEAN_OF_CLASSES, summarized
from medarts.reporting.score_tables import apart, groups_table


def scores_of(values: dict[str, list[float]], *, draws: int = 200) -> Scores:
    """Scores of images given by group, each of a patient of its own."""
    rows = [
        ("ct", f"{group}{number}", f"{group}-p{number}", "foreground", "present", "dice", value, "image", "", group)
        for group, of_group in values.items()
        for number, value in enumerate(of_group)
    ]
    return with_groups(summarized(Scores(table_of(rows), "test", draws=draws, seed=3)))


def test_means_of_groups_are_those_of_their_images() -> None:
    generator = np.random.default_rng(0)
    values = {name: generator.uniform(low, 1, 14).tolist() for name, low in (("a", 0.2), ("b", 0.6), ("c", 0.8))}
    scores = scores_of(values)
    groups = scores.groups[scores.groups["dataset"] == "ct"].set_index("group")
    for name, of_group in values.items():
        assert groups.loc[name, "value"] == pytest.approx(np.mean(of_group))
        assert groups.loc[name, "low"] < groups.loc[name, "value"] < groups.loc[name, "high"]
        assert groups.loc[name, "images"] == 14
    between = scores.between.set_index(["group", "other"])
    assert [*between.index] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert between.loc[("a", "c"), "value"] == pytest.approx(np.mean(values["a"]) - np.mean(values["c"]))
    drawn = [
        bootstrap_means(values[name], [f"p{n}" for n in range(14)], draws=200, seed=(3, place))
        for place, name in enumerate(("a", "c"))
    ]
    low, high = percentile_interval(drawn[0] - drawn[1])
    assert (between.loc[("a", "c"), "low"], between.loc[("a", "c"), "high"]) == pytest.approx((low, high), abs=0.03)
    kinds = dict(apart(scores))
    assert kinds["largest"].startswith("c is ")
    assert kinds["largest"].endswith("above a")


def test_a_difference_of_few_patients_has_the_interval_of_both_jackknives() -> None:
    one, other = [0.5, 0.7, 0.9], [0.4, 0.5, 0.3, 0.2]
    (row,) = scores_of({"a": one, "b": other}).between.to_dict("records")
    left_out = [left_out_means(values, [str(n) for n in range(len(values))]) for values in (one, other)]
    value = np.mean(one) - np.mean(other)
    errors = [(len(of) - 1) * of.var() for of in left_out]
    assert row["value"] == pytest.approx(value)
    assert row["high"] - row["value"] == pytest.approx(row["value"] - row["low"])
    expected = jackknife_interval(value, [2 * left_out[0], -2 * left_out[1]], limits=(-9, 9))
    assert (row["low"], row["high"]) == pytest.approx(expected)
    assert (row["high"] - value) / np.sqrt(sum(errors)) > 1.96  # Student's t, not the normal distribution


def test_one_group_is_none_and_images_without_a_group_are_in_none() -> None:
    assert scores_of({"a": [0.5, 0.6]}).groups is None
    scores = scores_of({"a": [0.5, 0.6], "b": [0.1, 0.2], "": [0.9]})
    assert set(scores.groups["group"]) == {"a", "b"}


def test_groups_of_findings_have_the_metrics_of_their_images() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (60, 2)).astype(np.uint8)
    logits = labels + generator.normal(0, [[1.0]] * 30 + [[4.0]] * 30, (60, 2))
    images = [("films", f"i{n}", f"p{n}") for n in range(60)]
    calibration = calibrate(logits, labels, findings=("x", "y"), sensitivity=0.9)
    table = finding_table(images, ("x", "y"), logits, labels, temperature=1.0)
    table["group"] = ["new" if int(name[1:]) < 30 else "old" for name in table["image"]]
    scores = with_groups(summarized(Scores(table, "test", draws=100, calibration=calibration)))
    auroc = scores.groups[(scores.groups["metric"] == "auroc") & (scores.groups["class"] == "mean of findings")]
    assert dict(zip(auroc["group"], auroc["value"], strict=True))["new"] > 0.7
    assert scores.between is None
    assert groups_table(scores) is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder_data(tmp_path / "blobs", images=6)


def group_names(folder: Path, column: str | None = None) -> dict[str, str]:
    source = make_source(kind="folder", path=folder, name="blobs")
    samples = open_sources([source]).samples
    return {key: group for (_, key), group in groups_of([source], samples, column=column).items()}


def test_a_column_of_splits_csv_or_another_table_gives_groups(folder: Path) -> None:
    assert group_names(folder) == {}
    splits = folder / "splits.csv"
    lines = splits.read_text().splitlines()
    splits.write_text("\n".join([f"{lines[0]},Centre", *(f"{line},{'AB'[n % 2]}" for n, line in enumerate(lines[1:]))]))
    assert group_names(folder, "centre")["blob_00"] == "A"
    assert len(group_names(folder, "centre")) == 6
    (folder / "about.csv").write_text("device,file,group\nx,blob_01.png,g\ny,blob_02.png,\n")
    assert group_names(folder, "device") == {"blob_01": "x", "blob_02": "y"}
    assert group_names(folder) == {"blob_01": "g"}
    assert group_names(folder, "patient")["blob_05"] == "p2"
    with pytest.raises(DataError, match=r"column centr.*Did you mean 'Centre'"):
        group_names(folder, "centr")


def example_rows(*images: tuple[str, str, float, str]) -> list[tuple[str, str, bool]]:
    rows = [("ct", image, patient, "foreground", truth, "dice", value) for image, patient, value, truth in images]
    return [(row.image, row.title, row.of_gallery) for row in examples_of(table_of(rows), worst=4).itertuples()]


def test_images_without_anything_are_neither_best_nor_worst() -> None:
    rows = example_rows(
        ("healthy", "p0", 1.0, "empty"),
        ("false", "p1", 0.0, "empty"),
        ("good", "p2", 0.9, "present"),
        ("fair", "p3", 0.6, "present"),
        ("bad", "p4", 0.1, "present"),
    )
    assert [row[0] for row in rows] == ["good", "fair", "bad", "bad", "fair", "good"]
    assert [row[2] for row in rows] == [False] * 3 + [True] * 3
    assert rows[0][1] == "ct · best · good · Dice 0.900"
    assert example_rows(("healthy", "p0", 1.0, "empty")) == []


def test_a_gallery_has_few_images_of_a_patient() -> None:
    rows = example_rows(*((f"frame{n}", "p0", 0.1, "present") for n in range(9)), ("other", "p1", 0.5, "present"))
    gallery = [image for image, _, of_gallery in rows if of_gallery]
    assert gallery == ["frame0", "frame1", "frame2", "other"]
    table = table_of(("ct", f"i{n}", f"p{n}", "foreground", "present", "dice", n / 13) for n in range(13))
    usual, asked = (examples_of(table, worst=worst)["of_gallery"].sum() for worst in (None, 12))
    assert (usual, asked) == (5, 12), "a third, unless more are asked for"


def test_the_mean_of_classes_of_a_group_is_over_its_images() -> None:
    rows = [
        ("ct", f"i{n}", f"p{n}", name, "present", "dice", value, "image", "", group)
        for n, group in enumerate("aabb")
        for name, value in (("liver", 0.8), ("tumour", 0.1 * n))
    ]
    scores = with_groups(summarized(Scores(table_of(rows), "test", draws=50)))
    means = scores.groups[(scores.groups["class"] == MEAN_OF_CLASSES) & (scores.groups["dataset"] == "ct")]
    assert dict(zip(means["group"], means["value"], strict=True)) == pytest.approx({"a": 0.425, "b": 0.525})
