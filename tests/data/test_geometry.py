"""Where images lie in what networks see."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medarts.data.arrays import from_arrays
from medarts.data.geometry import Framing, fitted, padded, squashed

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.sampled_from([16, 97, 256]))
def test_an_image_fits_and_keeps_its_aspect_ratio(height, width, size):
    framing = fitted(height, width, size=size)
    assert max(framing.rows, framing.columns) == size
    assert abs(framing.rows - height * size / max(height, width)) <= (0.5 if framing.rows > 1 else 1)
    assert abs(framing.columns - width * size / max(height, width)) <= (0.5 if framing.columns > 1 else 1)
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
    store = from_arrays(np.zeros((10, 20, 30), np.uint8), np.zeros((10, 20, 30), bool), size=16)
    assert store.framing(3) == squashed(20, 30, size=16)
