"""ChestX-ray14: its layouts on disk, where splits come from, and what is refused."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.config import make_source
from medarts.data.doctor import examine
from medarts.data.opening import open_sources
from medarts.data.recognising import recognise
from medarts.data.sources.chestxray14 import FINDINGS
from medarts.errors import DataError

# The header as published: without quotes, so that rows have two cells more than it; that of 2017 ends in a comma.
START = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
HEADER = f"{START},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
LABELS = ["No Finding", "Mass", "Nodule|Effusion", "No Finding", "Hernia"]


def name_of(patient: int, n: int = 0) -> str:
    return f"{patient:08d}_{n:03d}.png"


def write_table(root: Path, rows: list[tuple[str, str, int]], *, file: str = "Data_Entry_2017_v2020.csv") -> None:
    comma = "," if file == "Data_Entry_2017.csv" else ""
    lines = [f"{name},{labels},0,{patient},57,M,PA,2682,2749,0.143,0.143{comma}" for name, labels, patient in rows]
    (root / file).write_text("\n".join([HEADER + comma, *lines]) + "\n")


def download(
    root: Path, *, patients: int = 10, folder: str = "images", file: str = "Data_Entry_2017_v2020.csv"
) -> Path:
    """Two images of each patient, the labels in turn; empty files, as sources look at names alone."""
    rows = [
        (name_of(patient, n), LABELS[(2 * patient + n) % 5], patient) for patient in range(patients) for n in range(2)
    ]
    (root / folder).mkdir(parents=True)
    for name, _, _ in rows:
        (root / folder / name).touch()
    write_table(root, rows, file=file)
    return root


def names(*patients: int) -> str:
    return "\n".join(name_of(patient, n) for patient in patients for n in range(2))


def opened(path: Path, **options):
    return open_sources([make_source(kind="chestxray14", path=path, **options)])


def splits_of(manifest) -> dict[str, set[str]]:
    return {split: {s.patient for s in manifest.of_split(split).samples} for split in ("train", "val", "test")}


@pytest.mark.parametrize("file", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_rows_become_samples_with_their_findings_in_the_usual_order(tmp_path, file):
    found = opened(download(tmp_path, file=file))
    assert found.findings == FINDINGS
    assert len(found.samples) == 20
    sample = next(s for s in found.samples if s.key == "00000001_000")
    assert (sample.patient, sample.mask, sample.image) == ("1", None, tmp_path / "images" / name_of(1))
    assert sample.findings == ("Effusion", "Nodule")
    counts = dict(zip(FINDINGS, found.labels().sum(axis=0).tolist(), strict=True))
    assert {name: count for name, count in counts.items() if count} == dict.fromkeys(
        ("Effusion", "Mass", "Nodule", "Hernia"), 4
    )
    assert [s.findings for s in found.samples].count(()) == 8


def test_images_lie_in_one_folder_or_in_twelve(tmp_path):
    download(tmp_path, patients=12)
    for n in range(12):  # every way in which an archive unpacks
        folder = tmp_path / f"images_{n + 1:03d}" / ("images" if n % 2 else ".")
        folder.mkdir(parents=True)
        for k in range(2):
            (tmp_path / "images" / name_of(n, k)).rename(folder / name_of(n, k))
    (tmp_path / "images").rmdir()
    found = opened(tmp_path)
    assert len(found.samples) == 24
    assert all(s.image.is_file() for s in found.samples)
    assert {s.image.parent.relative_to(tmp_path).as_posix() for s in found.samples if s.patient in "01"} == {
        "images_001",
        "images_002/images",
    }


# --- splits -----------------------------------------------------------------------------------------------------


def test_without_lists_splits_are_drawn_by_patient(tmp_path):
    parts = splits_of(opened(download(tmp_path)))
    assert [len(part) for part in parts.values()] == [7, 1, 2]
    assert set.union(*parts.values()) == {str(n) for n in range(10)}


def test_the_published_lists_leave_validation_to_be_drawn(tmp_path):
    download(tmp_path)
    (tmp_path / "train_val_list.txt").write_text(names(*range(8)))
    (tmp_path / "test_list.txt").write_text(names(8, 9) + "\n")
    parts = splits_of(opened(tmp_path, fractions=(0.25, 0.5)))
    assert parts["test"] == {"8", "9"}
    assert len(parts["val"]) == 2
    assert len(parts["train"]) == 6


def test_lists_with_validation_apart_may_have_labels_behind_the_names(tmp_path):
    download(tmp_path)
    (tmp_path / "train_val_list.txt").write_text(names(*range(8)))
    for part, patients in (("train", range(6)), ("val", (6, 7)), ("test", (8, 9))):
        (tmp_path / f"{part}_list.txt").write_text(names(*patients).replace(".png", ".png 0 0 1"))
    parts = splits_of(opened(tmp_path))
    assert parts["val"] == {"6", "7"}
    assert parts["test"] == {"8", "9"}


@pytest.mark.parametrize(("column", "suffix"), [("image", ".png"), ("image", ""), ("id", ".png"), ("id", "")])
def test_splits_csv_goes_before_the_lists(tmp_path, column, suffix):
    download(tmp_path)
    (tmp_path / "test_list.txt").write_text(names(0))  # would leave all others in no list
    words = ["train"] * 5 + ["val", "test", "test", "gap", "train"]
    rows = [f"{name_of(p, n)[:-4]}{suffix},{p},{word}" for p, word in enumerate(words) for n in range(2)]
    (tmp_path / "splits.csv").write_text("\n".join([f"{column},patient,split", *rows]))
    assert splits_of(opened(tmp_path)) == {"train": {"0", "1", "2", "3", "4", "9"}, "val": {"5"}, "test": {"6", "7"}}


def test_splits_csv_must_know_the_patients_of_the_table(tmp_path):
    download(tmp_path, patients=4)
    rows = [f"{name_of(p, n)},{p + (p == 2)},train" for p in range(4) for n in range(2)]
    (tmp_path / "splits.csv").write_text("\n".join(["image,patient,split", *rows]))
    with pytest.raises(DataError, match=r"named differently \(2\): 00000002_000: 3, and 2 in the other table"):
        opened(tmp_path)


def toy(root: Path, **patients: tuple[int, ...]) -> None:
    (root / "toy_split").mkdir()
    for split in ("train", "val", "test"):
        rows = [f"{name},x,0,1,57,M,PA" for name in names(*patients[split]).split()]
        (root / "toy_split" / f"{split}.csv").write_bytes("\r\n".join([START, *rows]).encode())


def test_the_toy_split_leaves_out_what_it_does_not_name_and_goes_before_splits_csv(tmp_path):
    download(tmp_path)
    toy(tmp_path, train=(5, 6), val=(1,), test=(2, 3))
    (tmp_path / "splits.csv").write_text("image,split\nnothing,train\n")
    (tmp_path / "images" / name_of(9)).unlink()  # not in the toy set
    found = opened(tmp_path, lists="toy")
    assert splits_of(found) == {"train": {"5", "6"}, "val": {"1"}, "test": {"2", "3"}}
    assert next(s for s in found.samples if s.key == "00000001_000").findings == ("Effusion", "Nodule")


def test_a_toy_split_needs_its_images_and_its_files(tmp_path):
    download(tmp_path)
    toy(tmp_path, train=(5, 77), val=(1,), test=(2, 3))
    with pytest.raises(DataError, match=r"image not in the folder \(2\): 00000077_000, 00000077_001\. .*partial: true"):
        opened(tmp_path, lists="toy")
    assert len(opened(tmp_path, lists="toy", partial=True).samples) == 8
    (tmp_path / "toy_split/val.csv").unlink()
    with pytest.raises(DataError, match=r"toy_split/val\.csv cannot be opened"):
        opened(tmp_path, lists="toy")


# --- faults -----------------------------------------------------------------------------------------------------


def test_missing_images_are_refused_unless_the_source_is_partial(tmp_path):
    download(tmp_path)
    for n in range(2):
        (tmp_path / "images" / name_of(4, n)).unlink()
    with pytest.raises(DataError, match=r"image not in the folder \(2\): 00000004_000\.png, 00000004_001\.png\."):
        opened(tmp_path)
    assert len(opened(tmp_path, partial=True).samples) == 18
    result = examine([make_source(kind="chestxray14", path=tmp_path, partial=True)])
    lines = [group.line for group in result.groups if group.level == "warning"]
    assert any("image not in the folder (2): 00000004_000.png, 00000004_001.png. Complete" in line for line in lines)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="holds no images"):
        opened(tmp_path, partial=True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((name_of(0), "Mas", 0), r"unknown finding \(1\): 00000000_000\.png: 'Mas'\. Did you mean 'Mass'\?"),
        ((name_of(0), "Mass|", 0), r"unknown finding \(1\): 00000000_000\.png: ''"),
        ((name_of(0), "No Finding|Mass", 0), "contradict each other .*'No Finding|Mass'"),
        ((name_of(0), "Mass", ""), r"row without a patient \(1\): 00000000_000"),
        ((name_of(1), "Mass", 1), r"image named twice \(1\): 00000001_000"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, row, words):
    download(tmp_path, patients=1)
    (tmp_path / "images" / name_of(1)).touch()
    write_table(tmp_path, [row, (name_of(0, 1), "Hernia", 0), (name_of(1), "Mass", 1)])
    with pytest.raises(DataError, match=words):
        opened(tmp_path)


def test_wrong_lists_are_refused(tmp_path):
    download(tmp_path)
    (tmp_path / "train_val_list.txt").write_text(names(*range(7)))
    (tmp_path / "test_list.txt").write_text(names(7, 8))
    with pytest.raises(DataError, match=r"image in no list \(2\): 00000009_000\.png, 00000009_001\.png"):
        opened(tmp_path)
    (tmp_path / "test_list.txt").write_text(names(6, 7, 8, 9))
    with pytest.raises(DataError, match=r"image in two lists \(2\): 00000006_000\.png in train and test"):
        opened(tmp_path)
    (tmp_path / "test_list.txt").write_text(names(7, 8, 9) + "\n" + names(9))  # twice in one list does no harm
    assert len(opened(tmp_path).samples) == 20


def test_a_patient_in_two_splits_is_refused_and_an_error_to_the_doctor(tmp_path):
    download(tmp_path)
    lines = names(*range(10)).split()
    (tmp_path / "train_val_list.txt").write_text("\n".join(lines[:17]))
    (tmp_path / "test_list.txt").write_text("\n".join(lines[17:]))
    with pytest.raises(DataError, match=r"patient in two splits \(1\): 8 in (train|val) and test"):
        opened(tmp_path)
    (tmp_path / "splits.csv").write_text(
        "image,split\n" + "\n".join(f"{x},{'test' if x == lines[0] else 'train'}" for x in lines)
    )
    result = examine([make_source(kind="chestxray14", path=tmp_path)])
    assert any(f.level == "error" and "patient in two splits: 0 in train and test" in f.text for f in result.findings)


def test_tables_that_are_missing_several_or_others(tmp_path):
    with pytest.raises(DataError, match="There is no table Data_Entry_2017"):
        opened(tmp_path)
    download(tmp_path)
    download(tmp_path, folder="images_002", file="Data_Entry_2017.csv")
    with pytest.raises(DataError, match=r"several tables: Data_Entry_2017\.csv and Data_Entry_2017_v2020\.csv"):
        opened(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").unlink()
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("Image Index,Patient ID\na.png,1\n")
    with pytest.raises(DataError, match="no column Finding Labels"):
        opened(tmp_path)


# --- the doctor -------------------------------------------------------------------------------------------------


def test_the_doctor_counts_positives_and_names_findings_that_a_split_lacks(tmp_path):
    download(tmp_path, patients=5)
    for number, file in enumerate(sorted((tmp_path / "images").iterdir())):
        Image.fromarray(np.full((4, 5), 9, np.uint8) + np.eye(4, 5, number % 5, np.uint8) * (20 + number)).save(file)
    write_table(
        tmp_path,
        [(name_of(p, n), "Mass" if p == 4 else ["Mass|Edema", "No Finding"][n], p) for p in range(5) for n in range(2)],
    )
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "images" / name_of(70))
    words = ["train", "train", "train", "val", "test"]
    rows = [f"{name_of(p, n)},{word}" for p, word in enumerate(words) for n in range(2)]
    (tmp_path / "splits.csv").write_text("\n".join(["image,split", *rows]))
    (source,) = recognise(tmp_path)
    assert (source.kind, source.domain) == ("chestxray14", "chestxray14")
    result = examine([source])
    assert not result.failed
    found = [finding.text for finding in result.findings]
    assert found.count("image that the table does not name: 00000070_000.png.") == 1
    assert "findings that no image of a split shows: Edema in test." in found
    assert "findings that no image of a split shows: Edema in train." not in found
    assert "findings that every image of a split shows: Mass in test." in found
    assert len(found) == 1 + 13 + 1
    assert [group.count for group in result.groups] == [1, 13, 1]
    (summary,) = result.summaries
    assert (summary.images, summary.patients, summary.foreground) == (10, 5, None)
    assert summary.sizes == {"4 x 5": 10}
    assert summary.findings["Mass"] == {"train": 3, "val": 1, "test": 2}
    assert summary.findings["Hernia"] == {"train": 0, "val": 0, "test": 0}
    assert tuple(summary.findings) == FINDINGS


# --- findings of several sources --------------------------------------------------------------------------------


def test_findings_asked_for_decide_outputs_and_order(tmp_path):
    download(tmp_path)
    source = make_source(kind="chestxray14", path=tmp_path)
    found = open_sources([source], findings=("Hernia", "Nodule"))
    assert found.findings == ("Hernia", "Nodule")
    assert {s.findings for s in found.samples} == {(), ("Hernia",), ("Nodule",)}
    assert found.labels().sum(axis=0).tolist() == [4, 4]
    with pytest.raises(DataError, match=r"chestxray14 has no finding 'Noduel'\. Did you mean 'Nodule'"):
        open_sources([source], findings=("Noduel",))


def test_sources_with_other_findings_are_joined_by_those_that_are_named(tmp_path):
    chest = make_source(kind="chestxray14", path=download(tmp_path / "chest"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").touch()
    other = make_source(kind="table", path=tmp_path / "other", name="other")
    (tmp_path / "other/labels.csv").write_text("image,Nodule,Scar,Mass\na.png,1,1,1\n")
    with pytest.raises(DataError, match=r"do not have the same findings: .*, Scar only one.*data\.findings"):
        open_sources([chest, other])
    joined = open_sources([other, chest], findings=("Nodule", "Mass"))
    assert joined.findings == ("Nodule", "Mass")
    assert next(s for s in joined.samples if s.domain == "other").findings == ("Nodule", "Mass")


def test_images_are_drawn_within_the_splits(tmp_path):
    download(tmp_path, patients=50)
    whole, part = opened(tmp_path), opened(tmp_path, images=40)
    assert 40 <= len(part.samples) <= 43
    assert set(part.samples) < set(whole.samples)
    assert 2 * len(splits_of(part)["test"]) == pytest.approx(40 * 0.2, abs=2)
    with pytest.raises(DataError, match="101 images are requested, but there are only 100"):
        opened(tmp_path, images=101)


# --- real data --------------------------------------------------------------------------------------------------


@pytest.mark.skipif("MEDARTS_DATA" not in os.environ, reason="needs real data (MEDARTS_DATA)")
class TestRealSet:
    path = Path(os.environ.get("MEDARTS_DATA", "")) / "chestxray14"

    def test_its_splits_and_findings(self):
        found = opened(self.path)
        assert [len(found.of_split(split).samples) for split in ("train", "val", "test")] == [593, 144, 263]
        positives = dict(zip(FINDINGS, found.of_split("test").labels().sum(axis=0).tolist(), strict=True))
        assert (positives["Emphysema"], positives["Hernia"]) == (1, 0)
        with (self.path / "Data_Entry_2017_v2020.csv").open() as file:  # once more, by a way of its own
            rows = {row["Image Index"]: row["Finding Labels"] for row in csv.DictReader(file)}
        assert all(
            sorted(s.findings or ("No Finding",)) == sorted(rows[f"{s.key}.png"].split("|")) for s in found.samples
        )

    def test_the_toy_split_of_it(self):
        found = opened(self.path, lists="toy", partial=True)
        assert Counter(s.split for s in found.samples) == {"train": 59, "val": 18, "test": 31}

    def test_its_only_flaw_is_the_missing_hernia(self):
        result = examine(recognise(self.path))
        assert [f.text for f in result.findings] == ["findings that no image of a split shows: Hernia in test."]
