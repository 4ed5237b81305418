import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medarts.errors import RunError
from medarts.evaluation import files
from medarts.evaluation.mask_scores import ALL, MEAN_OF_CLASSES, MEAN_OF_DOMAINS, ImageScore, Scores
from medarts.evaluation.statistics import bootstrap_interval
from medarts.metrics import definitions

NAN = float("nan")


def score(domain, patient, key, dice, *, hd95=1.0, class_index=1, class_name="foreground", truth="present"):
    return ImageScore(
        key=key,
        domain=domain,
        patient=patient,
        class_index=class_index,
        class_name=class_name,
        metrics={"dice": dice, "hd95": hd95, "specificity": 0.9},
        truth=truth,
    )


def collected(*rows, draws=300, seed=3):
    scores = Scores(split="test", checkpoint="best", head="(6, 0)", draws=draws, seed=seed)
    for row in rows:
        scores.add(row)
    return scores


@pytest.fixture
def two_domains():
    generator = np.random.default_rng(0)
    rows = [score("isic", f"{i // 2}", f"i{i}", x) for i, x in enumerate(generator.uniform(0.6, 1, 12).tolist())]
    rows += [score("cvc", f"{i // 3}", f"c{i}", x) for i, x in enumerate(generator.uniform(0.2, 0.7, 6).tolist())]
    rows[1] = score("isic", "0", "i1", 0.0, hd95=NAN)
    return collected(*rows)


def row_of(scores, domain, class_name="foreground"):
    [row] = [r for r in scores.table() if (r.domain, r.class_name) == (domain, class_name)]
    return row


def values_of(scores, domain, metric="dice"):
    return [s.metrics[metric] for s in scores.images if domain in (s.domain, ALL)]


def test_rows_hold_means_counts_and_undefined(two_domains):
    assert [row.domain for row in two_domains.table()] == ["isic", "cvc", ALL, MEAN_OF_DOMAINS]
    isic, cvc = row_of(two_domains, "isic"), row_of(two_domains, "cvc")
    assert (isic.images, isic.patients, cvc.images, cvc.patients) == (12, 6, 6, 2)
    assert isic.metrics["dice"].mean == pytest.approx(np.mean(values_of(two_domains, "isic")))
    assert isic.metrics["dice"].undefined == 0
    assert isic.metrics["hd95"].undefined == 1
    assert isic.metrics["hd95"].mean == 1.0
    everything = row_of(two_domains, ALL)
    # Patients "0" and "1" of isic and of cvc are four people.
    assert (everything.images, everything.patients) == (18, 8)
    assert everything.metrics["dice"].mean == pytest.approx(np.mean(values_of(two_domains, ALL)))
    mean = row_of(two_domains, MEAN_OF_DOMAINS)
    halves = (isic.metrics["dice"].mean + cvc.metrics["dice"].mean) / 2
    assert mean.metrics["dice"].mean == pytest.approx(halves)
    assert mean.metrics["dice"].mean != pytest.approx(everything.metrics["dice"].mean)
    assert (mean.images, mean.patients, mean.metrics["hd95"].undefined) == (18, 8, 1)


def test_intervals_are_those_of_the_cluster_bootstrap(two_domains):
    summary = row_of(two_domains, "isic").metrics["dice"]
    patients = [s.patient for s in two_domains.images if s.domain == "isic"]
    expected = bootstrap_interval(values_of(two_domains, "isic"), patients, draws=300, seed=(3, 0))
    assert (summary.low, summary.high) == expected
    assert summary.low < summary.mean < summary.high
    everything = row_of(two_domains, ALL).metrics["dice"]
    patients = [f"{s.domain} {s.patient}" for s in sorted(two_domains.images, key=lambda s: s.domain)]
    values = [s.metrics["dice"] for s in sorted(two_domains.images, key=lambda s: s.domain)]
    expected = bootstrap_interval(values, patients, draws=300, seed=(3, 0))
    assert (everything.low, everything.high) == pytest.approx(expected)


def test_mean_of_domains_treats_them_as_independent():
    """Its variance is that of a mean of independent means; equal draws for both would double it."""
    values = np.random.default_rng(1).normal(0.5, 0.1, 30)
    rows = [score(d, str(i), f"{i}", x) for d in ("a", "b") for i, x in enumerate(values)]
    scores = collected(*rows, draws=4000)
    one, mean = row_of(scores, "a").metrics["dice"], row_of(scores, MEAN_OF_DOMAINS).metrics["dice"]
    ratio = (mean.high - mean.low) / (one.high - one.low)
    assert ratio == pytest.approx(1 / math.sqrt(2), rel=0.08)


def test_classes_stand_in_the_order_of_their_indices():
    organs = [("spleen", 2), ("liver", 1)]
    rows = [
        score("ct", str(i), f"{i}", 0.1 * i, class_index=index, class_name=name)
        for i in range(3)
        for name, index in organs
    ]
    table = collected(*rows).table()
    assert [(r.class_name, r.domain) for r in table] == [
        (name, domain) for name in (MEAN_OF_CLASSES, "liver", "spleen") for domain in ("ct", ALL, MEAN_OF_DOMAINS)
    ]


def test_one_patient_and_nothing_defined_are_null_in_json_and_empty_in_csv(tmp_path):
    scores = collected(score("ct", "1", "a", 0.5, hd95=NAN), score("ct", "1", "b", 0.7, hd95=NAN))
    scores.write(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    metrics = content["tables"][0]["metrics"]
    assert metrics["dice"] == {"mean": pytest.approx(0.6), "low": None, "high": None, "undefined": 0}
    assert metrics["hd95"] == {"mean": None, "low": None, "high": None, "undefined": 2}
    with (tmp_path / "tables.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert (table[1]["metric"], table[1]["mean"], table[1]["undefined"]) == ("hd95", "", "2")


def test_json_has_the_documented_form(two_domains, tmp_path):
    two_domains.write(tmp_path / "new" / "folder")
    content = json.loads((tmp_path / "new" / "folder" / "scores.json").read_text())
    assert (content["split"], content["checkpoint"], content["head"]) == ("test", "best", "(6, 0)")
    assert content["bootstrap"] == {"draws": 300, "seed": 3, "level": 0.95}
    assert definitions("segmentation").items() <= content["definitions"].items()
    assert {ALL, MEAN_OF_DOMAINS, "low, high"} <= content["definitions"].keys()
    assert set(content["tables"][0]) == {"domain", "class", "images", "patients", "metrics"}
    for row, written in zip(two_domains.table(), content["tables"], strict=True):
        assert (row.domain, row.class_name) == (written["domain"], written["class"])
        assert written["metrics"]["dice"]["low"] == row.metrics["dice"].low


def test_reading_gives_back_what_was_written(two_domains, tmp_path):
    two_domains.add(score("cvc", 'a "b", c\nd', "key, with; all l\udce9sion", 1 / 3, hd95=1e-17, truth="vanished"))
    two_domains.write(tmp_path)
    back = Scores.read(tmp_path)
    assert repr(back) == repr(two_domains)  # repr, because nan differs from itself
    assert repr(back.table()) == repr(two_domains.table())
    back.write(tmp_path / "again")
    for name in ("images.csv", "tables.csv", "scores.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_no_images_make_empty_tables(tmp_path):
    collected().write(tmp_path)
    assert Scores.read(tmp_path).table() == []


def test_metrics_must_be_the_same_for_all_images():
    scores = collected(score("a", "1", "x", 0.5))
    with pytest.raises(ValueError, match="precision"):
        scores.add(ImageScore("y", "a", "1", 1, "foreground", {"precision": 0.5}))


def test_missing_and_damaged_files_are_named(two_domains, tmp_path):
    with pytest.raises(RunError, match=r"scores\.json does not exist"):
        Scores.read(tmp_path)
    two_domains.write(tmp_path)
    lines = (tmp_path / "images.csv").read_text().splitlines()
    for damaged in (lines[0] + "\nisic,i0,1", lines[1], lines[0] + "\nisic,i0,1,one,foreground,0.5,0.5"):
        (tmp_path / "images.csv").write_text(damaged + "\n" + lines[2])
        with pytest.raises(RunError, match=r"is damaged: .* medarts evaluate"):
            Scores.read(tmp_path)
    (tmp_path / "scores.json").write_text('{"split": ')
    with pytest.raises(RunError, match=r"is damaged: .* medarts evaluate"):
        Scores.read(tmp_path)


def test_the_mean_of_classes_is_that_of_each_image_over_its_defined_values():
    rows = [
        score("ct", "p", "a", 0.2, class_index=1, class_name="liver", hd95=float("nan")),
        score("ct", "p", "a", 0.6, class_index=2, class_name="spleen", hd95=4.0),
        score("ct", "q", "b", 1.0, class_index=1, class_name="liver", hd95=2.0),
        score("ct", "q", "b", 0.0, class_index=2, class_name="spleen", hd95=6.0),
    ]
    row = row_of(collected(*rows), "ct", MEAN_OF_CLASSES)
    assert (row.images, row.patients) == (2, 2)
    assert row.metrics["dice"].mean == pytest.approx((0.4 + 0.5) / 2)
    assert row.metrics["hd95"].mean == pytest.approx((4.0 + 4.0) / 2)


@pytest.fixture
def without_spleen():
    """In ct no image shows the spleen, in mr one does."""
    rows = []
    for domain, truths in (("ct", ("empty", "empty")), ("mr", ("empty", "vanished"))):
        for number, truth in enumerate(truths):
            key, patient = f"{domain}{number}", str(number)
            rows.append(score(domain, patient, key, 0.5, class_index=1, class_name="liver"))
            spleen = 0.0 if truth == "vanished" else 1.0
            rows.append(score(domain, patient, key, spleen, class_index=2, class_name="spleen", truth=truth))
    return collected(*rows)


def test_a_class_that_no_image_of_a_domain_shows_is_excluded_there(without_spleen, tmp_path):
    assert without_spleen.excluded() == {"ct": ["spleen"]}
    assert without_spleen.vanished() == {"mr": {"spleen": 1}}
    means = {(row.domain, row.class_name): row.metrics["dice"].mean for row in without_spleen.table()}
    assert math.isnan(means["ct", "spleen"])
    assert row_of(without_spleen, "ct", "spleen").metrics["specificity"].mean == 0.9  # false positives still count
    assert means["mr", "spleen"] == means[ALL, "spleen"] == means[MEAN_OF_DOMAINS, "spleen"] == 0.5
    assert means["ct", MEAN_OF_CLASSES] == 0.5  # of the liver alone, not (0.5 + 1) / 2
    assert means["mr", MEAN_OF_CLASSES] == ((0.5 + 1) / 2 + (0.5 + 0) / 2) / 2
    assert means[MEAN_OF_DOMAINS, MEAN_OF_CLASSES] == 0.5
    without_spleen.write(tmp_path)
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["excluded"] == {"ct": ["spleen"]}
    assert content["vanished"] == {"mr": {"spleen": 1}}
    assert {"vanished masks", "excluded classes"} <= content["definitions"].keys()
    assert repr(Scores.read(tmp_path).table()) == repr(without_spleen.table())


def test_a_split_that_shows_nothing_has_no_scores_of_overlap(tmp_path):
    scores = collected(*(score("ct", str(n), f"k{n}", 1.0, hd95=0.0, truth="empty") for n in range(3)))
    assert scores.excluded() == {"ct": ["foreground"]}
    for row in scores.table():
        assert math.isnan(row.metrics["dice"].mean)
        assert row.metrics["dice"].undefined == 3
        assert row.metrics["specificity"].mean == 0.9
    scores.write(tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["tables"][0]["metrics"]["dice"]["mean"] is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunError("full", fix="")])
def test_a_kill_or_a_full_disk_leaves_the_scores_that_were_there(two_domains, tmp_path, monkeypatch, error):
    folder, examples = tmp_path / "scores" / "test", {"titles": np.asarray(["a"])}
    two_domains.write(folder, examples=examples)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = files.write_whole
    for last in ("examples.npz", "images.csv", "tables.csv", "scores.json"):

        def killed(path, content, last=last):
            if path.name == last:
                raise error
            real(path, content)

        monkeypatch.setattr(files, "write_whole", killed)
        with pytest.raises((KeyboardInterrupt, RunError)):
            two_domains.write(folder, examples=examples)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setattr(files, "write_whole", real)
    two_domains.write(folder)
    assert sorted(before) == ["examples.npz", "images.csv", "scores.json", "tables.csv"]
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "scores.json", "tables.csv"]
    assert [path.name for path in folder.parent.iterdir()] == ["test"]  # nothing unfinished


def test_scores_that_cannot_take_their_place_leave_those_before(two_domains, tmp_path, monkeypatch):
    two_domains.write(tmp_path / "test")
    real = Path.rename

    def refuse(path, target):
        if path.name == ".unfinished-test":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="No space left"):
        two_domains.write(tmp_path / "test")
    assert [image.key for image in Scores.read(tmp_path / "test").images] == [image.key for image in two_domains.images]


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


def test_scores_of_another_version_are_not_called_damaged(two_domains, tmp_path):
    two_domains.write(tmp_path)
    content = json.loads((tmp_path / "scores.json").read_text())
    for other in ({**content, "format": 99}, {key: value for key, value in content.items() if key != "format"}):
        (tmp_path / "scores.json").write_text(json.dumps(other))
        with pytest.raises(RunError, match=r"scores\.json is of another version of medarts\. Evaluate again"):
            Scores.read(tmp_path)


@pytest.mark.parametrize("name", ["examples.npz", "images.csv", "tables.csv", "scores.json"])
def test_cut_zeroed_and_changed_files_are_named(two_domains, tmp_path, name):
    two_domains.write(tmp_path, examples={"titles": np.asarray(["a"])})
    path = tmp_path / name
    whole = path.read_bytes()
    place = len(whole) // 2
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for damaged in (b"", whole[:place], bytes(len(whole)), changed, b"null", b"[]", b"{}", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=rf"{name} is damaged.* medarts evaluate {tmp_path.parent.parent} "):
            Scores.read(tmp_path)
    path.write_bytes(whole)
    assert Scores.read(tmp_path).images
    path.unlink()
    with pytest.raises(RunError, match=rf"{name} does not exist"):
        Scores.read(tmp_path)
