"""What is kept of images: it is checked when it is opened, stays below a limit, and is never taken from a process."""

import contextlib
import errno
import functools
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, Recipe
from medarts.data import digests, readers, rows
from medarts.data.cache import remove, stores_in
from medarts.data.opening import open_sources
from medarts.data.readers import Gate
from medarts.data.reading import read_pair
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError


@pytest.fixture
def settings(small_recipe: Recipe) -> DataSettings:
    return small_recipe.data


def opened(settings: DataSettings, **changes: object) -> ImageStore:
    return open_store(open_sources(settings.sources), changed(settings, **changes))


def changed(settings: DataSettings, **values: object) -> DataSettings:
    return DataSettings.model_validate(settings.model_dump() | values)


def folder(settings: DataSettings) -> Path:
    (found,) = settings.cache.glob("v*")
    return found


def zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def other_shape(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def text(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize("damage", [zeros, one_bit, cut, other_shape, text, Path.unlink])
@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "truths.npy"])
def test_arrays_that_are_not_those_written_are_made_again(settings, capsys, name, damage):
    before = opened(settings)
    images, masks, truths = np.asarray(before.images), np.asarray(before.targets), before.truths
    damage(folder(settings) / name)
    after = opened(settings)
    np.testing.assert_array_equal(after.images, images)
    np.testing.assert_array_equal(after.targets, masks)
    np.testing.assert_array_equal(after.truths, truths)
    assert "are damaged" in capsys.readouterr().err


def test_bits_that_rot_without_a_trace_in_times_are_found(settings, capsys, settled, monkeypatch):
    monkeypatch.setattr(digests, "_stamp", lambda path: digests._Stamp(path.stat().st_size, 1, 1))
    before = np.asarray(opened(settings).images)
    np.testing.assert_array_equal(opened(settings).images, before)
    one_bit(folder(settings) / "images.npy")
    np.testing.assert_array_equal(opened(settings).images, before)
    assert "images.npy was changed" in capsys.readouterr().err


def test_large_arrays_are_read_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_LARGE", 10**6)
    path = tmp_path / "a.npy"
    path.write_bytes(bytes(3 * 10**6))
    assert digests.digests_read([path]) == digests.digests_of([path])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"arrays": {}}', '{"arrays": {"images.npy": 1}}'])
def test_a_damaged_note_of_a_store_is_made_again(settings, capsys, content):
    opened(settings)
    (folder(settings) / "store.json").write_text(content)
    assert len(opened(settings).images) == 24
    assert "store.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [zeros, cut])
def test_arrays_that_change_in_use_end_the_work(settings, damage):
    store = opened(settings)
    path = folder(settings) / "masks.npy"
    os.utime(path, (1e9, 1e9))
    store = opened(settings)
    damage(path)
    with pytest.raises(DataError, match=r"masks\.npy was changed while it was in use"):
        store.targets[[0, 20]]


def test_arrays_that_are_removed_in_use_can_be_read_on(settings):
    store = opened(settings)
    images = np.asarray(store.images)
    shutil.rmtree(settings.cache)
    np.testing.assert_array_equal(store.images[[3, 5]], images[[3, 5]])


def test_without_preadv_rows_are_read_in_turn(settings, monkeypatch):
    store = opened(settings)
    expected = store.images[[4, 2]]
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(store.images[[4, 2]], expected)


def test_files_that_change_while_they_are_read_make_no_store(settings, folder_data, monkeypatch):
    def changing(sample, rules, **about):
        if sample.key == "blob_20":
            path = folder_data / "masks" / "blob_03.png"
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        return read_pair(sample, rules, **about)

    with monkeypatch.context() as patch:
        patch.setattr(readers, "read_pair", changing)
        with pytest.raises(DataError, match="changed while they were read"):
            opened(settings)
    assert stores_in(settings.cache) == []
    assert len(opened(settings).images) == 24


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["posix_fallocate", "fsync"])
def test_a_full_disk_is_an_error_and_leaves_nothing(settings, monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)\. Set data\.cache"):
            opened(settings)
    assert stores_in(settings.cache) == []
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    assert len(opened(settings).images) == 24


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_that_is_a_file_names_the_setting(settings, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"cache .* cannot be written .*Set data\.cache to a folder"):
        opened(settings, cache=tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def read_only(*arguments: object, **options: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_cache_that_may_only_be_read_is_used(settings, monkeypatch):
    images = np.asarray(opened(settings).images)
    monkeypatch.setattr(os, "open", read_only)  # what makes lock files
    np.testing.assert_array_equal(opened(settings).images, images)
    with pytest.raises(DataError, match=r"cannot be written \(Read-only file system\)"):
        opened(settings, size=16)


# The limit


def used(path: Path, time: float) -> None:
    os.utime(path / "store.json", (time, time))


def test_the_longest_unused_make_room(settings, capsys):
    sizes = (16, 24, 32)
    for time, size in enumerate(sizes):
        opened(settings, size=size)
        (path,) = settings.cache.glob(f"v*-{size}px-*")
        used(path, 1e9 + time)
    opened(settings, size=16)  # which is now the last used
    limit = sum(24 * size**2 * 7 for size in (16, 32, 40)) + 10_000
    opened(settings, size=40, cache_gb=limit / 1e9)
    assert {kept.path.name.split("-")[2] for kept in stores_in(settings.cache)} == {"16px", "32px", "40px"}
    assert "Removed 1 store of images" in capsys.readouterr().err
    opened(settings, size=48, cache_gb=1e-6)
    assert {kept.path.name.split("-")[2] for kept in stores_in(settings.cache)} == {"48px"}


def test_what_is_in_use_is_not_removed(settings):
    store = opened(settings)
    (kept,) = stores_in(settings.cache)
    assert kept.in_use
    assert not remove(kept)
    opened(settings, size=16, cache_gb=1e-6)
    assert kept.path.exists()
    assert len(store.images[[0]]) == 1
    del store
    (kept,) = (one for one in stores_in(settings.cache) if one.path == kept.path)
    assert not kept.in_use
    assert remove(kept)
    assert not kept.path.exists()


def test_other_files_in_the_cache_are_left_alone(settings):
    settings.cache.mkdir()
    mine = settings.cache / "vacation"
    mine.mkdir()
    left = settings.cache / ".unfinished-v4-0123456789abcdef-32px"
    left.mkdir()
    opened(settings, cache_gb=1e-9)
    opened(settings, cache_gb=1e-9, size=16)
    assert mine.exists()
    assert not left.exists()
    assert len(stores_in(settings.cache)) == 1


def test_the_cache_is_listed_and_cleared(settings, medarts):
    opened(settings)
    store = opened(settings, size=16)
    status, output, _ = medarts("cache", settings.cache)
    assert status == 0
    assert "blobs: 24 images of 16 px" in output
    assert "in use" in output
    assert "state" in output
    assert store.manifest.fingerprint()[:8] in output
    megabytes = sum(kept.nbytes for kept in stores_in(settings.cache)) / 1e6
    assert f"2 stores of images, {megabytes:.1f} MB" in output
    status, output, _ = medarts("cache", settings.cache, "--clear")
    assert status == 0
    assert "removed 1 store of images, 0.2 MB. Left, because a process uses it: 1 store" in output
    assert len(store.images[[0]]) == 1
    del store
    assert "removed 1 store" in medarts("cache", settings.cache, "--clear")[1]
    assert stores_in(settings.cache) == []


def test_clearing_the_user_s_cache_forgets_digests(medarts, file, settled):
    digests.digests_of([file])
    assert digests.database().exists()
    assert medarts("cache", "--clear")[0] == 0
    assert not digests.database().exists()
    assert medarts("cache")[0] == 0


def test_a_cache_that_is_no_folder_is_refused(medarts, file):
    status, _, error = medarts("cache", file)
    assert status == 1
    assert "is not a folder. Give the folder that data.cache names" in error


# Memory


def test_large_images_are_read_one_at_a_time(settings, folder_data, monkeypatch):
    inside: list[str] = []
    most: list[int] = []

    def watched(sample, rules, **about):
        inside.append(sample.key)
        most.append(len(inside))
        try:
            return read_pair(sample, rules, **about)
        finally:
            inside.remove(sample.key)

    monkeypatch.setattr(readers, "read_pair", watched)
    monkeypatch.setattr(readers, "Gate", functools.partial(Gate, 32 * 32 + 1))
    open_store(open_sources(settings.sources), settings, threads=8)
    assert max(most) == 1
    assert len(most) == 24


def test_the_gate_lets_one_image_above_its_limit_through():
    gate = Gate(10)
    gate.enter(50)
    gate.leave(50)
    gate.enter(4)
    gate.enter(6)


# What masks lose


@pytest.fixture
def tiny(settings: DataSettings, folder_data: Path) -> DataSettings:
    """Five masks of 320 px whose lesion is a pixel that no pixel of a mask of 32 is taken from."""
    for path in sorted((folder_data / "masks").iterdir())[:5]:
        mask = np.zeros((320, 320), np.uint8)
        mask[1, 1] = 255
        Image.fromarray(mask).save(path)
        Image.new("RGB", (320, 320)).save(folder_data / "images" / path.name)
    return settings


def test_masks_that_lose_their_foreground_are_said_and_kept(tiny, capsys):
    store = opened(tiny)
    assert np.flatnonzero(store.vanished[:, 0]).tolist() == [0, 1, 2, 3, 4]
    error = capsys.readouterr().err
    assert (
        "5 of 24 masks lose all foreground at data.size 32 (blob_00, blob_01, blob_02, ...). Raise data.size" in error
    )
    assert "Raise data.size" not in (opened(tiny), capsys.readouterr().err)[1]
    assert opened(tiny).vanished.sum() == 5
    assert not opened(tiny, size=320).vanished.any()
    assert "lose" not in capsys.readouterr().err


# Digests of files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bmp"
    path.write_bytes(b"first content")
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets digests be kept at once, as if the files had been written long ago."""
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose digests are made from now on."""
    paths: list[Path] = []
    real = digests._digest

    def counted(path, *more):
        paths.append(path)
        return real(path, *more)

    monkeypatch.setattr(digests, "_digest", counted)
    return paths


def test_files_are_read_again_only_when_they_change(file, settled, read):
    first = digests.digests_of([file, file])
    assert digests.digests_of([file]) == first
    assert read == [file]
    file.write_bytes(b"other content")  # of the same length
    os.utime(file, (1e9, 1e9))  # and, as archives do it, with the time of the first
    second = digests.digests_of([file])
    assert second != first
    assert read == [file, file]


def test_windows_has_no_time_of_status_changes(file, monkeypatch):
    assert digests._stamp(file).changed_ns == file.stat().st_ctime_ns
    monkeypatch.setattr(os, "name", "nt")
    stamp = digests._stamp(file)
    assert stamp.changed_ns == 0
    assert stamp.is_settled(file.stat().st_mtime_ns + 10**10)


def test_a_file_that_was_just_written_is_read_each_time(file, read):
    digests.digests_of([file])
    digests.digests_of([file])
    assert read == [file, file]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_database_is_made_again(file, settled, read, content):
    first = digests.digests_of([file])
    digests.database().write_bytes(content)
    assert digests.digests_of([file]) == first
    assert digests.digests_of([file]) == first
    assert digests.digests_of([file]) == first
    assert len(read) in (2, 3)


@pytest.mark.parametrize("column", ["digest", "code"])
def test_a_row_with_a_wrong_digit_does_not_say_that_a_file_has_changed(file, settled, read, column):
    first = digests.digests_of([file])
    with contextlib.closing(sqlite3.connect(digests.database())) as connection, connection:
        (value,) = connection.execute(f"SELECT {column} FROM files").fetchone()
        connection.execute(f"UPDATE files SET {column} = ?", [("0" if value[0] != "0" else "1") + value[1:]])
    assert digests.digests_of([file]) == first
    assert digests.digests_of([file]) == first
    assert read == [file, file]


def test_a_database_that_cannot_be_written_costs_time_alone(file, settled, read, user_cache):
    user_cache.write_text("no folder")
    assert digests.digests_of([file]) == digests.digests_of([file])
    assert len(read) == 2


def test_what_is_no_readable_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "nowhere.png", "."):
        with pytest.raises(DataError, match=rf"{name}"):
            digests.digests_of([tmp_path / name])


def test_names_that_are_not_utf8(tmp_path, settled, read):
    path = tmp_path / os.fsdecode(b"l\xe9sion.png")
    path.write_bytes(b"x")
    assert digests.digests_of([path]) == digests.digests_of([path])
    assert read == [path]


# Rows


def test_rows_of_every_kind_of_index(tmp_path):
    values = np.arange(24, dtype=np.float16).reshape(4, 2, 3)
    with rows.RowWriter(tmp_path / "a.npy", dtype="float16", shape=values.shape) as writer:
        for row in values:
            writer.append(row.astype(np.float64))
        with pytest.raises(ValueError, match="does not fit"):
            writer.append(values)
        writer.finish()
    assert writer.digest == digests.digests_of([tmp_path / "a.npy"])[tmp_path / "a.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
    stored = rows.StoredRows(tmp_path / "a.npy")
    assert (stored.shape, stored.dtype, stored.nbytes, len(stored)) == ((4, 2, 3), np.float16, 48, 4)
    for index in (0, -1, np.int64(2), [3, 1], np.array([0, 0]), slice(1, None), np.array([], np.int64)):
        np.testing.assert_array_equal(stored[index], values[index])
    with pytest.raises(IndexError):
        stored[4]
