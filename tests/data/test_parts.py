"""Images of several files, and of neighbouring slices."""

import io
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.parts import parts_of
from medarts.data.reading import read_image
from medarts.engine.listing import changed_files, listing_of
from medarts.errors import DataError

RULES = ReadingRules()


@pytest.fixture
def two_files(tmp_path) -> Sample:
    """An image of two grey files and a mask."""
    for number, name in enumerate(("flair", "t1", "mask")):
        Image.fromarray(np.full((6, 8), 50 * (number + 1), np.uint8)).save(tmp_path / f"{name}.png")
    flair, t1, mask = (tmp_path / f"{name}.png" for name in ("flair", "t1", "mask"))
    return Sample("a", flair, mask, "a", "mr", "train", more=(t1,))


def volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]) if affine is None else affine), path)
    return path


def test_channels_of_further_files_follow_those_of_the_first(two_files):
    image = read_image(two_files, RULES, channels=2)
    assert image.shape == (6, 8, 2)
    np.testing.assert_allclose(image[0, 0], np.array([50, 100]) / 255, atol=1e-6)


def test_each_file_is_scaled_by_itself(tmp_path):
    ramp = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for name, values in (("a", ramp), ("b", ramp * 100)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    sample = Sample("a", tmp_path / "a.png", None, "a", "mr", "train", more=(tmp_path / "b.png",))
    image = read_image(sample, ReadingRules(percentiles=(0, 100)), channels=2)
    np.testing.assert_allclose(image[..., 0], image[..., 1], atol=1e-6)
    assert image.max() == 1


def test_channels_have_to_be_those_of_the_recipe(two_files):
    with pytest.raises(DataError, match=r"flair\.png and the 1 .* have 2 channels, but 3 .*in_channels to 2"):
        read_image(two_files, RULES, channels=3)


def test_files_of_two_sizes_are_named(two_files):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(two_files.more[0])
    with pytest.raises(DataError, match=r"t1\.png is 6 x 9 .*flair\.png.* 6 x 8"):
        read_image(two_files, RULES, channels=2)


def test_volumes_stored_in_another_order_are_brought_into_that_of_the_first(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (5, 6, 4)).astype(np.uint8)
    first = volume(tmp_path / "a.nii", values)
    turned = np.diag([-1.0, -1, -1, 1])
    turned[2, 3] = 3
    second = volume(tmp_path / "b.nii", values[..., ::-1], turned)
    sample = Sample("a/1", first, None, "a", "mr", "train", slice_index=1, more=(second,))
    image = read_image(sample, RULES, channels=2)
    np.testing.assert_array_equal(image[..., 0], image[..., 1])


def test_volumes_of_two_grids_are_named(tmp_path):
    values = np.zeros((5, 6, 4), np.uint8)
    first, second = volume(tmp_path / "a.nii", values), volume(tmp_path / "b.nii", values, np.diag([-2.0, -2, 1, 1]))
    sample = Sample("a/1", first, None, "a", "mr", "train", slice_index=1, more=(second,))
    with pytest.raises(DataError, match=r"b\.nii does not lie on the grid of .*a\.nii.*Resample both"):
        read_image(sample, RULES, channels=2)


def test_neighbouring_slices_become_channels_and_the_last_is_repeated(tmp_path):
    values = np.broadcast_to(np.arange(4, dtype=np.uint8) * 51, (5, 6, 4))
    sample = Sample("a/0", volume(tmp_path / "a.nii", values), None, "a", "ct", "train", slice_index=0)
    found = [read_image(replace(sample, slice_index=n), RULES, channels=5, context=2)[0, 0] * 5 for n in range(4)]
    np.testing.assert_allclose(found, [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]], atol=1e-5)


def test_slices_that_are_files_have_neighbours(tmp_path):
    series = tuple(tmp_path / f"{n}.dcm" for n in range(3))
    sample = Sample("a/0", series[0], None, "a", "ct", "train", series=series)
    assert [part.path for part in parts_of(sample, context=1)] == [series[0], series[0], series[1]]


def test_a_single_image_has_no_neighbours(two_files):
    with pytest.raises(DataError, match=r"flair\.png is no slice of a volume.*data\.context to 0"):
        read_image(two_files, RULES, channels=6, context=1)


def test_contents_of_all_files_identify_data(two_files):
    manifest = Manifest((two_files,), {"mr": RULES})
    before = manifest.fingerprint(), manifest.to_csv()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(two_files.more[0])
    changed = replace(manifest)
    assert changed.fingerprint() != before[0]
    listings = [listing_of(io.StringIO(text)) for text in (before[1], changed.to_csv())]
    assert changed_files(*listings) == [str(two_files.more[0])]
    assert replace(manifest, samples=(replace(two_files, mask=None),)).fingerprint() != changed.fingerprint()


def test_the_manifest_of_single_files_stays_as_it_was(two_files):
    text = Manifest((replace(two_files, more=()),), {"mr": RULES}).to_csv()
    assert text.splitlines()[0].endswith("image_digest,mask_digest")
