"""Stores that are made in parts: what a process has read stays when it ends, and processes read what threads do."""

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, Recipe, make_source
from medarts.data import filling, readers
from medarts.data.cache import stores_in
from medarts.data.filling import DONE
from medarts.data.opening import open_sources
from medarts.data.reading import read_pair
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError


@pytest.fixture
def settings(small_recipe: Recipe) -> DataSettings:
    return small_recipe.data


def opened(settings: DataSettings, *, threads: int = 1, **changes: object) -> ImageStore:
    changed = DataSettings.model_validate(settings.model_dump() | changes)
    return open_store(open_sources(settings.sources), changed, threads=threads)


def files_in(cache: Path) -> dict[str, bytes]:
    (folder,) = cache.glob("v*")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unfinished(settings: DataSettings) -> Path:
    (found,) = settings.cache.glob(".unfinished-*")
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the samples that were read; whoever comes to blob_12 is stopped while the list is empty there."""
    read: list[str] = []

    def stopped(sample: Any, rules: Any, **about: Any) -> Any:
        if sample.key == "blob_12" and "stopped" not in read:
            read.append("stopped")
            raise KeyboardInterrupt
        read.append(sample.key)
        return read_pair(sample, rules, **about)

    monkeypatch.setattr(readers, "read_pair", stopped)
    monkeypatch.setattr(filling, "SECONDS_A_NOTE", 0.0)
    return read


@pytest.fixture
def left(settings: DataSettings, folder_data: Path, reads: list[str]) -> DataSettings:
    """A store of which twelve images were read, of one of which the mask has lost its lesion."""
    mask = np.zeros((320, 320), np.uint8)
    mask[1, 1] = 255
    Image.fromarray(mask).save(folder_data / "masks" / "blob_03.png")
    Image.new("RGB", (320, 320)).save(folder_data / "images" / "blob_03.png")
    with pytest.raises(KeyboardInterrupt):
        opened(settings)
    reads.clear()
    reads.append("stopped")
    return settings


@pytest.mark.parametrize("form", [{}, {"resize": "patches"}])
def test_reading_goes_on_where_it_was_stopped(settings, tmp_path, reads, capsys, form):
    with pytest.raises(KeyboardInterrupt):
        opened(settings, **form)
    assert reads.index("stopped") == 12
    reads[:] = ["stopped"]  # some behind it may have been read ahead
    opened(settings, **form)
    assert 12 <= len(set(reads[1:])) <= 14
    assert "blob_00" not in reads
    assert "of 24 images were read before" in capsys.readouterr().err
    opened(settings, **form, cache=tmp_path / "at once")
    assert files_in(settings.cache) == files_in(tmp_path / "at once")


def test_what_was_found_before_the_stop_is_said_at_the_end(left, capsys):
    assert opened(left).vanished[:, 0].nonzero()[0].tolist() == [3]
    assert "1 of 24 masks lose all foreground at data.size 32 (blob_03)" in capsys.readouterr().err


def test_masks_that_differ_across_a_stop_are_refused(settings, folder_data, reads):
    """The first have the value 255, the last another that only the notes can tell from it."""
    for number in range(14, 24):
        path = folder_data / "masks" / f"blob_{number}.png"
        Image.fromarray(np.asarray(Image.open(path)) // 255 * 170).save(path)
    for _ in range(2):
        with pytest.raises((KeyboardInterrupt, DataError)) as error:
            opened(settings)
    assert "different foreground values" in str(error.value)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, 300)


def text(path: Path) -> None:
    path.write_text('{"images": 12, "files": {"images.npy": 3}}\n')


@pytest.mark.parametrize(
    ("name", "damage"), [("images.npy", flipped), ("images.npy", cut), ("masks.npy", Path.unlink), (DONE, text)]
)
def test_what_is_not_as_it_was_noted_is_read_again(left, tmp_path, reads, name, damage):
    damage(unfinished(left) / name)
    opened(left)
    assert len(set(reads)) == 25
    opened(left, cache=tmp_path / "at once")
    assert files_in(left.cache) == files_in(tmp_path / "at once")


def test_half_a_note_is_none(left, reads):
    with (unfinished(left) / DONE).open("a") as file:
        file.write('{"images": 24, "fi')
    opened(left)
    assert "blob_00" not in reads
    assert "blob_12" in reads


def test_what_was_read_of_other_images_is_none(left, folder_data, reads):
    flipped_image = 255 - np.asarray(Image.open(folder_data / "images" / "blob_01.png"))
    Image.fromarray(flipped_image).save(folder_data / "images" / "blob_01.png")
    opened(left)
    assert len(set(reads)) == 25


def test_what_was_left_stays_a_day_if_there_is_room(left):
    path = unfinished(left)
    opened(left, size=16)
    assert path.exists()
    old = (datetime.now() - timedelta(days=2)).timestamp()
    os.utime(path, (old, old))
    opened(left, size=24)
    assert not path.exists()
    assert {kept.is_whole for kept in stores_in(left.cache)} == {True}


def test_what_was_left_makes_room_first(left):
    opened(left, size=16)
    limit = sum(24 * size**2 * 7 for size in (16, 24)) + 10_000
    path = unfinished(left)
    opened(left, size=24, cache_gb=limit / 1e9)
    assert not path.exists()
    assert len(stores_in(left.cache)) == 2


# Processes


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    """Images that two processes read, but for one that is too large to be read beside others."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(17):
        size = 40 if number == 11 else 24
        mask = np.zeros((size, size), np.uint8)
        mask[4 : 8 + number % 9, 4:12] = 255
        image = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
    monkeypatch.setattr(readers, "WORTH_A_PROCESS", 5)
    monkeypatch.setattr(readers, "PIXELS", 2 * 1000)
    monkeypatch.setattr(readers, "_TOGETHER", 3)
    source = make_source("folder", tmp_path / "data")
    return DataSettings(sources=(source,), size=16, cache=tmp_path / "processes")


def test_processes_read_what_threads_read(several, tmp_path, monkeypatch):
    here: list[str] = []

    def noted(sample: Any, *about: Any) -> Any:
        here.append(sample.key)
        return read(sample, *about)

    read = readers.read_sample
    with monkeypatch.context() as patch:
        patch.setattr(readers, "read_sample", noted)
        opened(several, threads=2)
    assert here == ["11"]
    monkeypatch.setattr(readers, "WORTH_A_PROCESS", 1000)
    opened(several, threads=2, cache=tmp_path / "threads")
    assert files_in(several.cache) == files_in(tmp_path / "threads")


def test_a_reader_tells_what_is_wrong_and_whether_it_was_killed(several, tmp_path):
    samples, rules = open_sources(several.sources).samples, open_sources(several.sources).rules
    reader = readers._Reader((rules, several, 1000))
    damaged = samples[5].image
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match=damaged.name):
        reader.read(samples[4:6])
    os.kill(reader._process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="process that reads images was killed, as the system does where memory"):
        reader.read(samples[:1])
    reader.end()
