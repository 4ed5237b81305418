"""The layouts of data sets: what is paired, who is a patient, which split, and what is refused."""

import os
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, MaskSourceSettings, make_source, parse, to_yaml
from medarts.config.yaml_text import read_yaml
from medarts.data.choosing import choose_sources
from medarts.data.doctor import examine
from medarts.data.formats import raw_image
from medarts.data.manifest import ReadingRules
from medarts.data.opening import open_manifest, open_sources, survey
from medarts.data.placing import ALIKE, WITHOUT_FILES
from medarts.data.reading import read_pair
from medarts.data.recognising import recognise
from medarts.data.sources import (
    FOLDERS,
    LEFT_OUT,
    MISNAMED,
    NOT_READ,
    OTHER_NAME,
    TABLES,
    UNUSED,
    Fault,
    Listing,
    Pair,
    Source,
    rules_of,
)
from medarts.data.sources.cvc import FRAMES, sequence_of
from medarts.errors import DataError, RecipeError
from medarts.registry import sources

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def put(path: Path, values: np.ndarray = GREY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def touch(path: Path) -> None:
    """Sources look at names alone, so an empty file stands for an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def splits(folder: Path, text: str) -> None:
    (folder / "splits.csv").write_text(text, encoding="utf-8")


def opened(path: Path, kind: str, **options):
    return open_sources([make_source(kind=kind, path=path, **options)])


def plain_folder(path: Path, count: int = 10) -> Path:
    for n in range(count):
        touch(path / "images" / f"{n}.jpg")
        touch(path / "masks" / f"{n}.png")
    return path


# --- ISIC -------------------------------------------------------------------------------------------------------


def isic_part(path: Path, images: str, masks: str, ids: str, ending: str = "_segmentation") -> None:
    for name in ids.split():
        touch(path / images / f"ISIC_{name}.jpg")
        touch(path / images / f"ISIC_{name}_superpixels.png")
        touch(path / masks / f"ISIC_{name}{ending}.png")


def test_isic_2016_writes_its_masks_with_a_capital_and_gives_up_training_images_for_validation(tmp_path):
    parts = [("Training", "1 2 3 4 5 6 7 8 9 10"), ("Test", "11 12")]
    for part, ids in parts:
        base = f"ISBI2016_ISIC_Part1_{part}"
        isic_part(tmp_path, f"{base}_Data", f"{base}_GroundTruth", ids, "_Segmentation")
    found = opened(tmp_path, "isic", fractions=(0.2, 0.2))
    assert Counter(s.split for s in found.samples) == {"train": 8, "val": 2, "test": 2}
    assert {s.key for s in found.of_split("test").samples} == {"ISIC_11", "ISIC_12"}


def test_isic_2017_and_2018_use_their_official_parts(tmp_path):
    for part, ids in (("Training", "1 2 3"), ("Validation", "4"), ("Test_v2", "5 6")):
        isic_part(tmp_path / "a", f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth", ids)
    for part, ids in (("Training", "1 2 3"), ("Validation", "4"), ("Test", "5 6")):
        isic_part(tmp_path / "b", f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth", ids)
    for year in "ab":
        found = opened(tmp_path / year, "isic")
        assert [(s.key, s.split) for s in found.samples] == [
            *((f"ISIC_{n}", "train") for n in "123"),
            ("ISIC_4", "val"),
            ("ISIC_5", "test"),
            ("ISIC_6", "test"),
        ]
        assert all(s.mask.name == f"{s.key}_segmentation.png" for s in found.samples)


def test_isic_training_alone_is_divided_and_stays_divided_so(tmp_path):
    ids = " ".join(str(n) for n in range(20))
    isic_part(tmp_path, "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", ids)
    found = opened(tmp_path, "isic")
    assert Counter(s.split for s in found.samples) == {"train": 14, "val": 2, "test": 4}
    assert found == opened(tmp_path, "isic")


def test_isic_refuses_two_years_and_a_part_without_masks(tmp_path):
    isic_part(tmp_path, "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "1")
    (tmp_path / "ISIC-2017_Test_v2_Data").mkdir()
    with pytest.raises(DataError, match=r"no folder .*ISIC-2017_Test_v2_Part1_GroundTruth"):
        opened(tmp_path, "isic")
    isic_part(tmp_path, "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "1")
    with pytest.raises(DataError, match=r"several challenges \(2017, 2018\)"):
        opened(tmp_path, "isic")


# --- CVC-ClinicDB -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_cvc_keeps_sequences_whole_without_a_table(tmp_path, suffix):
    for n in range(1, FRAMES + 1):
        touch(tmp_path / "Original" / f"{n}.{suffix}")
        touch(tmp_path / "Ground Truth" / f"{n}.{suffix}")
    found = opened(tmp_path, "cvc")
    assert len({s.patient for s in found.samples}) == 29
    assert all(len({s.split for s in found.samples if s.patient == str(n)}) == 1 for n in range(1, 30))
    assert all(s.image.name == s.mask.name for s in found.samples)


def test_cvc_frames_beyond_the_official_ones_need_a_table(tmp_path):
    touch(tmp_path / "Original" / "613.tif")
    touch(tmp_path / "Ground Truth" / "613.tif")
    with pytest.raises(DataError, match=r"no known sequence \(1\): 613.*splits\.csv"):
        opened(tmp_path, "cvc")
    splits(tmp_path, "id,sequence,split\n613,extra,train\n")
    assert [s.patient for s in opened(tmp_path, "cvc").samples] == ["extra"]


# --- CHAOS ------------------------------------------------------------------------------------------------------


def chaos(path: Path) -> Path:
    for n in (2, 10, 1):
        touch(path / f"Train_Sets/CT/4/DICOM_anon/i{n},b.dcm")
    for n in range(3):
        touch(path / f"Train_Sets/CT/4/Ground/liver_GT_{n:03d}.png")
    for patient in ("1", "2"):
        base = path / "Train_Sets/MR" / patient
        for n in (1, 3):
            touch(base / f"T1DUAL/DICOM_anon/OutPhase/IMG-{n:05d}.dcm")
            touch(base / f"T1DUAL/DICOM_anon/InPhase/IMG-{n + 1:05d}.dcm")
            put(base / f"T1DUAL/Ground/IMG-{n + 1:05d}.png", np.array([[0, 63], [126, 189], [252, 0]], np.uint8))
        touch(base / "T2SPIR/DICOM_anon/IMG-00001.dcm")
        touch(base / "T2SPIR/Ground/IMG-00001.png")
    return path


def test_chaos_ct_pairs_by_order_and_has_a_window(tmp_path):
    found = opened(chaos(tmp_path), "chaos")
    pairs = [(s.key, s.image.name, s.mask.name, s.patient) for s in found.samples]
    assert pairs[0] == ("CT/4/000", "i1,b.dcm", "liver_GT_000.png", "CT/4")
    assert pairs[2] == ("CT/4/002", "i10,b.dcm", "liver_GT_002.png", "CT/4")
    assert found.rules["chaos"].window == (-160.0, 240.0)
    own = opened(tmp_path, "chaos", percentiles=(1, 99)).rules["chaos"]
    assert (own.window, own.percentiles) == (None, (1, 99))


def test_chaos_mr_series(tmp_path):
    chaos(tmp_path)
    keys = {m: [s.key for s in opened(tmp_path, "chaos", modality=m).samples] for m in ("mr", "mr_t1", "mr_t2")}
    assert keys["mr_t2"] == ["MR/1/T2SPIR/000", "MR/2/T2SPIR/000"]
    assert keys["mr_t1"][:3] == ["MR/1/T1DUAL/InPhase/000", "MR/1/T1DUAL/InPhase/001", "MR/1/T1DUAL/OutPhase/000"]
    assert sorted(keys["mr"]) == sorted(keys["mr_t1"] + keys["mr_t2"])
    found = opened(tmp_path, "chaos", modality="mr")
    assert {s.patient for s in found.samples} == {"MR/1", "MR/2"}
    assert found.rules["chaos"].percentiles == (0.5, 99.5)


@pytest.mark.parametrize(
    ("organ", "expected"),
    [
        ("all", [[0, 1], [2, 3], [4, 0]]),
        ("liver", [[0, 1], [0, 0], [0, 0]]),
        ("left_kidney", [[0, 0], [0, 1], [0, 0]]),
        ("spleen", [[0, 0], [0, 0], [1, 0]]),
    ],
)
def test_chaos_mr_organs_become_classes(tmp_path, organ, expected):
    from medarts.data.masks import read_mask

    found = opened(chaos(tmp_path), "chaos", modality="mr_t1", organ=organ)
    np.testing.assert_array_equal(read_mask(found.samples[0], found.rules["chaos"]).classes, expected)


def test_chaos_refuses_missing_slices_and_ct_kidneys(tmp_path):
    chaos(tmp_path)
    with pytest.raises(DataError, match="organ 'spleen', but CT masks have the liver alone"):
        opened(tmp_path, "chaos", organ="spleen")
    (tmp_path / "Train_Sets/CT/4/Ground/liver_GT_001.png").unlink()
    with pytest.raises(DataError, match="CT/4 has 3 slices and 2 masks"):
        opened(tmp_path, "chaos")
    (tmp_path / "Train_Sets/MR/2/T2SPIR/Ground/IMG-00001.png").unlink()
    (tmp_path / "Train_Sets/MR/2/T2SPIR/Ground").rmdir()
    with pytest.raises(DataError, match=r"folder missing \(1\): .*MR/2/T2SPIR/Ground"):
        opened(tmp_path, "chaos", modality="mr_t2")


def test_slices_of_a_patient_may_be_split_where_the_table_names_no_patients(tmp_path):
    splits(chaos(tmp_path), "id,split\nCT/4/000,train\nCT/4/001,gap\nCT/4/002,test\n")
    found = opened(tmp_path, "chaos")
    assert [(s.key, s.split, s.patient) for s in found.samples] == [
        ("CT/4/000", "train", "CT/4"),
        ("CT/4/002", "test", "CT/4"),
    ]


# --- folders ----------------------------------------------------------------------------------------------------


def test_folder_pairs_by_stem_and_passes_over_other_files(tmp_path):
    plain_folder(tmp_path)
    for name in ("images/.DS_Store", "images/._1.png", "images/notes.txt", "masks/Thumbs.db"):
        touch(tmp_path / name)
    found = opened(tmp_path, "folder", name="mine")
    assert found.domains == ("mine",)
    assert Counter(s.split for s in found.samples) == {"train": 7, "val": 1, "test": 2}
    assert all(s.image.stem == s.mask.stem == s.key == s.patient for s in found.samples)


def test_files_without_a_partner_are_counted_and_named(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "masks/3.png").unlink()
    with pytest.raises(DataError, match=r"image without a mask \(1\): 3\.jpg\. Add"):
        opened(tmp_path, "folder")
    for n in range(8):
        touch(tmp_path / "masks" / f"m{n}.png")
    (tmp_path / "masks/3.png").touch()
    with pytest.raises(DataError, match=r"mask without an image \(8\): m0\.png, m1\.png, m2\.png and 5 more\."):
        opened(tmp_path, "folder")
    touch(tmp_path / "images/0.png")
    with pytest.raises(DataError, match=r"second file of the same name \(1\): 0\.jpg, 0\.png.*8 faults of other kinds"):
        opened(tmp_path, "folder")


@pytest.mark.parametrize(("kind", "missing"), [("folder", "images"), ("cvc", "Original"), ("chaos", "Train_Sets/CT")])
def test_missing_and_empty_folders(tmp_path, kind, missing):
    with pytest.raises(DataError, match=r"There is no folder .*/nowhere\. Expected here"):
        opened(tmp_path / "nowhere", kind)
    with pytest.raises(DataError, match=f"There is no folder .*{missing}"):
        opened(tmp_path, kind)
    for name in (missing, "masks", "Ground Truth"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        opened(tmp_path, kind)


def test_no_isic_folder(tmp_path):
    with pytest.raises(DataError, match="no part of an ISIC challenge"):
        opened(tmp_path, "isic")


def test_volumes_become_slices_of_one_patient(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    volume = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    for name in ("a", "b"):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"images/{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((volume > 30).astype(np.uint8), np.eye(4)), tmp_path / f"masks/{name}.nii")
    splits(tmp_path, "id,split\na,train\nb,test\n")
    found = opened(tmp_path, "folder", window=(0, 59))
    assert [(s.key, s.patient, s.split, s.slice_index) for s in found.samples[2:4]] == [
        ("a/002", "a", "train", 2),
        ("b/000", "b", "test", 0),
    ]
    image, mask, *_ = read_pair(found.samples[1], found.rules["folder"], channels=1)
    np.testing.assert_array_equal(mask, image[..., 0] > 30 / 59)
    nibabel.save(nibabel.Nifti1Image(volume[..., :2], np.eye(4)), tmp_path / "masks/b.nii")
    with pytest.raises(DataError, match=r"b\.nii\.gz has 3 slices and b\.nii has 2"):
        opened(tmp_path, "folder")
    (tmp_path / "masks/b.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"volume cannot be opened .*b\.nii"):
        opened(tmp_path, "folder")


def test_tables_decide_who_goes_where(tmp_path):
    plain_folder(tmp_path, 4)
    splits(tmp_path, "id,subject,split\n0,A,train\n1,A,train\n2,B,val\n3,C,test\n9,D,test\n")
    found = opened(tmp_path, "folder")
    assert [(s.patient, s.split) for s in found.samples] == [("A", "train")] * 2 + [("B", "val"), ("C", "test")]
    splits(tmp_path, "id,subject,split\n0,A,train\n1,A,test\n2,B,val\n3,C,test\n")
    with pytest.raises(DataError, match=r"patient in two splits \(1\): A in train and test"):
        opened(tmp_path, "folder")
    splits(tmp_path, "id,split\n0,train\n1,train\n2,val\n")
    with pytest.raises(DataError, match=r"not named in splits\.csv \(1\): 3\. Add a row"):
        opened(tmp_path, "folder")
    splits(tmp_path, "name,split\n0,train\n")
    with pytest.raises(DataError, match=r"splits\.csv has no column id"):
        opened(tmp_path, "folder")


def test_a_missing_validation_part_is_taken_from_training_patients(tmp_path):
    plain_folder(tmp_path, 12)
    rows = [f"{n},{n // 2},{'test' if n >= 8 else 'train'}" for n in range(12)]
    splits(tmp_path, "\n".join(["id,patient,split", *rows]))
    found = opened(tmp_path, "folder", fractions=(0.25, 0.2))
    assert Counter(s.split for s in found.samples) == {"train": 6, "val": 2, "test": 4}
    assert len({s.patient for s in found.of_split("val").samples}) == 1


def test_sources_are_joined_in_their_order(tmp_path):
    plain_folder(tmp_path / "z", 4)
    plain_folder(tmp_path / "a", 3)
    both = open_sources([make_source(kind="folder", path=tmp_path / name, name=name) for name in "za"])
    assert both.domains == ("z", "a")
    assert len(both.samples) == 7


@pytest.mark.parametrize("labels", [{-1: 1}, {70000: 1}])
def test_labels_out_of_range_are_refused(tmp_path, labels):
    with pytest.raises(DataError, match="out of range"):
        opened(plain_folder(tmp_path), "folder", labels=labels)


# --- names ------------------------------------------------------------------------------------------------------


def test_letters_of_one_and_of_two_signs_are_the_same_name(tmp_path):
    for n in range(3):
        touch(tmp_path / "images" / unicodedata.normalize("NFC", f"lésion{n}.jpg"))
        touch(tmp_path / "masks" / unicodedata.normalize("NFD", f"lésion{n}.png"))
    splits(tmp_path, unicodedata.normalize("NFD", "id,patient,split\nlésion0,é,train\nlésion1,b,val\nlésion2,c,test\n"))
    found = opened(tmp_path, "folder")
    assert [(s.key, s.patient) for s in found.samples] == [("lésion0", "é"), ("lésion1", "b"), ("lésion2", "c")]
    assert all(s.image.exists() and s.mask.exists() for s in found.samples)


def test_names_that_are_no_utf_8_are_read_under_a_key_that_can_be_written(tmp_path):
    names = [os.fsdecode(b"l\xe9sion%d" % n) for n in range(4)]
    try:
        for name in names:
            touch(tmp_path / "images" / f"{name}.jpg")
            touch(tmp_path / "masks" / f"{name}.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    found = opened(tmp_path, "folder")
    assert [s.key for s in found.samples] == [f"l\\xe9sion{n}" for n in range(4)]
    assert all(s.image.exists() and s.patient == s.key for s in found.samples)
    splits(tmp_path, "id,split\n" + "\n".join(f"l\\xe9sion{n},train" for n in range(4)))
    assert len(opened(tmp_path, "folder", fractions=(0, 0)).of_split("train").samples) == 4


def test_spaces_at_the_ends_of_names_do_not_matter(tmp_path):
    for name in (" a", "b ", "c"):
        touch(tmp_path / "images" / f"{name}.jpg")
        touch(tmp_path / "masks" / f"{name.strip()}.png")
    splits(tmp_path, "id,split\n a,train\nb ,val\nc,test\n")
    assert [s.split for s in opened(tmp_path, "folder").samples] == ["train", "val", "test"]


@pytest.mark.parametrize("ids", ["images/{}.jpg", "images/{}", "images\\{}.jpg"])
def test_ids_may_be_paths_from_the_folder(tmp_path, ids):
    plain_folder(tmp_path, 3)
    rows = "\n".join(f"{ids.format(n)},{split}" for n, split in enumerate(("train", "val", "test")))
    splits(tmp_path, f"id,split\n{rows}\n")
    assert [s.split for s in opened(tmp_path, "folder").samples] == ["train", "val", "test"]
    assert survey(make_source(kind="folder", path=tmp_path)).doubts == ()


# --- what is not read -------------------------------------------------------------------------------------------


def doubts(path: Path, kind: str, **options) -> list[tuple[str, int, str]]:
    found = survey(make_source(kind=kind, path=path, **options))
    return [(doubt.problem, doubt.count, doubt.detail) for doubt in found.doubts]


def test_files_and_folders_that_are_not_read_are_counted(tmp_path):
    plain_folder(tmp_path, 4)
    for folder, suffix in (("images", "webp"), ("masks", "webp"), ("masks", "pgm")):
        touch(tmp_path / folder / f"x.{suffix}x")
    for n in range(2):
        touch(tmp_path / "images" / f"patient{n}" / "a.png")
    assert doubts(tmp_path, "folder") == [
        (NOT_READ, 1, ".webpx 1 in images"),
        (FOLDERS, 1, "images/patient0"),
        (FOLDERS, 1, "images/patient1"),
        (NOT_READ, 2, ".pgmx 1, .webpx 1 in masks"),
    ]
    assert len(opened(tmp_path, "folder").samples) == 4


def test_partners_of_a_kind_that_is_not_read_are_named(tmp_path):
    for n in range(3):
        touch(tmp_path / "images" / f"{n}.png")
        touch(tmp_path / "masks" / (f"{n}" if n else "0.xyz"))
    with pytest.raises(
        DataError, match=r"mask of a kind that is not read \(3\): 0\.xyz, 1, 2\. Save it .* '\.xyz' is none"
    ):
        opened(tmp_path, "folder")
    (tmp_path / "images/0.png").rename(tmp_path / "images/0.xyz")
    touch(tmp_path / "images/1.2.840.png")
    touch(tmp_path / "masks/1.2.840")
    with pytest.raises(DataError, match=r"mask of a kind that is not read \(3\): 1, 1\.2\.840, 2"):
        opened(tmp_path, "folder")
    touch(tmp_path / "masks/1.2.840.png")
    for n in range(3):
        touch(tmp_path / "masks" / f"{n}.png")
    with pytest.raises(DataError, match=r"image of a kind that is not read \(1\): 0\.xyz"):
        opened(tmp_path, "folder")


def test_what_lies_there_instead_of_images_is_said(tmp_path):
    for n in range(4):
        touch(tmp_path / "images" / f"p{n}" / "a.png")
        touch(tmp_path / "masks" / f"p{n}" / "a.png")
    with pytest.raises(
        DataError, match=r"holds no images, but folders .* not read: images/p0, images/p1, images/p2 and"
    ):
        opened(tmp_path, "folder")


def test_other_sources_count_what_they_do_not_read(tmp_path):
    isic_part(tmp_path / "i", "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "1 2 3")
    touch(tmp_path / "i/ISIC-2017_Training_Data/ISIC_4.heic")
    touch(tmp_path / "i/ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv")
    touch(tmp_path / "i/ISIC-2017_Training_Part1_GroundTruth/ISIC_4.png")
    assert [(what, count) for what, count, _ in doubts(tmp_path / "i", "isic")] == [(NOT_READ, 1), (OTHER_NAME, 1)]
    touch(tmp_path / "c/Original/1.tif")
    touch(tmp_path / "c/Ground Truth/1.tif")
    touch(tmp_path / "c/Original/2.psd")
    assert doubts(tmp_path / "c", "cvc") == [(NOT_READ, 1, ".psd 1 in Original")]
    chaos(tmp_path / "h")
    touch(tmp_path / "h/Train_Sets/CT/4/DICOM_anon/preview.jpg")
    touch(tmp_path / "h/Train_Sets/CT/.checkpoints/a")
    assert doubts(tmp_path / "h", "chaos") == [(NOT_READ, 1, ".jpg 1 in DICOM_anon")]


def test_rows_that_leave_images_out_are_counted_unless_on_purpose(tmp_path):
    plain_folder(tmp_path, 6)
    splits(tmp_path, "id,split,scan_id\n0,train,1\n1,trian,1\n2,,2\n3,gap,2\n4,val,3\n5,test,3\n9,test,4\n")
    assert doubts(tmp_path, "folder") == [
        (WITHOUT_FILES, 1, "9"),
        (LEFT_OUT, 1, "1 ('trian')"),
        (LEFT_OUT, 1, "2 ('')"),
        (UNUSED, 1, "scan_id"),
    ]


@pytest.mark.parametrize(
    ("count", "text", "words"),
    [
        (2, None, r"There are 2 patients; sampled splits need 3. Add others, or divide"),
        (1, None, r"There is one patient"),
        (4, "id,split\n0,train\n1,train\n2,train\n3,train\n", r"Write test in the column split of .*splits\.csv"),
    ],
)
def test_advice_on_an_empty_split_helps(tmp_path, count, text, words):
    plain_folder(tmp_path, count)
    if text:
        splits(tmp_path, text)
    settings = DataSettings(sources=(make_source(kind="folder", path=tmp_path),))
    with pytest.raises(DataError, match=rf"in the split '(val|test)'\. {words}"):
        open_manifest(settings, needs=("train", "val", "test"))


# --- real data --------------------------------------------------------------------------------------------------

real = pytest.mark.skipif("MEDARTS_DATA" not in os.environ, reason="needs real data (MEDARTS_DATA)")


@real
@pytest.mark.parametrize(
    ("kind", "name", "counts", "patients"),
    [
        ("isic", "isic2017", (420, 60, 120), 600),
        ("cvc", "cvc-clinicdb", (414, 64, 134), 29),
        ("chaos", "chaos", (44, 8, 18), 1),
        ("folder", "nuclei", (469, 66, 129), 664),
        ("folder", "retina", (36, 4, 28), 54),
    ],
)
def test_real_sets(kind, name, counts, patients):
    path = Path(os.environ["MEDARTS_DATA"]) / name
    found = opened(path, kind)
    assert tuple(len(found.of_split(split).samples) for split in ("train", "val", "test")) == counts
    assert len({s.patient for s in found.samples}) == patients
    for sample in found.samples[:: len(found.samples) // 3]:
        image, mask, *_ = read_pair(sample, found.rules[kind], channels=3)
        assert image.shape == (*mask.shape, 3)
        assert 0 <= image.min() < image.max() <= 1
        assert mask.max() <= 1


@real
def test_the_real_liver_is_bright_under_its_mask():
    # Enhanced liver lies near 140 HU, the rest of the slice far below: a wrong pairing or turn would lose this.
    found = opened(Path(os.environ["MEDARTS_DATA"]) / "chaos", "chaos")
    middle = [s for s in found.samples if 20 <= int(s.key[-3:]) <= 30]
    for sample in middle:
        image, mask, *_ = read_pair(sample, found.rules["chaos"], channels=1)
        inside = image[..., 0][mask == 1] * 400 - 160
        assert 120 < np.median(inside) < 160
        assert image[..., 0][mask == 0].mean() * 400 - 160 < 60


@real
def test_the_table_of_sequences_is_that_of_the_real_set():
    import csv

    with (Path(os.environ["MEDARTS_DATA"]) / "cvc-clinicdb/splits.csv").open() as file:
        assert all(sequence_of(row["id"]) == row["sequence"] for row in csv.DictReader(file))


# --- Tables beside the images -------------------------------------------------------------------------------------

DIVIDED_BY_HAND = "id,split\n" + "".join(
    f"{n},{split}\n" for n, split in enumerate(["test"] * 7 + ["train"] * 2 + ["val"])
)


@pytest.mark.parametrize("name", ["splits.csv", "Splits.CSV", "SPLITS.csv"])
def test_splits_csv_is_found_in_any_case(tmp_path, name):
    (plain_folder(tmp_path) / name).write_text(DIVIDED_BY_HAND)
    found = survey(make_source(kind="folder", path=tmp_path))
    assert Counter(sample.split for sample in found.manifest.samples) == {"test": 7, "train": 2, "val": 1}
    assert found.manifest == opened(tmp_path, "folder")
    assert not found.doubts


def test_two_tables_of_one_name_are_refused(tmp_path):
    splits(plain_folder(tmp_path), DIVIDED_BY_HAND)
    (tmp_path / "Splits.csv").write_text(DIVIDED_BY_HAND)
    if len(list(tmp_path.glob("*.csv"))) == 1:
        pytest.skip("the file system ignores case")
    with pytest.raises(DataError, match=r"several tables: Splits\.csv and splits\.csv\. Keep one"):
        opened(tmp_path, "folder")


def test_a_splits_csv_that_leads_nowhere_is_no_reason_to_draw(tmp_path):
    (plain_folder(tmp_path) / "splits.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"splits\.csv cannot be opened"):
        opened(tmp_path, "folder")


@pytest.mark.parametrize(
    "name", ["split.csv", "Split.CSV", "splits.tsv", "splits.csv.txt", "split.xlsx", "splits.json"]
)
def test_splits_under_another_name_are_not_passed_over(tmp_path, name):
    (plain_folder(tmp_path) / name).write_text(DIVIDED_BY_HAND)
    with pytest.raises(DataError, match=rf"splits\.csv alone \(1\): {name}\. Save it as splits\.csv"):
        opened(tmp_path, "folder")
    (fault,) = survey(make_source(kind="folder", path=tmp_path)).faults
    assert (fault.problem, fault.file.name) == (MISNAMED, name)
    splits(tmp_path, DIVIDED_BY_HAND)
    found = survey(make_source(kind="folder", path=tmp_path))
    assert not found.faults
    assert [doubt.detail for doubt in found.doubts] == [name]


def test_tables_that_are_not_read_are_doubts(tmp_path):
    names = ["Labels.CSV", "data.json", "meta.tsv", "people.xlsx"]
    for name in (*names, "readme.txt", ".hidden.csv", "~$people.xlsx"):
        touch(plain_folder(tmp_path) / name)
    found = survey(make_source(kind="folder", path=tmp_path))
    assert [(doubt.problem, doubt.detail) for doubt in found.doubts] == [(TABLES, name) for name in names]


@pytest.mark.parametrize("kind", ["isic", "cvc", "chaos", "chestxray14", "table"])
def test_tables_of_a_download_are_known_and_others_are_not(tmp_path, kind):
    known = {
        "isic": ["ISIC-2017_Training_Part3_GroundTruth.csv", "ISBI2016_ISIC_Part3_Test_GroundTruth.csv"],
        "cvc": ["metadata.csv"],
        "chaos": [],
        "chestxray14": ["data_entry_2017_v2020.csv", "BBox_List_2017.csv"],
        "table": ["Labels.CSV"],
    }
    tables = {
        "chestxray14": "Image Index,Finding Labels,Patient ID\na.png,Mass,1\n",
        "table": "image,patient,scar\na.png,1,1\n",
    }
    for name in (*known[kind], "ages.csv", "images/a.png", "Original/1.png", "Ground Truth/1.png"):
        touch(tmp_path / name)
    for name in ("ISIC-2017_Training_Data/a.png", "ISIC-2017_Training_Part1_GroundTruth/a_segmentation.png"):
        touch(tmp_path / name)
    for name in ("DICOM_anon/a.dcm", "Ground/a.png"):
        touch(tmp_path / "Train_Sets/CT/1" / name)
    if kind in tables:
        (tmp_path / known[kind][0]).write_text(tables[kind])
    found = survey(make_source(kind=kind, path=tmp_path))
    assert [doubt.detail for doubt in found.doubts if doubt.problem == TABLES] == ["ages.csv"]


@pytest.mark.parametrize("columns", [("id", "image"), ("image", "id")])
def test_of_id_and_image_the_column_that_names_the_files_is_read(tmp_path, columns):
    for n in range(10):
        for name in ("images", "masks"):
            touch(tmp_path / name / f"case{n}.png")
    words = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    cells = [{"id": str(n + 1), "image": f"case{n}.png"} for n in range(10)]
    rows = [",".join((*(row[column] for column in columns), word)) for row, word in zip(cells, words, strict=True)]
    splits(tmp_path, "\n".join((",".join((*columns, "split")), *rows)))
    assert [sample.split for sample in opened(tmp_path, "folder").samples] == words
    paths = [{"id": str(n), "image": f"images\\case{n}.png"} for n in range(10)]
    rows = [",".join((*(row[column] for column in columns), word)) for row, word in zip(paths, words, strict=True)]
    splits(tmp_path, "\n".join((",".join((*columns, "split")), *rows)))
    assert [sample.split for sample in opened(tmp_path, "folder").samples] == words


def test_patients_who_may_be_one_are_doubts(tmp_path):
    patients = ["7", "7.0", "007", "P1", "p1", "70", "P 2", "P2", "P10", "x"]
    rows = [f"{n},{patient},train" for n, patient in enumerate(patients)]
    splits(plain_folder(tmp_path), "\n".join(("id,patient,split", *rows)))
    found = survey(make_source(kind="folder", path=tmp_path))
    doubts = [doubt.detail for doubt in found.doubts if doubt.problem == ALIKE]
    assert doubts == ["'7' and '7.0' and '007'", "'P1' and 'p1'", "'P 2' and 'P2'"]
    splits(tmp_path, "\n".join(("id,split", *(f"{n},train" for n in range(10)))))
    assert not survey(make_source(kind="folder", path=tmp_path)).doubts


@pytest.mark.parametrize("what", ["folder", "pipe"])
@pytest.mark.parametrize(("folder", "word"), [("images", "image"), ("masks", "mask")])
def test_what_is_called_as_an_image_and_is_no_file_is_named_so(tmp_path, what, folder, word):
    odd = plain_folder(tmp_path) / folder / ("3.jpg" if word == "image" else "3.png")
    odd.unlink()
    if what == "folder":
        touch(odd / "inner.png")
    elif hasattr(os, "mkfifo"):
        os.mkfifo(odd)
    else:
        pytest.skip("needs pipes")
    problem = rf"{word} that is not a regular file \(1\): {folder}/{odd.name} is a {what}"
    with pytest.raises(DataError, match=rf"{problem}.*\. Replace it with the image file itself"):
        opened(tmp_path, "folder")


def test_a_link_to_itself_is_named_and_not_its_folder(tmp_path):
    odd = plain_folder(tmp_path) / "images/3.jpg"
    odd.unlink()
    odd.symlink_to(odd)
    sample = next(sample for sample in opened(tmp_path, "folder").samples if sample.key == "3")
    with pytest.raises(DataError, match=r"images/3\.jpg is a link to a file that is not there\."):
        raw_image(sample.image)


# A kind of one's own


class NeighboursSettings(MaskSourceSettings):
    """Images beside their masks.

    Attributes:
        ending: of the masks.
    """

    kind: Literal["neighbours"] = "neighbours"
    ending: str = "_mask"


class Neighbours(Source):
    layout = "NAME.png with NAME_mask.png"
    tables = ("notes.csv",)

    def recognise(self, path):
        return (NeighboursSettings(path=path),) if list(path.glob("*_mask.png")) else ()

    def find(self, settings, findings=None):
        masks = sorted(settings.path.glob(f"*{settings.ending}.png"))
        names = [mask.stem.removesuffix(settings.ending) for mask in masks]
        pairs = [Pair(n, settings.path / f"{n}.png", m, patient=n) for n, m in zip(names, masks, strict=True)]
        faults = [Fault(m, "empty name", "Rename it.") for m in masks if m.stem == settings.ending]
        return Listing(tuple(pairs), tuple(faults), rules_of(settings))


def test_a_source_that_a_user_registers(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_entries", dict(sources._entries))
    sources.register("neighbours", settings=NeighboursSettings)(Neighbours)
    for number in range(10):
        put(tmp_path / f"{number}.png")
        put(tmp_path / f"{number}_mask.png")
    (tmp_path / "notes.csv").write_text("x")
    recipe = parse({"data": {"sources": [{"kind": "neighbours", "path": str(tmp_path), "labels": {90: 1}}]}})
    assert parse(read_yaml(to_yaml(recipe))) == recipe
    manifest = open_sources(recipe.data.sources)
    assert [sample.key for sample in manifest.samples] == [str(number) for number in range(10)]
    assert {sample.split for sample in manifest.samples} == {"train", "val", "test"}
    assert recognise(tmp_path) == (NeighboursSettings(path=tmp_path),)
    assert choose_sources([str(tmp_path)])[0].kind == "neighbours"
    examination = examine(recipe.data.sources)
    assert not any("not read" in finding.problem for finding in examination.findings)
    with pytest.raises(RecipeError, match=r"data.sources.0.endign is not a key of a recipe. Did you mean 'ending'"):
        parse({"data": {"sources": [{"kind": "neighbours", "path": "x", "endign": ""}]}})
    put(tmp_path / "_mask.png")
    with pytest.raises(DataError, match="empty name"):
        open_sources(recipe.data.sources)
    find = Neighbours.find
    scaled = {"window": (0.0, 9.0)}
    monkeypatch.setattr(Neighbours, "find", lambda *of: replace(find(*of), rules=ReadingRules(**scaled)))
    with pytest.raises(DataError, match=r"with the window \(0.0, 9.0\), and says None.*usual_rules"):
        open_sources(recipe.data.sources)
    monkeypatch.setattr(Neighbours, "usual_rules", lambda *_: ReadingRules(**scaled))
    assert survey(recipe.data.sources[0]).manifest.rules["neighbours"].window == (0.0, 9.0)
