"""Masks of several classes: names, ignored pixels, a file a class, overlap, and their resizing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.data.layouts_of_tests import put
from tests.small_runs_of_tests import SMALL

import medarts
from medarts.config import DataSettings, apply_overrides, make_source, parse
from medarts.config.data import IGNORE
from medarts.data.arrays import data_section, from_arrays
from medarts.data.batches import augment
from medarts.data.levels import DomainLevels
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.masks import Mask, check_classes, read_mask
from medarts.data.opening import open_manifest, open_sources
from medarts.data.reading import MaskState, classes_in, mask_states, resize_mask
from medarts.data.store import open_store, ways_of_reading
from medarts.errors import DataError, RecipeError

NAMES = ("liver", "tumour")


def saved(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def box(rows: slice, columns: slice, *, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[rows, columns] = 255
    return mask


LIVER, TUMOUR = box(slice(1, 8), slice(1, 8)), box(slice(5, 10), slice(5, 10))
BELOW = box(slice(9, 11), slice(0, 12))


def of_classes(folder: Path, *masks: tuple[str, np.ndarray]) -> Sample:
    files = tuple((name, saved(folder / f"{name}.png", values)) for name, values in masks)
    return Sample("k", folder / "image.png", files[0][1], "p", "d", "train", class_masks=files)


def read(sample: Sample, *, names: tuple[str, ...] = NAMES, labels: dict[int, int] | None = None, **given: Any) -> Mask:
    rules = ReadingRules(labels=tuple(labels.items()) if labels else None)
    return read_mask(sample, rules, names=names, **given).classes


# A file a class


def test_a_file_a_class_becomes_class_indices_in_the_order_of_the_names(tmp_path: Path) -> None:
    sample = of_classes(tmp_path, ("tumour", BELOW), ("liver", LIVER))
    np.testing.assert_array_equal(read(sample), (LIVER > 0) + 2 * (BELOW > 0))


def test_files_that_overlap_are_named_unless_they_may(tmp_path: Path) -> None:
    sample = of_classes(tmp_path, ("liver", LIVER), ("tumour", TUMOUR))
    with pytest.raises(DataError, match=r"liver\.png and .*tumour\.png overlap in 9 pixels") as caught:
        read(sample)
    assert "data.overlap=true" in caught.value.fix
    np.testing.assert_array_equal(read(sample, overlap=True), np.stack([LIVER > 0, TUMOUR > 0]))


def test_a_class_without_a_file_is_not_there(tmp_path: Path) -> None:
    sample = of_classes(tmp_path, ("tumour", TUMOUR))
    np.testing.assert_array_equal(read(sample, overlap=True), np.stack([np.zeros_like(TUMOUR), TUMOUR > 0]))


def test_files_of_unknown_classes_and_other_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spleen\.png is a mask of 'spleen', and data.classes has liver, tumour"):
        read(of_classes(tmp_path, ("liver", LIVER), ("spleen", BELOW)))
    with pytest.raises(
        DataError, match=r"tumour\.png is 6 x 12 pixels but .*liver\.png, of the same image, is 12 x 12"
    ):
        read(of_classes(tmp_path, ("liver", LIVER), ("tumour", TUMOUR[:6])))


def test_values_are_compared_within_a_class(tmp_path: Path) -> None:
    """Each class may have a grey value of its own; two values of one class are two classes."""
    levels = DomainLevels()
    for folder, tumour in (("a", 200), ("b", 200), ("c", 150)):
        (tmp_path / folder).mkdir()
        sample = of_classes(tmp_path / folder, ("liver", LIVER), ("tumour", (TUMOUR > 0) * tumour))
        levels.add(read_mask(sample, ReadingRules(), names=NAMES, overlap=True).levels)
        assert (levels.problem("d") is not None) == (folder == "c")


@pytest.mark.parametrize(("named", "fix"), [(True, "Name the others in data.classes"), (False, r"data\.classes=4")])
def test_a_class_too_many_is_named_or_counted(named: bool, fix: str) -> None:
    sample = Sample("k", Path("i.png"), Path("m.png"), "p", "d", "train")
    with pytest.raises(DataError, match=rf"m\.png holds class 3.*{fix}"):
        check_classes(sample, np.full((4, 4), 3, np.uint8), NAMES, named=named)


# Ignored pixels


def test_what_is_ignored_stays_so_in_every_class(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [255, 255, 0]], np.uint8)
    labels = {1: 1, 2: 2, 255: IGNORE}
    path = saved(tmp_path / "m.png", values)
    sample = Sample("k", path, path, "p", "d", "train")
    np.testing.assert_array_equal(read(sample, labels=labels), values)
    planes = read(sample, labels=labels, overlap=True)
    np.testing.assert_array_equal(planes, [[[0, 1, 0], [255, 255, 0]], [[0, 0, 1], [255, 255, 0]]])
    assert classes_in(planes) == classes_in(values) == {1, 2}


def test_what_one_file_ignores_may_be_of_another_class(tmp_path: Path) -> None:
    ring = np.where(LIVER > 0, 255, np.where(BELOW > 0, 7, 0))
    sample = of_classes(tmp_path, ("liver", ring), ("tumour", box(slice(9, 11), slice(0, 6))))
    found = read(sample, labels={7: IGNORE, 255: 1})
    assert set(np.unique(found[9:11, :6])) == {2}
    assert set(np.unique(found[9:11, 6:])) == {IGNORE}


def test_ignored_pixels_are_no_class_in_states() -> None:
    mask = np.full((8, 8), IGNORE, np.uint8)
    mask[0, 0] = 1
    assert mask_states(classes_in(mask), mask, number=2).tolist() == [MaskState.PRESENT, MaskState.EMPTY]


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 2, 32, 32)])
def test_ignored_pixels_survive_augmentation(shape: tuple[int, ...]) -> None:
    """And move with the image, whose brightness marks them."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.where(torch.rand(shape, generator=generator) < 0.3, IGNORE, 1).to(torch.uint8)
    images = targets.reshape(4, -1, 32, 32)[:, :1].float() / 255
    flips = DataSettings.model_fields["augmentation"].default.model_copy(update={"brightness": 0.0})
    moved, masks = augment(images, targets, flips, seed=3)
    assert not torch.equal(masks, targets)
    assert torch.equal(masks.reshape(4, -1, 32, 32)[:, 0].float() / 255, moved[:, 0])
    turned = augment(images, targets, flips.model_copy(update={"rotate": 30.0, "scale": 0.2}), seed=3)[1]
    assert set(turned.unique().tolist()) <= {0, 1, IGNORE}
    assert (turned == IGNORE).any()


# Resizing


def nearest(mask: np.ndarray, size: int) -> np.ndarray:
    return resize_mask(mask, (size, size))


def majority(mask: np.ndarray, size: int) -> np.ndarray:
    """Returns the class that covers most of each square of pixels."""
    factor = len(mask) // size
    squares = mask.reshape(size, factor, size, factor)
    return np.stack([(squares == value).sum((1, 3)) for value in range(mask.max() + 1)]).argmax(0)


def largest(mask: np.ndarray, size: int) -> np.ndarray:
    """Returns the largest of the antialiased masks of the classes."""
    planes = np.stack([mask == value for value in range(mask.max() + 1)]).astype(np.float32)
    resized = F.interpolate(torch.from_numpy(planes)[None], size=(size, size), mode="bilinear", antialias=True)[0]
    return resized.argmax(0).numpy()


def chosen(mask: np.ndarray, size: int) -> np.ndarray:
    return resize_mask(mask, (size, size), several=True)


WAYS = {"nearest": nearest, "majority": majority, "largest": largest, "chosen": chosen}


def enlarged_dice(mask: np.ndarray, resized: np.ndarray, value: int) -> float:
    again = np.kron(resized, np.ones((len(mask) // len(resized),) * 2)) == value
    return 2 * (again & (mask == value)).sum() / (again.sum() + (mask == value).sum())


def organs(seed: int) -> np.ndarray:
    """A disc of class 2 in a ring of class 1."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    distance = np.hypot(y - generator.uniform(50, 78), x - generator.uniform(50, 78))
    return np.where(distance < generator.uniform(10, 20), 2, np.where(distance < generator.uniform(28, 40), 1, 0))


def vessels(seed: int) -> np.ndarray:
    """Lines of class 1, two pixels wide, in any direction, beside a wide class 2."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    mask = np.where(np.hypot(y - 90, x - 90) < 25, 2, 0)
    for angle in generator.uniform(0, np.pi, 3):
        mask[np.abs((x - 40) * np.sin(angle) - (y - 40) * np.cos(angle)) < 1] = 1
    return mask


def test_of_four_ways_the_chosen_one_keeps_borders_and_thin_classes() -> None:
    """Mean Dice of masks of 128 pixels with those of 32 enlarged again; area of vessels as a share of the true one."""
    dice = {name: [] for name in WAYS}
    areas = {name: [] for name in WAYS}
    for seed in range(12):
        for name, way in WAYS.items():
            mask = organs(seed).astype(np.uint8)
            dice[name] += [enlarged_dice(mask, way(mask, 32), value) for value in (1, 2)]
            mask = vessels(seed).astype(np.uint8)
            areas[name].append(16 * (way(mask, 32) == 1).sum() / (mask == 1).sum())
    mean = {name: np.mean(values) for name, values in dice.items()}
    assert mean["chosen"] > mean["nearest"] + 0.005
    assert mean["chosen"] == pytest.approx(max(mean.values()), abs=0.005)
    assert max(areas["majority"]) < 0.95  # what is narrower than half a pixel of the result is lost
    assert max(abs(area - 1) for area in areas["chosen"]) < 0.05
    assert max(abs(area - 1) for area in areas["nearest"]) > 0.05


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("value", [1, IGNORE])
def test_a_thin_class_survives_wherever_it_lies(offset: int, value: int) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 60:] = 2
    mask[20 + offset] = value
    resized = resize_mask(mask, (16, 16), several=True)
    assert (resized == value).sum() == 2  # 128 of 128 x 128 pixels are 2 of 16 x 16
    assert (resize_mask(mask, (16, 16)) == value).any() == (offset == 0)  # by luck, to the nearest


def test_no_class_appears_between_two_others() -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[np.hypot(*(np.mgrid[:96, :96] - 48)) < 30] = 2
    for size in (7, 32, 96, 200):
        assert set(np.unique(resize_mask(mask, (size, size), several=True))) == {0, 2}
    smoothed = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=(32, 32), mode="bilinear", antialias=True)
    assert 1 in smoothed.round()  # the fault that this test is about


def test_a_mask_of_its_own_size_stays_as_it_is() -> None:
    mask = np.random.default_rng(0).integers(0, 4, (32, 32)).astype(np.uint8)
    mask[3] = IGNORE
    np.testing.assert_array_equal(resize_mask(mask, (32, 32), several=True), mask)
    planes = np.stack([mask == 1, mask == 2]).astype(np.uint8)
    np.testing.assert_array_equal(resize_mask(planes, (32, 32), several=True), planes)


# Recipes


def recipe_of(root: Path, cache: Path, *changes: str) -> DataSettings:
    content = {"data": {"sources": [{"kind": "folder", "path": str(root)}], "size": 32, "cache": str(cache)}}
    return parse(apply_overrides(content, changes)).data


def indexed(root: Path) -> Path:
    """Returns the folder with masks of 0, 1 (upper half of the object), 2 (lower half) and 255 (a row)."""
    for path in (root / "masks").iterdir():
        mask = np.asarray(Image.open(path)) // 255
        mask = np.where(np.arange(len(mask))[:, None] < 16, mask, 2 * mask)
        mask[30] = 255
        saved(path, mask)
    return root


LABELS = "data.sources.0.labels={0: background, 1: liver, 2: tumour, 255: ignore}"


def test_labels_name_classes_in_any_order(folder_data: Path, tmp_path: Path) -> None:
    stores = {}
    for names in ("[liver, tumour]", "[tumour, liver]"):
        settings = recipe_of(
            indexed(folder_data) if not stores else folder_data, tmp_path, f"data.classes={names}", LABELS
        )
        stores[names] = open_store(open_manifest(settings, needs=()), settings)
    one, other = (np.asarray(store.targets[:]) for store in stores.values())
    assert (one[:, 30] == IGNORE).all()
    np.testing.assert_array_equal(one == 1, other == 2)
    np.testing.assert_array_equal(stores["[liver, tumour]"].truths[:, ::-1], stores["[tumour, liver]"].truths)


def test_overlapping_classes_are_stored_one_by_one(folder_data: Path, tmp_path: Path) -> None:
    settings = recipe_of(indexed(folder_data), tmp_path, "data.classes=[liver, tumour]", "data.overlap=true", LABELS)
    store = open_store(open_manifest(settings, needs=()), settings)
    exclusive = recipe_of(folder_data, tmp_path, "data.classes=[liver, tumour]", LABELS)
    indices = open_store(open_manifest(exclusive, needs=()), exclusive).targets[:]
    assert store.targets[:].shape == (len(indices), 2, 32, 32)
    for number in (1, 2):
        np.testing.assert_array_equal(store.targets[:][:, number - 1] == 1, indices == number)
    assert store.truths.shape == (len(indices), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.classes=3", LABELS], "name the class 'liver'. Set classes: [liver, tumour]."),
        (["data.classes=[liver, tumor]", LABELS], "name the class 'tumour'. Did you mean 'tumor'?"),
        (["data.overlap=true"], "overlap is for several classes; name them"),
        (["data.overlap=true", "data.classes=3"], "overlap is for several classes; name them"),
        (["data.sources.0.labels={1: 300}"], "less than 200"),
    ],
)
def test_labels_and_classes_that_do_not_fit_are_refused(tmp_path: Path, changes: list[str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, tmp_path, *changes)
    assert words in str(caught.value)


def test_several_classes_need_labels_or_files(folder_data: Path, tmp_path: Path) -> None:
    settings = recipe_of(folder_data, tmp_path, "data.classes=[liver, tumour]")
    with pytest.raises(DataError, match=r"several classes \(liver, tumour\)") as caught:
        open_manifest(settings, needs=())
    assert "{128: liver, 255: tumour}" in caught.value.fix


def test_the_store_of_class_files_depends_on_the_order_of_the_names(folder_data: Path, tmp_path: Path) -> None:
    source = make_source(kind="folder", path=folder_data)
    manifest = open_manifest(DataSettings(sources=(source,)), needs=())
    empty = saved(tmp_path / "empty.png", np.zeros((32, 32)))
    samples = tuple(
        replace(sample, class_masks=(("liver", sample.mask), ("tumour", empty))) for sample in manifest.samples
    )
    manifest = replace(manifest, samples=samples)
    for names in (NAMES, NAMES[::-1]):
        settings = DataSettings(sources=(source,), size=32, classes=names, cache=tmp_path / "cache")
        store = open_store(manifest, settings)
        shown = np.unique(store.targets[:])
        assert shown.tolist() == [0, names.index("liver") + 1]


# Arrays


def test_arrays_take_names_overlap_and_ignored_values() -> None:
    images = np.zeros((20, 16, 16), np.uint8)
    masks = np.zeros((20, 16, 16), np.uint8)
    masks[:, 2:6], masks[:, 8:11], masks[:, 15] = 1, 2, 255
    named = from_arrays(images, masks, classes=NAMES, ignore=255)
    assert data_section(named)["classes"] == [*NAMES]
    assert (np.asarray(named.targets)[:, 15] == IGNORE).all()
    planes = np.stack([masks == 1, masks > 0], 1)
    store = from_arrays(images, planes, classes=NAMES)
    assert store.targets.shape == (20, 2, 16, 16)
    section = DataSettings.model_validate(data_section(store))
    assert (section.overlap, section.class_names, section.outputs) == (True, NAMES, 2)
    with pytest.raises(DataError, match="2 classes that may overlap"):
        from_arrays(images, planes)
    with pytest.raises(DataError, match="hold class 2, and classes names 1"):
        from_arrays(images, np.where(masks == 255, 0, masks), classes=["liver"])


def test_a_resumed_run_says_that_its_masks_are_resized_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of a run has every key; that of one that is older than resizing by coverage lacks overlap."""
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for number in range(12):
            values = generator.integers(0, 3, (16, 16)).astype(np.uint8 if part == "images" else np.uint16)
            Image.fromarray(values).save(tmp_path / "set" / part / f"{number}.png")
    source = {"kind": "folder", "path": str(tmp_path / "set"), "labels": {1: 1, 2: 2, "#ff0000": "ignore"}}
    data = {"sources": [source], "classes": 3, "size": 16, "in_channels": 1, "cache": str(tmp_path / "cache")}
    recipe = {**SMALL, "data": data, "train": {**SMALL["train"], "loss": "ce"}}
    run = medarts.train(None, recipe, out=tmp_path / "run")
    medarts.resume(run, changes="train.epochs=2")
    words = capsys.readouterr().err
    assert "nearest" not in words
    assert "numbers beside" not in words
    path = run.path / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert facts["ways"] == ["greys"]
    path.write_text(json.dumps({name: fact for name, fact in facts.items() if name != "ways"}), encoding="utf-8")
    medarts.resume(run, changes="train.epochs=2")
    words = " ".join(capsys.readouterr().err.split())
    assert ("numbers beside colours" in words, "annotated objects" in words) == (True, False)
    path.write_text(json.dumps(facts), encoding="utf-8")
    path = run.path / "recipe.yaml"
    kept = path.read_text(encoding="utf-8")
    assert kept.count("  overlap: false\n") == 1
    path.write_text(kept.replace("  overlap: false\n", ""), encoding="utf-8")
    medarts.resume(run, changes="train.epochs=3")
    assert "masks of several classes were resized to the nearest pixel" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("name", "kind", "ways"), [
    ("0.png", np.uint8, []), ("0.png", np.uint16, ["greys"]),
    ("0.tif", np.uint8, []), ("0.tif", np.uint16, ["greys"]),
    ("0.nii.gz", np.uint8, []), ("0.nii.gz", np.int16, ["greys"]),
])  # fmt: skip
def test_numbers_beside_colours_were_read_otherwise_in_deep_masks_alone(
    tmp_path: Path, name: str, kind: type[np.generic], ways: list[str]
) -> None:
    for part in ("images", "masks"):
        put(tmp_path / part / name, np.ones((16, 16, 2) if name.endswith(".gz") else (16, 16), kind))
    source = make_source("folder", tmp_path, labels={1: 1, 2: 2, "#ff0000": "ignore"})
    assert ways_of_reading(open_sources([source]), overlap=False) == ways
