"""Crops of images with sizes of their own: where they lie, and that a resumed epoch has the same ones."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medarts.config import AugmentationSettings, DataSettings, make_source
from medarts.config.data import IGNORE, CropSampling
from medarts.data.arrays import data_section, from_arrays, from_dataset
from medarts.data.batches import Batches
from medarts.data.opening import open_data
from medarts.data.store import ImageStore
from medarts.errors import DataError, MedartsError

SIZE = 16
SHAPES = [(40, 56), (16, 16), (10, 90), (33, 20), (48, 48), (25, 31)]
PLAIN = AugmentationSettings(flip=False, transpose=False, brightness=0.0)
CPU = torch.device("cpu")


class Pairs(torch.utils.data.Dataset):
    """Images of several sizes, each with a spot of one pixel of class 1, and of class 2 in the first."""

    def __len__(self) -> int:
        return len(SHAPES) * 2

    def __getitem__(self, number: int):
        height, width = SHAPES[number % len(SHAPES)]
        image = np.random.default_rng(number).integers(0, 255, (height, width)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3, width - 1] = 1
        if number == 0:
            mask[-1, 0] = 2
        return image, mask


@pytest.fixture(scope="module")
def store() -> ImageStore:
    return from_dataset(Pairs(), size=SIZE, resize="patches", splits=["train"] * 10 + ["val", "test"])


@pytest.fixture(scope="module")
def batches(store: ImageStore) -> Batches:
    return Batches(store, store.manifest.of_split("train"), batch=4, name="training set", device=CPU)


def test_an_epoch_has_as_many_crops_as_tiles_cover_the_images(batches: Batches) -> None:
    of_shapes = [3 * 4, 1, 6, 3 * 2, 9, 2 * 2]
    crops = sum((of_shapes * 2)[:10])
    assert batches.steps == crops // 4
    order = batches.order(0, seed=0, sampling="by_size")
    assert np.bincount(order[:, 0], minlength=10).tolist() == (of_shapes * 2)[:10]
    assert not order[:, 1].any()


def test_crops_are_parts_of_images_and_smaller_images_are_padded(store: ImageStore, batches: Batches) -> None:
    order = batches.order(0, seed=0, sampling="by_size")
    for step in range(batches.steps):
        batch = batches.unchanged(order, step)
        assert batch.images.shape == (4, 1, SIZE, SIZE)
        for image, mask, index in zip(batch.images.numpy()[:, 0], batch.targets.numpy(), batch.indices, strict=True):
            height, width = store.crops.shapes[index]
            inside = mask != IGNORE
            assert inside.sum() == min(height, SIZE) * min(width, SIZE)
            assert not image[~inside].any()
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            crop = image[np.ix_(rows, columns)]
            whole = np.lib.stride_tricks.sliding_window_view(store.images[int(index)][0], crop.shape)
            assert (whole == crop).all((2, 3)).any()


def test_a_share_of_the_crops_shows_foreground_of_any_class(batches: Batches) -> None:
    sampling = CropSampling(foreground=0.5)
    seen: set[int] = set()
    for epoch in range(4):
        order = batches.order(epoch, seed=0, sampling=sampling)
        wanted = order[:, 1] == 1
        assert wanted.sum() == round(0.5 * len(order))
        for step in range(batches.steps):
            batch = batches.unchanged(order, step)
            for mask, on_foreground in zip(batch.targets.numpy(), order[step * 4 : step * 4 + 4, 1], strict=True):
                shown = {int(index) for index in np.unique(mask)} - {0, IGNORE}
                assert shown or not on_foreground
                seen |= shown
    assert seen == {1, 2}


def test_crops_depend_on_seed_epoch_and_step_alone(batches: Batches) -> None:
    def crops(epoch: int, *, seed: int = 0) -> list[torch.Tensor]:
        order = batches.order(epoch, seed=seed, sampling=CropSampling())
        return [batches.training(order, step, settings=PLAIN, seed=0).images for step in (3, 1)]

    assert all(map(torch.equal, crops(2), crops(2)))
    assert not any(map(torch.equal, crops(2), crops(3)))
    assert not any(map(torch.equal, crops(2), crops(2, seed=1)))


@pytest.mark.parametrize("resize", ["patches", "fit", "squash"])
def test_what_augmentation_moves_in_is_no_background_unless_images_are_stretched(batches: Batches, resize: str) -> None:
    shifted = PLAIN.model_copy(update={"shift": 0.5})
    order = np.array([[1, 0, number] for number in range(40)])  # an image larger than a crop
    plain, moved = (
        batches.training(order, 0, settings=settings, seed=0, resize=resize).targets for settings in (PLAIN, shifted)
    )
    outside = (moved == IGNORE).sum() - (plain == IGNORE).sum()
    assert (outside > 0) == (resize != "squash")


def test_images_are_seen_whole_in_tiles(store: ImageStore, batches: Batches) -> None:
    """A network that returns its image gives the image back, whatever its size; all heads are put together."""

    def forward(images: torch.Tensor, *, all_heads: bool = False):
        assert images.shape[2:] == (SIZE, SIZE)
        assert len(images) <= 4
        return [images, 2 * images] if all_heads else images

    over = batches.over_images(forward)
    for batch, index in zip(batches.all(), batches.indices, strict=True):
        assert batch.images.shape[2:] == batch.targets.shape[1:] == tuple(store.crops.shapes[index])
        assert torch.equal(over(batch.images), batch.images)
        assert torch.equal(over(batch.images, all_heads=True)[1], 2 * batch.images)


def test_images_on_disk_give_the_crops_of_those_in_memory(tmp_path: Path) -> None:
    dataset = Pairs()
    for number in range(len(dataset)):
        image, mask = dataset[number]
        for name, values in (("images", image), ("masks", mask)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{number:02}.png")
    source = make_source("folder", tmp_path, labels={1: 1, 2: 2}, fractions=(0.1, 0.1))
    settings = DataSettings(
        sources=(source,), size=SIZE, resize="patches", in_channels=1, classes=3, cache=tmp_path / "cache"
    )
    first, again = (open_data(settings, needs=()) for _ in range(2))
    in_memory = from_dataset(dataset, size=SIZE, resize="patches")
    for number in range(len(dataset)):
        for one in (first, again):
            np.testing.assert_array_equal(one.images[number], in_memory.images[number])
            np.testing.assert_array_equal(one.targets[number], in_memory.targets[number])
            assert one.framing(number) == in_memory.framing(number)
    order = np.array([[0, 1, 7], [2, 0, 8], [4, 1, 9]])
    for stored, held in zip(first.crops.images_and_masks(order), in_memory.crops.images_and_masks(order), strict=True):
        np.testing.assert_array_equal(stored, held)


def test_images_are_shrunk_before(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(4):
            values = np.zeros((40, 60, 3), np.uint8)
            values[10:20, 10:20] = 1
            affine = np.diag([-0.5, -0.5 if number else -1.0, 3, 1])
            nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / name / f"{number}.nii")
    about = {"size": SIZE, "resize": "patches", "in_channels": 1, "cache": tmp_path / "cache"}
    source = make_source("folder", tmp_path, percentiles=(0, 100))
    half = open_data(DataSettings(sources=(source,), scale=0.5, **about), needs=())
    assert {tuple(shape) for shape in half.crops.shapes.tolist()} == {(30, 20)}
    one_mm = open_data(DataSettings(sources=(source,), spacing_mm=1.0, **about), needs=())
    assert {tuple(shape) for shape in one_mm.crops.shapes.tolist()} == {(30, 20), (60, 20)}
    framing = one_mm.framing(0)
    assert (framing.height, framing.width, framing.rows, framing.columns) == (60, 40, 60, 20)


def test_a_store_takes_the_room_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of volumes of any spacing, and with a mask for every class."""
    asked: list[int] = []
    monkeypatch.setattr("medarts.data.filling.make_room", lambda _, needed, **__: asked.append(needed))
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = np.zeros((90, 60, 2), np.uint8)
            values[10:40, 10:30] = 1
            nibabel.save(nibabel.Nifti1Image(values, np.diag([-2.0, -0.5, 3, 1])), tmp_path / name / f"{number}.nii")
    source = make_source("folder", tmp_path, percentiles=(0, 100), labels={1: 1, 0: 0})
    about: Any = {"size": SIZE, "resize": "patches", "in_channels": 1, "cache": tmp_path / "cache"}
    about |= {"classes": ["disc", "core"], "overlap": True}
    open_data(DataSettings(sources=(source,), spacing_mm=0.8, **about), needs=())
    (folder,) = (tmp_path / "cache").glob("v*")
    taken = sum((folder / name).stat().st_size for name in ("images.bin", "masks.bin"))
    assert taken == 6 * (225 * 38) * (2 + 2)
    whole = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".bin", ".npy"))
    assert taken <= whole <= asked[0] + 2000  # headers of arrays
    assert asked[0] - whole < 6 * 2 * 1000 * 8  # places of both classes, at most


def test_files_have_to_say_the_size_of_their_pixels(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / name / "a.png")
    settings = DataSettings(
        sources=(make_source("folder", tmp_path),), resize="patches", spacing_mm=1.0, cache=tmp_path / "cache"
    )
    with pytest.raises(DataError, match=r"a\.png does not say the size of its pixels.*data\.scale"):
        open_data(settings, needs=())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"scale": 0.5}, "scale is for resize: patches"),
        ({"sampling": {"foreground": 0.3}}, r"sampling\.foreground is for resize: patches"),
        ({"resize": "patches", "scale": 0.5, "spacing_mm": 1.0}, "exclude each other"),
        ({"sampling": {"foregrund": 0.3}, "resize": "patches"}, "foregrund"),
        ({"context": 1, "in_channels": 1}, "set in_channels to 3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DataSettings.model_validate({"sources": [{"kind": "folder", "path": str(tmp_path)}], **changes})


def test_labels_have_no_patches() -> None:
    images = [(np.zeros((20, 20), np.uint8), np.array([1, 0])) for _ in range(4)]
    with pytest.raises(MedartsError, match="Patches are for masks"):
        from_dataset(images, size=SIZE, resize="patches")


def test_a_recipe_of_overlapping_classes_in_memory_says_so_of_patches_too() -> None:
    masks = np.zeros((4, 2, 20, 24), np.uint8)
    masks[:, :, 5:9, 5:9] = 1
    about: Any = {"size": SIZE, "resize": "patches", "classes": ["disc", "core"]}
    section = data_section(from_arrays(np.zeros((4, 20, 24), np.uint8), masks, **about))
    assert (section["overlap"], section["classes"]) == (True, ["disc", "core"])


def test_a_recipe_of_images_in_memory_says_that_they_are_cropped(store: ImageStore) -> None:
    section = data_section(store)
    assert (section["resize"], section["size"], section["in_channels"], section["classes"]) == ("patches", SIZE, 1, 3)
