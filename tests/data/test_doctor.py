"""The doctor: every planted fault is found, with its file and level, and sound sets are left alone."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medarts.config import DataSettings, make_source
from medarts.data.doctor import examine
from medarts.data.recognising import recognise
from medarts.data.sources.chaos import ChaosSettings
from medarts.errors import DataError

SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def sound_folder(path: Path) -> Path:
    """Ten image pairs without fault, 0 to 5 for training, 6 and 7 for validation, 8 and 9 for testing."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (path / name).mkdir()
    mask = np.zeros((12, 10), np.uint8)
    mask[3:9, 2:7] = 255
    for n in range(10):
        image(path, n, rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
        Image.fromarray(mask).save(path / f"masks/{n}.png")
    rows = [f"{n},p{n},{split}" for n, split in enumerate(SPLITS)]
    (path / "splits.csv").write_text("\n".join(["id,patient,split", *rows]))
    return path


def image(path: Path, n: int, values: np.ndarray) -> None:
    Image.fromarray(values).save(path / f"images/{n}.png")


def mask(path: Path, n: int, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path / f"masks/{n}.png")


def findings(path: Path, **options) -> list[tuple[str, str, str]]:
    result = examine([make_source(kind="folder", path=path, **options)])
    assert result.failed == any(finding.level == "error" for finding in result.findings)
    assert all(finding.fix and finding.problem for finding in result.findings)
    return [(finding.level, finding.file, finding.text) for finding in result.findings]


def only(found: list[tuple[str, str, str]], level: str, file: str, words: str) -> None:
    assert len(found) == 1, found
    assert found[0][0] == level
    assert found[0][1].endswith(file)
    assert words in found[0][2]


def test_a_sound_set_has_no_findings_and_a_summary(tmp_path):
    calls = []
    result = examine(recognise(sound_folder(tmp_path)), progress=lambda done, total: calls.append((done, total)))
    assert result.findings == ()
    assert not result.failed
    (summary,) = result.summaries
    assert (summary.images, summary.patients, summary.sizes) == (10, 10, {"12 x 10": 10})
    assert summary.splits == {"train": 6, "val": 2, "test": 2}
    assert summary.foreground == pytest.approx(30 / 120)
    assert calls == [(n, 10) for n in range(1, 11)]


def test_truncated_image_and_mask(tmp_path):
    sound_folder(tmp_path)
    for name in ("images/2.png", "masks/5.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    found = findings(tmp_path)
    assert [(level, file[-len("images/2.png") :]) for level, file, _ in found] == [
        ("error", "images/2.png"),
        ("error", "/masks/5.png"),
    ]
    assert all("cannot be read" in problem for _, _, problem in found)


def test_sizes_that_differ(tmp_path):
    mask(sound_folder(tmp_path), 4, np.eye(10) * 255)
    only(findings(tmp_path), "error", "images/4.png", "12 x 10 pixels but its mask")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((12, 10)), "The mask is empty"),
        (np.full((12, 10), 255), "covers the whole image"),
        (np.linspace(0, 255, 120).reshape(12, 10), "Unexpected values: 50%"),
    ],
)
def test_suspicious_masks(tmp_path, values, words):
    mask(sound_folder(tmp_path), 3, values)
    only(findings(tmp_path), "warning", "masks/3.png", words)


def test_classes_without_labels_are_an_error(tmp_path):
    mask(sound_folder(tmp_path), 3, np.arange(120).reshape(12, 10) % 5)
    only(findings(tmp_path), "error", "masks/3.png", "values up to 4")


def test_labels_out_of_range(tmp_path):
    sound_folder(tmp_path)
    for n in range(10):
        mask(tmp_path, n, np.arange(120).reshape(12, 10) % (4 if n == 7 else 3))
    only(findings(tmp_path, labels={1: 1, 2: 2}), "error", "masks/7.png", "holds the label 3")


def test_constant_and_dark_images(tmp_path):
    sound_folder(tmp_path)
    image(tmp_path, 1, np.full((12, 10), 7, np.uint8))
    image(tmp_path, 2, np.arange(120, dtype=np.uint16).reshape(12, 10))
    found = findings(tmp_path)
    only(found[:1], "warning", "images/1.png", "constant (7)")
    only(found[1:], "warning", "images/2.png", "0 to 119 use 0.2% of the file's range")
    dark = findings(tmp_path, window=(400, 500))
    assert any("images/2.png" in file and "leaves nothing" in problem for _, file, problem in dark)


def test_inverted_grey_values(tmp_path):
    sound_folder(tmp_path)
    (tmp_path / "images/0.png").unlink()
    values = np.arange(120, dtype=np.uint16).reshape(12, 10) * 500
    tifffile.imwrite(tmp_path / "images/0.tif", values, photometric="miniswhite")
    only(findings(tmp_path), "warning", "images/0.tif", "stored inverted")


def test_equal_images_within_and_across_splits(tmp_path):
    sound_folder(tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "images/0.png"))
    image(tmp_path, 1, pixels)
    only(findings(tmp_path), "warning", "images/1.png", "equal, pixel by pixel")
    (tmp_path / "images/9.png").unlink()
    Image.fromarray(pixels).save(tmp_path / "images/9.bmp")  # another format, the same pixels
    found = findings(tmp_path)
    only(
        found[1:],
        "error",
        "images/9.bmp",
        f"pixel by pixel: {tmp_path}/images/0.png (train) and {tmp_path}/images/9.bmp (test)",
    )


def test_equal_images_are_found_across_sources(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        sound_folder(tmp_path / name)
    both = [make_source(kind="folder", path=tmp_path / name, name=name) for name in "ab"]
    result = examine(both)
    assert len(result.findings) == 10
    assert [summary.domain for summary in result.summaries] == ["a", "b"]


def test_files_without_a_partner_are_all_reported_and_the_rest_examined(tmp_path):
    sound_folder(tmp_path)
    (tmp_path / "masks/0.png").unlink()
    (tmp_path / "images/1.png").unlink()
    mask(tmp_path, 2, np.zeros((12, 10)))
    found = findings(tmp_path)
    assert [(level, Path(file).name, problem.split(".")[0]) for level, file, problem in found] == [
        ("error", "0.png", "image without a mask"),
        ("error", "1.png", "mask without an image"),
        ("warning", "2.png", "The mask is empty"),
    ]


def test_a_patient_in_two_splits(tmp_path):
    text = (sound_folder(tmp_path) / "splits.csv").read_text()
    (tmp_path / "splits.csv").write_text(text.replace("9,p9", "9,p0"))
    only(findings(tmp_path), "error", "splits.csv", "patient in two splits: p0 in train and test.")


def test_splits_without_images_and_a_broken_table(tmp_path):
    text = (sound_folder(tmp_path) / "splits.csv").read_text()
    (tmp_path / "splits.csv").write_text(text.replace("test", "gap"))
    only(findings(tmp_path), "warning", tmp_path.name, "no images in the split test")
    (tmp_path / "splits.csv").write_text(text.replace("train", "none").replace("val", "none").replace("test", "gap"))
    only(findings(tmp_path), "error", "splits.csv", "splits.csv leaves every image out")
    (tmp_path / "splits.csv").write_text("a,b\n1,2\n")
    only(findings(tmp_path), "error", "splits.csv", "no column id and split")


def test_a_source_that_cannot_be_listed_does_not_hide_the_others(tmp_path):
    (tmp_path / "a").mkdir()
    sound_folder(tmp_path / "a")
    sources = [make_source(kind=kind, path=tmp_path / name) for kind, name in (("cvc", "none"), ("folder", "a"))]
    result = examine(sources)
    only([(f.level, f.file, f.text) for f in result.findings], "error", "none", "There is no folder")
    assert [summary.images for summary in result.summaries] == [10]


# --- at the size of a recipe ------------------------------------------------------------------------------------


def of_recipe(path: Path, **options) -> list[tuple[str, str, str]]:
    source = make_source(kind="folder", path=path, **({"labels": {1: 1, 2: 2}} if "classes" in options else {}))
    needs = DataSettings(sources=(source,), **options) if options else None
    return [(finding.level, finding.file, finding.text) for finding in examine([source], needs=needs).findings]


def lesion(path: Path, n: int, width: int, *, value: int = 255) -> None:
    """An image of 128 pixels with a lesion whose corner lies between the pixels that are kept at 16."""
    rng = np.random.default_rng(n)
    image(path, n, rng.integers(0, 256, (128, 128), dtype=np.uint8))
    values = np.zeros((128, 128), np.uint8)
    values[5 : 5 + width, 5 : 5 + width] = value
    mask(path, n, values)


def test_masks_that_lose_their_foreground_at_the_size_of_a_recipe_are_counted(tmp_path):
    sound_folder(tmp_path)
    for n in range(10):
        lesion(tmp_path, n, 3 if n in (2, 3, 7) else 20)
    assert of_recipe(tmp_path) == []
    assert of_recipe(tmp_path, size=64) == []
    assert of_recipe(tmp_path, size=16) == [
        ("warning", str(tmp_path / f"masks/{n}.png"), "Class 1 vanishes at data.size 16.") for n in (2, 3, 7)
    ]


def test_a_class_that_no_mask_shows_at_the_size_of_a_recipe_is_named(tmp_path):
    sound_folder(tmp_path)
    for n in range(10):
        lesion(tmp_path, n, 3 if n >= 8 else 20)  # 8 and 9 are the test split
    assert of_recipe(tmp_path, size=16)[2:] == [
        ("warning", str(tmp_path), "classes that no mask of a split shows at data.size 16: 1 in test.")
    ]


@pytest.mark.parametrize("lacking", ["train", "val", "test", None])
def test_classes_that_no_mask_of_a_split_shows_are_named(tmp_path, lacking):
    sound_folder(tmp_path)
    for n, split in enumerate(SPLITS):
        values = np.zeros((12, 10), np.uint8)
        values[2:4] = 1
        values[6:9] = 0 if split == lacking else 2
        mask(tmp_path, n, values)
    expected = [("warning", str(tmp_path), f"classes that no mask of a split shows: 2 in {lacking}.")]
    expected = expected if lacking else []
    assert of_recipe(tmp_path, classes=3, size=64) == expected
    (nowhere,) = (found for found in of_recipe(tmp_path, classes=4, size=64) if ": 3 in" in found[2])
    assert nowhere[2] == "classes that no mask of a split shows: 3 in train, val, test."


def test_what_a_recipe_has_no_room_for_is_named(tmp_path):
    sound_folder(tmp_path)
    for n in range(10):
        mask(tmp_path, n, np.arange(120).reshape(12, 10) % 3)
    source = make_source(kind="folder", path=tmp_path, labels={1: 1, 2: 2})
    result = examine([source], needs=DataSettings(sources=(source,), size=64))
    (group,) = [group for group in result.groups if group.level == "error"]
    assert group.line.startswith("holds class 2, data.classes allows 0 to 1, foreground (10): ")
    (tmp_path / "bare").mkdir()
    bare = make_source(kind="folder", path=sound_folder(tmp_path / "bare"))
    result = examine([bare], needs=DataSettings(sources=(bare,), classes=3))
    assert any("'folder' does not say which value of its masks is which" in f.text for f in result.findings)


def test_channels_that_a_recipe_has_no_room_for_are_named(tmp_path):
    sound_folder(tmp_path)
    (tmp_path / "images/3.png").unlink()
    five = np.random.default_rng(0).integers(0, 256, (12, 10, 5), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "images/3.tif", five, photometric="minisblack", planarconfig="contig")
    assert findings(tmp_path) == []
    assert of_recipe(tmp_path, size=64) == [
        ("error", str(tmp_path / "images/3.tif"), "has 5 channels, but 3 are expected.")
    ]


def test_empty_masks_of_a_whole_split_are_named(tmp_path):
    sound_folder(tmp_path)
    for n in (6, 7):
        mask(tmp_path, n, np.zeros((12, 10)))
    only(findings(tmp_path)[2:], "warning", tmp_path.name, "classes that no mask of a split shows: 1 in val.")


# --- grouping ---------------------------------------------------------------------------------------------------


def test_equal_findings_of_many_files_are_one_line(tmp_path):
    sound_folder(tmp_path)
    for n in range(5):
        content = (tmp_path / f"images/{n}.png").read_bytes()
        (tmp_path / f"images/{n}.png").write_bytes(content[: 100 + n])
        mask(tmp_path, n, np.zeros((12, 10)))
    result = examine(recognise(tmp_path))
    damaged, empty = result.groups
    assert (damaged.level, damaged.count) == ("error", 5)
    assert (
        f" (5): {tmp_path}/images/0.png, {tmp_path}/images/1.png, {tmp_path}/images/2.png and 2 more. " in damaged.line
    )
    assert damaged.line.startswith("cannot be read")
    assert empty.line.startswith(f"The mask is empty (5): {tmp_path}/masks/0.png, ")


def test_slices_of_a_volume_are_one_finding(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for volume in "abc":
        values = rng.integers(0, 255, (6, 6, 12)).astype(np.int16)
        drawn = np.ones((6, 6, 12), np.uint8)
        drawn[0] = 0
        drawn[..., [0, 1, 2, 7]] = 0
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"images/{volume}.nii")
        nibabel.save(nibabel.Nifti1Image(drawn, np.eye(4)), tmp_path / f"masks/{volume}.nii")
    (tmp_path / "images/b.nii").write_bytes((tmp_path / "images/b.nii").read_bytes()[:500])
    result = examine(recognise(tmp_path))
    found = [(finding.level, finding.file) for finding in result.findings]
    assert ("warning", f"{tmp_path}/masks/a.nii (slices 0 to 2, 7)") in found
    assert len(found) == 4  # three masks with empty slices, one damaged volume
    assert [file.startswith(f"{tmp_path}/images/b.nii (slices ") for level, file in found if level == "error"] == [True]


def test_what_is_wrong_already_does_not_make_empty_splits_worth_a_line(tmp_path):
    sound_folder(tmp_path)
    for n in range(10):
        (tmp_path / f"masks/{n}.png").rename(tmp_path / f"masks/{n}_mask.png")
    assert {problem for _, _, problem in findings(tmp_path)} == {"image without a mask.", "mask without an image."}


@pytest.mark.parametrize(
    ("folders", "kinds"),
    [
        (["ISIC2018_Task1_Training_GroundTruth"], ["isic"]),
        (["Original"], ["cvc"]),
        (["Train_Sets/CT", "Train_Sets/MR"], ["chaos", "chaos"]),
        (["Train_Sets/MR"], ["chaos"]),
        (["masks"], ["folder"]),
    ],
)
def test_layouts_are_recognised(tmp_path, folders, kinds):
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    found = recognise(tmp_path)
    assert [source.kind for source in found] == kinds
    if "Train_Sets/MR" in folders:
        assert isinstance(found[-1], ChaosSettings)
        assert (found[-1].modality, found[-1].organ) == ("mr", "liver")


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no known layout; it holds no image of a kind that is read \(PNG.*labels\.csv"
    ):
        recognise(tmp_path)
    for n in range(1, 6):
        (tmp_path / f"{n}. grade").mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"{n}. grade" / f"{n}.png")
    (tmp_path / "notes.csv").write_text("a,b\n")
    held = r"it holds 5 images in 1\. grade/, 2\. grade/, 3\. grade/ and 2 more folders, and notes\.csv\."
    with pytest.raises(DataError, match=held):
        recognise(tmp_path)
    with pytest.raises(DataError, match=r"There is no folder .*nowhere\. Correct the path\.$"):
        recognise(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"1\.png is a file\. Give the folder"):
        recognise(tmp_path / "1. grade/1.png")


@pytest.mark.skipif("MEDARTS_DATA" not in os.environ, reason="needs real data (MEDARTS_DATA)")
@pytest.mark.parametrize("name", ["isic2017", "cvc-clinicdb", "chaos", "nuclei", "retina"])
def test_real_sets_are_healthy(name):
    result = examine(recognise(Path(os.environ["MEDARTS_DATA"]) / name))
    assert not result.failed
    warnings = [finding.text for finding in result.findings]
    if name == "chaos":
        assert warnings.pop(0) == "patient in two splits: CT/3 in train and val and test."
        assert warnings == ["The mask is empty."] * 7
    else:
        assert warnings == []


def test_patients_in_names_are_proposed_where_nothing_else_says_them(tmp_path):
    sound_folder(tmp_path)
    (tmp_path / "splits.csv").unlink()
    for kind, suffix in (("images", "png"), ("masks", "png")):
        for n in range(10):
            (tmp_path / f"{kind}/{n}.{suffix}").rename(tmp_path / f"{kind}/p{n // 2}_{n % 2}.{suffix}")
    found = [finding for finding in examine(recognise(tmp_path)).findings if "patient" in finding.problem]
    assert [finding.detail for finding in found] == ["'{patient}_{n}' gives 5 patients of 10 images, such as 'p0'"]
    settings = recognise(tmp_path)[0].model_copy(update={"patients": "{patient}_{n}"})
    result = examine([settings])
    assert result.summaries[0].patients == 5
    assert not [finding for finding in result.findings if "patient" in finding.problem]
