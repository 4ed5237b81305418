"""COCO annotations: rasterised polygons and run lengths, categories as classes, splits."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from tests.data.layouts_of_tests import LAYOUTS, cases

from medarts.config import DataSettings
from medarts.config.data import IGNORE
from medarts.data.formats.coco import read_annotations
from medarts.data.formats.polygons import fill, fill_all
from medarts.data.masks import check_classes, read_mask
from medarts.data.opening import open_manifest, open_sources, survey
from medarts.data.recognising import recognise
from medarts.data.sources import AmbiguousLayoutError
from medarts.data.store import open_store
from medarts.errors import DataError

SHAPE = (12, 16)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_filled_as_matplotlib_fills_them(seed):
    generator = np.random.default_rng(seed)
    ring = generator.uniform(-3, 19, (7, 2))  # which crosses itself, and leaves the image
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside = np.zeros(len(centres), dtype=bool)
    for n in range(1, len(ring) - 1):  # even-odd: the triangles of a fan, each of which turns its pixels
        triangle = ring[[0, n, n + 1]]
        inside ^= Outline(triangle).contains_points(centres)
    assert np.array_equal(fill(ring, SHAPE), inside.reshape(SHAPE))


def test_parts_are_joined_and_holes_are_cut():
    left, right = [(1, 1), (5, 1), (5, 9), (1, 9)], [(8, 2), (15, 2), (15, 11), (8, 11)]
    hole, island = [(9, 3), (14, 3), (14, 10), (9, 10)], [(11, 5), (12, 5), (12, 6), (11, 6)]
    mask = fill_all([left, island, right, hole], SHAPE)
    assert mask.sum() == 4 * 8 + 7 * 9 - 5 * 7 + 1
    assert mask[5, 11]
    assert not mask[4, 10]


def annotated(root: Path, segmentation: object, *, second: object = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    annotations = [{"id": 1, "image_id": 5, "category_id": 0, "segmentation": segmentation}]
    if second is not None:
        annotations.append({"id": 2, "image_id": 5, "category_id": 4, "segmentation": second})
    for n in range(4):
        Image.new("L", SHAPE[::-1], n).save(root / f"{n}.png")
    content = {
        "images": [{"id": 5 + n, "file_name": f"{n}.png", "height": SHAPE[0], "width": SHAPE[1]} for n in range(4)],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "a"}, {"id": 2, "name": "never drawn"}, {"id": 4, "name": "b"}],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def masks(root: Path) -> list[np.ndarray]:
    manifest = open_sources(recognise(root))
    return [read_mask(sample, manifest.rules[sample.domain]).classes for sample in manifest.samples]


def test_categories_are_classes_and_the_smaller_object_is_on_top(tmp_path):
    large, small = [[1, 1, 11, 1, 11, 11, 1, 11]], [[4, 4, 6, 4, 6, 6, 4, 6]]
    first, *others = masks(annotated(tmp_path, small, second=large))
    assert Counter(first.ravel().tolist()) == {0: 12 * 16 - 100, 2: 96, 1: 4}
    assert all(not other.any() for other in others)  # images without objects are background


def test_objects_that_overlap_are_of_all_their_classes_where_these_may(tmp_path):
    large, small = [[1, 1, 11, 1, 11, 11, 1, 11]], [[4, 4, 14, 4, 14, 6, 4, 6]]
    folder = annotated(tmp_path, small, second=large)
    (settings,) = recognise(folder)
    masks = {}
    for labels in ({1: "a", 5: "b"}, {1: "a", 5: "ignore"}):
        source = settings.model_copy(update={"labels": labels})
        manifest = open_sources([source], classes=("a", "b"))
        rules = manifest.rules[source.domain]
        masks[labels[5]] = read_mask(manifest.samples[0], rules, names=("a", "b"), overlap=True).classes
    assert [int(plane.sum()) for plane in masks["b"]] == [20, 100]  # of 14 shared pixels
    one, other = masks["ignore"]
    assert (Counter(one.ravel().tolist())[1], Counter(one.ravel().tolist())[IGNORE]) == (20, 86)
    assert Counter(other.ravel().tolist()) == {0: 92, IGNORE: 100}


def test_scores_tell_apart_how_masks_were_read(tmp_path):
    """Those made when the smaller object covered the other, and numbers were levels of 255, are made again."""
    folder = annotated(tmp_path / "data", [[1, 1, 11, 1, 11, 11, 1, 11]], second=[[4, 4, 8, 4, 8, 8, 4, 8]])
    (settings,) = recognise(folder)
    content = {"sources": [settings], "classes": ["a", "b"], "size": 16, "in_channels": 1, "cache": tmp_path / "cache"}
    ways = []
    for overlap, labels in (
        (False, {1: "a", 5: "b"}),
        (True, {1: "a", 5: "b"}),
        (True, {1: "a", "#ffffff": 0, 5: "b"}),
    ):
        source = settings.model_copy(update={"labels": labels})
        data = DataSettings(**{**content, "sources": [source], "overlap": overlap})
        store = open_store(open_manifest(data, needs=()), data)
        ways.append(store.ways)
        assert store.form[-len(store.ways) :] == store.ways or not store.ways
    assert ways == [[], ["objects"], ["objects", "greys"]]


@pytest.mark.parametrize("overlap", [False, True])
def test_objects_of_unknown_categories_and_classes_are_refused(tmp_path, overlap):
    large, small = [[1, 1, 11, 1, 11, 11, 1, 11]], [[4, 4, 8, 4, 8, 8, 4, 8]]
    folder = annotated(tmp_path, large, second=large)
    (settings,) = recognise(folder)
    source = settings.model_copy(update={"labels": {1: "a", 5: "b"}})
    manifest = open_sources([source], classes=("a", "b"))
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 6, "name": "c"})
    content["annotations"].append({"id": 3, "image_id": 5, "category_id": 6, "segmentation": small})
    if overlap:  # one mask for all shows what is on top alone
        content["annotations"].append({"id": 4, "image_id": 5, "category_id": 0, "segmentation": [[4, 4, 8, 4, 8, 7]]})
    path.write_text(json.dumps(content))
    (sample, *_), rules = manifest.samples, manifest.rules[source.domain]
    with pytest.raises(DataError, match="holds the label 7 in 16 pixels; the source knows 0, 1, 5"):
        read_mask(sample, rules, names=("a", "b"), overlap=overlap)
    more = replace(rules, labels=((1, 1), (5, 2), (7, 3)))
    with pytest.raises(DataError, match=r"holds class 3, data\.classes allows 0 to 2, a, b"):
        check_classes(
            sample, read_mask(sample, more, names=("a", "b"), overlap=overlap).classes, ("a", "b"), named=True
        )
    ignored = replace(rules, labels=((1, 1), (5, 2), (7, 0), (3, 4)))  # the last is never drawn
    assert read_mask(sample, ignored, names=("a", "b"), overlap=overlap).classes.max() <= 2


def encoded(counts: list[int]) -> str:
    """Writes run lengths as COCO does, see maskApi.c of cocoapi: differences to the last but one from the third on."""
    letters = []
    for n, count in enumerate(counts):
        value = count - (counts[n - 2] if n > 2 else 0)
        more = True
        while more:
            code = value & 0x1F
            value >>= 5
            more = value != -1 if code & 0x10 else value != 0
            letters.append(chr((code | (0x20 if more else 0)) + 48))
    return "".join(letters)


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_go_down_the_columns(tmp_path, compressed):
    mask = np.random.default_rng(1).random(SHAPE) > 0.7
    mask[:, 3:9] = False  # a run of more than 31
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    runs = {"size": list(SHAPE), "counts": encoded(counts) if compressed else counts}
    assert np.array_equal(masks(annotated(tmp_path, runs))[0], mask.astype(np.uint8))


def test_a_file_for_each_split_beside_its_images(tmp_path):
    for split in ("train", "valid", "test"):
        folder = annotated(tmp_path / split, [[1, 1, 5, 1, 5, 5]])
        (folder / "annotations.json").rename(folder / "_annotations.coco.json")
    (source,) = recognise(tmp_path)
    assert source.model_dump()["annotations"] == "{split}/_annotations.coco.json"
    assert Counter(sample.split for sample in open_sources([source]).samples) == {"train": 4, "val": 4, "test": 4}


def test_annotations_lead_to_the_masks_that_they_were_drawn_from(tmp_path):
    LAYOUTS["coco"](tmp_path)
    manifest = open_sources(recognise(tmp_path))
    truth = {name: classes for name, _, classes in cases()}
    for sample in manifest.samples:
        drawn = read_mask(sample, manifest.rules[sample.domain]).classes
        assert drawn[truth[sample.image.stem] > 0].all()  # boxes around the ellipses
    assert read_annotations(tmp_path / "annotations/instances.json").categories == {3: "liver", 7: "tumour"}


def test_a_missing_image_and_categories_that_change_are_refused(tmp_path):
    root = annotated(tmp_path / "one", [[1, 1, 5, 1, 5, 5]])
    (root / "2.png").unlink()
    assert [fault.detail for fault in survey(recognise(root)[0]).faults] == ["2.png"]
    for split in ("train", "test"):
        annotated(tmp_path / "two" / split, [[1, 1, 5, 1, 5, 5]])
    content = json.loads((tmp_path / "two/test/annotations.json").read_text().replace('"name": "a"', '"name": "c"'))
    (tmp_path / "two/test/annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"category 0 '[ac]', another file '[ac]'"):
        open_sources(recognise(tmp_path / "two"))


def test_several_files_of_annotations_are_a_choice(tmp_path):
    root = annotated(tmp_path, [[1, 1, 5, 1, 5, 5]])
    shutil.copy(root / "annotations.json", root / "second.json")
    with pytest.raises(AmbiguousLayoutError) as raised:
        recognise(root)
    assert raised.value.told == ("the annotations annotations.json", "the annotations second.json")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        shutil.copy(root / "0.png", root / kind)
    assert [source.kind for source in recognise(root)] == ["folder"]


def test_categories_are_classes_by_their_names(tmp_path):
    large, small = [[1, 1, 11, 1, 11, 11, 1, 11]], [[4, 4, 6, 4, 6, 6, 4, 6]]
    source = recognise(annotated(tmp_path, small, second=large))

    def first(*classes: str) -> Counter[int]:
        manifest = open_sources(source, classes=classes)
        return Counter(read_mask(manifest.samples[0], manifest.rules[manifest.domains[0]]).classes.ravel().tolist())

    assert first("b", "a") == {0: 92, 1: 96, 2: 4}
    assert first("b", "c", "a") == {0: 92, 1: 96, 3: 4}
    assert first("class 1", "class 2") == {0: 92, 2: 96, 1: 4}  # which have no names
    with pytest.raises(DataError, match=r"has the class 'b', which the recipe does not name\..*5: background"):
        first("a")
    with pytest.raises(DataError, match=r"has the classes 'a', 'b', which"):
        first("A", "B")
