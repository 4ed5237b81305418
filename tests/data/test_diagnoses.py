"""A folder for each diagnosis: recognised, with its splits, and told from folders of patients."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.data.layouts_of_tests import put

import medarts
from medarts.config import make_source
from medarts.data.opening import survey
from medarts.data.recognising import recognise
from medarts.errors import DataError


def images(root: Path, *folders: str, number: int = 4) -> Path:
    for place, folder in enumerate(folders):
        for n in range(number):
            values = np.random.default_rng((place, n)).integers(0, 255, (16, 16), dtype=np.uint8)
            put(root / folder / f"p{place}{n // 2}_{n}.png", values)
    return root


def test_folders_are_findings_and_normal_shows_none(tmp_path: Path) -> None:
    (source,) = recognise(images(tmp_path / "skin", "melanoma", "nevus", "Normal", number=8))
    assert (source.kind, source.domain, source.task) == ("diagnoses", "skin", "classification")
    found = survey(source)
    assert found.faults == ()
    assert found.manifest.findings == ("melanoma", "nevus")
    assert Counter(sample.findings for sample in found.manifest.samples) == {("melanoma",): 8, ("nevus",): 8, (): 8}
    assert {sample.split for sample in found.manifest.samples} == {"train", "val", "test"}
    assert "images without patients" in [doubt.problem for doubt in found.doubts]
    of_patients = survey(source.model_copy(update={"patients": "{patient}_{n}"}))
    assert len({sample.patient for sample in of_patients.manifest.samples}) == 12
    wanted = survey(source, findings=("nevus",)).manifest
    assert Counter(sample.findings for sample in wanted.samples) == {("nevus",): 8, (): 16}


def test_splits_are_folders_above_and_grades_may_be_numbers(tmp_path: Path) -> None:
    grades = [f"{split}/{grade}" for split in ("train", "Valid", "test") for grade in range(3)]
    (source,) = recognise(images(tmp_path, *grades))
    samples = survey(source).manifest.samples
    assert Counter((sample.split, sample.findings) for sample in samples) == {
        (split, (grade,)): 4 for split in ("train", "val", "test") for grade in "012"
    }
    assert samples[0].key == "Valid/0/p30_0"


def test_names_of_folders_in_two_splits_may_differ_in_case(tmp_path: Path) -> None:
    (source,) = recognise(images(tmp_path, "train/Grade 1", "train/Grade 2", "test/grade 1", "test/grade 2"))
    found = survey(source).manifest
    assert Counter(sample.findings for sample in found.samples) == {("grade 1",): 8, ("grade 2",): 8}
    assert found.findings == ("grade 1", "grade 2")


def test_a_folder_that_is_itself_called_as_a_split_is_divided(tmp_path: Path) -> None:
    (source,) = recognise(images(tmp_path / "train", "benign", "malignant", number=12))
    assert {sample.split for sample in survey(source).manifest.samples} == {"train", "val", "test"}


def test_a_diagnosis_may_have_a_number(tmp_path: Path) -> None:
    (source,) = recognise(images(tmp_path, "COVID19", "NORMAL", "PNEUMONIA"))
    assert survey(source).manifest.findings == ("COVID19", "PNEUMONIA")


@pytest.mark.parametrize(
    "folders",
    [
        ("p01", "p02", "p03"),  # patients
        ("p01", "p02", "p03", "others"),
        ("train/p01", "train/p02", "test/p03"),
        ("benign",),
        ("scans", "photos"),
        ("left", "right"),
        ("benign/p", "malignant/p"),
    ],
)
def test_other_folders_are_not_taken_for_diagnoses(tmp_path: Path, folders: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"has no known layout.*or a folder for each diagnosis"):
        recognise(images(tmp_path, *folders))


def test_images_with_a_table_or_with_masks_are_read_as_before(tmp_path: Path) -> None:
    folders = images(tmp_path / "table", "benign", "malignant")
    rows = [f"{file.relative_to(folders).as_posix()},1" for file in sorted(folders.rglob("*.png"))]
    (folders / "labels.csv").write_text("\n".join(["image,growing", *rows]))
    assert [source.kind for source in recognise(folders, task="classification")] == ["table"]
    drawn = np.zeros((16, 16), dtype=np.uint8)
    drawn[4:9, 4:9] = 255
    for n in range(4):  # masks whose names say nothing of the images
        put(images(tmp_path / "drawn", "photo") / "lesion" / f"drawn{n}.png", drawn)
    with pytest.raises(DataError, match="has no known layout"):
        recognise(tmp_path / "drawn")


def test_images_of_a_patient_are_not_masks_of_each_other(tmp_path: Path) -> None:
    for place, folder in enumerate(("benign", "malignant")):
        for patient in range(4):
            for n in range(3):
                values = np.random.default_rng((place, patient, n)).integers(0, 255, (16, 16), dtype=np.uint8)
                put(tmp_path / folder / f"pat{patient}_{n}.png", values)
    (source,) = recognise(tmp_path)
    assert source.kind == "diagnoses"


def test_no_finding_may_be_written_as_folders_are(tmp_path: Path) -> None:
    source = make_source("diagnoses", images(tmp_path, "No_Finding", "no-finding", "nodule"))
    assert survey(source).manifest.findings == ("nodule",)


def test_what_lies_beside_the_folders_is_said(tmp_path: Path) -> None:
    images(tmp_path, "train/benign", "train/malignant", "test/benign", "test/malignant", "new", ".", "test")
    doubts = {doubt.detail for doubt in survey(make_source("diagnoses", tmp_path)).doubts}
    outside = "outside the folders of diagnoses"
    assert {f"4 images in {tmp_path.name}, {outside}", f"4 images in test, {outside}", f"{tmp_path.name}/new"} < doubts


def test_what_is_not_read_or_there_twice_is_said(tmp_path: Path) -> None:
    images(tmp_path, "benign", "malignant")
    (tmp_path / "benign" / "p00_0.jpg").write_bytes((tmp_path / "benign" / "p00_0.png").read_bytes())
    (tmp_path / "benign" / "p9.webp").touch()
    found = survey(make_source("diagnoses", tmp_path))
    assert [(fault.problem, fault.detail) for fault in found.faults] == [("image named twice", "benign/p00_0")]
    assert ".webp 1 in benign" in [doubt.detail for doubt in found.doubts]


def test_init_proposes_a_recipe_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "skin", "benign", "malignant", number=12)
    data = medarts.init("skin", measure=False).recipe.data
    assert (data.task, data.sources[0].kind) == ("classification", "diagnoses")
