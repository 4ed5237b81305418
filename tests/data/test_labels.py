"""Findings on their way from a table to a batch: manifest, store, batches, augmentation, mixing."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from medarts.config import AugmentationSettings, MixingSettings, Recipe, apply_overrides, parse
from medarts.data.batches import Batches, augment, mix
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.opening import open_data, open_manifest, with_findings
from medarts.data.store import ImageStore
from medarts.errors import DataError

FINDINGS = ("disc", "bar", "bright")
OFF: dict[str, Any] = {"flip": False, "transpose": False, "brightness": 0.0}
CPU = torch.device("cpu")


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def manifest(*shown: tuple[str, ...], root: Path, findings: tuple[str, ...] = ("a", "b", "c")) -> Manifest:
    """Samples that show these findings, with files of one size."""
    samples = []
    for number, names in enumerate(shown):
        path = root / f"{number}.png"
        path.write_bytes(b"1234")
        samples.append(Sample(str(number), path, None, f"p{number}", "d", "train", findings=names))
    return Manifest(tuple(samples), {"d": ReadingRules()}, findings)


def expected_labels(store: ImageStore, data: Path) -> np.ndarray:
    """The labels as the table on disk has them, in the order of the store."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = {Path(row["image"]).stem: [int(row[name]) for name in FINDINGS] for row in csv.DictReader(file)}
    return np.array([rows[Path(sample.key).stem] for sample in store.manifest.samples])


# Manifest


def test_labels_are_in_the_order_of_the_findings(tmp_path: Path) -> None:
    whole = manifest(("c", "a"), (), ("b",), root=tmp_path)
    labels = whole.labels()
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert replace(whole, findings=("c", "a", "b")).labels().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert whole.of_split("val").labels().shape == (0, 3)
    assert replace(whole, findings=()).labels().shape == (3, 0)


def test_the_table_of_a_manifest_has_the_findings(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(manifest(("a", "c"), (), root=tmp_path).to_csv())))
    assert [row["findings"] for row in rows] == ["a|c", ""]
    assert [row["mask"] for row in rows] == ["", ""]
    assert [row["image"] for row in rows] == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


def test_the_fingerprint_changes_with_findings(tmp_path: Path) -> None:
    whole = manifest(("a",), ("b",), root=tmp_path)
    others = [
        manifest(("a",), ("a", "b"), root=tmp_path),
        manifest(("a",), (), root=tmp_path),
        manifest(("b",), ("a",), root=tmp_path),
        replace(whole, findings=("b", "a", "c")),
        replace(whole, findings=("a", "b")),
        replace(whole, findings=()),
    ]
    assert manifest(("a",), ("b",), root=tmp_path).fingerprint() == whole.fingerprint()
    assert len({whole.fingerprint(), *(other.fingerprint() for other in others)}) == 1 + len(others)


# From the sources of a recipe


def test_findings_are_those_of_the_table_or_a_choice_of_them(finding_recipe: Recipe) -> None:
    whole = open_manifest(finding_recipe.data, needs=("train", "val", "test"))
    assert whole.findings == FINDINGS
    chosen = open_manifest(changed(finding_recipe, "data.findings=[bright, disc]").data, needs=())
    assert chosen.findings == ("bright", "disc")
    np.testing.assert_array_equal(chosen.labels(), whole.labels()[:, [2, 0]])
    assert [sample.key for sample in chosen.samples] == [sample.key for sample in whole.samples]
    with pytest.raises(DataError, match=r"films has no finding 'brigt'\. Did you mean 'bright'"):
        open_manifest(changed(finding_recipe, "data.findings=[brigt]").data, needs=())


def test_two_tables_have_the_findings_that_they_share(finding_recipe: Recipe, table_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(table_data, other)
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("disc,bar,bright", "bright,new,disc"))
    content = finding_recipe.model_dump(mode="json")
    content["data"]["sources"].append({"kind": "table", "path": str(other), "name": "other"})
    with pytest.raises(DataError, match=r"films and other do not have the same findings: bar, new"):
        open_manifest(parse(content).data, needs=())
    content["data"]["findings"] = ["disc", "bright"]
    whole = open_manifest(parse(content).data, needs=())
    assert whole.findings == ("disc", "bright")
    own, others = (whole.where(lambda sample, d=d: sample.domain == d).labels() for d in ("films", "other"))
    np.testing.assert_array_equal(others, own[:, ::-1])  # what is called disc there is bright here


def test_the_recipe_learns_the_findings(finding_recipe: Recipe, small_recipe: Recipe) -> None:
    recipe = with_findings(finding_recipe, open_manifest(finding_recipe.data, needs=()))
    assert (recipe.data.findings, recipe.data.outputs) == (FINDINGS, 3)
    assert recipe.model_copy(update={"data": recipe.data.model_copy(update={"findings": None})}) == finding_recipe
    assert with_findings(small_recipe, open_manifest(small_recipe.data, needs=())) is small_recipe


# Store


def test_the_store_serves_images_and_labels_and_writes_no_masks(finding_recipe: Recipe, table_data: Path) -> None:
    store: Any = open_data(finding_recipe.data, needs=("train",))
    assert (store.images.shape, store.images.dtype) == ((32, 1, 32, 32), np.float16)
    assert (store.targets.shape, store.targets.dtype) == ((32, 3), np.uint8)
    np.testing.assert_array_equal(store.targets, expected_labels(store, table_data))
    for position, sample in enumerate(store.manifest.samples):
        image = np.asarray(Image.open(sample.image)) / 255
        np.testing.assert_allclose(store.images[position][0], image, atol=5e-4)
    (folder,) = finding_recipe.data.cache.glob("v*")
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "sizes.npy", "store.json"]
    np.testing.assert_array_equal(store.sizes, np.full((32, 2), 32))
    assert "cl" not in folder.name.rsplit("-", 1)[1]


def test_another_choice_of_findings_has_its_own_labels(finding_recipe: Recipe, table_data: Path) -> None:
    whole = open_data(finding_recipe.data, needs=())
    chosen = open_data(changed(finding_recipe, "data.findings=[bar]").data, needs=())
    np.testing.assert_array_equal(chosen.targets, whole.targets[:, [1]])
    np.testing.assert_array_equal(chosen.images, whole.images)


def test_a_label_that_is_corrected_is_seen(finding_recipe: Recipe, table_data: Path) -> None:
    before = np.array(open_data(finding_recipe.data, needs=()).targets)
    text = (table_data / "labels.csv").read_text()
    assert "film_00.png,p0,train,0,0,0" in text
    (table_data / "labels.csv").write_text(text.replace("film_00.png,p0,train,0,0,0", "film_00.png,p0,train,0,0,1"))
    after = open_data(finding_recipe.data, needs=()).targets
    assert np.argwhere(before != after).tolist() == [[0, 2]]


# Batches


def test_batches_have_a_row_of_labels_an_image(finding_recipe: Recipe, table_data: Path) -> None:
    store = open_data(finding_recipe.data, needs=())
    part = Batches(store, store.manifest.of_split("train"), batch=4, name="training set", device=CPU)
    order = part.order(0, seed=0, sampling="by_size")
    expected = expected_labels(store, table_data)
    settings = AugmentationSettings(**OFF | {"flip": True, "transpose": True, "rotate": 20.0, "shift": 0.2})
    for step in range(part.steps):
        batch = part.training(order, step, settings=settings, seed=step)
        assert batch.images.shape == (4, 1, 32, 32)
        assert (batch.targets.shape, batch.targets.dtype) == ((4, 3), torch.uint8)
        assert batch.targets.tolist() == expected[batch.indices].tolist()
    everything = list(part.all())
    assert [batch.targets.shape for batch in everything] == [(4, 3)] * 4
    assert torch.cat([batch.targets for batch in everything]).tolist() == expected[part.indices].tolist()


def test_labels_that_are_changed_in_a_batch_are_not_changed_in_the_store(finding_recipe: Recipe) -> None:
    store: Any = open_data(finding_recipe.data, needs=())
    before = store.targets.copy()
    part = Batches(store, store.manifest, batch=4, name="all", device=CPU)
    part.training(np.arange(4), 0, settings=AugmentationSettings(**OFF), seed=0).targets.fill_(1)
    np.testing.assert_array_equal(store.targets, before)


# Augmentation


def labelled(number: int = 16, size: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    """One smooth image without symmetry, so many times, and labels that differ."""
    y, x = np.mgrid[:size, :size]
    image = np.exp(-((y - 12) ** 2 + (x - 18) ** 2) / 30) + 0.4 * np.exp(-((y - 20) ** 2 + (x - 9) ** 2) / 12)
    images = torch.from_numpy(image.clip(0, 1).astype(np.float32)).expand(number, 1, -1, -1).clone()
    return images, (torch.arange(number)[:, None] // torch.tensor([1, 2, 4]) % 2).to(torch.uint8)


STRONG: dict[str, Any] = {
    "flip": True, "transpose": True, "rotate": 40.0, "scale": 0.3, "shift": 0.2, "brightness": 0.3, "contrast": 0.3,
    "gamma": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("on", [*({name: value} for name, value in STRONG.items()), STRONG], ids=str)
def test_labels_stay_while_images_change(on: dict[str, Any]) -> None:
    images, labels = labelled()
    changed_images, kept = augment(images, labels, AugmentationSettings(**OFF | on), seed=2)
    assert torch.equal(kept, labels)
    assert kept.dtype == torch.uint8
    different = (changed_images - images).abs().amax((1, 2, 3)) > 1e-4
    assert 2 <= different.sum() < len(images) or on is STRONG


def test_images_change_alike_with_labels_and_with_masks() -> None:
    images, labels = labelled()
    masks = torch.zeros(len(images), 33, 33, dtype=torch.uint8)
    settings = AugmentationSettings(**STRONG)
    with_labels, _ = augment(images, labels, settings, seed=4)
    with_masks, _ = augment(images, masks, settings, seed=4)
    assert torch.equal(with_labels, with_masks)


def displacements(images: np.ndarray) -> np.ndarray:
    """Where the centre of mass of each image lies, (y, x)."""
    return np.array([ndimage.center_of_mass(image) for image in images])


def test_a_shift_is_a_translation_within_its_bounds() -> None:
    """Every image is the original as scipy translates it, by at most so much, along both axes on their own."""
    size, strength = 64, 0.1
    y, x = np.mgrid[:size, :size]
    image = np.exp(-((y - 30) ** 2 + (x - 33) ** 2) / 20).astype(np.float32)  # black at all borders it may reach
    images = torch.from_numpy(image).expand(200, 1, -1, -1).clone()
    labels = torch.zeros(200, 2, dtype=torch.uint8)
    moved = augment(images, labels, AugmentationSettings(**OFF | {"shift": strength}), seed=0)[0][:, 0].numpy()
    by = displacements(moved) - displacements(image[None])
    for found, (dy, dx) in zip(moved[:20], by[:20], strict=True):
        np.testing.assert_allclose(found, ndimage.shift(image, (dy, dx), order=1, mode="nearest"), atol=2e-3)
    reach = strength * size
    assert np.abs(by).max() <= reach + 0.01
    assert (np.abs(by).max(0) > 0.9 * reach).all()
    assert (by.min(0) < -0.8 * reach).all()
    assert (by.max(0) > 0.8 * reach).all()
    still = np.abs(by) < 1e-3
    assert still.mean(0) == pytest.approx([0.5, 0.5], abs=0.1)
    assert still.all(1).mean() == pytest.approx(0.25, abs=0.1)  # the axes are drawn each on its own
    assert len({round(float(dx), 3) for dx in by[~still[:, 1], 1]}) > 60


def test_a_shift_moves_masks_with_their_images() -> None:
    images = torch.zeros(32, 1, 32, 32)
    images[:, :, 10:20, 8:22] = 1
    masks = images[:, 0].to(torch.uint8)
    moved, masks = augment(images, masks, AugmentationSettings(**OFF | {"shift": 0.2}), seed=0)
    agree = ((moved[:, 0] > 0.5) == (masks == 1)).float().mean((1, 2))
    assert agree.min() > 0.96
    assert not torch.equal(masks, images[:, 0].to(torch.uint8))


def test_outside_the_image_its_border_goes_on() -> None:
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(32, 1, 32, 32).clone()
    labels = torch.zeros(32, 1, dtype=torch.uint8)
    moved, _ = augment(ramp, labels, AugmentationSettings(**OFF | {"shift": 0.3}), seed=0)
    assert (moved.diff(dim=-1) >= -1e-6).all()
    right = moved[:, 0, 0, 0] > 0.01  # the image went to the left
    left = moved[:, 0, 0, -1] < 0.99
    assert right.any()
    assert left.any()
    assert (moved[left, 0, :, 0] == 0).all()
    torch.testing.assert_close(moved[right, 0, :, -1], torch.ones(int(right.sum()), 32))


def test_a_horizontal_flip_mirrors_left_and_right_alone() -> None:
    images, labels = labelled(64)
    moved, _ = augment(images, labels, AugmentationSettings(**OFF | {"flip": "horizontal"}), seed=0)
    mirrored = [torch.equal(image, original.flip(-1)) for image, original in zip(moved, images, strict=True)]
    unchanged = [torch.equal(image, original) for image, original in zip(moved, images, strict=True)]
    assert [one != other for one, other in zip(mirrored, unchanged, strict=True)] == [True] * 64
    assert 20 < sum(mirrored) < 44


# Mixing


def test_labels_are_mixed_and_split_with_their_images() -> None:
    numbers = torch.arange(7)
    images = (2.0**numbers).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    labels = (numbers[:, None] >> torch.arange(3) & 1).to(torch.uint8)  # binary digits: they name the image
    mixture = mix(images, labels, MixingSettings(alpha=0.5, images=3), seed=1)
    for lam, mixed in mixture.parts:
        assert mixed.shape == (7, 3)
        assert mixed.dtype == torch.uint8
        assert 0 < lam < 1
    names = [(mixed.long() << torch.arange(3)).sum(1) for _, mixed in mixture.parts]
    rebuilt = sum(lam * 2.0 ** name.float() for (lam, _), name in zip(mixture.parts, names, strict=True))
    torch.testing.assert_close(mixture.images[:, 0, 0, 0], rebuilt)

    shares, pieces = zip(*mixture.split(3), strict=True)
    assert [len(piece.images) for piece in pieces] == [3, 2, 2]
    assert sum(shares) == pytest.approx(1)
    for part, (lam, mixed) in enumerate(mixture.parts):
        assert [piece.parts[part][1].shape for piece in pieces] == [(3, 3), (2, 3), (2, 3)]
        assert torch.equal(torch.cat([piece.parts[part][1] for piece in pieces]), mixed)
        assert {piece.parts[part][0] for piece in pieces} == {lam}


def test_the_data_of_these_tests_show_every_finding_in_every_split(finding_recipe: Recipe) -> None:
    """What the tests of search, training and evaluation rely on."""
    whole = open_manifest(finding_recipe.data, needs=())
    for split in ("train", "val", "test"):
        shown = whole.of_split(split).labels().mean(0)
        assert 0 < shown.min() <= shown.max() < 1
