"""Data are identified by what is in their files, not by where these lie."""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, make_source
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.opening import open_sources
from medarts.data.store import open_store
from medarts.errors import DataError
from medarts.system.files import write_whole


def listed(root: Path) -> Manifest:
    return open_sources((make_source(kind="folder", path=root, name="blobs"),))


def test_moved_and_copied_data_are_the_same(folder_data, tmp_path):
    first = listed(folder_data).fingerprint()
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder_data, copied, copy_function=shutil.copyfile)
    assert listed(copied).fingerprint() == first
    assert listed(folder_data.rename(tmp_path / "moved")).fingerprint() == first


def test_moved_data_have_the_same_store(folder_data, tmp_path):
    settings = DataSettings(
        sources=(make_source(kind="folder", path=folder_data, name="blobs"),), size=32, cache=tmp_path / "cache"
    )
    open_store(listed(folder_data), settings)
    open_store(listed(folder_data.rename(tmp_path / "moved")), settings)
    assert len([*(tmp_path / "cache").glob("v*")]) == 1


@pytest.mark.parametrize("part", ["images", "masks"])
def test_other_content_of_the_same_size_and_times_is_other_data(folder_data, part):
    """As archives with fixed times unpack it, over the files that were there."""
    for path in (folder_data / part).iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    path = folder_data / part / "blob_05.bmp"
    os.utime(path, (315532800, 315532800))
    before, size = listed(folder_data).fingerprint(), path.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    os.utime(path, (315532800, 315532800))
    assert path.stat().st_size == size
    assert listed(folder_data).fingerprint() != before


CHANGES: list[Callable[[Sample], dict]] = [
    lambda sample: {"key": sample.key + "x"},
    lambda sample: {"patient": "other"},
    lambda sample: {"split": "test"},
    lambda sample: {"domain": "other"},
    lambda sample: {"slice_index": 1},
    lambda sample: {"findings": ("Mass",)},
    lambda sample: {"image": sample.mask, "mask": sample.image},
    lambda sample: {"mask": None},
]


def test_everything_but_places_is_part_of_it(folder_data):
    manifest = listed(folder_data)
    first, *others = manifest.samples
    prints = [replace(manifest, samples=(replace(first, **change(first)), *others)).fingerprint() for change in CHANGES]
    prints.append(replace(manifest, rules={"blobs": ReadingRules(percentiles=(1, 99))}).fingerprint())
    prints.append(replace(manifest, findings=("Mass",)).fingerprint())
    prints.append(replace(manifest, samples=tuple(others)).fingerprint())
    assert len({manifest.fingerprint(), *prints}) == len(prints) + 1


def test_a_volume_is_read_once_and_a_fingerprint_made_once(tmp_path, monkeypatch):
    from medarts.data import digests

    (tmp_path / "a.nii").write_bytes(b"x")
    read: list[Path] = []
    real = digests._digest

    def counted(path, *more):
        read.append(path)
        return real(path, *more)

    monkeypatch.setattr(digests, "_digest", counted)
    slices = tuple(
        Sample(f"a/{n}", tmp_path / "a.nii", tmp_path / "a.nii", "p", "ct", "train", slice_index=n) for n in range(50)
    )
    manifest = Manifest(slices, {"ct": ReadingRules()})
    assert manifest.fingerprint() == manifest.fingerprint()
    assert len(read) == 1


def test_a_file_that_is_gone_is_named(folder_data):
    manifest = listed(folder_data)
    (folder_data / "masks" / "blob_03.png").unlink()
    with pytest.raises(DataError, match=r"There is no file .*blob_03\.png"):
        manifest.fingerprint()


def test_the_list_has_slices_and_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"l\xe9sion.nii")
    for file, content in ((name, b"volume"), ("a.png", b"flat")):
        Path(file).write_bytes(content)
    samples = tuple(Sample(f"{name}/{n}", Path(name), Path(name), name, "ct", "train", slice_index=n) for n in (0, 7))
    flat = Sample("flat", Path("a.png"), None, "p", "ct", "test", findings=("Mass", "Fat"))
    write_whole(tmp_path / "manifest.csv", Manifest((*samples, flat), {"ct": ReadingRules()}).to_csv())
    assert b"l\xe9sion.nii/7" in (tmp_path / "manifest.csv").read_bytes()
    with (tmp_path / "manifest.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slice"] for row in rows] == ["0", "7", ""]
    assert rows[0]["image"] == name
    assert (rows[2]["mask"], rows[2]["findings"]) == ("", "Mass|Fat")
    of_volume, of_flat = (hashlib.blake2b(content, digest_size=16).hexdigest() for content in (b"volume", b"flat"))
    assert [(row["image_digest"], row["mask_digest"]) for row in rows] == [(of_volume, of_volume)] * 2 + [(of_flat, "")]


def test_one_mask_file_a_class_is_part_of_the_identity(folder_data):
    manifest = listed(folder_data)
    first, second = manifest.samples[:2]

    def of(*class_masks: tuple[str, Path]) -> Manifest:
        sample = replace(first, mask=class_masks[0][1], class_masks=class_masks)
        return replace(manifest, samples=(sample, *manifest.samples[1:]))

    liver, tumour = ("liver", first.mask), ("tumour", second.mask)
    both = of(liver, tumour)
    assert both.samples[0].files == (first.image, first.mask, second.mask)
    fingerprints = {
        each.fingerprint() for each in (manifest, both, of(tumour, liver), of(("spleen", first.mask), tumour))
    }
    assert len(fingerprints) == 4
    (row,) = [row for row in csv.DictReader(both.to_csv().splitlines()) if row["key"] == first.key]
    assert row["mask"] == f"{first.mask}|{second.mask}"
    assert len(set(row["mask_digest"].split("|"))) == 2
