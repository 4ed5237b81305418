"""The score of a pass over images, where masks vanish and classes have no examples."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medarts.config import DataSettings, make_source
from medarts.config.data import IGNORE
from medarts.data.batches import Batches, Mixture
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.reading import MaskState
from medarts.data.store import ImageStore
from medarts.errors import DataError
from medarts.models import create_model
from medarts.registry import models
from medarts.tasks import SegmentationTask

SIZE = 16
EMPTY, PRESENT, VANISHED = MaskState


SOURCES = (make_source(kind="folder", path="nowhere"),)


def store_of(truths: list[list[int]], *, domains: str) -> ImageStore:
    """Images whose masks have, of each class that is present, a row of pixels of its own."""
    samples = tuple(
        Sample(f"{n}", Path(f"{n}"), Path(f"{n}"), patient=f"{n}", domain=domain, split="val")
        for n, domain in enumerate(domains)
    )
    masks = np.zeros((len(truths), SIZE, SIZE), np.uint8)
    for mask, of_image in zip(masks, truths, strict=True):
        for number, truth in enumerate(of_image, 1):
            mask[number] = number * (truth == PRESENT)
    manifest = Manifest(samples, dict.fromkeys(domains, ReadingRules()))
    return ImageStore(manifest, np.zeros((len(truths), 1, SIZE, SIZE), np.float16), masks, np.array(truths, np.uint8))


def validated(truths: list[list[int]], *, domains: str, predicted: np.ndarray) -> dict:
    """Validates a network that predicts the same classes (H, W) for every image."""
    classes = len(truths[0]) + 1 if len(truths[0]) > 1 else 1
    settings = DataSettings(
        sources=(make_source(kind="folder", path=Path("x"), labels={1: 1}),),
        size=SIZE,
        in_channels=1,
        classes=classes,
    )
    task = SegmentationTask(settings, loss="bce_dice" if classes == 1 else "ce")
    store = store_of(truths, domains=domains)
    batches = Batches(store, store.manifest, batch=2, name="val", device=torch.device("cpu"))
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), classes).permute(2, 0, 1) * 20.0 - 10
    if classes == 1:
        logits = torch.from_numpy(predicted)[None] * 20.0 - 10
    return task.validate(lambda images, **_: [logits.float().expand(len(images), -1, -1, -1)], batches)


NOTHING = np.zeros((SIZE, SIZE), np.int64)


def test_what_vanished_counts_as_not_found() -> None:
    found = validated([[VANISHED], [VANISHED], [EMPTY]], domains="aaa", predicted=NOTHING)
    assert found["val_dice"] == pytest.approx(1 / 3)
    assert validated([[PRESENT], [EMPTY]], domains="aa", predicted=NOTHING)["val_dice"] == 0.5


def test_a_class_that_no_image_of_a_domain_shows_is_left_out() -> None:
    first = NOTHING.copy()
    first[1] = 1
    truths = [[PRESENT, EMPTY], [PRESENT, EMPTY], [PRESENT, VANISHED], [EMPTY, EMPTY]]
    found = validated(truths, domains="aabb", predicted=first)
    assert found["val_dice_by_domain"] == {"a": 1.0, "b": pytest.approx(((1 + 0) / 2 + (0 + 1) / 2) / 2)}
    assert found["val_dice"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)


def test_a_domain_without_any_class_has_no_score() -> None:
    found = validated([[PRESENT, EMPTY], [EMPTY, EMPTY]], domains="ab", predicted=NOTHING)
    assert found["val_dice_by_domain"] == {"a": 0.0, "b": None}
    assert found["val_dice"] == 0.0


def test_parts_whose_masks_show_nothing_are_refused() -> None:
    part = {"training": store_of([[EMPTY], [VANISHED]], domains="aa").manifest}
    settings = DataSettings(sources=SOURCES, classes=1, size=16)
    check = SegmentationTask(settings, loss="dice").check
    emptied = r"All masks of the training images are empty once .* data\.size 16\. Raise data\.size"
    with pytest.raises(DataError, match=emptied):
        check(store_of([[EMPTY], [VANISHED]], domains="aa"), part)
    with pytest.raises(DataError, match="All masks of the training images are empty"):
        check(store_of([[EMPTY], [EMPTY]], domains="aa"), part)
    shown = store_of([[EMPTY], [PRESENT]], domains="aa")
    check(shown, part)
    full = replace(shown, targets=np.ones_like(shown.targets))
    full.targets[0, 0] = IGNORE  # as the padding of images that are not square
    with pytest.raises(DataError, match=r"All masks of the training images are foreground everywhere\. Give"):
        check(full, part)
    full.targets[1, 1, 1] = 0
    check(full, part)


def test_later_heads_weigh_more() -> None:
    source = make_source(kind="folder", path=Path("x"), labels={1: 1})
    data = DataSettings(sources=(source,), size=SIZE, in_channels=1)
    heads, mask = [torch.full((1, 1, SIZE, SIZE), value) for value in (-2.0, 0.0, 3.0)], torch.ones(1, SIZE, SIZE)
    mixture = Mixture(mask[None], ((0.3, mask.long()), (0.7, 1 - mask.long())))

    def loss(*outputs: torch.Tensor, decay: float) -> float:
        return float(SegmentationTask(data, loss="bce_dice", head_decay=decay).loss(list(outputs), mixture))

    each = [loss(head, decay=1) for head in heads]
    assert loss(*heads, decay=1) == pytest.approx(sum(each) / 3)
    assert loss(*heads, decay=0.5) == pytest.approx((each[0] / 4 + each[1] / 2 + each[2]) / 1.75)


def test_heads_begin_at_the_share_of_every_class_where_one_is_rare() -> None:
    store = store_of([[PRESENT, EMPTY], [EMPTY, PRESENT], [EMPTY, EMPTY], [EMPTY, EMPTY]], domains="aaaa")
    masks = np.asarray(store.targets).repeat(32, 1).repeat(32, 2)
    batches = Batches(
        replace(store, targets=masks), store.manifest, batch=2, name="training set", device=torch.device("cpu")
    )
    for classes, wanted in ((1, [1 / 2 / SIZE]), (3, [1 - 1 / 2 / SIZE, 1 / 4 / SIZE, 1 / 4 / SIZE])):
        bias = torch.nn.Parameter(torch.ones(classes))
        task = SegmentationTask(DataSettings(sources=SOURCES, classes=classes), loss="dice")
        tracemalloc.start()
        task.begin([bias], batches)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.5 * 8 * masks[0].size  # one mask at a time, widened to int64
        predicted = bias.sigmoid() if classes == 1 else bias.softmax(0)
        torch.testing.assert_close(predicted, torch.tensor(wanted))
        common = replace(store, targets=np.stack([masks[0] | masks[1]] * 4))
        task.begin([bias], Batches(common, store.manifest, batch=2, name="training set", device=torch.device("cpu")))
        left = bias.sigmoid() if classes == 1 else bias.softmax(0)
        torch.testing.assert_close(left, torch.tensor(wanted))


@pytest.mark.parametrize("model", models.names(task="segmentation"))
def test_every_head_of_a_baseline_has_a_bias_to_begin_with(model) -> None:
    network = create_model(model, in_channels=1, outputs=2, width=4)
    assert [bias.shape for bias in network.output_biases] == [(2,)] * len(network.heads)


def test_foreground_that_is_ranked_high_is_found_whatever_the_threshold() -> None:
    task = SegmentationTask(DataSettings(sources=SOURCES, classes=1), loss="dice")
    store = store_of([[PRESENT], [PRESENT], [EMPTY]], domains="abc")
    batches = Batches(store, store.manifest, batch=2, name="val", device=torch.device("cpu"))

    def found(logits: torch.Tensor) -> list[float | None]:
        values = task.validate(lambda images, **_: [logits.expand(len(images), 1, -1, -1)], batches)
        assert values["val_foreground_by_domain"]["a"] == 0.0
        return list(values["val_found_by_domain"].values())

    flat, row, half = (torch.full((SIZE, SIZE), -5.0) for _ in range(3))
    row[1], half[1, : SIZE // 2] = -4.0, -4.0
    assert found(flat) == pytest.approx([0.0, 0.0, None])
    assert found(row) == pytest.approx([1.0, 1.0, None])
    # Of the other half of the row, as much as of all that is as probable.
    recall, share = 0.5 + 0.5 * 8 / (SIZE**2 - 8), 1 / SIZE
    assert found(half) == pytest.approx([(recall - share) / (1 - share)] * 2 + [None])


def test_a_validation_takes_little_memory_for_an_image() -> None:
    task = SegmentationTask(DataSettings(sources=SOURCES, classes=1), loss="dice")

    def peak(number: int) -> int:
        store = store_of([[PRESENT]] * number, domains="ab" * (number // 2))
        batches = Batches(store, store.manifest, batch=20, name="val", device=torch.device("cpu"))
        tracemalloc.start()
        task.validate(lambda images, **_: [images], batches)
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    assert peak(400) - peak(200) < 200 * 3000  # and not 16 KB of pixels by their logits
