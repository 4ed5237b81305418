"""The task of findings: its loss by hand, its score against pairs counted one by one, and what it refuses."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medarts.config import Recipe, Split, apply_overrides, parse
from medarts.config.data import IGNORE
from medarts.data.batches import Batches, Mixture
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.opening import open_manifest
from medarts.data.store import ImageStore
from medarts.errors import DataError, RecipeError
from medarts.tasks import ClassificationTask, SegmentationTask, make_task

FINDINGS = ("a", "b", "c")


def manifest(*splits: tuple[Split, list[list[int]]]) -> Manifest:
    """Samples with these labels in every split, an image of its own each."""
    samples = [
        Sample(
            f"{split}{number}",
            Path(f"{split}{number}.png"),
            None,
            f"{split}{number}",
            "d",
            split,
            findings=tuple(name for name, shown in zip(FINDINGS, row, strict=True) if shown == 1),
            unknown=tuple(name for name, shown in zip(FINDINGS, row, strict=True) if shown == IGNORE),
        )
        for split, rows in splits
        for number, row in enumerate(rows)
    ]
    return Manifest(tuple(samples), {"d": ReadingRules()}, FINDINGS)


TRAINING: tuple[Split, list[list[int]]] = ("train", [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]])
VALIDATION: tuple[Split, list[list[int]]] = ("val", [[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]])
"""Every image shows c."""


@pytest.fixture
def task() -> ClassificationTask:
    return ClassificationTask(manifest(TRAINING, VALIDATION), loss="bce_logits")


def bce(logit: float, label: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(label * math.log(p) + (1 - label) * math.log(1 - p))


def mean_bce(logits: Tensor, labels: Tensor) -> float:
    pairs = zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True)
    return float(np.mean([bce(logit, label) for logit, label in pairs]))


LOGITS = torch.tensor([[0.5, -1.0, 2.0], [-0.3, 0.1, -2.0]])
EARLY = torch.tensor([[1.5, 0.0, -1.0], [0.3, -0.7, 1.0]])
LABELS = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.uint8)
OTHERS = LABELS.flip(0)
IMAGES = torch.zeros(2, 1, 4, 4)


# The loss


def test_loss_is_the_mean_over_images_and_findings(task):
    loss = task.loss([LOGITS], Mixture(IMAGES, ((1.0, LABELS),)))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(mean_bce(LOGITS, LABELS), rel=1e-6)


def test_mixed_labels_count_by_their_share(task):
    loss = task.loss([LOGITS], Mixture(IMAGES, ((0.7, LABELS), (0.3, OTHERS))))
    assert loss.item() == pytest.approx(0.7 * mean_bce(LOGITS, LABELS) + 0.3 * mean_bce(LOGITS, OTHERS), rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_an_auxiliary_head_counts_by_its_weight_with_mixing(weight):
    task = ClassificationTask(manifest(TRAINING, VALIDATION), loss="bce_logits", auxiliary_weight=weight)
    loss = task.loss([EARLY, LOGITS], Mixture(IMAGES, ((0.7, LABELS), (0.3, OTHERS))))
    last = 0.7 * mean_bce(LOGITS, LABELS) + 0.3 * mean_bce(LOGITS, OTHERS)
    early = 0.7 * mean_bce(EARLY, LABELS) + 0.3 * mean_bce(EARLY, OTHERS)
    assert loss.item() == pytest.approx(last + weight * early, rel=1e-6)


def test_the_gradient_reaches_every_head(task):
    heads = [EARLY.clone().requires_grad_(), LOGITS.clone().requires_grad_()]
    task.loss(heads, Mixture(IMAGES, ((1.0, LABELS),))).backward()
    for head, weight in zip(heads, (0.4, 1.0), strict=True):
        torch.testing.assert_close(head.grad, weight * (head.detach().sigmoid() - LABELS) / LABELS.numel())


def test_pieces_of_a_batch_add_up(task):
    mixture = Mixture(IMAGES, ((0.7, LABELS), (0.3, OTHERS)))
    whole = task.loss([EARLY, LOGITS], mixture).item()
    heads = [[EARLY[at : at + 1], LOGITS[at : at + 1]] for at in range(2)]
    pieces = zip(heads, mixture.split(2), strict=True)
    assert sum(share * task.loss(of, part).item() for of, (share, part) in pieces) == pytest.approx(whole, rel=1e-6)


def test_the_weights_of_a_weighted_loss_come_from_the_training_images():
    """Prevalences of 1/4, 2/4 and 0; those of validation are others."""
    task = ClassificationTask(manifest(TRAINING, VALIDATION), loss="weighted_bce")
    prevalence = [0.25, 0.5, 0.0]
    terms = [
        (1 - prevalence[column] if LABELS[row, column] else prevalence[column])
        * bce(float(LOGITS[row, column]), float(LABELS[row, column]))
        for row in range(2)
        for column in range(3)
    ]
    loss = task.loss([LOGITS], Mixture(IMAGES, ((1.0, LABELS),)))
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-6)


def test_half_precision_makes_no_half_loss(task):
    loss = task.loss([EARLY.bfloat16(), LOGITS.bfloat16()], Mixture(IMAGES, ((1.0, LABELS),)))
    assert loss.dtype == torch.float32


# The score


def validation_batches(
    logits: np.ndarray, *, batch: int = 2, validation: tuple[Split, list[list[int]]] = VALIDATION
) -> Batches:
    """Batches whose images hold the logits that a network gives for them, in their first row."""
    whole = manifest(TRAINING, validation)
    images = np.zeros((len(whole.samples), 1, 4, 4), np.float16)
    images[len(TRAINING[1]) :, 0, 0, :3] = logits
    store = ImageStore(whole, images, whole.labels(), np.zeros((len(images), 0), np.uint8))
    return Batches(store, whole.of_split("val"), batch=batch, name="validation set", device=torch.device("cpu"))


def reading(images: Tensor) -> Tensor:
    """A network whose logits are in its images."""
    return images[:, 0, 0, :3]


def pairs_in_order(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under the ROC curve as the share of pairs in the right order, ties counting half."""
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    return sum(1.0 if yes > no else 0.5 if yes == no else 0.0 for yes, no in pairs) / len(pairs)


PREDICTED = np.array([[2, -1, 3], [1, 0, 0], [2, 1, 1], [2, 0, -2], [-1, 2, 4]], dtype=np.float64) / 4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_validate_is_the_mean_over_the_findings_that_can_be_ranked(task, batch):
    values = task.validate(reading, validation_batches(PREDICTED, batch=batch))
    labels = np.array(VALIDATION[1])
    expected = {name: pairs_in_order(PREDICTED[:, column], labels[:, column]) for column, name in enumerate("ab")}
    assert values["val_auroc_by_finding"] == pytest.approx({**expected, "c": None})
    assert list(values["val_auroc_by_finding"]) == list(FINDINGS)
    assert values["val_auroc"] == pytest.approx(np.mean(list(expected.values())))
    assert 0.5 < values["val_auroc"] < 1
    loss = mean_bce(torch.from_numpy(PREDICTED), torch.from_numpy(labels))
    assert values["val_loss"] == pytest.approx(loss, rel=1e-5)  # also of uneven batches
    assert task.score in values


def test_labels_that_are_ignored_count_for_nothing():
    """Prevalences of 1/2, 1/1 and 0; the score is over the images of which a finding is known."""
    labels = [[1, IGNORE, 0], [IGNORE, 1, 0], [0, IGNORE, 0], [IGNORE, IGNORE, IGNORE]]
    rows = [[1, 0, 1], [0, IGNORE, 1], [IGNORE, 1, IGNORE], [0, 0, IGNORE], [0, 1, 1]]
    task = ClassificationTask(manifest(("train", labels), ("val", rows)), loss="weighted_bce")
    one = torch.tensor([[0.5, IGNORE, IGNORE]]), torch.tensor([[1, IGNORE, IGNORE]], dtype=torch.uint8)
    assert task.loss([one[0]], Mixture(IMAGES[:1], ((1.0, one[1]),))).item() == pytest.approx(0.5 * bce(0.5, 1) / 3)
    values = task.validate(reading, validation_batches(PREDICTED, validation=("val", rows)))
    known = [np.array(rows)[:, column] != IGNORE for column in range(2)]
    expected = {
        name: pairs_in_order(PREDICTED[known[n], n], np.array(rows)[known[n], n]) for n, name in enumerate("ab")
    }
    assert values["val_auroc_by_finding"] == pytest.approx({**expected, "c": None})
    batches = validation_batches(PREDICTED, validation=("val", rows))
    assert batches.rarest_shown.tolist() == [0, 2, 1, -1, 1]  # images that show a, b and c: 1, 2 and 3
    for ignored in ([[0, IGNORE, 1]] * 2, [[1, IGNORE, 0], [0, IGNORE, 0]]):
        with pytest.raises(DataError, match="No training image says whether it shows 'b'"):
            ClassificationTask(manifest(("train", ignored), ("val", rows)), loss="bce_logits")


def test_validate_keeps_no_graph(task):
    values = task.validate(lambda images: images[:, 0, 0, :3].requires_grad_() * 1.0, validation_batches(PREDICTED))
    assert type(values["val_loss"]) is float


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_score(task, broken):
    """The loss says it, and whoever asked stops there."""

    def diverged(images: Tensor) -> Tensor:
        logits = images[:, 0, 0, :3].clone()
        logits[0, 0] = broken
        return logits

    values = task.validate(diverged, validation_batches(PREDICTED))
    assert not math.isfinite(values["val_loss"])
    assert set(values["val_auroc_by_finding"].values()) == {None}
    assert math.isnan(values["val_auroc"])


# What is refused


@pytest.mark.parametrize("rows", [[[0, 0, 1], [0, 0, 1]], [[1, 1, 1]], [[0, 0, 0]]])
def test_validation_images_that_rank_nothing_are_refused(rows):
    with pytest.raises(DataError, match="None of the findings is both present and absent") as caught:
        ClassificationTask(manifest(TRAINING, ("val", rows)), loss="bce_logits")
    assert "split val" in caught.value.fix
    with pytest.raises(DataError, match="validation images of fold 2, so") as caught:
        ClassificationTask(manifest(TRAINING, ("val", rows)), loss="bce_logits", fold=2)
    assert "data.folds" in caught.value.fix
    ClassificationTask(manifest(TRAINING, ("val", [*rows, [0, 1, 0], [0, 0, 0]])), loss="bce_logits")


@pytest.mark.parametrize(
    ("label", "words"), [(0, "No training image of fold 2 shows"), (1, "Every training image of fold 2 shows")]
)
def test_findings_that_cannot_be_learned_are_named_with_who_differs(finding_recipe: Recipe, label: int, words: str):
    rows = [[0, 1, label], [1, 0, label], [1, 1, IGNORE]]
    whole = manifest(("train", rows), ("val", [[0, 1, 1 - label], [1, 0, label]]), ("test", [[0, 0, 1 - label]]))
    recipe = parse(apply_overrides(finding_recipe.model_dump(mode="json"), ["data.folds=3", "data.fold=2"]))
    with pytest.raises(DataError, match=f"{words} 'c', so a network") as caught:
        make_task(recipe, whole, loss="bce_logits", field="train.loss")
    others = [sample for sample in whole.samples if (sample.findings.count("c") == 1 - label) and not sample.unknown]
    assert len(others) == 2
    for sample in others:
        assert f"patient {sample.patient} ({sample.split})" in caught.value.problem
    assert "data.findings" in caught.value.fix
    make_task(recipe, whole, loss="bce_logits", field="train.loss", learned=True)


def test_the_recipe_chooses_the_task(finding_recipe: Recipe, small_recipe: Recipe):
    changes = ["train.auxiliary_weight=0.7"]
    recipe = parse(apply_overrides(finding_recipe.model_dump(mode="json"), changes))
    whole = open_manifest(recipe.data, needs=())
    task = make_task(recipe, whole, loss="focal", field="train.loss")
    assert isinstance(task, ClassificationTask)
    assert (task.score, task.auxiliary_weight, task.findings) == ("val_auroc", 0.7, whole.findings)
    masks = open_manifest(small_recipe.data, needs=())
    assert isinstance(make_task(small_recipe, masks, loss="dice", field="train.loss"), SegmentationTask)
    with pytest.raises(RecipeError, match=r"search\.loss 'dice' is a loss of masks, not of findings"):
        make_task(recipe, whole, loss="dice", field="search.loss")
    with pytest.raises(RecipeError, match="focal"):
        make_task(small_recipe, masks, loss="focal", field="search.loss")
