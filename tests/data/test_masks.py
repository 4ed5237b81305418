"""Masks: binary ones in all their spellings, labels, and masks of several classes that are no binary ones."""

import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medarts.config.data import IGNORE
from medarts.data.classifying import classify
from medarts.data.formats.raw import Raw
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.masks import read_mask
from medarts.errors import DataError


def mask_of(path: Path, labels: dict[int, int] | None = None, index: int | None = None):
    rules = ReadingRules(labels=tuple(labels.items()) if labels else None)
    return read_mask(Sample("k", path, path, "p", "d", "train", index), rules).classes


def read(values: np.ndarray, *, top: float | None = 255.0, labels: dict[int, int] | None = None, **more):
    """Returns the classes of stored values, HW or HWC."""
    values = values if values.ndim == 3 else values[..., None]
    rules = ReadingRules(labels=tuple(labels.items()) if labels else None)
    return classify(Raw(values, None if top is None else (0.0, top), **more), rules, path=Path("m.png")).classes


def drawn(*, size: int = 64, radius: float = 18.0, centre: tuple[float, float] = (30.0, 33.0)) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_binary_masks_in_all_their_spellings(tmp_path, top, mode):
    expected = np.zeros((6, 6), np.uint8)
    expected[2:4, 1:5] = 1
    stored = Image.fromarray(expected * 255).convert(mode) if top == 255 else Image.fromarray(expected).convert(mode)
    if (mode, top) == ("1", 1):
        stored = Image.fromarray(expected.astype(bool))
    stored.save(tmp_path / "m.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "m.png"), expected)


def test_noisy_and_sixteen_bit_binary_masks(tmp_path):
    noisy = np.array([[0, 3, 127], [128, 250, 255]], np.uint8)
    Image.fromarray(noisy).save(tmp_path / "n.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "n.png"), [[0, 0, 0], [1, 1, 1]])
    Image.fromarray(np.array([[0, 65535], [32767, 32768]], np.uint16)).save(tmp_path / "w.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "w.png"), [[0, 1], [0, 1]])
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "e.png")
    assert not mask_of(tmp_path / "e.png").any()


def test_a_coloured_drawing_is_foreground(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[1, 1] = (0, 0, 255)  # luma 29, far below half
    Image.fromarray(colour).save(tmp_path / "m.png")
    assert mask_of(tmp_path / "m.png").sum() == 1


def test_labels_map_values_and_refuse_unknown_ones(tmp_path):
    stored = np.array([[0, 63], [126, 63]], np.uint8)
    Image.fromarray(stored).save(tmp_path / "m.png")
    found = mask_of(tmp_path / "m.png", {63: 1, 126: 2})
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[0, 1], [2, 1]])
    with pytest.raises(DataError, match=r"m\.png holds the label 126 in 1 pixels"):
        mask_of(tmp_path / "m.png", {63: 1})
    with pytest.raises(DataError, match="label 63, 126"):
        mask_of(tmp_path / "m.png", {1: 1})


def test_palette_masks_with_labels_are_indices(tmp_path):
    classes = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "m.png", {1: 1, 2: 2}), classes)
    grey = Image.fromarray(np.array([[1, 0]], np.uint8), mode="P")
    grey.putpalette([255, 255, 255, 0, 0, 0])  # an optimiser's palette: index 0 is white
    grey.save(tmp_path / "g.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "g.png"), [[0, 1]])
    np.testing.assert_array_equal(mask_of(tmp_path / "g.png", {255: 1}), [[0, 1]])


def test_nifti_masks(tmp_path):
    binary = np.zeros((3, 4, 2))
    binary[1, 2, 1] = 1
    path = nifti(tmp_path / "m.nii.gz", binary, np.diag([-1.0, -1, 1, 1]))
    np.testing.assert_array_equal(mask_of(path, index=1), binary[..., 1].T)
    classes = nifti(tmp_path / "c.nii", np.full((3, 4, 2), 3, np.int16), np.eye(4))
    with pytest.raises(DataError, match="up to 3, neither 0 and 1 nor above half"):
        mask_of(classes, index=0)
    assert (mask_of(classes, {3: 2}, index=0) == 2).all()
    broken = nifti(tmp_path / "f.nii", np.full((3, 4, 2), 1.5), np.eye(4))
    with pytest.raises(DataError, match=r"label 1\.5"):
        mask_of(broken, {1: 1, 2: 2}, index=0)


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 98, 100])
@pytest.mark.parametrize("colour", [(255,), (255, 255, 255), (255, 0, 0)])
def test_the_noise_of_jpeg_is_no_class(quality, colour):
    expected = drawn()
    values = (expected[..., None] * np.array(colour)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(values[..., 0] if len(colour) == 1 else values).save(content, "JPEG", quality=quality)
    stored = np.asarray(Image.open(content))
    assert len(np.unique(stored)) > 2
    wrong = read(stored, lossy=True) != expected
    assert wrong.mean() < (0.03 if colour == (255, 0, 0) else 0.01)  # JPEG halves the resolution of colours
    assert not wrong[20:40, 23:43].any()


def lines(size: int = 64) -> np.ndarray:
    """Draws thin bent lines, as vessels are."""
    along = np.linspace(0, 1, 8 * size)
    mask = np.zeros((size, size), bool)
    for number in range(5):
        rows = size * (0.15 + 0.15 * number + 0.08 * np.sin((5 + number) * along + number))
        mask[rows.astype(int), (along * (size - 1)).astype(int)] = True
    return mask


@pytest.mark.parametrize("kind", [Image.Resampling.HAMMING, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("size", [33, 48, 100, 160])
@pytest.mark.parametrize("shape", [drawn, lines])
def test_smooth_edges_are_no_class(kind, size, shape):
    resized = np.asarray(Image.fromarray((shape() * 255).astype(np.uint8)).resize((size, size), kind))
    assert len(np.unique(resized)) > 2
    np.testing.assert_array_equal(read(resized), resized > 127.5)


def test_white_that_rounding_made_254_is_white():
    values = drawn() * np.uint8(255)
    values[30:33, 30:36] = 254
    np.testing.assert_array_equal(read(values), drawn())
    assert read(np.array([[254, 255]], np.uint8)).all()


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0, 128, 255), "{128: 1, 255: 2}"),
        ((255, 128, 0), "{0: 1, 128: 2, 255: 0}"),  # of optic disc and cup: white is the ground
        ((0, 200, 100), "{100: 1, 200: 2}"),
        ((0, 1, 255), "{1: 1, 255: ignore}"),
        ((0, 15, 255), "{15: 1, 255: ignore}"),
    ],
)
@pytest.mark.parametrize("radius", [1, 2, 6])
def test_three_values_are_refused_whatever_their_area(values, labels, radius):
    stored = np.full((64, 64), values[0], np.uint8)
    stored[drawn(radius=12)] = values[1]
    stored[drawn(radius=radius, centre=(10, 12))] = values[2]
    with pytest.raises(DataError, match=r"m\.png holds the values") as caught:
        read(stored)
    assert f"Give the source labels, such as {labels}" in caught.value.fix
    pairs = [pair.split(": ") for pair in labels[1:-1].split(", ")]
    given = {int(value): IGNORE if index == "ignore" else int(index) for value, index in pairs}
    assert set(np.unique(read(stored, labels=given))) == {0, *given.values()}


def test_a_class_with_a_void_border_is_not_its_border():
    # As in index masks with a palette: 1 is the object, 255 a line around it that counts for nothing.
    stored = np.where(drawn(), 255, 0).astype(np.uint8)
    stored[drawn(radius=16)] = 1
    with pytest.raises(
        DataError, match=r"values 0, 1, 255.* \{1: 1, 255: ignore\}, or \{1: 0, 255: 1\} where 1 is noise"
    ):
        read(stored)
    np.testing.assert_array_equal(read(stored, labels={1: 1, 255: 0}), drawn(radius=16))
    stored[5:9, 5:9] = 2
    with pytest.raises(DataError, match=r"such as \{1: 1, 2: 2, 255: ignore\}"):
        read(stored)


def test_the_classes_of_a_trimap_are_named():
    stored = np.full((32, 32), 2, np.uint8)
    stored[8:24, 8:24], stored[9:23, 9:23] = 3, 1
    with pytest.raises(DataError, match=r"up to 3, neither 0 and 1 nor .* \{1: 1, 2: 0, 3: 2\}"):
        read(stored)


def test_classes_that_went_through_jpeg_are_to_be_saved_again():
    stored = np.zeros((96, 96), np.uint8)
    stored[4:90, 4:90], stored[40:60, 40:60] = 128, 255
    content = io.BytesIO()
    Image.fromarray(stored).save(content, "JPEG", quality=75)
    with pytest.raises(DataError, match=r"Save it without JPEG noise and smooth edges\. Give the source labels"):
        read(np.asarray(Image.open(content)), lossy=True)


def test_two_values_on_one_side_of_half_are_refused():
    stored = np.where(drawn(), 128, 255).astype(np.uint8)
    with pytest.raises(DataError, match=r"values 128, 255, which lie on the same side.* \{128: 1, 255: 0\}"):
        read(stored)
    colours = np.where(drawn()[..., None], (255, 0, 0), (255, 255, 255)).astype(np.uint8)
    with pytest.raises(DataError, match=r"colours \(255, 0, 0\), 255, which lie on the same side"):
        read(colours)


def test_several_colours_are_named_however_dark():
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[drawn()] = (255, 0, 0)
    stored[drawn(radius=3)] = (0, 100, 0)
    with pytest.raises(DataError, match=r"colours 0, \(0, 100, 0\), \(255, 0, 0\), more than .*Give the source labels"):
        read(stored)
    np.testing.assert_array_equal(read(stored * np.array([1, 0, 0], np.uint8)), drawn() & ~drawn(radius=3))


def test_a_palette_of_several_colours_asks_for_labels_of_its_indices(tmp_path):
    classes = drawn().astype(np.uint8)
    classes[:6, :6], classes[-6:, -6:] = 2, 8
    image = Image.fromarray(classes, mode="P")
    colours = np.zeros((256, 3), np.uint8)
    colours[[1, 2, 8]] = (128, 0, 0), (0, 128, 0), (64, 0, 0)
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"\(64, 0, 0\).*such as \{1: 1, 2: 2, 8: 3\}"):
        mask_of(tmp_path / "m.png")
    assert set(np.unique(mask_of(tmp_path / "m.png", {1: 1, 2: 2, 8: 3}))) == {0, 1, 2, 3}
    classes[classes == 8] = 0
    image = Image.fromarray(classes, mode="P")
    image.putpalette(np.repeat(np.arange(256) * 127 % 256, 3).tolist())
    image.save(tmp_path / "g.png")
    with pytest.raises(DataError, match=r"label 127, 254.* Its palette is grey.* Give labels for the grey values"):
        mask_of(tmp_path / "g.png", {1: 1, 2: 2, 8: 3})


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_in_the_alpha_channel_is_said(tmp_path, colour, mode):
    alpha = (drawn() * 255).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(drawn().astype(np.uint8), mode="P")
        image.putpalette([colour] * 6)
        image.save(tmp_path / "m.png", transparency=b"\0\xff")
    else:
        bands = [np.full_like(alpha, colour)] * (len(mode) - 1) + [alpha]
        Image.fromarray(np.dstack(bands), mode=mode).save(tmp_path / "m.png")
    for labels in (None, {255: 1}):
        with pytest.raises(DataError, match=r"colours .* alike, .*alpha channel"):
            mask_of(tmp_path / "m.png", labels)


def test_an_opaque_mask_and_one_with_a_shaped_alpha_are_read(tmp_path):
    mask = (drawn() * 255).astype(np.uint8)
    zero = np.zeros_like(mask)
    Image.fromarray(np.dstack([mask, zero, zero, mask // 2]), mode="RGBA").save(tmp_path / "m.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "m.png"), drawn())
    Image.fromarray(np.dstack([zero, zero, zero, zero + 255]), mode="RGBA").save(tmp_path / "e.png")
    assert not mask_of(tmp_path / "e.png").any()


@pytest.mark.parametrize(
    ("stored", "slope"),
    [
        (np.int16(255), 1 / 255),
        (np.int16(10000), 0.0001),
        (np.float32(0.99999994), 1.0),
        (np.float64(1.0000000001), 1.0),
        (np.float64(0.9995), 1.0),
    ],
)
def test_values_that_are_whole_but_for_rounding_are_whole(tmp_path, stored, slope):
    classes = drawn(size=48).astype(np.uint8)
    classes[:4, :4] = 2
    image = nibabel.Nifti1Image((classes * stored)[..., None].astype(stored.dtype), np.eye(4))
    image.header.set_slope_inter(slope, 0)
    path = tmp_path / "m.nii"
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, 0], "<f4").tobytes()  # nibabel scales what it saves
    content[352:] = (classes * stored).astype(stored.dtype).tobytes(order="F")
    path.write_bytes(bytes(content))
    found = mask_of(path, {0: 0, 1: 1, 2: 2}, index=0)
    np.testing.assert_array_equal(found, classes[::-1, ::-1].T)
    with pytest.raises(DataError, match=r"up to 2, neither .*such as \{1: 1, 2: 2\}"):
        mask_of(path, index=0)


@pytest.mark.parametrize(("value", "shown"), [(1.01, "1.01"), (0.9989, "0.9989"), (-1.0, "-1"), (2.5, "2.5")])
def test_labels_off_whole_numbers_are_shown_with_all_digits(value, shown):
    with pytest.raises(DataError, match=rf"holds the label {shown} in 4 pixels"):
        read(np.full((2, 2), value), top=None, labels={1: 1, 2: 2})


def test_negative_values_are_no_background():
    with pytest.raises(DataError, match=r"negative values \(down to -1\)"):
        read(np.array([[-1, 0], [1, 0]], np.int16), top=None)


def test_probabilities_of_three_levels_are_no_binary_mask():
    stored = np.where(drawn(), 1.0, 0.0)
    np.testing.assert_array_equal(read(stored, top=1.0), drawn())
    stored[drawn(radius=9)] = 0.4
    with pytest.raises(DataError, match=r"values 0, 0\.4, 1, more than .*as whole numbers"):
        read(stored, top=1.0)


def test_labels_of_sixteen_bits_do_not_hurt_masks_of_eight():
    stored = np.array([[0, 7], [255, 0]], np.uint8)
    np.testing.assert_array_equal(read(stored, labels={7: 1, 255: 2, 300: 3, 65535: 4}), [[0, 1], [2, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint16, np.int32])
def test_masks_of_every_type(dtype):
    mask = drawn()
    np.testing.assert_array_equal(read(mask.astype(dtype), top=None), mask)
    with pytest.raises(DataError, match=r"up to 2, neither .* \{1: 1, 2: 2\}"):
        read((mask + drawn(radius=2).astype(np.uint8)).astype(dtype), top=None)
