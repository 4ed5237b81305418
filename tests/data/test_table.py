"""labels.csv: what is read, and how wrong tables are named."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, make_source
from medarts.data.doctor import examine
from medarts.data.opening import open_sources, survey
from medarts.data.placing import ALIKE
from medarts.data.reading import read_image
from medarts.data.recognising import recognise
from medarts.data.sources import NOT_READ, RENAMED, UNUSED
from medarts.errors import DataError


def folder_of(root: Path, text: str, *files: str) -> Path:
    (root / "labels.csv").write_text(text, encoding="utf-8")
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def opened(path: Path, **options):
    return open_sources([make_source(kind="table", path=path, **options)])


def test_every_other_column_is_a_finding(tmp_path):
    text = (
        "\ufeffSplit, Scar ,Image,PATIENT,age,Oedema\n"
        "train,1,a.png,p,0, TRUE \n"
        "VAL,0.0,sub/b.png,q,1.0,false\n"
        "test,0,images/c.jpg,r,1,1\n"
        "gap,?,d.png,s,,7\n"
    )
    found = opened(folder_of(tmp_path, text, "a.png", "images/sub/b.png", "images/c.jpg"))
    assert found.findings == ("Scar", "age", "Oedema")
    assert [(s.key, s.patient, s.split, s.findings, s.mask) for s in found.samples] == [
        ("a", "p", "train", ("Scar", "Oedema"), None),
        ("images/c", "r", "test", ("age", "Oedema"), None),
        ("sub/b", "q", "val", ("age",), None),
    ]
    assert found.samples[2].image == tmp_path / "images/sub/b.png"
    np.testing.assert_array_equal(found.labels(), [[1, 0, 1], [0, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("split", ["", ",split"])
def test_without_splits_and_patients_both_are_made(tmp_path, split):
    rows = "\n".join(f"{n}.png,{n % 2}" + ("," if split else "") for n in range(10))
    found = opened(folder_of(tmp_path, f"image,scar{split}\n{rows}\n", *(f"images/{n}.png" for n in range(10))))
    assert [len(found.of_split(part).samples) for part in ("train", "val", "test")] == [7, 1, 2]
    assert all(s.patient == s.key for s in found.samples)


def test_splits_csv_goes_before_the_column(tmp_path):
    folder_of(tmp_path, "image,scar,split\na.png,1,train\nb.png,0,nothing\n", "a.png", "b.png")
    (tmp_path / "splits.csv").write_text("image,patient,split\na.png,p,test\nb,q,train\n")
    assert [(s.key, s.patient, s.split) for s in opened(tmp_path).samples] == [("a", "p", "test"), ("b", "q", "train")]
    (tmp_path / "labels.csv").write_text("image,patient,scar\na.png,p,1\nb.png,r,0\n")
    with pytest.raises(DataError, match=r"patient named differently \(1\): b: q, and r"):
        opened(tmp_path)


@pytest.mark.parametrize("value", ["", "-1", "2", "yes", "nan", "0.5", "1,1"])
def test_other_values_are_named_with_row_and_column(tmp_path, value):
    text = f'image,patient,scar\na.png,p,1\nb.png,q,"{value}"\n'
    with pytest.raises(DataError, match=rf"neither 0 nor 1 \(1\): row 3, column scar: '{value}'\. Write 0 or 1"):
        opened(folder_of(tmp_path, text, "a.png", "b.png"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"has no rows"),
        ("image,scar\n", r"has no rows"),
        ("file,scar\na.png,1\n", r"has no column image"),
        ("image,patient,split\na.png,p,train\n", r"has no finding"),
        ("image,scar,Image\na.png,1,b\n", r"has the column image twice"),
        ("image,scar,scar\na.png,1,1\n", r"has the column scar twice"),
        (",image,scar\n0,a.png,1\n", r"column without a name, the 1"),
        ("image,scar,split\na.png,1,later\n", r"labels\.csv: 'later' is not a split\. Write train"),
        ("image,scar\na.png,1\na.png,0\n", r"image named twice \(1\): a\.png in row 3"),
        ("image,scar\na.png,1\na.jpg,0\n", r"image named twice \(1\): a\.jpg in row 3"),
        ("image,scar\na.png,1\nb.png,0\n", r"image not in the folder \(1\): b\.png"),
        ("image,scar\n../a.png,1\n", r"outside the folder \(1\): row 2: '\.\./a\.png'"),
        ("image,scar\n..\\a.png,1\n", r"outside the folder \(1\)"),
        ("image,scar\n/a.png,1\n", r"outside the folder \(1\)"),
        ("image,scar\n,1\n", r"outside the folder \(1\): row 2: ''"),
        ("image,patient,scar\na.png,,1\n", r"row without a patient \(1\): row 2"),
        ("image,scar\na.png,1,0\n", r"more cells than the header \(1\): row 2"),
        ("image,scar\n\na.png\n", r"row 3, column scar: ''"),
        ("image,patient,split,scar\na.png,p,train,1\na.jpg,p,test,1\n", r"twice"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        opened(folder_of(tmp_path, text, "a.png", "a.jpg"))


def test_files_elsewhere_are_neither_read_nor_listed(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "a.png").touch()
    folder_of(tmp_path / "set", f"image,scar\n../a.png,1\n{tmp_path}/a.png,1\nb.png,0\n", "b.png")
    result = examine([make_source(kind="table", path=tmp_path / "set")])
    assert sum("outside the folder" in finding.problem for finding in result.findings) == 2
    assert not any("does not name" in finding.problem for finding in result.findings)


def test_a_missing_or_binary_table(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv cannot be opened"):
        opened(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV file"):
        opened(tmp_path)


def test_a_patient_in_two_splits_is_refused(tmp_path):
    text = "image,patient,split,scar\na.png,p,train,1\nb.png,p,test,1\n"
    with pytest.raises(DataError, match=r"patient in two splits \(1\): p in train and test"):
        opened(folder_of(tmp_path, text, "a.png", "b.png"))


def test_partial_tables_leave_missing_images_out(tmp_path):
    text = "image,scar\n" + "\n".join(f"{n}.png,{n % 2}" for n in range(6))
    folder_of(tmp_path, text, *(f"{n}.png" for n in range(4)))
    assert len(opened(tmp_path, partial=True).samples) == 4


def test_dicom_goes_through_the_rules_of_the_source(tmp_path):
    # Signed pixels have no range of their own, so that a picture appears by the window alone.
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = pydicom.Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.Rows = image.Columns = 2
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.PixelData = np.array([[-100, 0], [50, 100]], dtype=np.int16).tobytes()
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (source,) = recognise(folder_of(tmp_path, "image,scar\na.dcm,1\n"))
    assert (source.kind, source.domain, source.percentiles) == ("table", tmp_path.name, (0.5, 99.5))
    found = opened(tmp_path, window=(-100, 100))
    values = read_image(found.samples[0], found.rules["table"], channels=1)
    np.testing.assert_allclose(values[..., 0], [[0, 0.5], [0.75, 1]], atol=1e-6)


def test_the_doctor_names_every_fault_and_looks_at_the_rest(tmp_path):
    rows = [f"{n}.png,p{n},{'train' if n < 6 else 'val' if n < 8 else 'test'},{n % 2},1" for n in range(10)]
    text = "\n".join(["image,patient,split,scar,lung", *rows, "10.png,p0,test,x,1", "11.png,p0,test,1,1"])
    folder_of(tmp_path, text)
    for n in range(11):
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * (n + 1 - n // 9)).save(tmp_path / f"{n}.png")
    (tmp_path / "stray.png").touch()
    result = examine(recognise(tmp_path))
    found = [(finding.level, finding.text) for finding in result.findings]
    assert found[:3] == [
        ("error", "value that is neither 0 nor 1: row 12, column scar: 'x'."),
        ("error", "image not in the folder: 11.png."),
        ("warning", "image that the table does not name: stray.png."),
    ]
    assert found[3] == ("warning", "findings that every image of a split shows: lung in train, val, test.")
    assert len(found) == 5
    assert found[4][0] == "warning"  # 9.png is 8.png, both in test
    assert "equal, pixel by pixel" in found[4][1]
    (summary,) = result.summaries
    assert summary.findings == {
        "scar": {"train": 3, "val": 1, "test": 1},
        "lung": {"train": 6, "val": 2, "test": 2},
    }


def test_folders_with_masks_stay_folders(tmp_path):
    folder_of(tmp_path, "image,scar\na.png,1\n", "images/a.png", "masks/a.png")
    assert recognise(tmp_path)[0].kind == "folder"


def test_the_doctor_doubts_rows_left_out_and_images_without_patients(tmp_path):
    for name in "abc":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)[::-1] + ord(name)).save(tmp_path / f"{name}.png")
    rows = ["image,split,scar", "a.png,training,1", "b.png,validation,0", "c.png,hold,1"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    found = examine(recognise(tmp_path))
    problems = " ".join(finding.text for finding in found.findings)
    assert "row left out by its split" in problems
    assert "c.png ('hold')" in problems
    assert "images without patients" in problems
    assert found.summaries[0].splits == {"train": 1, "val": 1, "test": 0}


@pytest.mark.parametrize("column", ["patient_id", "PatientID", "Subject ID", "lesion_id", "case"])
def test_columns_under_usual_names_are_patients_and_no_findings(tmp_path, column):
    text = f"image,{column},split,scar\na.png,p,train,1\nb.png,p,test,0\n"
    with pytest.raises(DataError, match=r"patient in two splits \(1\): p in train and test"):
        opened(folder_of(tmp_path, text, "a.png", "b.png"))


def test_a_lesion_that_is_there_or_not_is_a_finding(tmp_path):
    found = opened(folder_of(tmp_path, "image,lesion,lesion_id\na.png,1,7\nb.png,0,7\n", "a.png", "b.png"))
    assert found.findings == ("lesion",)
    assert {s.patient for s in found.samples} == {"7"}


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("a", True),
        ("a.jpg", True),
        ("A.PNG", True),
        ("images/a.dcm", True),
        ("images\\a.png", False),
        ("images\\a", True),
        ("./images/a.png", False),
        ("images/a.png", False),
    ],
)
def test_an_image_is_found_under_other_names_which_is_said(tmp_path, name, renamed):
    folder_of(tmp_path, f"image,patient,scar\n{name},p,1\n", "images/a.png")
    found = survey(make_source(kind="table", path=tmp_path))
    assert [s.image for s in found.manifest.samples] == [tmp_path / "images/a.png"]
    assert found.manifest.samples[0].key == ("images/a" if "images" in name else "a")
    assert found.faults == ()
    assert [doubt.problem for doubt in found.doubts] == [RENAMED] * renamed
    if renamed:
        assert found.doubts[0].detail == f"{name} is a.png"


def test_no_image_is_chosen_of_several_alike(tmp_path):
    text = "image,patient,scar\na.tif,p,1\n"
    with pytest.raises(DataError, match=r"image not in the folder \(1\): a\.tif"):
        opened(folder_of(tmp_path, text, "a.png", "a.jpg"))


def test_one_image_under_two_names_is_named_twice(tmp_path):
    text = "image,patient,scar\na.png,p,1\n./images/a,q,0\n"
    with pytest.raises(DataError, match=r"image named twice \(1\): \./images/a in row 3"):
        opened(folder_of(tmp_path, text, "images/a.png"))


def test_an_image_of_a_kind_that_is_not_read_is_not_missing(tmp_path):
    folder_of(tmp_path, "image,patient,scar\na.heic,p,1\nb.png,q,0\n", "images/a.heic", "images/b.png", "images/c.heic")
    found = survey(make_source(kind="table", path=tmp_path))
    assert [(fault.problem, fault.detail) for fault in found.faults] == [("image of a kind that is not read", "a.heic")]
    assert [(doubt.problem, doubt.detail) for doubt in found.doubts] == [(NOT_READ, ".heic 2 in images")]


def test_separators_and_letters_of_two_signs_are_read(tmp_path):
    name = unicodedata.normalize("NFD", "lésion")
    text = f"image;patient;Épanchement\n{unicodedata.normalize('NFC', name)}.png;p;1\n"
    found = opened(folder_of(tmp_path, text, f"images/{name}.png"))
    assert found.findings == ("Épanchement",)
    assert [s.key for s in found.samples] == ["lésion"]


def test_findings_that_are_asked_for_spare_the_other_columns(tmp_path):
    text = "image,patient,Mass,Age,Edema,MRN\na.png,p,1,63,,x\nb.png,q,0,F,-1,x\nc.png,r,0,F,0,y\n"
    source = make_source(kind="table", path=folder_of(tmp_path, text, "a.png", "b.png", "c.png"))
    with pytest.raises(DataError, match=r"neither 0 nor 1 \(8\)"):
        open_sources([source])
    found = open_sources([source], findings=("Mass",))
    assert (found.findings, [s.findings for s in found.samples]) == (("Mass",), [("Mass",), (), ()])
    doubts = survey(source, findings=("Mass",)).doubts
    assert [(doubt.problem, doubt.detail) for doubt in doubts] == [(UNUSED, "MRN")]
    assert (
        examine([source], needs=DataSettings(sources=(source,), findings=("Mass",))).count("error") == 3
    )  # empty files are no images
    with pytest.raises(DataError, match=r"has no finding 'Mas'\. Did you mean 'Mass'"):
        open_sources([source], findings=("Mas",))


def test_a_wrong_value_of_many_rows_is_one_finding(tmp_path):
    rows = "".join(f"{n}.png,p{n},,-1,{n % 2}\n" for n in range(2000))
    folder_of(tmp_path, f"image,patient,a,b,c\n{rows}", *(f"images/{n}.png" for n in range(3)))
    source = make_source(kind="table", path=tmp_path, partial=True)
    result = examine([source])
    assert len([finding for finding in result.findings if finding.level == "error"]) == 2
    assert result.groups[0].line.startswith(
        f"{tmp_path}/labels.csv: value that is neither 0 nor 1 (4,000): row 2 and 1,999 more, column a: ''; row 2 and"
    )
    assert len(result.groups) == 2  # the other: images not in the folder


def test_patients_of_the_table_who_may_be_one_are_doubts(tmp_path):
    text = "image,patient,scar\na1.png,A01,1\na01.png,a1,0\n"
    found = survey(make_source(kind="table", path=folder_of(tmp_path, text, "a1.png", "a01.png")))
    assert [doubt.detail for doubt in found.doubts if doubt.problem == ALIKE] == ["'A01' and 'a1'"]
    folder_of(tmp_path, "image,scar\na1.png,1\na01.png,0\n")
    found = survey(make_source(kind="table", path=tmp_path))
    assert not [doubt for doubt in found.doubts if doubt.problem == ALIKE]
