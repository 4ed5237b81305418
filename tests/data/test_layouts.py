"""Layouts recognised by structure: what the patterns are, what is asked, and what is never guessed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.layouts_of_tests import CASES, LAYOUTS, put

from medarts.config.data import IGNORE
from medarts.data import recognising
from medarts.data.layouts import layouts_of
from medarts.data.opening import open_sources, survey
from medarts.data.sources import AmbiguousLayoutError
from medarts.data.sources.folder import FolderSettings
from medarts.errors import DataError

PATTERNS = {
    "images_and_masks": ("Images/{name}", "Ground Truth/{name}"),
    "nested": ("archive/data/imgs/{name}", "archive/data/annotations/{name}_segmentation"),
    "split_folders": ("{split}/images/{name}", "{split}/labels/{name}"),
    "roles_then_splits": ("images/{split}/{name}", "masks/{split}/{name}"),
    "beside_by_suffix": ("{name}", "{name}_mask"),
    "beside_by_prefix": ("img_{name}", "mask_{name}"),
    "beside_by_format": ("{name}.jpg", "{name}.png"),
    "without_words": ("a/{name}", "b/{name}"),
    "folder_per_patient": ("{patient}/{name}", "{patient}/{name}_seg"),
    "nnunet": ("imagesTr/{name}_{channel}", "labelsTr/{name}"),
    "decathlon": ("imagesTr/{name}", "labelsTr/{name}"),
    "bids": ("sub-{patient}/anat/{name}_T1w", "derivatives/manual/sub-{patient}/anat/{name}_dseg"),
    "file_per_class": ("images/{name}", "masks/{name}_{class}"),
    "folder_per_class": ("images/{name}", "masks/{class}/{name}"),
}


@pytest.mark.parametrize(("layout", "patterns"), PATTERNS.items())
def test_layouts_are_recognised_by_their_structure(tmp_path, layout, patterns):
    LAYOUTS[layout](tmp_path)
    (source,) = recognise(tmp_path)
    assert (source.image, source.mask) == patterns
    found = survey(source)
    assert found.faults == ()
    images = {sample.image for sample in found.manifest.samples}
    assert len(images) == {"split_folders": 8, "nnunet": 6, "decathlon": 6, "bids": 6}.get(layout, len(CASES))


def recognise(path: Path) -> tuple[FolderSettings, ...]:
    found = recognising.recognise(path)
    return tuple(source for source in found if isinstance(source, FolderSettings))


def names(root: Path, *paths: str) -> Path:
    """Makes empty files, which is all that names need."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def patterns_of(root: Path) -> list[list[tuple[str, str]]]:
    return [[(layout.image, layout.mask) for layout in ways] for ways in layouts_of(root)]


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("{p}/image.nii", "{p}/label.nii", ("{patient}/image", "{patient}/label")),
        ("Data/{p}/scan.png", "Data/{p}/scan_gt.png", ("Data/{patient}/{name}", "Data/{patient}/{name}_gt")),
        (
            "{p}/ses-1/{p}_T1.png",
            "{p}/ses-1/{p}_T1_mask.png",
            ("{patient}/ses-1/{name}", "{patient}/ses-1/{name}_mask"),
        ),
        ("img/{p}.png", "img/{p}Mask.png", ("img/{name}", "img/{name}Mask")),
        ("JPEGImages/{p}.jpg", "SegmentationClass/{p}.png", ("JPEGImages/{name}", "SegmentationClass/{name}")),
        ("x/IMG {p}.png", "y/MASK {p}.png", ("x/IMG {name}", "y/MASK {name}")),
        ("{p}_image.png", "{p}_label.png", ("{name}_image", "{name}_label")),
    ],
)
def test_other_names_for_the_same_structure(tmp_path, image, mask, patterns):
    for patient in ("c01", "c02", "c03", "c11"):
        names(tmp_path, image.format(p=patient), mask.format(p=patient))
    assert patterns_of(tmp_path) == [[patterns]]


def test_folders_of_a_diagnosis_are_no_patients(tmp_path):
    for kind, count in (("benign", 5), ("malignant", 4)):
        names(tmp_path, *(f"{kind}/{kind} ({n}){end}.png" for n in range(count) for end in ("", "_mask")))
    assert patterns_of(tmp_path) == [[("{group}/{name}", "{group}/{name}_mask")]]
    (source,) = recognise(tmp_path)
    assert {sample.key for sample in survey(source).manifest.samples} >= {
        "benign/benign (0)",
        "malignant/malignant (3)",
    }


def test_a_set_to_train_on_beside_several_to_test_on(tmp_path):
    for n in range(6):
        names(tmp_path, f"TrainDataset/image/{n}.png", f"TrainDataset/masks/{n}.png")
        for centre in ("A", "B"):
            names(tmp_path, f"TestDataset/{centre}/images/{n}.png", f"TestDataset/{centre}/masks/{n}.png")
    assert patterns_of(tmp_path) == [
        [("{split}Dataset/{group}/images/{name}", "{split}Dataset/{group}/masks/{name}")],
        [("TrainDataset/image/{name}", "TrainDataset/masks/{name}")],  # so that its splits are sampled
    ]


def test_words_that_all_files_share_say_nothing(tmp_path):
    for kind in ("benign", "normal"):
        names(tmp_path, *(f"Dataset_with_GT/{kind}/{kind} ({n}){end}.png" for n in range(4) for end in ("", "_mask")))
    assert patterns_of(tmp_path) == [[("Dataset_with_GT/{group}/{name}", "Dataset_with_GT/{group}/{name}_mask")]]


def test_visits_are_within_their_patient(tmp_path):
    for patient in range(1, 5):
        for visit in (1, 2):
            start = f"sub-{patient}/ses-{visit}/sub-{patient}_ses-{visit}"
            names(tmp_path, f"{start}_T1w.nii.gz", f"{start}_mask.nii.gz")
    (source,) = recognise(tmp_path)
    assert (source.image, source.mask) == (
        "sub-{patient}/ses-{group}/{name}_T1w",
        "sub-{patient}/ses-{group}/{name}_mask",
    )


def test_channels_and_masks_of_a_patient(tmp_path):
    for patient in ("BraTS_001", "BraTS_002", "BraTS_010"):
        names(tmp_path, *(f"{patient}/{patient}_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2", "seg")))
    assert patterns_of(tmp_path) == [[("BraTS_{patient}/{name}_{channel}", "BraTS_{patient}/{name}_seg")]]


def drawn_where_there_is_something(root: Path, image: str, mask: str) -> None:
    """Writes the names of a set in which the third class is in every fourth image alone, the fourth in one."""
    for n in range(20):
        split = "Training" if n < 12 else "Testing"
        names(root, image.format(n=n, split=split, order="a" if n < 12 else "b"))
        for number, (kind, every) in enumerate({"Disc": 1, "Vessel": 2, "Exudate": 4, "Bleeding": 20}.items(), 1):
            if n % every == 0:
                fields = {"kind": kind, "short": kind[:2].upper(), "number": number}
                names(root, mask.format(n=n, split=split, order="a" if n < 12 else "b", **fields))


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("images/im{n}.jpg", "masks/{kind}/im{n}.png", ("images/{name}", "masks/{class}/{name}")),
        ("images/im{n}.jpg", "masks/im{n}_{kind}.png", ("images/{name}", "masks/{name}_{class}")),
        (
            "{split}/image/{n}.jpg",
            "{split}/label/{kind}/{n}.tif",
            ("{split}/image/{name}", "{split}/label/{class}/{name}"),
        ),
        (
            "1. Original Images/{order}. {split} Set/IDRiD_{n:02d}.jpg",
            "2. Groundtruths/{order}. {split} Set/{number}. {kind}/IDRiD_{n:02d}_{short}.tif",
            ("1. Original Images/* {split} Set/{name}", "2. Groundtruths/* {split} Set/{n}. {class}/{name}_*"),
        ),
    ],
)
def test_classes_that_some_images_have_no_file_of(tmp_path, image, mask, patterns):
    drawn_where_there_is_something(tmp_path, image, mask)
    if "_{kind}" in mask:
        (tmp_path / mask.format(n=0, kind="Bleeding")).unlink()  # a single word behind a name is none of a class
    assert patterns_of(tmp_path) == [[patterns]]
    (source,) = recognise(tmp_path)
    with pytest.raises(DataError, match=r"without the mask file of a class.*Exudate in 15 of 20") as refused:
        open_sources([source])
    assert "absent: empty" in str(refused.value)
    samples = open_sources([source.model_copy(update={"absent": "empty"})]).samples
    assert len(samples) == 20
    assert [name for name, _ in samples[-1].class_masks] == ["Disc"]


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("images/im{n}.jpg", "masks/im{n}_{kind}.png", ("images/{name}", "masks/{name}_{class}")),
        ("im{n}.png", "im{n}_{kind}.png", ("{name}", "{name}_{class}")),
        ("images/{n}.jpg", "masks/{kind}_seg_{n}.png", ("images/{name}", "masks/{class}_seg_{name}")),
    ],
)
def test_a_class_is_recognised_however_few_files_show_it(tmp_path, image, mask, patterns):
    for n in range(100):
        names(tmp_path, image.format(n=n), mask.format(n=n, kind="liver"))
    names(tmp_path, *(mask.format(n=n, kind="cyst") for n in (7, 70)))
    assert patterns_of(tmp_path) == [[patterns]]


@pytest.mark.parametrize("others", [("im7_cyst",), ("im7_liver_old", "im8_liver_old"), ("notes_a", "notes_b")])
def test_single_files_variants_and_other_names_are_no_classes(tmp_path, others):
    for n in range(50):
        names(tmp_path, f"images/im{n}.jpg", f"masks/im{n}_liver.png")
    names(tmp_path, *(f"masks/{other}.png" for other in others))
    assert patterns_of(tmp_path) == [[("images/{name}", "masks/{name}_liver")]]
    doubts = [doubt.detail for doubt in survey(recognise(tmp_path)[0]).doubts]
    assert doubts == [f"masks/{other}.png" for other in others]


def test_folders_of_patients_within_masks_are_no_classes(tmp_path):
    for patient, number in ((patient, number) for patient in range(4) for number in range(3)):
        names(tmp_path, f"images/p{patient}/{number}.png", f"masks/p{patient}/{number}.png")
    assert patterns_of(tmp_path) == [[("images/{patient}/{name}", "masks/{patient}/{name}")]]


def test_files_of_several_classes_are_never_taken_for_images(tmp_path):
    for patient in range(3):
        for name in ("one", "two", "three"):
            put(tmp_path / f"p{patient}/{name}.png", np.zeros((8, 8), np.uint8))
    found = [layout for alternatives in layouts_of(tmp_path) for layout in alternatives]
    assert not [layout for layout in found if "{class}" in layout.image or "{channel}" in layout.mask]


def test_two_sets_of_masks_are_a_choice(tmp_path):
    for n in range(4):
        names(tmp_path, f"images/{n}.png", f"masks_first/{n}.png", f"masks_second/{n}.png")
    with pytest.raises(
        AmbiguousLayoutError, match=r"2 ways: \(1\) images images/\{name\} with masks masks_first"
    ) as found:
        recognise(tmp_path)
    assert [source.model_dump()["mask"] for (source,) in found.value.choices] == [
        "masks_first/{name}",
        "masks_second/{name}",
    ]


def test_content_decides_where_names_do_not_and_nothing_is_guessed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32), dtype=np.uint8)
    for n in range(4):
        put(tmp_path / "clear" / f"{n}_b.png", noise[n])
        put(tmp_path / "clear" / f"{n}_a.png", np.where(noise[n] > 99, 255, 0).astype(np.uint8))
        for folder in "xy":
            put(tmp_path / "unclear" / folder / f"{n}.png", noise[n])
    assert patterns_of(tmp_path / "clear") == [[("{name}_b", "{name}_a")]]
    assert patterns_of(tmp_path / "unclear") == []
    put(tmp_path / "unclear/x/0.png", np.zeros((32, 32), np.uint8))
    for n in range(4):
        Image.fromarray(noise[n] // 64).save(tmp_path / f"unclear/x/{n}.png")
        Image.fromarray(noise[n] // 64).save(tmp_path / f"unclear/y/{n}.png")
    with pytest.raises(AmbiguousLayoutError, match=re.escape("images y/{name} with masks x/{name}")):
        recognise(tmp_path / "unclear")


def test_two_sets_in_one_folder_are_two_sources(tmp_path):
    for n in range(6):
        names(tmp_path, f"first/images/{n}.png", f"first/masks/{n}.png")
        names(tmp_path, f"second/img/s{n}.png", f"second/img/s{n}_mask.png")
    found = recognise(tmp_path)
    assert [(source.domain, source.image) for source in found] == [
        (tmp_path.name, "{group}/img/{name}"),
        (f"{tmp_path.name}-2", "{group}/images/{name}"),
    ]


def test_hidden_files_and_copies_of_a_mac_are_no_images(tmp_path):
    for n in range(4):
        names(
            tmp_path, f"imagesTr/{n}.nii.gz", f"imagesTr/._{n}.nii.gz", f"labelsTr/{n}.nii.gz", f"__MACOSX/._{n}.nii.gz"
        )
    assert patterns_of(tmp_path) == [[("imagesTr/{name}", "labelsTr/{name}")]]


def test_pixels_that_nnunet_ignores_are_ignored(tmp_path):
    LAYOUTS["nnunet"](tmp_path)
    about = json.loads((tmp_path / "dataset.json").read_text())
    about["labels"] = {"background": 0, "liver": 1, "ignore": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    for classes in (("liver",), (), ("foreground",)):
        manifest = open_sources(recognising.recognise(tmp_path), classes=classes)
        assert manifest.rules[manifest.domains[0]].labels == ((1, 1), (2, IGNORE))
