from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medarts.config import AugmentationSettings
from medarts.data.batches import Batches, check_fills_a_batch
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.reading import MaskState
from medarts.data.store import ImageStore
from medarts.errors import DataError

STILL = AugmentationSettings(flip=False, transpose=False, brightness=0.0)
CPU = torch.device("cpu")


def store(**sizes: int) -> ImageStore:
    """Domains with so many samples; image i is i/128 throughout, its mask i."""
    samples = [
        Sample(f"{number:03d}", Path("i"), Path("m"), f"p{number}", domain, "train")
        for domain, size in sorted(sizes.items())
        for number in range(size)
    ]
    manifest = Manifest(tuple(samples), dict.fromkeys(sizes, ReadingRules()))
    values = np.arange(len(samples))
    images = np.broadcast_to((values / 128)[:, None, None, None], (len(samples), 3, 4, 4)).astype(np.float16)
    masks = np.broadcast_to(values[:, None, None], (len(samples), 4, 4)).astype(np.uint8)
    return ImageStore(manifest, images, masks, np.ones((len(images), 1), np.uint8))


def batches(whole: ImageStore, *, batch: int = 4, name: str = "weights", every: int = 1) -> Batches:
    """The batches of every ``every``-th sample."""
    chosen = set(whole.manifest.samples[::every])
    part = whole.manifest.where(lambda sample: sample in chosen)
    return Batches(whole, part, batch=batch, name=name, device=CPU)


@pytest.mark.parametrize("every", [1, 3])
def test_by_size_draws_every_image_of_the_part_once(every: int) -> None:
    part = batches(store(a=20, b=7), every=every)
    order = part.order(0, seed=0, sampling="by_size")
    assert sorted(order.tolist()) == list(range(0, 27, every))
    assert order.tolist() != sorted(order.tolist())


@pytest.mark.parametrize("sizes", [{"a": 30, "b": 6}, {"a": 50, "b": 3, "c": 7}, {"a": 5}, {"a": 1, "b": 40}])
def test_equal_sampling_draws_equal_shares(sizes: dict[str, int]) -> None:
    part = batches(store(**sizes))
    total, domains = sum(sizes.values()), len(sizes)
    sums: Counter[str] = Counter()
    for epoch in range(5):
        order = part.order(epoch, seed=0, sampling="equal")
        assert len(order) == total
        shares = Counter(part.store.manifest.samples[i].domain for i in order)
        assert set(shares) == set(sizes)
        assert max(shares.values()) - min(shares.values()) <= domains
        sums += shares
        for domain, size in sizes.items():
            times = Counter(i for i in order.tolist() if part.store.manifest.samples[i].domain == domain)
            # Whole rounds over a domain: its images differ by one draw, by two after the cut to the epoch's length.
            least = min(times.values()) if len(times) == size else 0
            assert max(times.values()) - least <= 2
    assert max(sums.values()) <= 5 * -(-total // domains)


def test_equal_sampling_mixes_the_domains_along_the_epoch() -> None:
    part = batches(store(a=60, b=4))
    order = part.order(0, seed=0, sampling="equal")
    first = [part.store.manifest.samples[i].domain for i in order[:32]]
    assert 8 <= first.count("b") <= 24


def with_classes(truths: list[list[int]]) -> ImageStore:
    """As many samples of one domain, whose masks have the classes in such states."""
    return replace(store(a=len(truths)), truths=np.asarray(truths, np.uint8))


def test_foreground_sampling_draws_every_class_and_empty_masks_alike() -> None:
    empty, present, vanished = MaskState.EMPTY, MaskState.PRESENT, MaskState.VANISHED
    # 34 images of the first class, 4 of the second (2 with both), 1 whose second class is lost, 21 of none.
    rows = [[present, empty]] * 32 + [[present, present]] * 2 + [[empty, present]] * 2
    whole = with_classes(rows + [[empty, vanished]] + [[empty, empty]] * 23)
    part = batches(whole)
    assert part.rarest_shown.tolist() == [0] * 32 + [1] * 4 + [-1] * 24
    order = part.order(0, seed=0, sampling="foreground")
    assert len(order) == 60
    assert Counter(part.rarest_shown[order].tolist()) == {0: 20, 1: 20, -1: 20}
    # A part of the images is balanced by what it has itself: of the last images, only those without any.
    last = Batches(whole, whole.manifest.where(lambda sample: sample.key >= "036"), batch=4, name="b", device=CPU)
    assert sorted(last.order(0, seed=0, sampling="foreground").tolist()) == list(range(36, 60))


def test_foreground_of_images_with_findings_is_their_rarest_finding() -> None:
    labels = np.asarray([[1, 0, 0]] * 5 + [[1, 1, 0]] * 2 + [[1, 1, 1]] + [[0, 0, 0]] * 4, np.uint8)
    whole = replace(store(a=12), targets=labels, truths=np.zeros((12, 0), np.uint8))
    part = batches(whole)
    assert part.rarest_shown.tolist() == [0] * 5 + [1] * 2 + [2] + [-1] * 4
    drawn = Counter(part.rarest_shown[part.order(0, seed=0, sampling="foreground")].tolist())
    assert drawn == {0: 3, 1: 3, 2: 3, -1: 3}


@pytest.mark.parametrize("sampling", ["by_size", "equal", "foreground"])
def test_order_depends_on_seed_epoch_and_name_alone(sampling: str) -> None:
    whole = store(a=20, b=7)
    part = batches(whole)

    def order(part: Batches = part, *, epoch: int = 3, seed: int = 0) -> list[int]:
        return part.order(epoch, seed=seed, sampling=sampling).tolist()

    reference = order()
    np.random.seed(1)
    torch.manual_seed(1)
    order(epoch=9)
    assert order() == reference
    assert order(batches(whole, batch=7)) == reference
    assert order(epoch=4) != reference
    assert order(seed=1) != reference
    assert order(batches(whole, name="alphas")) != reference


def test_training_takes_the_images_of_the_order() -> None:
    part = batches(store(a=10))
    order = part.order(0, seed=0, sampling="by_size")
    assert part.steps == 2
    for step in range(2):
        batch = part.training(order, step, settings=STILL, seed=5)
        wanted = order[4 * step : 4 * step + 4]
        assert batch.indices.tolist() == wanted.tolist()
        assert batch.images.dtype == torch.float32
        assert batch.targets.dtype == torch.uint8
        assert batch.images.shape == (4, 3, 4, 4)
        assert batch.targets.shape == (4, 4, 4)
        assert batch.images[:, 0, 0, 0].tolist() == [i / 128 for i in wanted]
        assert batch.targets[:, 0, 0].tolist() == wanted.tolist()


def test_steps_beyond_the_last_start_over() -> None:
    part = batches(store(a=10))
    order = part.order(0, seed=0, sampling="by_size")
    for step in range(2):
        again = part.training(order, step + 2 * part.steps, settings=STILL, seed=0)
        assert again.indices.tolist() == order[4 * step : 4 * step + 4].tolist()


def test_augmentation_is_that_of_the_seed() -> None:
    part = batches(store(a=8), batch=8)
    order = np.arange(8)
    settings = AugmentationSettings(brightness=0.3)
    a, b, c = (part.training(order, 0, settings=settings, seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_training_leaves_the_store_alone() -> None:
    whole: Any = store(a=4)
    before = whole.images.copy()
    batches(whole).training(np.arange(4), 0, settings=AugmentationSettings(brightness=0.5), seed=0).images.zero_()
    np.testing.assert_array_equal(whole.images, before)


def test_all_gives_every_image_once_in_the_order_of_the_manifest() -> None:
    part = batches(store(a=10, b=5), every=2)
    found = list(part.all())
    assert [len(batch.indices) for batch in found] == [4, 4]
    assert np.concatenate([batch.indices for batch in found]).tolist() == list(range(0, 15, 2))
    assert [len(batch.indices) for batch in batches(store(a=9)).all()] == [3, 3, 3]


def test_a_part_smaller_than_a_batch_is_refused_with_both_numbers() -> None:
    check_fills_a_batch(store(a=4).manifest, 4, name="alphas")
    with pytest.raises(DataError, match="images of the alphas are 3, fewer than a batch of 4") as caught:
        check_fills_a_batch(store(a=3).manifest, 4, name="alphas")
    assert "batch size" in caught.value.fix
