"""Images for several processes: what another one opened is opened again without a look at the sources."""

import errno
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medarts
from medarts.config import Recipe
from medarts.data.batches import Batches
from medarts.data.opening import open_manifest, open_sources
from medarts.data.rows import StoredRagged, StoredRows
from medarts.data.shared import images_for_processes, read_images
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 255, (12, 16, 16, 3), np.uint8)
MASKS = GENERATOR.integers(0, 2, (12, 16, 16)) == 1
CLASSES = np.stack([MASKS, ~MASKS], axis=1)

IN_MEMORY: dict[str, tuple[Any, dict[str, Any]]] = {
    "masks": (MASKS, {"size": 24}),
    "classes that overlap": (CLASSES, {"classes": ["one", "other"]}),
    "patches": (MASKS, {"size": 16, "resize": "patches"}),
    "labels": (GENERATOR.integers(0, 2, (12, 3)), {}),
}


def assert_equal(store: ImageStore, other: ImageStore) -> None:
    assert store.manifest == other.manifest
    assert store.manifest.fingerprint() == other.manifest.fingerprint()
    assert (store.size, store.form, store.is_in_memory) == (other.size, other.form, other.is_in_memory)
    np.testing.assert_array_equal(store.truths, other.truths)
    for index in range(len(store.manifest.samples)):
        np.testing.assert_array_equal(store.images[index], other.images[index])
        np.testing.assert_array_equal(store.targets[index], other.targets[index])
        np.testing.assert_array_equal(store.seen(index), other.seen(index))
        assert store.framing(index) == other.framing(index)
    for part in ("train", "val"):
        of_both = [Batches(of, of.manifest.of_split(part), batch=1, name=part, device="cpu") for of in (store, other)]
        orders = [of.order(0, seed=0, sampling="foreground") for of in of_both]
        np.testing.assert_array_equal(*orders)
        for one, two in zip(*(of.all() for of in of_both), strict=True):
            np.testing.assert_array_equal(one.images, two.images)
            np.testing.assert_array_equal(one.targets, two.targets)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_images_in_memory_are_in_files_of_all(name):
    targets, options = IN_MEMORY[name]
    store = medarts.from_arrays(IMAGES, targets, **options)
    with images_for_processes(store) as path:
        taken = read_images(path)
        assert isinstance(taken.images, StoredRows | StoredRagged), "a copy for every process"
        assert path.stat().st_size < store.images[0].nbytes * 12 + 20_000
        assert_equal(store, taken)
        for index, mask in enumerate(store.given or ()):
            np.testing.assert_array_equal(taken.given[index], mask)
        with images_for_processes(taken) as again:
            assert_equal(store, read_images(again))
    assert not path.parent.exists()


def test_images_of_files_are_neither_listed_nor_checked_again(small_recipe: Recipe, folder_data: Path):
    store = open_store(open_sources(small_recipe.data.sources), small_recipe.data)
    store.manifest.fingerprint()
    with images_for_processes(store) as path:
        shutil.rmtree(folder_data)
        taken = read_images(path)
        assert open_manifest(small_recipe.data, needs=("train", "val"), data=taken) == store.manifest
    assert_equal(store, taken)
    assert vars(taken.images)["_path"] == vars(store.images)["_path"]
    assert taken.held is None


def test_a_full_disk_names_the_folder(monkeypatch):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pickle, "dump", full)
    with (
        pytest.raises(DataError, match=r"medarts-images-.* \(No space left on device\)\. Set TMPDIR"),
        images_for_processes(medarts.from_arrays(IMAGES, MASKS)),
    ):
        pass
