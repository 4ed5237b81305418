import numpy as np
import pytest

from medarts.data.resizing import resize_image, resize_mask, vanished_classes


def test_images_are_resized_smoothly() -> None:
    board = (np.indices((64, 48)).sum(0) % 2).astype(np.float32)[..., None]  # a chess board of single pixels
    resized = resize_image(board, 16)
    assert resized.shape == (1, 16, 16)
    np.testing.assert_allclose(resized[0, 2:-2, 2:-2], 0.5, atol=0.06)  # without antialiasing: 0 or 1


def test_masks_keep_their_classes() -> None:
    mask = np.repeat(np.array([0, 3, 1, 7], np.uint8), 16)[:, None] * np.ones((1, 40), np.uint8)
    np.testing.assert_array_equal(resize_mask(mask, 8)[:, 0], np.repeat([0, 3, 1, 7], 2))


@pytest.mark.parametrize(
    ("boxes", "vanished"),
    [
        ({}, ()),
        ({1: (0, 1)}, (1,)),  # one pixel in a corner, which no pixel of the small mask is taken from
        ({1: (0, 32)}, ()),
        ({1: (0, 32), 2: (41, 42)}, (2,)),
        ({5: (0, 1), 2: (41, 42)}, (2, 5)),
    ],
)
def test_classes_that_vanish(boxes: dict[int, tuple[int, int]], vanished: tuple[int, ...]) -> None:
    mask = np.zeros((256, 256), np.uint8)
    for index, (start, stop) in boxes.items():
        mask[start:stop, start:stop] = index
    assert vanished_classes(mask, resize_mask(mask, 16)) == vanished
    assert vanished_classes(mask, resize_mask(mask, 512)) == ()


def test_a_background_that_vanishes_is_no_class() -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[0, 0] = 0
    assert vanished_classes(mask, resize_mask(mask, 16)) == ()
