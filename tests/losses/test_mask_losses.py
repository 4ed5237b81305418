"""Losses of masks against MONAI and their definitions, and loss parameters in a recipe."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from medarts.config import Recipe, apply_overrides, parse
from medarts.errors import RecipeError
from medarts.losses import SMOOTHING, Loss, make_loss, register_loss
from medarts.registry import losses

NAMES = ("bce", "bce_logits", "dice", "soft_dice", "bce_dice", "ce", "ce_dice", "tversky")
FITTING = [(name, 1) for name in NAMES if not name.startswith("ce")] + [
    (name, 3) for name in NAMES if not name.startswith("bce")
]


def mask_loss(name: str, *, classes: int) -> Loss:
    return make_loss(name, task="segmentation", outputs=classes)


def batch(classes, *, images=3, size=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, size, size, generator=generator, dtype=dtype) * 2
    target = torch.randint(0, max(classes, 2), (images, size, size), generator=generator, dtype=torch.uint8)
    return logits, target


def confident(target, classes):
    """Logits that predict the target with certainty."""
    if classes == 1:
        return (target.unsqueeze(1).float() * 2 - 1) * 100
    return F.one_hot(target.long(), classes).permute(0, 3, 1, 2).float() * 200 - 100


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("name", ["dice", "soft_dice"])
def test_dice_losses_equal_monai_per_image(name, classes):
    from monai.losses import DiceLoss

    logits, target = batch(classes)
    target[1] = 0
    oracle = DiceLoss(
        sigmoid=classes == 1,
        softmax=classes > 1,
        to_onehot_y=classes > 1,
        include_background=classes == 1,
        squared_pred=name == "soft_dice",
        smooth_nr=SMOOTHING,
        smooth_dr=SMOOTHING,
        reduction="none",
    )
    expected = oracle(logits, target.unsqueeze(1).float()).flatten(1).mean(1)
    torch.testing.assert_close(mask_loss(name, classes=classes)(logits, target), expected)


def test_cross_entropies_equal_their_definition_in_numpy():
    logits, target = batch(1)
    probability, mask = 1 / (1 + np.exp(-logits[:, 0].double().numpy())), target.numpy() == 1
    binary = -np.log(np.where(mask, probability, 1 - probability)).mean((1, 2))
    for name in ("bce", "bce_logits"):
        np.testing.assert_allclose(mask_loss(name, classes=1)(logits, target), binary, rtol=1e-5)

    logits, target = batch(3)
    exponentials = np.exp(logits.double().numpy())
    softmax = exponentials / exponentials.sum(1, keepdims=True)
    chosen = np.take_along_axis(softmax, target.long().numpy()[:, None], 1)[:, 0]
    np.testing.assert_allclose(mask_loss("ce", classes=3)(logits, target), -np.log(chosen).mean((1, 2)), rtol=1e-5)


def test_sums_have_their_published_weights():
    logits, target = batch(1)
    parts = {name: mask_loss(name, classes=1)(logits, target) for name in ("bce_logits", "dice", "bce_dice")}
    torch.testing.assert_close(parts["bce_dice"], 0.5 * parts["bce_logits"] + parts["dice"])
    logits, target = batch(3)
    parts = {name: mask_loss(name, classes=3)(logits, target) for name in ("ce", "dice", "ce_dice")}
    torch.testing.assert_close(parts["ce_dice"], parts["ce"] + parts["dice"])


@pytest.mark.parametrize(("name", "classes"), FITTING)
def test_an_image_has_the_same_loss_alone_and_in_a_batch(name, classes):
    logits, target = batch(classes)
    loss = mask_loss(name, classes=classes)
    together = loss(logits, target)
    assert together.shape == (3,)
    alone = torch.cat([loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("name", "classes"), FITTING)
def test_a_perfect_prediction_has_loss_zero_and_its_opposite_a_large_one(name, classes, empty):
    _, target = batch(classes)
    target = torch.zeros_like(target) if empty else target
    loss = mask_loss(name, classes=classes)
    right = loss(confident(target, classes), target)
    torch.testing.assert_close(right, torch.zeros(3), atol=1e-6, rtol=0)
    # Every foreground class wrong: empty where there was something, class 1 where there was nothing.
    opposite = torch.where(target > 0, torch.zeros_like(target), torch.ones_like(target))
    # A class absent from both is a right answer for Dice, hence half and not one.
    least = 0.9 if classes == 1 or not empty else 0.45
    assert (loss(confident(opposite, classes), target) > least).all()


@pytest.mark.parametrize(("name", "classes"), FITTING)
def test_gradients_are_those_of_finite_differences(name, classes):
    logits, target = batch(classes, images=2, size=3, dtype=torch.float64)
    loss = mask_loss(name, classes=classes)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize(("name", "classes"), FITTING)
def test_half_precision_and_autocast_compute_in_float32(name, classes):
    logits, target = batch(classes, size=64)
    half = logits.bfloat16().requires_grad_()
    loss = mask_loss(name, classes=classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.detach().float(), target), rtol=1e-6, atol=0)
    value.mean().backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize(("name", "classes"), FITTING)
def test_extreme_logits_give_finite_losses_and_gradients(name, classes):
    _, target = batch(classes)
    logits = (-1e4 * confident(target, classes).sign()).requires_grad_()
    value = mask_loss(name, classes=classes)(logits, target)
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(case=st.sampled_from(FITTING), seed=st.integers(0, 10_000), scale=st.floats(0.01, 50))
def test_losses_are_not_negative_and_dice_is_at_most_one(case, seed, scale):
    name, classes = case
    logits, target = batch(classes, seed=seed)
    value = mask_loss(name, classes=classes)(logits * scale, target)
    assert (value >= -1e-6).all()
    if name in {"dice", "soft_dice", "tversky"}:
        assert (value <= 1).all()


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(["dice", "soft_dice", "ce", "ce_dice"]), seed=st.integers(0, 10_000))
def test_exchanging_foreground_classes_changes_nothing(name, seed):
    logits, target = batch(4, seed=seed)
    order = torch.tensor([0, 3, 1, 2])
    renamed = order.argsort().to(torch.uint8)[target.long()]
    loss = mask_loss(name, classes=4)
    torch.testing.assert_close(loss(logits[:, order], renamed), loss(logits, target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_one_class_takes_every_index_but_background_as_foreground(dtype):
    logits, target = batch(1)
    for name in ("bce", "bce_logits", "dice", "soft_dice", "bce_dice"):
        loss = mask_loss(name, classes=1)
        torch.testing.assert_close(loss(logits, (3 * target).to(dtype)), loss(logits, target))


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        ("bce_dice", 3, "ce_dice"),
        ("bce", 2, "ce_dice"),
        ("ce", 1, "bce_logits"),
        ("ce_dice", 1, "bce_dice"),
        ("sof_dice", 1, "soft_dice"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_with_one_that_does(name, classes, words):
    with pytest.raises(RecipeError, match=words) as refusal:
        mask_loss(name, classes=classes)
    assert name in refusal.value.problem


def test_tversky_is_dice_at_one_half_and_otherwise_its_definition():
    for classes in (1, 3):
        logits, target = batch(classes)
        half = make_loss(losses.choose({"name": "tversky", "alpha": 0.5}), task="segmentation", outputs=classes)
        torch.testing.assert_close(half(logits, target), mask_loss("dice", classes=classes)(logits, target))
    logits, target = batch(1)
    p, t = logits[:, 0].sigmoid(), target.float()
    tp, fp, fn = (x.sum((1, 2)) for x in (p * t, p * (1 - t), (1 - p) * t))
    found = make_loss(losses.choose({"name": "tversky", "alpha": 0.2}), task="segmentation", outputs=1)
    half_pixel = SMOOTHING / 2
    torch.testing.assert_close(found(logits, target), 1 - (tp + half_pixel) / (tp + 0.2 * fp + 0.8 * fn + half_pixel))


def test_a_loss_of_ones_own_is_told_by_what_it_declares_and_not_by_its_name(small_recipe: Recipe):
    """`centerline_dice` begins with "ce", and `bcereal` with "bce"."""

    @register_loss("bcereal", task="segmentation", outputs="exclusive")
    @register_loss("centerline_dice", task="segmentation", outputs="binary")
    def of_ones(logits, target):
        return logits[:, 0].abs().mean((1, 2))

    try:
        recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), ["train.loss=centerline_dice"]))
        logits, target = batch(1)
        assert make_loss(recipe.train.loss, task="segmentation", outputs=1)(logits, target).shape == (3,)
        with pytest.raises(RecipeError, match=r"train\.loss 'bcereal' does not fit data\.classes 1.*centerline_dice"):
            make_loss("bcereal", task="segmentation", outputs=1, field="train.loss")
        mask_loss("bcereal", classes=3)
    finally:
        losses.remove("centerline_dice")
        losses.remove("bcereal")


def test_parameters_of_a_loss_are_part_of_the_recipe(small_recipe: Recipe):
    content = small_recipe.model_dump(mode="json")
    recipe = parse(apply_overrides(content, ["train.loss={name: tversky, alpha: 0.4}"]))
    assert recipe.train.loss.model_dump() == {"name": "tversky", "alpha": 0.4}
    assert parse(recipe.model_dump(mode="json")) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # as processes send it
    with pytest.raises(RecipeError, match=r"train\.loss\.alpha"):
        parse(apply_overrides(content, ["train.loss={name: tversky, alpha: 4.0}"]))
    with pytest.raises(RecipeError, match=r"train\.loss\.beta is not a key"):
        parse(apply_overrides(content, ["train.loss={name: tversky, beta: 0.4}"]))
