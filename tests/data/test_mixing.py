import numpy as np
import pytest
import torch

from medarts.config import MixingSettings
from medarts.data.mixing import Mixture, mix, mixing_weights


def batch(size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
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
    x, y = batch()
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
    x, y = batch()
    mixture = mix(x, y, MixingSettings(alpha=0, images=3), seed=0)
    assert mixture.images is x
    ((lam, targets),) = mixture.parts
    assert lam == 1.0
    assert targets is y


def test_seed_alone_decides() -> None:
    x, y = batch()
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
    x, y = batch(1)
    torch.testing.assert_close(mix(x, y, MixingSettings(images=2), seed=0).images, x)


@pytest.mark.parametrize("size", [1, 5, 7, 12])
def test_pieces_are_even_and_hold_every_image_with_its_targets(size: int) -> None:
    mixture = mix(*batch(size), MixingSettings(images=3), seed=1)
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
        mix(*batch(5), MixingSettings(), seed=0).split(number)
