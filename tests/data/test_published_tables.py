"""Tables of findings as they are published: CheXpert, ChestX-ray14, PadChest and MIMIC by their columns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts.config import parse
from medarts.config.data import IGNORE, make_source
from medarts.data.choosing import sources_alike
from medarts.data.manifest import Manifest
from medarts.data.opening import open_sources, survey
from medarts.data.recognising import recognise
from medarts.engine.listing import about, listing_of
from medarts.errors import DataError


def write(folder: Path, names: list[str], table: str, *, file: str = "labels.csv", encoding: str = "utf-8") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    (folder / file).write_bytes(table.encode(encoding))
    return folder


def shown(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.findings for sample in manifest.samples}


def opened(folder: Path, findings: tuple[str, ...] | None = None, **settings: Any) -> Manifest:
    return open_sources([make_source("table", folder, **settings)], findings=findings)


CHEXPERT = (
    "Path,Sex,Age,No Finding,Edema,Fracture\n"
    "CheXpert-small/train/patient1/study1/view1.png,F,60,1.0,,\n"
    "CheXpert-small/train/patient2/study1/view1.png,M,61,,-1.0,1.0\n"
    "CheXpert-small/train/patient3/study1/view1.png,M,62,,1.0,0.0\n"
)


@pytest.mark.parametrize(("policy", "of_second"), [("negative", ("Fracture",)), ("positive", ("Edema", "Fracture"))])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_chexpert_has_blanks_and_uncertain_findings(
    tmp_path: Path, policy: str, of_second: tuple[str, ...], ends: str
) -> None:
    names = [f"train/patient{n}/study1/view1.png" for n in (1, 2, 3)]
    table = CHEXPERT.replace("\n", ends)
    folder = write(tmp_path / "CheXpert-small", names, table, file="train.csv", encoding="utf-8-sig")
    settings = {"file": "train.csv", "columns": {"image": "Path"}}
    found = opened(folder, ("Edema", "Fracture"), **settings, uncertain=policy)
    assert [*shown(found).values()] == [(), of_second, ("Edema",)]
    with pytest.raises(DataError, match=r"row 2, column Edema: ''.*uncertain: negative"):
        opened(folder, ("Edema", "Fracture"), **settings)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"uncertain": "ignore"}, [[0, 0], [IGNORE, 1], [1, 0]]),
        ({"uncertain": "ignore", "blank": "ignore"}, [[IGNORE, IGNORE], [IGNORE, 1], [1, 0]]),
        ({"uncertain": "positive", "blank": "ignore"}, [[IGNORE, IGNORE], [1, 1], [1, 0]]),
    ],
)
def test_labels_that_are_ignored_keep_their_images(
    tmp_path: Path, settings: dict[str, str], labels: list[list[int]]
) -> None:
    names = [f"train/patient{n}/study1/view1.png" for n in (1, 2, 3)]
    folder = write(tmp_path / "CheXpert-small", names, CHEXPERT, file="train.csv")
    found, counted = (
        opened(folder, ("Edema", "Fracture"), file="train.csv", columns={"image": "Path"}, **policy)
        for policy in (settings, {"uncertain": "negative"})
    )
    np.testing.assert_array_equal(found.labels(), labels)
    named = replace(found, findings=("Fracture", "Edema")).labels()
    np.testing.assert_array_equal(named, np.array(labels)[:, ::-1])
    assert found.fingerprint() != counted.fingerprint()
    rows = listing_of(found.to_csv().splitlines())
    assert [*map(about, rows.values())] != [*map(about, listing_of(counted.to_csv().splitlines()).values())]
    assert "unknown" not in counted.to_csv().splitlines()[0]  # which is as it was before
    with pytest.raises(DataError, match=r"row 3, column Edema: '-1.0'"):
        opened(folder, ("Edema", "Fracture"), file="train.csv", columns={"image": "Path"}, blank="negative")


@pytest.mark.parametrize(
    ("labels"),
    [
        ("Mass|Nodule", "No Finding", "Nodule"),
        ("Mass; Nodule", "", "Nodule"),
        ('"Mass,Nodule"', "normal", "Nodule"),
        ("\"['Mass', 'Nodule']\"", "['normal']", "['Nodule']"),
    ],
)
def test_labels_of_a_cell_are_findings(tmp_path: Path, labels: tuple[str, ...]) -> None:
    rows = "".join(f"{n}.png,{n},{cell},44\n" for n, cell in enumerate(labels))
    folder = write(tmp_path / "d", [f"images/{n}.png" for n in range(3)], f"image,patient,Finding Labels,Age\n{rows}")
    found = opened(folder)
    assert found.findings == ("Mass", "Nodule")
    assert [*shown(found).values()] == [("Mass", "Nodule"), (), ("Nodule",)]


def test_what_cells_mean_is_passed_on_to_a_folder_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"train/patient{n}/study1/view1.png" for n in (1, 2, 3)]
    folder = write(tmp_path / "CheXpert-small", names, CHEXPERT, file="train.csv")
    own = {"kind": "table", "path": str(tmp_path / "own"), "uncertain": "ignore", "blank": "ignore"}
    data = parse({"data": {"sources": [own], "findings": ["Edema", "Fracture"]}}).data
    for named in (True, False):
        (source,) = sources_alike([str(folder)], data, named=named)
        found = open_sources([source], findings=data.findings)
        assert found.labels().tolist() == [[IGNORE, IGNORE], [IGNORE, 1], [1, 0]]
        said = capsys.readouterr().err.replace("\n", " ")
        assert "cells of train.csv are read as {-1: ignore, an empty cell: ignore}" in said
    twice = {**own, "name": "other", "path": str(tmp_path / "other"), "uncertain": "positive"}
    for others in ([{**own, "uncertain": None, "blank": None}], [own, twice]):  # no policy, or two: the usual one, said
        (source,) = sources_alike([str(folder)], parse({"data": {"sources": others, "findings": ["Edema"]}}).data)
        assert source.model_dump()["uncertain"] == "negative"
        assert "{-1: negative, an empty cell: negative}" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("header", "row", "columns", "findings"),
    [
        ("Alter;Bild;Pneumonie", "{age};b{n}.png;{shown}", {"image": "Bild"}, ("Pneumonie",)),
        ("Nr;Alter;Erguss", "b{n};{age};{shown}", {"image": "Nr"}, ("Erguss",)),
        ("Befund,Aufnahme", "{words},b{n}.png", {"image": "Aufnahme", "labels": "Befund"}, ("edema", "mass")),
    ],
)
def test_images_and_findings_are_found_in_columns_of_any_name(
    tmp_path: Path, header: str, row: str, columns: dict[str, str], findings: tuple[str, ...]
) -> None:
    words = ("edema|mass", "mass", "", "edema")
    rows = [row.format(n=n, age=40 + n, shown=n % 2, words=words[n]) for n in range(4)]
    write(tmp_path, [f"bilder/b{n}.png" for n in range(4)], "\n".join([header, *rows]), file="befunde.csv")
    (source,) = recognise(tmp_path)
    settings = source.model_dump()
    assert {name: column for name, column in settings["columns"].items() if column} == columns
    assert settings["file"] == "befunde.csv"
    manifest = survey(source, findings=findings).manifest
    assert (len(manifest.samples), manifest.findings) == (4, findings)


def test_columns_by_name_and_semicolons_between_cells(tmp_path: Path) -> None:
    table = "ImageID;PatientID;Labels;Projection\na.png;p1;\"['nodule', 'mass']\";PA\nb.png;p1;['normal'];PA\n"
    folder = write(tmp_path / "padchest", ["a.png", "b.png"], table, file="PADCHEST.csv")
    columns = {"image": "ImageID", "patient": "PatientID", "labels": "Labels"}
    found = opened(folder, file="PADCHEST.csv", columns=columns)
    assert shown(found) == {"a": ("mass", "nodule"), "b": ()}
    assert {sample.patient for sample in found.samples} == {"p1"}
    with pytest.raises(DataError, match=r"has no column ImageId2.*columns\.image"):
        opened(folder, file="PADCHEST.csv", columns={"image": "ImageId2"})


def test_mimic_names_images_and_patients_by_its_own_columns(tmp_path: Path) -> None:
    table = "subject_id,study_id,dicom_id,Atelectasis,Edema\n10,50,aa,1.0,\n11,51,bb,-1.0,0.0\n"
    folder = write(tmp_path / "mimic", ["images/aa.png", "images/bb.png"], table)
    columns = {"image": "dicom_id", "patient": "subject_id"}
    found = opened(folder, ("Atelectasis", "Edema"), columns=columns, uncertain="positive")
    assert shown(found) == {"aa": ("Atelectasis",), "bb": ("Atelectasis",)}
    assert [sample.patient for sample in found.samples] == ["10", "11"]


def test_a_wrong_value_names_its_row_and_column(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", ["a.png", "b.png"], "image,patient,Edema\na.png,1,0\nb.png,2,maybe\n")
    with pytest.raises(DataError, match=r"row 3, column Edema: 'maybe'"):
        opened(folder, uncertain="negative")


def test_the_patient_is_a_folder_of_the_path(tmp_path: Path) -> None:
    names = [f"train/patient{n // 2}/study{n % 2}/view1.png" for n in range(12)]
    rows = "".join(f"CheXpert-small/{name},1.0\n" for name in names)
    folder = write(tmp_path / "CheXpert-small", names, f"Path,Edema\n{rows}", file="train.csv")
    settings: dict[str, Any] = {"file": "train.csv", "columns": {"image": "Path"}}
    found = survey(make_source("table", folder, **settings, patients="**/{patient}/*/*"))
    assert (found.faults, found.doubts) == ((), ())
    splits: dict[str, set[str]] = {}
    for sample in found.manifest.samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
    assert sorted(splits) == [f"patient{n}" for n in range(6)]
    assert all(len(split) == 1 for split in splits.values())
    (first, *_) = survey(make_source("table", folder, **settings, patients="test/{patient}/*/*")).faults
    assert first.problem == "image whose path does not say its patient"
    assert first.detail == "train/patient0/study0/view1"


def test_images_in_inner_folders_are_found_by_their_names(tmp_path: Path) -> None:
    names = [f"files/p{n}/s1/id{n}.png" for n in range(4)]
    rows = "".join(f"id{n},{n},{n % 2}\n" for n in range(4))
    folder = write(tmp_path / "mimic", names, f"dicom_id,subject_id,Edema\n{rows}", file="chexpert.csv")
    (source,) = recognise(folder)
    found = survey(source)
    assert found.faults == ()
    assert [sample.image for sample in found.manifest.samples] == [folder / name for name in names]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "id0.png")  # where the others are missing, then
    assert [fault.detail for fault in survey(source).faults] == ["id1", "id2", "id3"]
