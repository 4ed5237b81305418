import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, Recipe, SourceSettings, make_source
from medarts.config.data import IGNORE
from medarts.data import readers
from medarts.data.choosing import choose_sources
from medarts.data.geometry import fitted
from medarts.data.opening import open_data, open_sources
from medarts.data.reading import read_pair
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError


@pytest.fixture
def settings(small_recipe: Recipe) -> DataSettings:
    return small_recipe.data


def opened(settings: DataSettings) -> ImageStore:
    return open_store(open_sources(settings.sources), settings)


def changed(settings: DataSettings, **values: object) -> DataSettings:
    return DataSettings.model_validate(settings.model_dump() | values)


def caches(settings: DataSettings) -> list[str]:
    assert settings.cache is not None
    found = settings.cache.iterdir() if settings.cache.exists() else ()
    return sorted(path.name for path in found if path.name != ".locks")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the samples that were read from their files."""
    read: list[str] = []

    def counted(sample, rules, **about):
        read.append(sample.key)
        return read_pair(sample, rules, **about)

    monkeypatch.setattr(readers, "read_pair", counted)
    return read


def test_holds_the_files_in_the_order_of_the_manifest(settings: DataSettings, folder_data: Path) -> None:
    store: Any = opened(settings)
    assert store.images.shape == (24, 3, 32, 32)
    assert store.targets.shape == (24, 32, 32)
    assert (store.images.dtype, store.targets.dtype) == (np.float16, np.uint8)
    for position, sample in enumerate(store.manifest.samples):
        image = np.asarray(Image.open(folder_data / "images" / f"{sample.key}.png")) / 255
        mask = np.asarray(Image.open(folder_data / "masks" / f"{sample.key}.png")) > 127
        np.testing.assert_allclose(store.images[position], image.transpose(2, 0, 1), atol=5e-4)
        np.testing.assert_array_equal(store.targets[position], mask)


def test_is_made_once(settings: DataSettings, reads: list[str]) -> None:
    first = opened(settings)
    assert len(reads) == 24
    second = opened(settings)
    assert len(reads) == 24
    np.testing.assert_array_equal(first.images, second.images)
    assert len(caches(settings)) == 1


@pytest.mark.parametrize("change", [{"size": 16}, {"in_channels": 1}, {"classes": 2}])
def test_is_made_again_for_other_arrays(settings: DataSettings, reads: list[str], change: dict[str, int]) -> None:
    opened(settings)
    other = opened(changed(settings, **change))
    assert len(reads) == 48
    assert other.images.shape[1:] == (change.get("in_channels", 3), *[change.get("size", 32)] * 2)
    assert len(caches(settings)) == 2


def test_is_not_made_again_for_what_does_not_touch_it(settings: DataSettings, reads: list[str]) -> None:
    opened(settings)
    opened(changed(settings, sampling="equal", augmentation={"flip": False}))
    assert len(reads) == 24


def test_is_made_again_when_a_mask_was_mended(settings: DataSettings, folder_data: Path, reads: list[str]) -> None:
    """Also where the repaired file has as many bytes as the one before, as in uncompressed formats."""
    path = folder_data / "masks" / "blob_00.png"
    for folder in ("images", "masks"):
        for file in (folder_data / folder).glob("*.png"):
            Image.open(file).save(file.with_suffix(".tif"))
            file.unlink()
    path = path.with_suffix(".tif")
    before = opened(settings).targets[0]
    size = path.stat().st_size
    time = path.stat().st_mtime_ns
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    os.utime(path, ns=(time + 10**9, time + 10**9))
    assert path.stat().st_size == size
    np.testing.assert_array_equal(opened(settings).targets[0], 1 - before)


def test_two_folders_with_files_of_the_same_names_and_sizes(tmp_path: Path) -> None:
    stores = []
    for value in (0, 200):
        root = tmp_path / str(value)
        for folder, content in (("images", value), ("masks", 255)):
            (root / folder).mkdir(parents=True)
            for name in "abcde":
                Image.fromarray(np.full((32, 32), content, np.uint8)).save(root / folder / f"{name}.tif")
                os.utime(root / folder / f"{name}.tif", ns=(0, 0))
        source = make_source(kind="folder", path=root, name="same")
        stores.append(opened(DataSettings(sources=(source,), size=32, cache=tmp_path / "cache")))
    assert np.max(stores[0].images) == 0
    assert np.min(stores[1].images) == pytest.approx(200 / 255, abs=1e-3)


def test_images_are_resized_smoothly_and_masks_to_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    board = (np.indices((64, 48)).sum(0) % 2 * 255).astype(np.uint8)  # a chess board of single pixels
    halves = np.zeros((64, 48), np.uint8)
    halves[32:] = 255
    for name in "abc":
        Image.fromarray(board).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(halves).save(tmp_path / "masks" / f"{name}.png")
    source = make_source(kind="folder", path=tmp_path)
    data = DataSettings(sources=(source,), size=16, in_channels=1, resize="squash", cache=tmp_path / "cache")
    store = opened(data)
    assert "3 of 3 images are not square and were stretched to 16 x 16 pixels" in capsys.readouterr().err
    assert store.images.shape == (3, 1, 16, 16)
    inner = store.images[0][0, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, 0.5, atol=0.06)  # without antialiasing: 0 or 1
    expected = np.repeat([0, 1], 8)[:, None] * np.ones((1, 16), int)
    np.testing.assert_array_equal(store.targets[0], expected)

    fit = opened(data.model_copy(update={"resize": "fit"}))
    assert "stretched" not in capsys.readouterr().err
    assert fit.framing(0) == fitted(64, 48, size=16)
    expected[:, :2] = expected[:, 14:] = IGNORE
    np.testing.assert_array_equal(fit.targets[0], expected)
    np.testing.assert_array_equal(fit.images[0][0, :, [0, 1, 14, 15]], 0)
    np.testing.assert_allclose(fit.images[0][0, 2:-2, 4:-4], 0.5, atol=0.06)


def labelled(root: Path, *values: int) -> SourceSettings:
    """Gives the first mask of a data set the labels ``values`` in stripes, the others 0 and 1."""
    for number, file in enumerate(sorted((root / "masks").glob("*.png"))):
        stripes = np.repeat(values if number == 0 else (0, 1), 32)[: 32 * 32].astype(np.uint8)
        Image.fromarray(np.resize(stripes, (32, 32))).save(file)
    labels = {value: value for value in {0, 1, *values}}
    return make_source(kind="folder", path=root, labels=labels)


@pytest.mark.parametrize(("classes", "labels"), [(1, (0, 2)), (2, (0, 1, 2)), (3, (0, 3))])
def test_label_out_of_range_names_file_and_classes(
    settings: DataSettings, folder_data: Path, classes: int, labels: tuple[int, ...]
) -> None:
    source = labelled(folder_data, *labels)
    with pytest.raises(
        DataError, match=rf"blob_00\.png holds class {max(labels)}, data.classes allows 0 to {max(classes - 1, 1)}"
    ) as caught:
        opened(changed(settings, sources=[source.model_dump()], classes=classes))
    assert f"data.classes={max(labels) + 1}" in caught.value.fix
    assert caches(settings) == []


def test_labels_in_range_are_taken(settings: DataSettings, folder_data: Path) -> None:
    source = labelled(folder_data, 0, 1, 2)
    store = opened(changed(settings, sources=[source.model_dump()], classes=3))
    assert set(np.unique(store.targets[0])) == {0, 1, 2}


@pytest.mark.parametrize("folder", ["images", "masks"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_corrupt_file_is_named_and_no_cache_is_left(
    settings: DataSettings, folder_data: Path, folder: str, damage: str
) -> None:
    path = folder_data / folder / "blob_07.png"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"blob_07\.png") as caught:
        opened(settings)
    assert folder in str(caught.value)
    assert caught.value.fix
    assert caches(settings) == []
    path.write_bytes(content)
    assert len(opened(settings).images) == 24


def test_mask_of_another_size_names_the_file(settings: DataSettings, folder_data: Path) -> None:
    path = folder_data / "masks" / "blob_03.png"
    Image.open(path).resize((32, 16)).save(path)
    with pytest.raises(DataError, match="blob_03"):
        opened(settings)


def test_indices_find_the_samples_of_a_part(settings: DataSettings) -> None:
    store = opened(settings)
    part = store.manifest.of_split("val")
    indices = store.indices(part)
    assert [store.manifest.samples[i] for i in indices] == list(part.samples)
    assert 0 < len(indices) < 24


def test_who_comes_while_a_store_is_made_waits_for_it(settings: DataSettings, reads: list[str]) -> None:
    """The second begins when the first has half of its images, and reads none itself."""
    manifest = open_sources(settings.sources)
    half_done, go_on = threading.Event(), threading.Event()
    counted = vars(readers)["read_pair"]

    def slow(sample, rules, **about):
        if sample.key == "blob_12":
            half_done.set()
            assert go_on.wait(20)
        return counted(sample, rules, **about)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(readers, "read_pair", slow)
        first = pool.submit(open_store, manifest, settings)
        assert half_done.wait(20)
        second = pool.submit(open_store, manifest, settings)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        go_on.set()
        images = np.asarray(first.result(30).images)
        np.testing.assert_array_equal(second.result(30).images, images)
    assert len(reads) == 24
    assert (images.max(axis=(1, 2, 3)) > 0.5).all(), "an image that is not there"
    assert len(caches(settings)) == 1


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from medarts.data import filling, readers
from medarts.data.geometry import fitted
from medarts.config.data import IGNORE
from medarts.data.opening import open_sources
from medarts.data.store import open_store
from medarts.config import DataSettings
settings = DataSettings.model_validate_json(Path(sys.argv[1]).read_text())
real = readers.read_pair
def slow(sample, rules, **about):
    if sample.key == sys.argv[2]:
        print("half done", flush=True)
        sys.stdin.readline()
    return real(sample, rules, **about)
readers.read_pair = slow
filling.SECONDS_A_NOTE = 0
store = open_store(open_sources(settings.sources), settings)
print("opened", flush=True)
sys.stdin.readline()
print(store.images[:].astype("float64").sum(), flush=True)
"""


@pytest.fixture
def begin(settings: DataSettings, tmp_path: Path):
    """Starts processes that open the store: they wait at the image of a key, and when they have it, for a line each."""
    (tmp_path / "data.json").write_text(settings.model_dump_json())
    processes = []

    def start(*, wait_at: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "data.json"), wait_at]
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipe))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_processes_that_make_the_same_store(settings: DataSettings, begin) -> None:
    """The first is killed half-way; the second takes over and is not disturbed by what the first left."""
    first = begin(wait_at="blob_12")
    assert first.stdout.readline() == "half done\n"
    second = begin(wait_at="blob_12")
    first.kill()
    first.wait()
    assert second.stdout.readline() == "half done\n"
    for _ in range(2):
        second.stdin.write("\n")
        second.stdin.flush()
    assert second.stdout.readline() == "opened\n"
    total = np.asarray(opened(settings).images).astype("float64").sum()
    assert float(second.stdout.readline()) == total
    assert len(caches(settings)) == 1
    assert not list(settings.cache.glob(".unfinished-*"))


# What is opened


def test_open_data_needs_its_splits(settings: DataSettings, folder_data: Path) -> None:
    assert len(open_data(settings, needs=("train", "val", "test")).images) == 24
    rows = (folder_data / "splits.csv").read_text().replace(",test", ",train")
    (folder_data / "splits.csv").write_text(rows)
    with pytest.raises(DataError, match="No image of blobs is in the split 'test'"):
        open_data(settings, needs=("test",))


def test_choose_sources_by_name_and_by_folder(folder_data: Path, tmp_path: Path) -> None:
    known = (
        make_source(kind="isic", path=tmp_path / "isic"),
        make_source(kind="chaos", path=tmp_path / "chaos", name="ct"),
    )
    chosen = choose_sources(["ct", str(folder_data)], known=known)
    assert chosen[0] == known[1]
    assert (chosen[1].kind, chosen[1].path) == ("folder", folder_data)
    with pytest.raises(DataError, match=r"'isik' is neither .* Did you mean 'isic'"):
        choose_sources(["isik"], known=known)
    with pytest.raises(DataError, match="Give the folder"):
        choose_sources(["isik"])


def test_a_disk_without_room_is_said_before_anything_is_written(
    folder_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    source = make_source(kind="folder", path=folder_data)
    settings = DataSettings(sources=(source,), size=32, cache=tmp_path / "full")
    with pytest.raises(DataError, match="GB are free"):
        open_store(open_sources([source]), settings)
    assert caches(settings) == []
