"""Small data sets in the layouts in which people have them: bright ellipses on noise, and their masks."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from tests.data.dicom_sets_of_tests import segmentation
from tests.deploy.dicoms import write_series

SIZE = 32
CASES = [(patient, number) for patient in range(1, 7) for number in range(2)]
"""Patients, and the images of each."""


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image and the class of every pixel, 0 to 2."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    image = generator.integers(0, 60, (SIZE, SIZE))
    classes = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for index, centre in enumerate(((10, 10), (20, 20)), start=1):
        row, column = centre + generator.integers(-3, 4, 2)
        inside = (rows - row) ** 2 / 30 + (columns - column) ** 2 / 20 < 1
        classes[inside] = index
        image[inside] = 120 + 60 * index
    return image.astype(np.uint8), classes


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    else:
        Image.fromarray(values).save(path)


def binary(classes: np.ndarray) -> np.ndarray:
    return np.where(classes > 0, 255, 0).astype(np.uint8)


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields name, image and classes of every case; names say patients, as in 3_1."""
    for seed, (patient, number) in enumerate(CASES):
        yield f"{patient}_{number}", *picture(seed)


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    slices = [picture(10 * seed + n) for n in range(3)]
    return (
        np.stack([image for image, _ in slices], axis=-1).astype(np.int16),
        np.stack([classes for _, classes in slices], axis=-1),
    )


def _pairs(root: Path, image: str, mask: str) -> None:
    """Writes binary pairs; the two are paths with {name}, {patient}, {number} and {split}."""
    for name, values, classes in cases():
        patient, number = name.split("_")
        split = "train" if int(patient) < 5 else "val" if int(patient) == 5 else "test"
        fields = {"name": name, "patient": patient, "number": number, "split": split}
        put(root / image.format(**fields), values)
        put(root / mask.format(**fields), binary(classes))


def images_and_masks(root: Path) -> None:
    _pairs(root, "Images/{name}.jpg", "Ground Truth/{name}.png")


def nested(root: Path) -> None:
    _pairs(root, "archive/data/imgs/{name}.png", "archive/data/annotations/{name}_segmentation.png")


def split_folders(root: Path) -> None:
    """Names repeat across the splits."""
    for split, first in (("train", 0), ("Valid", 20), ("TEST", 30)):
        for number in range(4 if split == "train" else 2):
            image, classes = picture(first + number)
            put(root / split / "images" / f"{number}.png", image)
            put(root / split / "labels" / f"{number}.png", binary(classes))


def roles_then_splits(root: Path) -> None:
    _pairs(root, "images/{split}/{name}.png", "masks/{split}/{name}.png")


def beside_by_suffix(root: Path) -> None:
    _pairs(root, "{name}.png", "{name}_mask.png")


def beside_by_prefix(root: Path) -> None:
    _pairs(root, "img_{name}.png", "mask_{name}.png")


def beside_by_format(root: Path) -> None:
    _pairs(root, "{name}.jpg", "{name}.png")


def without_words(root: Path) -> None:
    _pairs(root, "a/{name}.png", "b/{name}.png")


def folder_per_patient(root: Path) -> None:
    _pairs(root, "case{patient}/scan_{number}.png", "case{patient}/scan_{number}_seg.png")


def nnunet(root: Path) -> None:
    for number in range(1, 7):
        image, classes = volume(number)
        for channel in range(2):
            put(root / "imagesTr" / f"liver_{number:03d}_{channel:04d}.nii.gz", image + channel)
        put(root / "labelsTr" / f"liver_{number:03d}.nii.gz", classes)
    put(root / "imagesTs" / "liver_007_0000.nii.gz", image)
    put(root / "imagesTs" / "liver_007_0001.nii.gz", image)
    labels = {"background": 0, "liver": 1, "tumour": 2}
    _json(root / "dataset.json", {"channel_names": {"0": "a", "1": "b"}, "labels": labels, "file_ending": ".nii.gz"})


def decathlon(root: Path) -> None:
    listed = []
    for number in range(1, 7):
        image, classes = volume(number)
        put(root / "imagesTr" / f"spleen_{number}.nii.gz", image)
        put(root / "labelsTr" / f"spleen_{number}.nii.gz", np.minimum(classes, 1))
        listed.append({"image": f"./imagesTr/spleen_{number}.nii.gz", "label": f"./labelsTr/spleen_{number}.nii.gz"})
    put(root / "imagesTs" / "spleen_7.nii.gz", image)
    labels = {"0": "background", "1": "spleen"}
    about = {"name": "Spleen", "labels": labels, "training": listed, "test": ["./imagesTs/spleen_7.nii.gz"]}
    _json(root / "dataset.json", about)


def bids(root: Path) -> None:
    for number in range(1, 7):
        image, classes = volume(number)
        name = f"sub-{number:02d}"
        put(root / name / "anat" / f"{name}_T1w.nii.gz", image)
        put(root / "derivatives" / "manual" / name / "anat" / f"{name}_dseg.nii.gz", np.minimum(classes, 1))
    _json(root / "dataset_description.json", {"Name": "six", "BIDSVersion": "1.8.0"})
    (root / "participants.tsv").write_text("participant_id\tage\n" + "".join(f"sub-{n:02d}\t50\n" for n in range(1, 7)))


def csv_list(root: Path) -> None:
    _pairs(root, "files/{name}_a.png", "files/{name}_b.png")
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["filename", "mask_path", "PatientID", "fold"])
        for name, *_ in cases():
            patient = int(name.split("_")[0])
            split = "training" if patient < 5 else "validation" if patient == 5 else "test"
            writer.writerow([f"files/{name}_a.png", f"files/{name}_b.png", f"P{patient}", split])


def json_list(root: Path) -> None:
    _pairs(root, "x/{name}.png", "y/m{name}.png")
    parts: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "testing": []}
    for name, *_ in cases():
        patient = int(name.split("_")[0])
        part = "training" if patient < 5 else "validation" if patient == 5 else "testing"
        parts[part].append({"image": f"x/{name}.png", "label": f"y/m{name}.png"})
    _json(root / "datalist.json", parts)


def coco(root: Path) -> None:
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 3, "name": "liver"}, {"id": 7, "name": "tumour"}]
    for number, (name, image, classes) in enumerate(cases(), start=1):
        put(root / "images" / f"{name}.png", image)
        content["images"].append({"id": number, "file_name": f"{name}.png", "width": SIZE, "height": SIZE})
        for category, index in ((3, 1), (7, 2)):
            rows, columns = np.nonzero(classes == index)
            top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
            box = [left, top, right, top, right, bottom, left, bottom]
            annotation = {"image_id": number, "category_id": category, "segmentation": [[float(n) for n in box]]}
            content["annotations"].append({"id": len(content["annotations"]) + 1, **annotation})
    _json(root / "annotations" / "instances.json", content)


def file_per_class(root: Path) -> None:
    for name, image, classes in cases():
        put(root / "images" / f"{name}.png", image)
        for index, organ in enumerate(("left_kidney", "liver"), start=1):
            put(root / "masks" / f"{name}_{organ}.png", binary(classes == index))


def folder_per_class(root: Path) -> None:
    for name, image, classes in cases():
        put(root / "images" / f"{name}.png", image)
        for index, organ in enumerate(("kidney", "liver"), start=1):
            put(root / "masks" / organ / f"{name}.png", binary(classes == index))


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def dicom(root: Path) -> None:
    """Series in folders of patients, with a segmentation of each."""
    for patient in range(1, 7):
        values, classes = volume(patient)
        masks = np.moveaxis(classes, -1, 0)
        uid = f"1.2.9.{patient}"
        uids = {
            "SeriesInstanceUID": uid,
            "StudyInstanceUID": f"{uid}.0",
            "FrameOfReferenceUID": f"{uid}.1",
        }
        folder = root / f"{patient}" / "MR"
        files = write_series(
            folder, np.moveaxis(values, -1, 0), seed=patient, root=f"{uid}.2", PatientID=f"p{patient}", **uids,
            SliceThickness=2.5,
        )  # fmt: skip
        named = {"liver": (masks == 1).astype(np.uint8), "tumour": (masks == 2).astype(np.uint8)}
        segmentation(root / f"{patient}" / "masks", files, named)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(images_and_masks, nested, split_folders, roles_then_splits, beside_by_suffix, beside_by_prefix),
        *(beside_by_format, without_words, folder_per_patient, nnunet, decathlon, bids, csv_list, json_list, coco),
        *(file_per_class, folder_per_class, dicom),
    )
}
