"""Where images lie in what networks see."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.config.data import IGNORE
from medarts.data.arrays import data_section, from_arrays
from medarts.data.geometry import LEAST, Framing, fitted, padded, squashed
from medarts.data.reading import MaskState, frame_mask, unframed

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.sampled_from([16, 97, 256]))
def test_an_image_fits_and_keeps_its_aspect_ratio(height, width, size):
    framing = fitted(height, width, size=size)
    assert max(framing.rows, framing.columns) == size
    assert abs(framing.rows - height * size / max(height, width)) <= (0.5 if framing.rows > LEAST else LEAST)
    assert abs(framing.columns - width * size / max(height, width)) <= (0.5 if framing.columns > LEAST else LEAST)
    below = size - framing.top - framing.rows
    right = size - framing.left - framing.columns
    assert 0 <= below - framing.top <= 1
    assert 0 <= right - framing.left <= 1


@given(st.integers(1, 100), st.integers(1, 100), st.integers(16, 40))
def test_padding_surrounds_the_image_alone(height, width, size):
    framing = fitted(height, width, size=size)
    values = np.ones((2, framing.rows, framing.columns), np.uint8)
    square = padded(values, framing, (size, size), fill=255)
    assert square.shape == (2, size, size)
    np.testing.assert_array_equal(framing.inside(square), values)
    assert (square == 255).sum() == 2 * (size**2 - framing.rows * framing.columns)


def test_square_images_are_fitted_as_they_are_squashed():
    assert fitted(70, 70, size=32) == squashed(70, 70, size=32) == Framing(70, 70, 32, 32)


def test_a_store_says_how_its_images_are_framed():
    images, masks = np.full((10, 20, 30), 255, np.uint8), np.ones((10, 20, 30), bool)
    stretched = from_arrays(images, masks, size=16, resize="squash")
    assert stretched.framing(3) == squashed(20, 30, size=16)
    assert (stretched.targets[0] == 1).all()
    store = from_arrays(images, masks, size=16)
    framing = store.framing(3)
    assert framing == fitted(20, 30, size=16)
    inside = np.zeros((16, 16), bool)
    inside[framing.window] = True
    np.testing.assert_array_equal(store.targets[3], np.where(inside, 1, IGNORE))
    np.testing.assert_array_equal(store.images[3][0], inside)
    assert store.truths.tolist() == [[MaskState.PRESENT]] * 10


def test_stores_of_square_images_are_equal_bit_for_bit():
    generator = np.random.default_rng(0)
    images, masks = generator.integers(0, 255, (10, 24, 24), np.uint8), generator.random((10, 24, 24)) < 0.5
    fit, squash = (from_arrays(images, masks, size=16, resize=resize) for resize in ("fit", "squash"))
    np.testing.assert_array_equal(fit.images[:], squash.images[:])
    np.testing.assert_array_equal(fit.targets[:], squash.targets[:])
    assert fit.manifest.fingerprint() == squash.manifest.fingerprint()
    assert "resize" not in data_section(fit)


def test_stretched_and_padded_images_in_memory_are_different_data():
    images, masks = np.zeros((10, 20, 30), np.uint8), np.zeros((10, 20, 30), bool)
    fit, squash = (from_arrays(images, masks, size=16, resize=resize) for resize in ("fit", "squash"))
    assert fit.manifest.fingerprint() != squash.manifest.fingerprint()
    assert (data_section(fit)["resize"], data_section(squash)["resize"]) == ("fit", "squash")


@given(st.integers(24, 200), st.integers(24, 200), st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.1, 0.4))
@settings(max_examples=40, deadline=None)
def test_a_mask_has_its_area_when_it_comes_back(height, width, y, x, radius):
    """A disc that is fitted to 96 pixels and enlarged again has the same area up to half a pixel of its boundary."""
    rows, columns = np.mgrid[:height, :width]
    distance = radius * min(height, width)
    disc = (rows - y * height) ** 2 + (columns - x * width) ** 2 < distance**2
    framing = fitted(height, width, size=96)
    mask, _ = frame_mask(disc.astype(np.uint8), framing, size=96, number=1)
    back = unframed(torch.from_numpy((mask == 1).astype(np.float32))[None, None], framing)
    assert back.shape == (1, 1, height, width)
    pixel = max(1.0, height / framing.rows, width / framing.columns)  # of the coarser of both, in pixels of the file
    assert abs(float(back.sum()) - disc.sum()) <= 0.5 * pixel * 2 * np.pi * distance + pixel**2
    edges = np.abs(np.sqrt((rows - y * height) ** 2 + (columns - x * width) ** 2) - distance) > 2 * pixel
    np.testing.assert_array_equal(back[0, 0].numpy()[edges] >= 0.5, disc[edges])
