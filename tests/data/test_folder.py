"""The folder source: patterns that pair images with masks, and what does not fit them."""

import re
import time
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.deploy.dicoms import write_series

from medarts.config import make_source, parse
from medarts.config.reading import fingerprint
from medarts.data.opening import open_sources, survey
from medarts.data.recognising import recognise
from medarts.data.sources import STRAY, WITHOUT_MASKS
from medarts.data.sources.folder import Folder, FolderSettings
from medarts.errors import DataError, RecipeError
from medarts.system import console


def files(root: Path, *names: str) -> Path:
    """Makes empty files: sources look at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def opened(path: Path, **settings):
    return open_sources([make_source("folder", path, **settings)]).samples


def test_splits_are_folders_and_names_may_repeat_in_them(tmp_path):
    for split in ("Train", "valid", "TEST"):
        files(tmp_path, *(f"{split}/{kind}/{n}.png" for kind in ("images", "masks") for n in range(2)))
    samples = opened(tmp_path, image="{split}/images/{name}", mask="{split}/masks/{name}")
    assert Counter(sample.split for sample in samples) == {"train": 2, "val": 2, "test": 2}
    assert [sample.key for sample in samples] == ["test/0", "test/1", "train/0", "train/1", "val/0", "val/1"]


def test_images_and_masks_in_one_folder_are_told_by_a_suffix_or_by_their_format(tmp_path):
    files(tmp_path / "a", *(f"{n}.jpg" for n in range(4)), *(f"{n}_mask.png" for n in range(4)), "notes_1.png")
    files(tmp_path / "b", *(f"{n}.{suffix}" for n in range(4) for suffix in ("jpg", "png")))
    samples = opened(tmp_path / "b", image="{name}.jpg", mask="{name}.png")
    assert [(sample.image.name, sample.mask.name) for sample in samples] == [(f"{n}.jpg", f"{n}.png") for n in range(4)]
    with pytest.raises(DataError, match=r"image without a mask \(1\): notes_1\.png"):
        opened(tmp_path / "a", image="{name}", mask="{name}_mask")
    stray = survey(make_source("folder", tmp_path / "a", image="{name}.jpg", mask="{name}_mask"))
    assert [(doubt.problem, doubt.detail) for doubt in stray.doubts] == [(STRAY, "notes_1.png")]
    assert len(stray.manifest.samples) == 4


def test_a_folder_per_patient_keeps_patients_whole(tmp_path):
    names = [f"p{patient}/{n}{kind}.png" for patient in range(5) for n in range(3) for kind in ("", "_mask")]
    samples = opened(files(tmp_path, *names), image="{patient}/{name}", mask="{patient}/{name}_mask")
    assert {sample.patient for sample in samples} == {f"p{n}" for n in range(5)}
    assert len({(sample.patient, sample.split) for sample in samples}) == 5


def test_patients_are_parts_of_names(tmp_path):
    files(tmp_path, *(f"{kind}/{p}_{n}.png" for kind in ("images", "masks") for p in "abcd" for n in range(3)))
    samples = opened(tmp_path, patients="{patient}_{n}")
    assert {sample.patient for sample in samples} == set("abcd")
    assert {sample.key for sample in samples} == {f"{p}_{n}" for p in "abcd" for n in range(3)}
    with pytest.raises(DataError, match=r"does not say its patient \(12\): a_0\.png, .*'\{patient\}-\{n\}'"):
        opened(tmp_path, patients="{patient}-{n}")


def test_a_split_without_masks_is_left_out_and_said(tmp_path):
    files(tmp_path, *(f"{kind}Tr/{n}.png" for kind in ("images", "labels") for n in range(4)), "imagesTs/9.png")
    found = survey(make_source("folder", tmp_path, image="images{split}/{name}", mask="labels{split}/{name}"))
    assert not found.faults
    assert [(doubt.problem, doubt.detail, doubt.count) for doubt in found.doubts] == [(WITHOUT_MASKS, "test", 1)]
    assert {sample.split for sample in found.manifest.samples} == {"train", "val"}


def test_volumes_as_masks_of_dicom_series_are_named(tmp_path):
    values = np.arange(3 * 8 * 8, dtype=np.int16).reshape(3, 8, 8)
    for patient in ("p1", "p2", "p3"):
        write_series(tmp_path / patient / "CT", values, seed=1, root=f"1.2.{patient[1]}")
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 3), np.uint8), np.eye(4)), tmp_path / patient / "liver.nii.gz")
    (source,) = recognise(tmp_path)
    with pytest.raises(DataError, match=r"DICOM series with a volume as mask .*CT/.* with liver\.nii\.gz.*dcm2niix"):
        open_sources([source])


def test_an_image_without_one_of_the_channels_is_refused(tmp_path):
    names = [f"images/{n}_{channel}.png" for n in range(4) for channel in ("0000", "0001")]
    files(tmp_path, *names[:-1], *(f"masks/{n}.png" for n in range(4)))
    with pytest.raises(DataError, match=r"image without a channel \(1\): 3: 0001"):
        opened(tmp_path, image="images/{name}_{channel}")
    assert len(opened(tmp_path, image="images/{name}_{channel}", channels=["0000"])) == 4


def test_folders_that_no_pattern_reaches_are_named(tmp_path):
    files(tmp_path, "images/1.png", "masks/1.png")
    with pytest.raises(DataError, match=r"There is no folder .*labels\. Expected here: labels/\{name\}"):
        opened(tmp_path, mask="labels/{name}")
    with pytest.raises(DataError, match=r"No folder of .* is named as in '\{split\}/images/\{name\}'"):
        opened(tmp_path, image="{split}/images/{name}", mask="{split}/masks/{name}")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"image": "{split}/{name}"}, "cannot be paired; give both the same of {name}, {patient}, {group} and {split}"),
        ({"image": "images/{name}_{class}"}, "{class} is for masks and {channel} for images"),
        ({"channels": ["T1"]}, "has no {channel}"),
        ({"image": "{patient}/{name}", "mask": "{patient}/{name}_m", "patients": "{patient}_*"}, "keep one of them"),
        ({"mask": "images/{name}"}, "are both 'images/{name}'"),
    ],
)
def test_patterns_that_contradict_each_other_are_refused(tmp_path, settings, problem):
    with pytest.raises(RecipeError, match=re.escape(problem)):
        parse({"data": {"sources": [{"kind": "folder", "path": str(tmp_path), **settings}]}})


def test_patterns_leave_the_fingerprint_of_older_recipes_alone():
    def of(**settings):
        sources = [{"kind": "folder", "path": "x", **settings}]
        of_older = {"data": {"sources": sources, "resize": "squash"}, "evaluation": {"resolution": "network"}}
        return fingerprint(parse(of_older))

    assert of() == of(image="images/{name}", mask="masks/{name}") == "6a352eb73580c922"
    assert of() != of(mask="labels/{name}")


@pytest.mark.parametrize("call", [survey, lambda settings: recognise(settings.path)], ids=["listing", "recognising"])
def test_listing_that_takes_long_says_so_in_a_pipe(call, tmp_path, monkeypatch, capsys):
    """As that of 100,000 files does, which took 12 s in silence."""
    files(tmp_path, "images/a.png", "masks/a.png")

    def slow(work, *given):
        time.sleep(0.3)
        return work(*given)

    monkeypatch.setattr(console, "SECONDS_OF_SILENCE", 0.05)
    find, recognised = Folder.find, Folder.recognise
    monkeypatch.setattr(Folder, "find", lambda *given: slow(find, *given))
    monkeypatch.setattr(Folder, "recognise", lambda *given: slow(recognised, *given))
    call(FolderSettings(path=tmp_path))
    assert f" {tmp_path}: 0." in capsys.readouterr().err
