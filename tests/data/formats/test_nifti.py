"""NIfTI: a mask in the order of its image, slices without unpacking the volume, and names that say little."""

import gzip
import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest

from medarts.data.doctor import examine
from medarts.data.formats import check_grids, raw_image, raw_mask, slice_count
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.opening import open_sources
from medarts.data.reading import read_pair
from medarts.data.recognising import recognise
from medarts.errors import DataError

SHAPE = (7, 6, 5)
AFFINE = np.array([[0.8, 0, 0, -10], [0, 0.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
OBLIQUE = AFFINE.copy()
OBLIQUE[:3, :3] = [[0.6, 0.5, 0.2], [-0.5, 0.6, 0.3], [0.1, -0.4, 2.4]]


def volumes(affine=AFFINE):
    """Returns an image whose values are bright where its mask is 1, so that any mistake of place shows."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 2:5, 3:] = 1
    mask[5, 1, 0] = 1
    image = 100 * mask.astype(np.int16) + np.arange(mask.size, dtype=np.int16).reshape(SHAPE) % 50
    return nibabel.Nifti1Image(image, affine), nibabel.Nifti1Image(mask, affine)


def saved(folder, image, mask, suffix=".nii.gz"):
    for name, volume in (("images", image), ("masks", mask)):
        (folder / name).mkdir(exist_ok=True)
        nibabel.save(volume, folder / name / f"v{suffix}")
    return folder / f"images/v{suffix}", folder / f"masks/v{suffix}"


def grey_under_mask(image, mask):
    """Returns the least grey under the mask and the greatest beside it, as pairs are read."""
    inside, outside = [], []
    for index in range(SHAPE[2]):
        sample = Sample("k", image, mask, "p", "d", "train", index)
        values, classes, *_ = read_pair(sample, ReadingRules(window=(0, 150)), channels=1)
        inside += values[classes == 1, 0].tolist()
        outside += values[classes == 0, 0].tolist()
    assert len(inside) == 19
    return min(inside), max(outside)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", [
    [[0, 1], [1, 1], [2, 1]], [[0, 1], [1, 1], [2, -1]], [[0, -1], [1, 1], [2, 1]], [[0, -1], [1, -1], [2, -1]],
    [[1, 1], [0, 1], [2, 1]], [[1, -1], [0, 1], [2, -1]],
])  # fmt: skip
def test_a_mask_stored_in_another_order_is_brought_into_that_of_its_image(tmp_path, order, affine):
    image, mask = volumes(affine)
    paths = saved(tmp_path, image, mask.as_reoriented(np.array(order)))
    check_grids(*paths)
    inside, outside = grey_under_mask(*paths)
    assert inside > 0.6 > outside


def test_orientations_that_rounding_names_differently_are_one(tmp_path):
    # Turned by 45 degrees, whether the first axis counts as left or back depends on the last digit.
    turn = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:2, :2] = [[turn, -turn], [turn, turn]]
    image, mask = volumes(affine)
    other = affine.copy()
    other[:2, :2] += [[1e-6, 1e-6], [-1e-6, 1e-6]]
    mirrored = affine.copy()
    mirrored[:2, :2] -= [[1e-6, 1e-6], [-1e-6, 1e-6]]
    assert nibabel.aff2axcodes(other) != nibabel.aff2axcodes(mirrored)
    paths = saved(
        tmp_path, nibabel.Nifti1Image(image.get_fdata(), other), nibabel.Nifti1Image(mask.get_fdata(), mirrored)
    )
    inside, outside = grey_under_mask(*paths)
    assert inside > 0.6 > outside


def refused(tmp_path, mask, match, reason):
    image, _ = volumes()
    paths = saved(tmp_path, image, mask)
    with pytest.raises(DataError, match=match):
        check_grids(*paths)
    with pytest.raises(DataError, match=match):
        raw_mask(paths[1], 0, indices=False, image=paths[0])
    (settings,) = recognise(tmp_path)
    with pytest.raises(DataError, match=rf"mask off the grid of its volume \(1\): v\.nii\.gz \({reason}\)"):
        open_sources([settings])
    faults = [finding.problem for finding in examine([settings]).findings if finding.level == "error"]
    assert any("mask off the grid" in problem for problem in faults)


def test_a_mask_elsewhere_is_refused_before_any_slice_is_read(tmp_path):
    _, mask = volumes()
    shifted = AFFINE.copy()
    shifted[0, 3] += 10
    refused(tmp_path, nibabel.Nifti1Image(mask.get_fdata(), shifted), "bounds are up to 10 mm", "10 mm away")
    plain = nibabel.Nifti1Image(mask.get_fdata(), np.diag([-1.0, -1, 1, 1]))
    refused(tmp_path, plain, "does not lie on the grid", r"[\d.]+ mm away")


@pytest.mark.parametrize("lacking", ["image", "mask"])
def test_a_volume_without_an_affine_is_said_to_have_none(tmp_path, lacking):
    image, mask = volumes()
    without = image if lacking == "image" else mask
    without.set_sform(None, 0)
    without.set_qform(None, 0)
    with pytest.raises(DataError, match=rf"the {lacking} has no affine \(its qform and sform codes are 0\)"):
        check_grids(*saved(tmp_path, image, mask))
    mask.set_sform(None, 0), mask.set_qform(None, 0)
    image.set_sform(None, 0), image.set_qform(None, 0)
    check_grids(*saved(tmp_path, image, mask))


def test_masks_off_their_grids_are_one_line_with_a_distance_each(tmp_path):
    for number, gap in enumerate((10, 25)):
        image, mask = volumes()
        shifted = AFFINE.copy()
        shifted[0, 3] += gap
        saved(tmp_path, image, nibabel.Nifti1Image(mask.get_fdata(), shifted))
        for folder in ("images", "masks"):
            (tmp_path / folder / "v.nii.gz").rename(tmp_path / folder / f"{number}.nii.gz")
    (line,) = (group.line for group in examine(recognise(tmp_path)).groups if "grid" in group.line)
    assert "mask off the grid of its volume (2): 0.nii.gz (10 mm away), 1.nii.gz (25 mm away). Resample" in line


def test_slices_along_another_axis_are_refused(tmp_path):
    cube = nibabel.Nifti1Image(np.zeros((5, 5, 5), np.int16), np.eye(4))
    turned = cube.as_reoriented(np.array([[2, 1], [1, 1], [0, 1]]))
    paths = saved(tmp_path, cube, turned)
    with pytest.raises(DataError, match=r"run along another axis \(SAR\) than .*\(RAS\)\. Save the mask with the axes"):
        check_grids(*paths)


@pytest.mark.parametrize(("gap", "fine"), [(1e-4, True), (0.02, True), (0.2, False)])
def test_rounding_of_an_affine_is_no_difference(tmp_path, gap, fine):
    image, mask = volumes()
    moved = AFFINE.copy()
    moved[1, 3] += gap
    paths = saved(tmp_path, image, nibabel.Nifti1Image(mask.get_fdata(), moved))
    if fine:
        check_grids(*paths)
    else:
        with pytest.raises(DataError, match="0\\.2 mm away"):
            check_grids(*paths)


def test_a_grid_may_stand_in_either_of_the_two_places_of_a_header(tmp_path):
    image, mask = volumes()
    for volume, codes in ((image, (0, 1)), (mask, (1, 0))):  # sform alone, qform alone
        volume.set_sform(AFFINE if codes[1] else None, codes[1])
        volume.set_qform(AFFINE, codes[0])
    paths = saved(tmp_path, image, mask)
    inside, outside = grey_under_mask(*paths)
    assert inside > 0.6 > outside


def test_a_mask_on_a_picture_has_no_grid_to_compare(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((6, 7), np.uint8)).save(tmp_path / "i.png")
    nibabel.save(nibabel.Nifti1Image(np.ones((7, 6), np.uint8), AFFINE), tmp_path / "m.nii")
    assert raw_mask(tmp_path / "m.nii", indices=False, image=tmp_path / "i.png").values.shape == (6, 7, 1)


def test_one_slice_of_a_packed_volume_does_not_take_the_memory_of_all(tmp_path):
    shape, path = (256, 256, 300), tmp_path / "a.nii.gz"
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).header
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for index in range(shape[2]):
            file.write(np.full(shape[:2], index, "<i2").tobytes())
    tracemalloc.start()
    for index in (299, 7, 150):
        assert (raw_image(path, index).values == index).all()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 256 * 256 * 2 + 8_000_000  # the volume has 39 MB


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.png", "a.dcm"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_content_tells_the_format(tmp_path, name, packed, kind):
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    nibabel.save(kind(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "x.nii")
    content = (tmp_path / "x.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert slice_count(tmp_path / name) == 2
    np.testing.assert_array_equal(raw_image(tmp_path / name, 1).values[..., 0], values[..., 1].T)


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_not_utf_8_are_read(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "x.nii.gz")
    odd = tmp_path / os.fsdecode(b"l\xe9sion.nii.gz")
    try:
        shutil.copy(tmp_path / "x.nii.gz", odd)
    except OSError:
        pytest.skip("the file system wants UTF-8")
    np.testing.assert_array_equal(raw_image(odd, 1).values[..., 0], values[..., 1].T)


def test_half_of_a_pair_of_files_is_said(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 3, 2), np.int16), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"a\.nii is the header of a pair of files\. Save the two"):
        raw_image(tmp_path / "a.nii", 0)


def test_scaled_images_are_scaled(tmp_path):
    stored = np.array([[[0], [512]], [[1000], [550]]], np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([2, -1024], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content))
    np.testing.assert_array_equal(raw_image(tmp_path / "a.nii", 0).values[..., 0], [[-1024, 976], [0, 76]])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf, 1e39])
def test_voxels_that_are_no_numbers_are_counted(tmp_path, strange):
    values = np.zeros((4, 3, 2))
    values[1, 1, 0] = strange
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"not finite \(NaN or infinity\) in 1 of 12 places"):
        raw_image(tmp_path / "a.nii", 0)
    assert not raw_image(tmp_path / "a.nii", 1).values.any()


def test_threads_read_slices_of_one_volume(tmp_path):
    values = np.random.default_rng(0).integers(0, 1000, (40, 30, 64), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii.gz")
    order = np.random.default_rng(1).permutation(64).tolist() * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: raw_image(tmp_path / "a.nii.gz", index).values[..., 0], order))
    for index, plane in zip(order, found, strict=True):
        np.testing.assert_array_equal(plane, values[..., index].T)


@pytest.mark.parametrize(("dtype", "limits"), [("u2", (0, 65535)), ("i2", None), ("f4", (0, 1)), ("u1", (0, 255))])
def test_both_byte_orders_are_one(tmp_path, dtype, limits):
    values = np.arange(24).reshape(4, 3, 2).astype(dtype) // 23 if dtype == "f4" else np.arange(24).reshape(4, 3, 2)
    found = []
    for order in "<>":
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
        nibabel.save(nibabel.Nifti1Image(values.astype(dtype), np.eye(4), header), tmp_path / "a.nii")
        found.append(raw_image(tmp_path / "a.nii", 1))
    assert found[0].range == found[1].range == limits
    assert found[0].values.dtype == found[1].values.dtype
    np.testing.assert_array_equal(found[0].values, found[1].values)


@pytest.mark.parametrize("offset", [0, 16, 348, -8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_within_the_header_are_refused(tmp_path, offset, version, suffix):
    kind, where, code = (nibabel.Nifti1Image, 108, "<f4") if version == 1 else (nibabel.Nifti2Image, 168, "<i8")
    content = bytearray(kind(np.ones(SHAPE, np.uint8), AFFINE).to_bytes())
    content[where : where + np.dtype(code).itemsize] = np.array(offset, code).tobytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    for read in (lambda: raw_image(path, 0), lambda: slice_count(path)):
        with pytest.raises(DataError, match=r"a\.nii.*(within its header\. Set vox_offset|vox offset .* too low)"):
            read()
