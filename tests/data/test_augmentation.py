from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from medarts.config import AugmentationSettings, MixingSettings
from medarts.config.data import IGNORE
from medarts.data.batches import Mixture, augment, mix, mixing_weights

OFF: dict[str, Any] = {
    "flip": False, "transpose": False, "rotate": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": 0.0
}  # fmt: skip
GEOMETRY: list[dict[str, Any]] = [{"flip": True}, {"transpose": True}, {"rotate": 90.0}, {"scale": 0.4}]
INTENSITY: list[dict[str, Any]] = [{"brightness": 0.4}, {"contrast": 0.4}, {"gamma": 0.4}]


def settings(**on: Any) -> AugmentationSettings:
    return AugmentationSettings(**(OFF | on))


def batch(size: int = 32, number: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images with a bright shape of no symmetry on black, and its mask."""
    mask = np.zeros((size, size), np.uint8)
    s = size // 16
    mask[4 * s : 12 * s, 4 * s : 7 * s] = 1
    mask[9 * s : 12 * s, 4 * s : 11 * s] = 1
    masks = torch.from_numpy(mask).expand(number, -1, -1).clone()
    images = masks[:, None].float().expand(-1, 3, -1, -1).clone()
    return images, masks


def test_nothing_changes_when_all_is_off() -> None:
    images, masks = torch.rand(3, 3, 8, 8), torch.randint(0, 4, (3, 8, 8), dtype=torch.uint8)
    changed, moved = augment(images, masks, settings(), seed=0)
    assert torch.equal(changed, images)
    assert torch.equal(moved, masks)


@pytest.mark.parametrize("on", [*GEOMETRY, {"flip": True, "transpose": True, "rotate": 180.0, "scale": 0.3}])
def test_masks_follow_images(on: dict[str, Any]) -> None:
    images, masks = batch(64)
    changed, moved = augment(images, masks, settings(**on), seed=1)
    assert not torch.equal(moved, masks)
    agree = ((changed[:, 0] > 0.5) == (moved == 1)).float().mean(dim=(1, 2))
    assert agree.min() > 0.99


def test_flips_and_transposes_give_the_eight_symmetries() -> None:
    images, masks = batch(16, number=64)
    changed, moved = augment(images, masks, settings(flip=True, transpose=True), seed=0)
    whole = masks[0]
    symmetries = [torch.rot90(x, turns) for x in (whole, whole.T) for turns in range(4)]
    found = [[torch.equal(mask, symmetry) for symmetry in symmetries].index(True) for mask in moved]
    assert set(found) == set(range(8))
    assert torch.equal(changed[:, 1], moved.float())


@pytest.mark.parametrize("on", [*GEOMETRY, *INTENSITY])
def test_each_change_comes_to_about_half_of_the_images(on: dict[str, Any]) -> None:
    images, masks = batch(16, number=400)
    images = 0.25 + 0.4 * images
    changed, _ = augment(images, masks, settings(**on), seed=0)
    share = ((changed - images).abs().amax((1, 2, 3)) > 1e-4).float().mean().item()
    expected = 0.75 if "flip" in on else 0.5  # two independent mirrors
    assert share == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("on", [*GEOMETRY, *INTENSITY])
def test_each_image_draws_its_own_numbers(on: dict[str, Any]) -> None:
    images, masks = batch(16, number=32)
    changed, _ = augment(0.25 + 0.4 * images, masks, settings(**on), seed=0)
    different = {tuple(image.flatten().mul(1e4).round().tolist()) for image in changed}
    assert len(different) >= (2 if "transpose" in on else 4 if "flip" in on else 10)


ALL: dict[str, Any] = {
    "flip": True, "transpose": True, "rotate": 30.0, "scale": 0.2, "brightness": 0.3, "contrast": 0.3, "gamma": 0.3
}  # fmt: skip


def test_seed_alone_decides() -> None:
    images, masks = batch()
    a = augment(images, masks, settings(**ALL), seed=5)
    torch.manual_seed(1)
    np.random.seed(1)
    b = augment(images, masks, settings(**ALL), seed=5)
    c = augment(images, masks, settings(**ALL), seed=6)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], c[0])


def test_the_global_generators_are_left_alone() -> None:
    images, masks = batch()
    state = torch.get_rng_state()
    augment(images, masks, settings(**ALL), seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_values_stay_in_range_and_types_and_shapes_are_kept() -> None:
    images, masks = torch.rand(8, 3, 16, 16), torch.randint(0, 5, (8, 16, 16), dtype=torch.uint8)
    originals = images.clone(), masks.clone()
    strong = settings(**ALL | {"brightness": 0.9, "contrast": 0.9, "gamma": 0.9, "scale": 0.5})
    for seed in range(5):
        changed, moved = augment(images, masks, strong, seed=seed)
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert torch.isfinite(changed).all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert moved.shape == masks.shape
        assert moved.dtype == torch.uint8
        assert set(moved.unique().tolist()) <= {0, 1, 2, 3, 4}
    assert torch.equal(images, originals[0])
    assert torch.equal(masks, originals[1])


def test_rotation_is_that_of_scipy() -> None:
    """Every image is the original rotated about its centre by an angle within the range, as scipy rotates it."""
    size = 33
    y, x = np.mgrid[:size, :size]
    image = np.exp(-((y - 10) ** 2 + (x - 20) ** 2) / 20).astype(np.float32)
    images = torch.from_numpy(image).expand(6, 1, -1, -1).clone()
    masks = torch.zeros(6, size, size, dtype=torch.uint8)
    changed, _ = augment(images, masks, settings(rotate=40.0), seed=0)
    angles = np.arange(-90, 90.5, 0.5)
    rotated = np.stack([ndimage.rotate(image, angle, reshape=False, order=1) for angle in angles])
    errors = np.abs(changed.numpy() - rotated).max((2, 3))  # image x angle
    assert errors.min(1).max() < 0.03
    found = angles[errors.argmin(1)]
    assert np.abs(found).max() <= 40.5
    assert len(set(found)) > 2


def test_outside_the_image_masks_are_background_and_images_their_border() -> None:
    images, masks = torch.full((8, 1, 32, 32), 0.7), torch.ones(8, 32, 32, dtype=torch.uint8)
    changed, moved = augment(images, masks, settings(scale=0.5), seed=0)
    torch.testing.assert_close(changed, images)
    assert (moved[:, 0, 0] == 0).any()
    assert (moved[:, 16, 16] == 1).all()


def test_what_comes_in_from_outside_may_count_nothing() -> None:
    images, masks = torch.full((8, 1, 32, 32), 0.7), torch.ones(8, 2, 32, 32, dtype=torch.uint8)
    masks[:, 0, 10:20] = IGNORE
    strong = settings(scale=0.5, shift=0.2, rotate=20.0)
    background = augment(images, masks, strong, seed=0)[1]
    ignored = augment(images, masks, strong, seed=0, outside=IGNORE)[1]
    assert (background == 0).any()
    assert torch.equal(ignored, torch.where(background == 0, IGNORE, background).to(torch.uint8))


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_intensities_change_by_no_more_than_their_strength(strength: float) -> None:
    images, masks = torch.full((64, 1, 4, 4), 0.4), torch.zeros(64, 4, 4, dtype=torch.uint8)

    def change(**on: float) -> torch.Tensor:
        return augment(images, masks, settings(**on), seed=3)[0][:, 0, 0, 0]

    bright = change(brightness=strength) - 0.4
    assert bright.abs().max() <= strength + 1e-6
    assert bright.abs().max() > 0.8 * min(strength, 0.4)
    factor = (change(contrast=strength) - 0.5) / -0.1
    assert (factor - 1).abs().max() <= strength + 1e-5
    assert (factor - 1).abs().max() > 0.8 * strength
    power = torch.log(change(gamma=strength)) / np.log(0.4)
    assert (power - 1).abs().max() <= strength + 1e-5
    assert (power - 1).abs().max() > 0.8 * strength
    assert masks.max() == 0


# Mixing


def to_mix(size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose every pixel says which image it is, and targets that say the same."""
    numbers = torch.arange(size)
    return (2.0**numbers).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone(), numbers.view(-1, 1, 1).expand(-1, 4, 4).clone()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 8.0])
@pytest.mark.parametrize("images", [2, 3, 4])
def test_weights_are_shares(images: int, alpha: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        weights = mixing_weights(MixingSettings(alpha=alpha, images=images), generator)
        assert len(weights) == images
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        assert min(weights) >= 0


def test_two_weights_are_of_the_beta_distribution() -> None:
    generator = np.random.default_rng(0)
    for alpha in (0.5, 1.0, 2.0):
        draws = np.array([mixing_weights(MixingSettings(alpha=alpha), generator)[0] for _ in range(4000)])
        assert draws.mean() == pytest.approx(0.5, abs=0.03)
        assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("images", [3, 4])
def test_more_weights_are_a_softmax_of_draws_between_zero_and_one(images: int) -> None:
    generator = np.random.default_rng(0)
    draws = np.array([mixing_weights(MixingSettings(images=images), generator) for _ in range(4000)])
    assert (draws.max(1) / draws.min(1) <= np.e + 1e-9).all()
    assert (draws.max(1) / draws.min(1)).max() > 2.5
    assert draws.mean(0) == pytest.approx([1 / images] * images, abs=0.01)
    logs = np.log(draws)
    # Var of the difference of two independent Beta(0.5, 0.5) is 2 * 1/8.
    assert (logs[:, 0] - logs[:, 1]).var() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("images", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_images_and_targets_are_mixed_alike(images: int, seed: int) -> None:
    x, y = to_mix()
    mixture = mix(x, y, MixingSettings(images=images), seed=seed)
    assert len(mixture.parts) == images
    assert sum(lam for lam, _ in mixture.parts) == pytest.approx(1)
    # The targets name the images that went in: rebuilt from them, the mixed image must come out.
    rebuilt = sum(lam * 2.0 ** targets[:, None].float() for lam, targets in mixture.parts)
    torch.testing.assert_close(mixture.images, torch.as_tensor(rebuilt).expand(-1, 3, -1, -1))
    for _, targets in mixture.parts:
        assert sorted(targets[:, 0, 0].tolist()) == [0, 1, 2, 3, 4]
        assert targets.shape == y.shape
    assert torch.equal(mixture.parts[0][1], y)


def test_alpha_zero_is_the_batch_itself() -> None:
    x, y = to_mix()
    mixture = mix(x, y, MixingSettings(alpha=0, images=3), seed=0)
    assert mixture.images is x
    ((lam, targets),) = mixture.parts
    assert lam == 1.0
    assert targets is y


def test_the_seed_alone_decides_a_mixture() -> None:
    x, y = to_mix()
    settings = MixingSettings(images=3)
    a = mix(x, y, settings, seed=3)
    np.random.seed(0)
    torch.manual_seed(0)
    b = mix(x, y, settings, seed=3)
    c = mix(x, y, settings, seed=4)
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, c.images)


def test_input_is_left_as_it_was_and_images_stay_in_range() -> None:
    x, y = torch.rand(6, 3, 8, 8), torch.zeros(6, 8, 8, dtype=torch.uint8)
    before = x.clone()
    for seed in range(5):
        mixed = mix(x, y, MixingSettings(images=4), seed=seed).images
        assert mixed.dtype == x.dtype
        assert mixed.min() >= 0
        assert mixed.max() <= 1 + 1e-6
    assert torch.equal(x, before)


def test_a_batch_of_one_is_itself() -> None:
    x, y = to_mix(1)
    torch.testing.assert_close(mix(x, y, MixingSettings(images=2), seed=0).images, x)


@pytest.mark.parametrize("size", [1, 5, 7, 12])
def test_pieces_are_even_and_hold_every_image_with_its_targets(size: int) -> None:
    mixture = mix(*to_mix(size), MixingSettings(images=3), seed=1)
    for number in range(1, size + 1):
        shares, pieces = zip(*mixture.split(number), strict=True)
        sizes = [len(piece.images) for piece in pieces]
        assert (len(sizes), sum(sizes)) == (number, size)
        assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
        assert max(sizes) == -(-size // number)
        assert shares == tuple(length / size for length in sizes)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), mixture.images)
        for part, (lam, targets) in enumerate(mixture.parts):
            assert {piece.parts[part][0] for piece in pieces} == {lam}
            assert torch.equal(torch.cat([piece.parts[part][1] for piece in pieces]), targets)


def test_shares_make_the_means_of_pieces_the_mean_of_the_batch() -> None:
    images = torch.rand(7, 3, 4, 4, dtype=torch.float64)
    mixture = Mixture(images, ((1.0, images[:, 0]),))
    for number in (1, 2, 3, 7):
        mean = sum(share * piece.images.mean() for share, piece in mixture.split(number))
        torch.testing.assert_close(mean, images.mean(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("number", [0, -1, 6])
def test_no_piece_is_empty(number: int) -> None:
    with pytest.raises(ValueError, match=f"5 images cannot be split into {number} pieces"):
        mix(*to_mix(5), MixingSettings(), seed=0).split(number)
