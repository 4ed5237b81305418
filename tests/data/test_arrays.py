"""Data sets in memory: what they take, refuse, and hand to the batches."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from medarts.config import AugmentationSettings, parse
from medarts.config.data import IGNORE
from medarts.data.arrays import data_section, from_arrays, from_dataset
from medarts.data.batches import Batches
from medarts.data.opening import open_manifest
from medarts.data.reading import MaskState
from medarts.data.splits import halve
from medarts.data.store import ImageStore
from medarts.errors import DataError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 16, 16), dtype=np.uint8)
MASKS = IMAGES > 127
LABELS = np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0], axis=1).astype(np.int64)


def splits_of(store: ImageStore) -> list[str]:
    return [sample.split for sample in store.manifest.samples]


@pytest.mark.parametrize(
    ("images", "channels", "shape"),
    [
        (IMAGES, None, (20, 1, 16, 16)),
        (np.repeat(IMAGES[..., None], 3, axis=3), None, (20, 3, 16, 16)),
        (np.repeat(IMAGES[:, None], 3, axis=1), None, (20, 3, 16, 16)),
        (np.repeat(IMAGES[:, None], 7, axis=1), "first", (20, 7, 16, 16)),
        (np.repeat(IMAGES[..., None], 7, axis=3), "last", (20, 7, 16, 16)),
        (torch.from_numpy(IMAGES), None, (20, 1, 16, 16)),
    ],
)
def test_shapes_of_images(images: Any, channels: Any, shape: tuple[int, ...]) -> None:
    store = from_arrays(images, MASKS, channels=channels)
    assert store.images.shape == shape
    assert np.allclose(store.images[:, 0], IMAGES / 255, atol=1e-3)
    assert np.array_equal(store.targets[:], MASKS)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES.astype(np.uint16) * 257,
        IMAGES / 255,
        (IMAGES / 255).astype(np.float32),
    ],
)
def test_types_of_images_mean_the_same(images: Any) -> None:
    assert np.allclose(from_arrays(images, MASKS).images[:, 0], IMAGES / 255, atol=1e-3)


def test_a_window_scales_other_values() -> None:
    hounsfield = IMAGES.astype(np.int16) - 100
    assert np.allclose(from_arrays(hounsfield, MASKS, window=(-100, 155)).images[:, 0], IMAGES / 255, atol=1e-3)


def test_images_and_masks_are_resized_together() -> None:
    images, masks = np.zeros((4, 40, 80), np.uint8), np.zeros((4, 40, 80), np.uint8)
    images[:, :, 40:], masks[:, :, 40:] = 255, 1
    masks[0] = 0
    masks[0, 0, 0] = 1
    store = from_arrays(images, masks, size=20, resize="squash")
    assert store.images.shape == (4, 1, 20, 20)
    assert store.targets[1].tolist() == [[0] * 10 + [1] * 10] * 20
    assert store.truths[:, 0].tolist() == [MaskState.VANISHED, *[MaskState.PRESENT] * 3]


@pytest.mark.parametrize(("classes", "columns"), [(None, 2), (5, 4)])
def test_classes_of_masks(classes: int | None, columns: int) -> None:
    store = from_arrays(IMAGES, MASKS.astype(np.uint8) * 2, classes=classes)
    assert store.truths.shape == (20, columns)
    assert set(store.truths[:, 0]) == {MaskState.EMPTY}
    assert set(store.truths[:, 1]) == {MaskState.PRESENT}


@pytest.mark.parametrize("kind", [np.int64, np.float32, bool])
def test_labels(kind: Any) -> None:
    store = from_arrays(IMAGES, LABELS.astype(kind), findings=["Mass", "Nodule"], size=16)
    assert store.manifest.findings == ("Mass", "Nodule")
    assert np.array_equal(store.targets[:], LABELS)
    assert np.array_equal(store.manifest.labels(), LABELS)
    assert store.truths.shape == (20, 0)


def test_labels_that_are_ignored() -> None:
    labels = LABELS.astype(np.int8)
    labels[3] = labels[5, 1] = -1
    store = from_arrays(IMAGES, labels, ignore=-1)
    assert np.array_equal(store.manifest.labels(), np.where(labels < 0, IGNORE, LABELS))
    assert np.array_equal(store.targets[:], store.manifest.labels())
    with pytest.raises(DataError, match="Label 3 holds other values than 0 and 1: -1"):
        from_arrays(IMAGES, labels)


def test_one_column_of_labels() -> None:
    assert from_arrays(IMAGES, LABELS[:, 0]).manifest.findings == ("finding 1",)


def test_splits_are_sampled_by_patient() -> None:
    patients = [number // 2 for number in range(20)]
    store = from_arrays(IMAGES, MASKS, patients=patients)
    assert {split: splits_of(store).count(split) for split in ("train", "val", "test")} == {
        "train": 14,
        "val": 2,
        "test": 4,
    }
    assert splits_of(store)[::2] == splits_of(store)[1::2]
    assert splits_of(from_arrays(IMAGES, MASKS, patients=patients)) == splits_of(store)


def test_splits_as_given() -> None:
    given = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    assert splits_of(from_arrays(IMAGES, MASKS, splits=given)) == given


def test_validation_is_sampled_from_the_training_patients() -> None:
    found = splits_of(from_arrays(IMAGES, MASKS, splits=["train"] * 15 + ["test"] * 5))
    assert found[15:] == ["test"] * 5
    assert found.count("val") == 2


def test_the_fingerprint_is_that_of_the_values() -> None:
    before = from_arrays(IMAGES, MASKS).manifest.fingerprint()
    assert from_arrays(IMAGES.copy(), MASKS.copy()).manifest.fingerprint() == before
    for part in (0, 1):
        arrays = [IMAGES.copy(), MASKS.copy()]
        arrays[part][3, 4, 5] = not arrays[part][3, 4, 5]
        assert from_arrays(*arrays).manifest.fingerprint() != before
    assert from_arrays(IMAGES, MASKS, splits=["train"] * 20).manifest.fingerprint() != before
    labelled = {from_arrays(IMAGES, labels).manifest.fingerprint() for labels in (LABELS, 1 - LABELS)}
    assert len(labelled) == 2


def test_ignored_pixels_are_part_of_the_fingerprint() -> None:
    masks = np.where(MASKS, 1, 0)
    masks[:, 0] = 9
    zeros = np.where(masks == 9, 0, masks)
    found = [from_arrays(IMAGES, of, ignore=ignore).manifest.fingerprint() for of, ignore in ((masks, 9), (zeros, 9))]
    assert found[0] != found[1]
    with_another_value = np.where(masks == 9, 7, masks)
    assert from_arrays(IMAGES, with_another_value, ignore=7).manifest.fingerprint() == found[0]


def test_the_manifest_can_be_written() -> None:
    lines = from_arrays(IMAGES, MASKS).manifest.to_csv().splitlines()
    assert len(lines) == 21
    assert lines[1].startswith("000000,arrays,000000,")


def test_batches_and_halves() -> None:
    store = from_arrays(IMAGES, MASKS)
    halves = halve(store.manifest, portion=0.5, seed=0)
    assert sum(len(half.samples) for half in halves) == 14
    batches = Batches(store, halves[0], batch=4, name="weights", device=torch.device("cpu"))
    order = batches.order(0, seed=0, sampling="equal")
    batch = batches.training(order, 0, settings=AugmentationSettings(rotate=10.0), seed=0)
    assert batch.images.shape == (4, 1, 16, 16)
    assert batch.targets.shape == (4, 16, 16)


@pytest.mark.parametrize(
    ("store", "task", "outputs"),
    [
        (from_arrays(IMAGES, MASKS, name="mine"), "segmentation", 1),
        (from_arrays(IMAGES, MASKS.astype(int) * 2, window=(0, 99)), "segmentation", 3),
        (from_arrays(IMAGES, LABELS, findings=["Mass", "Nodule"]), "classification", 2),
    ],
)
def test_a_recipe_says_what_they_are(store: ImageStore, task: str, outputs: int) -> None:
    data = parse({"data": data_section(store)}).data
    assert (data.task, data.outputs, data.size, data.in_channels) == (task, outputs, 16, 1)
    assert data.sources[0].domain == store.manifest.domains[0]
    assert data.sources[0].window == store.manifest.rules[data.sources[0].domain].window
    with pytest.raises(DataError, match="were arrays in memory"):
        open_manifest(data, needs=("train",))


class Items(Dataset[Any]):
    """Images of several sizes with masks."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        side = 16 + 2 * index
        return torch.rand(3, side, side + 1), torch.ones(side, side + 1, dtype=torch.int64)


def test_a_data_set_of_torch() -> None:
    tensors = TensorDataset(torch.from_numpy(IMAGES / 255), torch.from_numpy(MASKS))
    assert np.array_equal(from_dataset(tensors).targets[:], MASKS)
    assert from_dataset(Items(), size=20).images.shape == (6, 3, 20, 20)
    with pytest.raises(DataError, match="Give size"):
        from_dataset(Items())


def changed(values: Any, place: tuple[int, ...], value: float) -> Any:
    copy = np.array(values, dtype=np.float64)
    copy[place] = value
    return copy


@pytest.mark.parametrize(
    ("images", "targets", "options", "problem"),
    [
        (IMAGES[0], MASKS, {}, r"shape \(16, 16\)"),
        (IMAGES[:5], MASKS, {}, "5 images and 20 targets"),
        (IMAGES[:0], MASKS[:0], {}, "is empty"),
        (IMAGES[:, :8], MASKS[:, :8], {}, "8 x 16 pixels.*size"),
        (IMAGES, MASKS[:, :8], {}, r"Mask 0 has the shape \(8, 16\)"),
        (IMAGES, MASKS[..., None], {}, r"Mask 0 has the shape \(16, 16, 1\)"),
        (changed(IMAGES / 255, (3, 0, 0), np.nan), MASKS, {}, "Image 3 holds NaN"),
        (changed(IMAGES / 255, (3, 0, 0), np.inf), MASKS, {"window": (0, 1)}, "Image 3 holds NaN or infinity"),
        (changed(IMAGES / 255, (3, 0, 0), 2), MASKS, {}, "Image 3 stores float64 values .* window"),
        (IMAGES.astype(np.int32), MASKS, {}, "Image 0 stores int32"),
        (np.repeat(IMAGES[:, None], 9, axis=1), MASKS, {}, 'channels="first"'),
        (IMAGES.astype(complex), MASKS, {}, "complex128"),
        (np.array([["a"]]), MASKS, {}, "<U1"),
        ([[[1.0]], [[1.0, 2.0]]], MASKS[:2], {}, "cannot be an array"),
        (IMAGES, 255 * MASKS.astype(np.uint8), {}, "0 to 255; .*masks > 127"),
        (IMAGES, MASKS.astype(float), {}, "Mask 0 holds float64.*masks > 0.5"),
        (IMAGES, -MASKS.astype(int), {}, "from -1 to 0"),
        (IMAGES, MASKS.astype(int) * 3, {"classes": 2}, "class 3.*classes=4"),
        (IMAGES, MASKS, {"findings": ["Mass"]}, "targets are masks"),
        (IMAGES, LABELS * 2, {}, "other values than 0 and 1: 2"),
        (IMAGES, LABELS, {"findings": ["Mass"]}, "2 columns"),
        (IMAGES, MASKS, {"patients": [1]}, "1 patients"),
        (IMAGES, MASKS, {"splits": ["train"]}, "1 splits"),
        (IMAGES, MASKS, {"splits": ["trian"] * 20}, "trian"),
        (IMAGES, 3, {}, "20 images and no targets"),
        (None, MASKS, {}, "images is None"),
        (IMAGES[:, :8, :8], MASKS[:, :8, :8], {}, "size: .* 16 .*given: 8"),
        (IMAGES, MASKS, {"name": ""}, "name cannot be ''"),
        (IMAGES, MASKS, {"name": "a/b"}, "name cannot be 'a/b'"),
        (IMAGES, MASKS, {"name": "all"}, "no source can be called 'all'"),
        (IMAGES, MASKS, {"name": "mean of data sets"}, "no source can be called"),
        (IMAGES, MASKS, {"window": 3}, "window: .*given: 3"),
        (IMAGES, MASKS, {"window": (255, 0)}, "is empty"),
        (IMAGES, MASKS, {"window": (0, float("nan"))}, "window.1: .*finite"),
        (IMAGES, MASKS, {"window": ("low", "high")}, "window.0: .*number"),
        (IMAGES, MASKS, {"percentiles": (0, 200)}, "percentiles.1: .*100"),
        (IMAGES, MASKS, {"window": (0, 1), "percentiles": (0, 99)}, "exclude each other"),
        (IMAGES, MASKS, {"fractions": (0.5, 0.5)}, "leave no training images"),
        (IMAGES, MASKS, {"fractions": (-0.1, 0.2)}, "fractions.0: .*given: -0.1"),
        (IMAGES, MASKS, {"fractions": 0.2}, "fractions: .*given: 0.2"),
        (IMAGES, MASKS, {"size": 0}, "size: .*16"),
        (IMAGES, MASKS, {"size": 2.5}, "size: .*whole number"),
        (IMAGES, MASKS, {"size": 10**6}, "size: .*4096"),
        (IMAGES, MASKS, {"channels": "frist"}, 'channels is \'frist\'.*"first" or "last"'),
        (IMAGES, MASKS, {"classes": 2}, "have one output. Leave classes out"),
        (IMAGES, MASKS, {"classes": "two"}, "classes: .*whole number"),
        (IMAGES, MASKS, {"classes": 10**6}, "classes: .*200"),
        (IMAGES, LABELS, {"classes": 2}, "classes are those of masks"),
        (IMAGES, LABELS, {"findings": "ab"}, "findings is a text"),
        (IMAGES, LABELS, {"findings": ["Mass", ""]}, "name of each column"),
        (IMAGES, MASKS, {"patients": 5}, "patients is 5"),
        (IMAGES, MASKS, {"splits": "train"}, "splits is a text"),
        (IMAGES, MASKS, {"fraction": (0.1, 0.2)}, "no option 'fraction'. Did you mean 'fractions'"),
        (IMAGES, MASKS, {"patients": [1] * 20, "splits": ["train", "val"] * 10}, "Patient 1 is in train and val"),
    ],
)
def test_what_is_refused(images: Any, targets: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=f"(?s){problem}"):
        from_arrays(images, targets, **options)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    store = from_arrays(
        IMAGES, MASKS, size=np.int64(16), classes=np.uint8(3), window=(np.int16(0), np.float32(255)), name=None
    )
    assert (store.images.shape[2], store.truths.shape[1], store.manifest.domains) == (16, 2, ("arrays",))
    assert np.array_equal(store.images, from_arrays(IMAGES, MASKS, window=torch.tensor([0, 255])).images)


@pytest.mark.parametrize(
    ("options", "split", "fix"),
    [
        ({"fractions": (0.0, 0.2)}, "val", r"the split 'val' \(splits\), or change fractions"),
        ({"splits": ["test"] * 20}, "train", "the split 'train'"),
        ({"patients": [1] * 10 + [2] * 10}, "val", "There are 2 patients; .* or give splits"),
    ],
)
def test_a_split_without_images_is_refused_as_that_of_a_folder(options: Any, split: str, fix: str) -> None:
    for targets in (MASKS, LABELS):
        store = from_arrays(IMAGES, targets, **options)
        settings = parse({"data": data_section(store)}).data
        with pytest.raises(DataError, match=f"No image of arrays is in the split '{split}'.*{fix}"):
            open_manifest(settings, needs=("train", "val"), data=store)


def test_a_table_of_splits_in_the_current_folder_is_not_that_of_arrays(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "splits.csv").write_text("id,split\n")
    monkeypatch.chdir(tmp_path)
    store = from_arrays(IMAGES, MASKS, fractions=(0.0, 0.2))
    with pytest.raises(DataError) as caught:
        open_manifest(parse({"data": data_section(store)}).data, needs=("val",), data=store)
    assert "splits.csv" not in caught.value.fix


@pytest.mark.parametrize("missing", [None, float("nan"), "", " "])
def test_a_missing_patient_is_not_a_patient(missing: Any) -> None:
    images, masks = np.zeros((4, 16, 16), np.uint8), np.zeros((4, 16, 16), bool)
    with pytest.raises(DataError, match=r"Image 1 has no patient\. Give each image its patient"):
        from_arrays(images, masks, patients=["a", missing, "b", "c"])
    with pytest.raises(DataError, match="patients is a text"):
        from_arrays(images, masks, patients="abcd")
