"""The long table: what it excludes, how it is written and read, and what is noticed of damaged files."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medarts.errors import RunError
from medarts.evaluation import files
from medarts.evaluation.files import of_metrics
from medarts.evaluation.scores import Scores, counted, excluded, image_values, table_of, vanished, without_patients
from medarts.evaluation.scoring import calibrate, finding_table
from medarts.evaluation.summary import summarized
from medarts.metrics import definitions, register_metric
from medarts.registry import metrics
from medarts.system.files import write_whole

NAN = float("nan")
FILES = ("examples.npz", "scores.csv", "summary.csv", "scores.json")


def rows_of(dataset, patient, image, dice, *, hd95=1.0, name="foreground", truth="present"):
    found = {"dice": dice, "hd95": hd95, "specificity": 0.9}
    return [(dataset, image, patient, name, truth, metric, value) for metric, value in found.items()]


def scores_of(*rows, **options):
    table = table_of(row for of_image in rows for row in of_image)
    return summarized(Scores(table, "test", head="(6, 0)", draws=100, seed=3, **options))


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    rows = [rows_of("isic", f"{i // 2}", f"i{i}", x) for i, x in enumerate(generator.uniform(0.6, 1, 12).tolist())]
    rows += [rows_of("cvc", f"{i // 3}", f"c{i}", x, hd95=NAN) for i, x in enumerate(generator.random(6).tolist())]
    rows.append(rows_of("cvc", 'a "b", c\nd', "key, with; all l\udce9sion", 1 / 3, hd95=1e-17, truth="vanished"))
    rows.append(rows_of("cvc", "NA", "\r", 0.1 + 0.2, hd95=5e-324))
    return scores_of(*rows)


def test_reading_gives_back_what_was_written(scores, tmp_path):
    scores.write(tmp_path / "new" / "folder", examples={"titles": np.asarray(["a"])})
    back = Scores.read(tmp_path / "new" / "folder")
    pd.testing.assert_frame_equal(back.table, scores.table, check_exact=True)
    pd.testing.assert_frame_equal(back.summary, scores.summary, check_exact=True)
    for name in ("split", "checkpoint", "head", "draws", "seed", "made_of", "calibration", "task"):
        assert getattr(back, name) == getattr(scores, name)
    back.write(tmp_path / "again", examples={"titles": np.asarray(["a"])})
    for name in FILES:
        assert (tmp_path / "new" / "folder" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_findings_are_read_back_too(tmp_path):
    generator = np.random.default_rng(0)
    labels = (generator.random((20, 2)) < [0.4, 0]).astype(np.uint8)
    logits = generator.normal(size=(20, 2)).astype(np.float32).astype(np.float64)
    calibration = calibrate(logits, labels, findings=["Mass", "Hernia"], sensitivity=0.9)
    about = [("nih", f"{n}.png", str(n // 2)) for n in range(20)]
    table = finding_table(about, ["Mass", "Hernia"], logits, labels, temperature=calibration.temperature)
    scores = summarized(Scores(table, "test", draws=50, calibration=calibration))
    scores.write(tmp_path)
    back = Scores.read(tmp_path)
    assert (back.task, back.calibration) == ("classification", calibration)
    pd.testing.assert_frame_equal(back.table, scores.table, check_exact=True)
    pd.testing.assert_frame_equal(back.summary, scores.summary, check_exact=True)
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["excluded"] == {"nih": {"Hernia": "no positives"}}
    assert content["calibration"]["thresholds"]["youden"]["Hernia"] is None


def test_the_json_says_what_was_scored(scores, tmp_path):
    scores.write(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert (content["task"], content["split"], content["head"]) == ("segmentation", "test", "(6, 0)")
    assert content["bootstrap"] == {"draws": 100, "seed": 3, "level": 0.95}
    assert content["metrics"] == definitions("segmentation")
    assert content["vanished"] == {"cvc": {"foreground": 1}}


def test_a_new_metric_changes_the_fingerprint():
    before = of_metrics(definitions("segmentation"))
    try:

        @register_metric("size", task="segmentation")
        def size(masks):
            return float(masks.predicted.mean())

        assert of_metrics(definitions("segmentation")) != before
    finally:
        metrics.remove("size")
    assert of_metrics(definitions("segmentation")) == before


def test_no_images_make_empty_tables(tmp_path):
    scores_of().write(tmp_path)
    assert len(Scores.read(tmp_path).table) == 0


@pytest.fixture
def without_spleen():
    """In ct no image shows the spleen, in mr one does."""
    rows = []
    for dataset, truths in (("ct", ("empty", "empty")), ("mr", ("empty", "vanished"))):
        for number, truth in enumerate(truths):
            rows.append(rows_of(dataset, str(number), f"{dataset}{number}", 0.5, name="liver"))
            spleen = 0.0 if truth == "vanished" else 1.0
            rows.append(rows_of(dataset, str(number), f"{dataset}{number}", spleen, name="spleen", truth=truth))
    return scores_of(*rows)


def test_a_class_that_no_image_of_a_data_set_shows_is_excluded_there(without_spleen):
    assert excluded(without_spleen.table) == {"ct": {"spleen": "no positives"}}
    assert vanished(without_spleen.table) == {"mr": {"spleen": 1}}
    values = counted(without_spleen.table).set_index(["image", "class", "metric"]).value
    assert math.isnan(values["ct0", "spleen", "dice"])
    assert values["ct0", "spleen", "specificity"] == 0.9  # false positives still count
    assert values["mr1", "spleen", "dice"] == 0
    means = image_values(without_spleen.table).set_index(["image", "metric"]).value
    assert [means[name, "dice"] for name in ("ct0", "mr0", "mr1")] == [0.5, 0.75, 0.25]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunError("full", fix="")])
def test_a_kill_or_a_full_disk_leaves_the_scores_that_were_there(scores, tmp_path, monkeypatch, error):
    folder, examples = tmp_path / "scores" / "test", {"titles": np.asarray(["a"])}
    scores.write(folder, examples=examples)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for last in FILES:

        def killed(path, content, last=last):
            if path.name == last:
                raise error
            write_whole(path, content)

        monkeypatch.setattr(files, "write_whole", killed)
        with pytest.raises((KeyboardInterrupt, RunError)):
            scores.write(folder, examples=examples)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setattr(files, "write_whole", write_whole)
    scores.write(folder)
    assert sorted(before) == sorted(FILES)
    assert sorted(path.name for path in folder.iterdir()) == ["scores.csv", "scores.json", "summary.csv"]
    assert [path.name for path in folder.parent.iterdir()] == ["test"]  # nothing unfinished


def test_scores_that_cannot_take_their_place_leave_those_before(scores, tmp_path, monkeypatch):
    scores.write(tmp_path / "test")
    real = Path.rename

    def refuse(path, target):
        if path.name == ".unfinished-test":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="No space left"):
        scores.write(tmp_path / "test")
    assert len(Scores.read(tmp_path / "test").table) == len(scores.table)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test", "--split test"),
        ("val-head-4,0", "--split val --head 4,0"),
        ("all-liver-ct-0a1b2c3d", "--split all --data DATA, where DATA is what is called liver-ct here"),
        ("test-ct-head-4,0-0a1b2c3d", "--split test --head 4,0 --data DATA, where DATA is what is called ct here"),
    ],
)
def test_the_way_to_scores_has_the_options_of_their_folder(tmp_path, name, options):
    with pytest.raises(RunError) as caught:
        Scores.read(tmp_path / "my run" / "scores" / name)
    assert caught.value.fix == f"Evaluate again: medarts evaluate '{tmp_path / 'my run'}' {options}"


def test_scores_of_another_version_are_not_called_damaged(scores, tmp_path):
    scores.write(tmp_path)
    content = json.loads((tmp_path / "scores.json").read_text())
    for other in ({**content, "format": 99}, {key: value for key, value in content.items() if key != "format"}):
        (tmp_path / "scores.json").write_text(json.dumps(other))
        with pytest.raises(RunError, match=r"scores\.json was written by another version of medarts\. Evaluate again"):
            Scores.read(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_cut_zeroed_and_changed_files_are_named(scores, tmp_path, name):
    with pytest.raises(RunError, match=r"scores\.json does not exist"):
        Scores.read(tmp_path)
    scores.write(tmp_path, examples={"titles": np.asarray(["a"])})
    path = tmp_path / name
    whole = path.read_bytes()
    place = len(whole) // 2
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for damaged in (b"", whole[:place], bytes(len(whole)), changed, b"null", b"[]", b"{}", b"\xff", b'{"split": '):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=rf"{name} is damaged.* medarts evaluate {tmp_path.parent.parent} "):
            Scores.read(tmp_path)
    path.write_bytes(whole)
    assert len(Scores.read(tmp_path).table)
    path.unlink()
    with pytest.raises(RunError, match=rf"{name} does not exist"):
        Scores.read(tmp_path)


def test_a_whole_file_with_something_else_in_it_is_refused(scores, tmp_path):
    for table in (scores.table.drop(columns="truth"), scores.table.assign(truth="maybe")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("medarts.evaluation.scores.excluded", lambda table: {})
            patch.setattr("medarts.evaluation.scores.vanished", lambda table: {})
            Scores(table, "test").write(tmp_path)
        with pytest.raises(RunError, match="holds no scores"):
            Scores.read(tmp_path)


def test_outputs_that_are_not_finite_are_refused():
    logits = np.zeros((3, 2))
    logits[1] = math.nan
    with pytest.raises(RunError, match="1 of 3 images are not finite"):
        finding_table([("d", "a", "p")] * 3, ["x", "y"], logits, np.zeros((3, 2), np.uint8), temperature=1.0)


def test_data_sets_in_which_images_count_as_patients_are_named():
    table = pd.DataFrame(
        [("a", "1", "1"), ("a", "2", "2"), ("b", "1", "p"), ("b", "2", "p"), ("c", "1", "1"), ("c", "2", "p")],
        columns=["dataset", "image", "patient"],
    )
    assert without_patients(table) == ("a",)
