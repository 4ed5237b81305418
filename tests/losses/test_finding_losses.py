"""Losses of findings against the formulas of their papers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from medarts.config.data import IGNORE
from medarts.errors import MedartsError, RecipeError
from medarts.losses import Loss, make_loss

NAMES = ("bce_logits", "weighted_bce", "focal", "asymmetric")
PREVALENCE = np.array([0.002, 0.1, 0.4, 0.9, 0.5])


def finding_loss(name: str, *, prevalence=None, field: str = "loss") -> Loss:
    return make_loss(name, task="classification", outputs=5, prevalence=prevalence, field=field)


def batch(*, images=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 5, generator=generator, dtype=dtype) * 3
    return logits, torch.randint(0, 2, (images, 5), generator=generator, dtype=torch.uint8)


def by_the_formula(name, logits, labels):
    """The losses as the papers print them, logit by logit in float64."""
    rows = []
    for row, truths in zip(logits.double().tolist(), labels.tolist(), strict=True):
        values = []
        for z, y, share in zip(row, truths, PREVALENCE, strict=True):
            p = 1 / (1 + np.exp(-z))
            if name == "bce_logits":
                value = -np.log(p) if y else -np.log(1 - p)
            elif name == "weighted_bce":
                value = -(1 - share) * np.log(p) if y else -share * np.log(1 - p)
            elif name == "focal":
                value = -0.25 * (1 - p) ** 2 * np.log(p) if y else -0.75 * p**2 * np.log(1 - p)
            else:
                shifted = max(p - 0.05, 0)
                value = -np.log(p) if y else -(shifted**4) * np.log(1 - shifted)
            values.append(value)
        rows.append(np.mean(values))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula_for_every_image(name, dtype):
    logits, labels = batch(dtype=dtype)
    value = finding_loss(name, prevalence=PREVALENCE)(logits, labels)
    assert value.shape == (4,)
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), by_the_formula(name, logits, labels), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_findings_that_are_ignored_add_nothing(name):
    """The mean stays one over all findings, as a label counts alike however many others of its image are unknown."""
    logits, labels = batch(dtype=torch.float64)
    ignored = torch.zeros(labels.shape, dtype=torch.bool)
    ignored[0, 1], ignored[1, :3], ignored[2] = True, True, True
    loss = finding_loss(name, prevalence=PREVALENCE)
    logits.requires_grad_()
    values = loss(logits, labels.masked_fill(ignored, IGNORE))
    for image in range(4):
        alone = torch.zeros(5, 5, dtype=torch.float64).fill_diagonal_(1).bool()  # each finding by itself
        terms = loss(torch.where(alone, logits[image], -30.0), torch.where(alone, labels[image], 0))
        torch.testing.assert_close(values[image], terms[~ignored[image]].sum(), rtol=1e-9, atol=1e-10)
    values.sum().backward()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all() or name == "asymmetric"  # whose margin has none


def test_focal_equals_monai():
    from monai.losses import FocalLoss

    logits, labels = batch()
    oracle = FocalLoss(gamma=2, alpha=0.25, reduction="none", include_background=True)
    expected = oracle(logits[..., None], labels[..., None].float())[..., 0].mean(1)
    torch.testing.assert_close(finding_loss("focal")(logits, labels), expected)


def test_weights_balance_a_rare_finding():
    """With the weights of CheXNet positives and negatives of a finding have the same total weight."""
    labels = torch.zeros(100, 1, dtype=torch.uint8)
    labels[:10] = 1
    loss = finding_loss("weighted_bce", prevalence=labels.numpy().mean(0))(torch.zeros(100, 1), labels)
    torch.testing.assert_close(loss[:10].sum(), loss[10:].sum())
    absent = finding_loss("weighted_bce", prevalence=[0.0])(torch.ones(3, 1), torch.zeros(3, 1))
    assert not absent.any()


@pytest.mark.parametrize("name", NAMES)
def test_large_logits_give_finite_losses_and_gradients(name):
    labels = torch.tensor([[0, 1, 0, 1, 1]] * 3, dtype=torch.uint8)
    for size in (50.0, 1e4):
        logits = torch.tensor([[size] * 5, [-size] * 5, [size, -size, -size, size, 0]], requires_grad=True)
        value = finding_loss(name, prevalence=PREVALENCE)(logits, labels)
        value.sum().backward()
        assert value.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_a_confident_miss_is_not_saturated():
    """-log p of a positive at logit -50 is 50, and its gradient -1."""
    for name, factor in (("bce_logits", 1.0), ("asymmetric", 1.0), ("focal", 0.25), ("weighted_bce", 0.9)):
        logit = torch.tensor([[-50.0]], requires_grad=True)
        value = finding_loss(name, prevalence=[0.1])(logit, torch.ones(1, 1))
        value.sum().backward()
        assert value.item() == pytest.approx(50 * factor, rel=1e-6)
        assert logit.grad.item() == pytest.approx(-factor, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    logits, labels = batch()
    half = logits.to(torch.bfloat16)
    loss = finding_loss(name, prevalence=PREVALENCE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(half, labels)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(half.float(), labels))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    logits, labels = batch(dtype=torch.float64)
    loss = finding_loss(name, prevalence=PREVALENCE)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 10_000), scale=st.floats(0.01, 30))
def test_losses_are_not_negative_and_images_do_not_touch(name, seed, scale):
    logits, labels = batch(seed=seed)
    loss = finding_loss(name, prevalence=PREVALENCE)
    value = loss(logits * scale, labels)
    assert (value >= 0).all()
    torch.testing.assert_close(value[2:3], loss(logits[2:3] * scale, labels[2:3]))


def test_easy_examples_count_less_than_with_bce():
    logits, labels = torch.tensor([[-3.0]]), torch.zeros(1, 1)
    plain = F.binary_cross_entropy_with_logits(logits, labels).item()
    assert finding_loss("focal")(logits, labels).item() < plain / 100
    # p = 0.047 is below the margin: nothing is left.
    assert finding_loss("asymmetric")(logits, labels).item() == 0


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match=r"train\.loss 'dice' is a loss of masks, not of findings.*weighted_bce"):
        finding_loss("dice", field="train.loss")
    with pytest.raises(RecipeError, match="Did you mean 'focal'"):
        finding_loss("focl")


@pytest.mark.parametrize("prevalence", [None, [0.1] * 4 + [1.2], [-0.1] * 5, [np.nan] * 5, [[0.1, 0.2]], [0.1]])
def test_weighted_bce_needs_a_prevalence_of_every_finding(prevalence):
    with pytest.raises(MedartsError, match=r"weighted_bce.*prevalence in 0\.\.1 for each of 5 findings"):
        finding_loss("weighted_bce", prevalence=prevalence)(*batch())
