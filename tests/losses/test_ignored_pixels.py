"""Ignored pixels and classes that may overlap, in every registered loss of masks."""

import pytest
import torch
from torch import Tensor

from medarts.config.data import IGNORE
from medarts.errors import RecipeError
from medarts.losses import Loss, make_loss, register_loss
from medarts.registry import losses

MASK_LOSSES = [name for name in losses.names() if losses.entry(name).about["task"] in (None, "segmentation")]
BINARY = [name for name in MASK_LOSSES if losses.entry(name).about["outputs"] in ("any", "binary")]


def fitting(name: str) -> int:
    """Returns outputs that a loss is for."""
    return 3 if losses.entry(name).about["outputs"] == "exclusive" else 1


def batch(outputs: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, outputs, 8, 16, generator=generator)
    return logits, torch.randint(0, max(outputs, 2), (3, 8, 16), generator=generator, dtype=torch.uint8)


def of(name: str, outputs: int, **given: bool) -> Loss:
    return make_loss(name, task="segmentation", outputs=outputs, **given)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_the_loss_is_that_of_the_other_pixels(name: str) -> None:
    logits, target = batch(fitting(name))
    target[:, :, 8:] = IGNORE
    loss = of(name, fitting(name))
    torch.testing.assert_close(loss(logits, target), loss(logits[..., :8].clone(), target[..., :8].clone()))


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_ignored_pixels_have_no_gradient(name: str) -> None:
    logits, target = batch(fitting(name))
    target[0, 2:5, 3:9] = IGNORE
    logits.requires_grad_()
    of(name, fitting(name))(logits, target).sum().backward()
    assert logits.grad is not None
    ignored = (target == IGNORE).unsqueeze(1).expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).any()


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_an_image_of_which_nothing_counts_has_no_loss(name: str) -> None:
    logits, target = batch(fitting(name))
    target[1] = IGNORE
    assert of(name, fitting(name))(logits, target)[1].item() == pytest.approx(0, abs=1e-6)


def test_a_loss_of_a_user_needs_to_know_nothing_of_ignored_pixels() -> None:
    """Unless it takes a mean over pixels, for which it is told how many count."""

    @register_loss("summed", task="segmentation", outputs="binary")
    def summed(logits: Tensor, target: Tensor) -> Tensor:
        assert target.max() <= 1
        return (logits[:, 0].sigmoid() - target).abs().sum((1, 2))

    @register_loss("averaged", task="segmentation", outputs="binary")
    def averaged(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
        number = target[0].numel() if counted is None else counted.sum((1, 2))
        return summed(logits, target) / number

    try:
        logits, target = batch(1)
        target[:, :, 8:] = IGNORE
        for name in ("summed", "averaged"):
            loss = of(name, 1)
            torch.testing.assert_close(loss(logits, target), loss(logits[..., :8], target[..., :8]))
    finally:
        losses.remove("summed")
        losses.remove("averaged")


@pytest.mark.parametrize("name", BINARY)
def test_of_overlapping_classes_the_loss_is_the_mean_of_each(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    target = torch.randint(0, 2, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    target[0, 1, :4] = IGNORE
    of_each = torch.stack([of(name, 1)(logits[:, k : k + 1], target[:, k]) for k in range(3)], 1)
    torch.testing.assert_close(of(name, 3, overlap=True)(logits, target), of_each.mean(1))


def test_losses_of_exclusive_classes_are_refused_for_overlapping_ones() -> None:
    with pytest.raises(RecipeError, match="'ce' does not fit classes that may overlap") as caught:
        of("ce", 3, overlap=True)
    assert "bce_dice" in caught.value.fix
    with pytest.raises(RecipeError, match="'bce_dice' does not fit 3 exclusive classes"):
        of("bce_dice", 3)
