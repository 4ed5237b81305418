"""Mirrored copies and sliding windows: equal to a single pass where they must be."""

import numpy as np
import pytest
from tests.deploy.engines_of_tests import FindingsEngine, PixelEngine, findings_info, masks_info

from medarts.data.windows import blended, starts
from medarts.deploy.passes import Mirrored, Windowed

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (3, 1, 50, 70)).astype(np.float32)
LIMITS = np.array([[0, 255], [1, 200], [2, 100]], np.float32)


@pytest.mark.parametrize("classes", [1, 3])
def test_windows_of_a_network_of_single_pixels_give_what_a_whole_image_gives(classes: int) -> None:
    engine = PixelEngine(classes)
    whole = engine.run(IMAGES, LIMITS)["probabilities"]
    found = Windowed(engine, 16, batch=4).run(IMAGES, LIMITS)["probabilities"]
    assert found.dtype == np.float32
    assert np.allclose(found, whole, atol=1e-6)
    assert np.allclose(found.sum(1), whole.sum(1), atol=1e-6)


def test_a_constant_image_is_constant_in_windows() -> None:
    image = np.full((1, 1, 40, 33), 102, np.float32)
    found = Windowed(PixelEngine(), 16, batch=8).run(image, LIMITS[:1])["probabilities"]
    assert np.allclose(found, 0.4, atol=1e-6)


@pytest.mark.parametrize("window", [70, 71, 1000])
def test_an_image_no_larger_than_the_window_is_predicted_whole(window: int) -> None:
    engine = PixelEngine()
    Windowed(engine, window, batch=1).run(IMAGES, LIMITS)
    assert engine.shapes == [IMAGES.shape]


def test_windows_have_the_limits_of_their_whole_image_and_fit_into_a_batch() -> None:
    engine = PixelEngine()
    Windowed(engine, 32, batch=4).run(IMAGES, LIMITS)
    assert max(shape[0] for shape in engine.shapes) == 4
    assert {shape[2:] for shape in engine.shapes} == {(32, 32)}
    assert np.array_equal(np.unique(np.concatenate(engine.limits), axis=0), LIMITS)


def test_windows_of_a_narrow_image_are_as_wide_as_it_is() -> None:
    engine = PixelEngine()
    Windowed(engine, 60, batch=8).run(IMAGES, LIMITS)
    assert {shape[2:] for shape in engine.shapes} == {(50, 60)}


@pytest.mark.parametrize(("length", "window"), [(100, 99), (100, 16), (17, 16), (1000, 256), (97, 33), (16, 16)])
def test_windows_overlap_by_half_and_reach_both_ends(length: int, window: int) -> None:
    found = starts(length, window)
    assert (found[0], found[-1]) == (0, length - window)
    assert max(np.diff(found), default=0) <= (window + 1) // 2


def test_the_middle_of_a_window_counts_more_than_its_edge() -> None:
    def marked(tiles: np.ndarray) -> np.ndarray:
        found = np.zeros_like(tiles)
        found[:, :, 4:12, 4:12] = 1
        return found

    found = blended(np.zeros((1, 32, 32), np.float32), 16, marked, batch=64)[0]
    assert found[8, 8] > 0.9  # the middle of one window, the corner of others
    assert found[0, 0] == 0


def test_mirrored_passes_of_a_network_of_single_pixels_change_nothing() -> None:
    engine = PixelEngine(2)
    found = Mirrored(engine, masks_info(outputs=("background", "a"))).run(IMAGES, LIMITS)["probabilities"]
    assert len(engine.shapes) == 4
    assert np.allclose(found, engine.run(IMAGES, LIMITS)["probabilities"], atol=1e-6)


def test_masks_of_mirrored_images_are_mirrored_masks() -> None:
    def uneven(values: np.ndarray) -> np.ndarray:
        return values * np.linspace(0, 1, values.shape[-1]) * np.linspace(1, 0, values.shape[-2])[:, None]

    single = PixelEngine(make=uneven)
    mirrored = Mirrored(single, masks_info())
    for axis in (-1, -2):
        flipped = np.flip(IMAGES, axis).copy()
        of_flipped = mirrored.run(flipped, LIMITS)["probabilities"]
        assert np.allclose(np.flip(of_flipped, axis), mirrored.run(IMAGES, LIMITS)["probabilities"], atol=1e-6)
        one = single.run(flipped, LIMITS)["probabilities"]
        assert not np.allclose(np.flip(one, axis), single.run(IMAGES, LIMITS)["probabilities"], atol=0.1)


def test_findings_are_averaged_left_and_right_and_decided_by_their_own_thresholds() -> None:
    image = np.full((1, 1, 4, 4), 51, np.float32)
    image[..., 2:] = 153
    info = findings_info()
    assert info.finding_thresholds == (0.4, 0.5)
    found = Mirrored(FindingsEngine(), info).run(image, LIMITS[:1])
    assert np.allclose(found["probabilities"], 0.4)
    one = FindingsEngine().run(image, LIMITS[:1])["calibrated"]
    assert np.allclose(found["calibrated"], one.mean())
    assert found["decisions"].tolist() == [[1, 0]]
