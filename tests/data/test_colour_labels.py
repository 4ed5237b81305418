"""Colours as labels: exact ones, those that JPEG and resizing have changed, and those that are of another palette."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from medarts.config import DataSettings, make_source, parse
from medarts.data.classifying import ReadMask
from medarts.data.doctor import examine
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.masks import read_mask
from medarts.data.opening import open_manifest, with_class_indices
from medarts.data.store import open_store
from medarts.errors import DataError, RecipeError
from medarts.tasks import SegmentationTask

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 100, 0]], np.uint8)
LABELS: dict[int | str, int] = {"#ff0000": 1, "#006400": 2}


def drawn(*, size: int = 64) -> np.ndarray:
    """Returns class indices: a disc of 1 that touches a square of 2."""
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    mask[np.hypot(y - size / 2, x - size / 3) < size / 5] = 1
    mask[size // 4 : 3 * size // 4, size // 2 :] = 2
    return mask


def read(path: Path, labels: dict[int | str, int] = LABELS) -> ReadMask:
    return read_mask(Sample("k", path, path, "p", "d", "train"), ReadingRules(labels=tuple(labels.items())))


def saved(path: Path, mask: np.ndarray, colours: np.ndarray = COLOURS, **how: Any) -> Path:
    Image.fromarray(colours[mask]).save(path, **how)
    return path


@pytest.mark.parametrize("kind", ["rgb", "palette", "rgba", "bmp"])
def test_colours_are_read_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    mask, path = drawn(), tmp_path / ("m.bmp" if kind == "bmp" else "m.png")
    image = Image.fromarray(COLOURS[mask])
    if kind == "palette":
        image = Image.fromarray(mask, "P")
        image.putpalette(COLOURS.tobytes())
    image.convert("RGBA" if kind == "rgba" else image.mode).save(path)
    found = read(path)
    np.testing.assert_array_equal(found.classes, mask)
    assert found.snapped == 0


def test_numbers_beside_colours_are_greys(tmp_path: Path) -> None:
    colours = np.array([[128, 128, 128], [255, 0, 0], [255, 255, 255]], np.uint8)
    found = read(saved(tmp_path / "m.png", drawn(), colours), {128: 0, "#ff0000": 1, 255: 2})
    np.testing.assert_array_equal(found.classes, drawn())
    grey = tmp_path / "g.png"
    Image.fromarray(np.array([0, 128, 255], np.uint8)[drawn()]).save(grey)
    np.testing.assert_array_equal(read(grey, {"#808080": 1, "#ffffff": 2}).classes, drawn())


def test_numbers_beside_colours_are_the_values_of_deeper_grey_masks(tmp_path: Path) -> None:
    labels: dict[int | str, int] = {"#ff0000": 1, 7: 2, 300: 3, "#ffffff": 4}
    deep, values = tmp_path / "d.png", np.array([0, 7, 300, 65535], np.uint16)
    Image.fromarray(values.repeat(64).reshape(16, 16)).save(deep)
    assert np.unique(read(deep, labels).classes).tolist() == [0, 2, 3, 4]
    with pytest.raises(DataError, match="holds the label 300 in 64 pixels"):
        read(deep, {"#ff0000": 1, 7: 2, 65535: 3})
    tifffile.imwrite(tmp_path / "i.tif", values.repeat(64).reshape(16, 16), photometric="miniswhite")
    inverted = read(tmp_path / "i.tif", labels | {"#808080": 5}).classes  # greys are what is seen
    assert inverted.ravel()[::64].tolist() == [4, 2, 3, 0]
    white = saved(tmp_path / "w.png", drawn(), np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255]], np.uint8))
    with pytest.raises(DataError, match="holds the colour #ffffff"):  # which is not near 300
        read(white, {"#ff0000": 1, 300: 2})


@pytest.mark.parametrize(("quality", "wrong"), [(95, 0.01), (75, 0.02), (50, 0.03)])
def test_colours_that_went_through_jpeg_are_the_nearest(tmp_path: Path, quality: int, wrong: float) -> None:
    mask = drawn(size=128)
    found = read(saved(tmp_path / "m.jpg", mask, quality=quality))
    assert (found.classes != mask).mean() < wrong
    assert 0 < found.snapped < mask.size


def test_colours_that_were_resized_smoothly_are_the_nearest(tmp_path: Path) -> None:
    mask = drawn(size=256)
    path = tmp_path / "m.png"
    Image.fromarray(COLOURS[mask]).resize((96, 96), Image.Resampling.BILINEAR).save(path)
    wanted = np.asarray(Image.fromarray(mask).resize((96, 96), Image.Resampling.NEAREST))
    found = read(path)
    assert (found.classes != wanted).mean() < 0.02
    assert set(np.unique(found.classes)) == {0, 1, 2}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_colour_of_its_own_is_named_however_small(tmp_path: Path, suffix: str) -> None:
    mask = drawn(size=128)
    mask[8:24, 8:24] = 3
    colours = np.concatenate([COLOURS, [[0, 0, 200]]]).astype(np.uint8)
    with pytest.raises(DataError, match="the labels of the source know #000000, #ff0000, #006400") as caught:
        read(saved(tmp_path / f"m.{suffix}", mask, colours))
    assert "#00" in caught.value.problem
    assert "background or ignore" in caught.value.fix


def test_a_single_pixel_of_another_colour_is_named_where_there_is_no_noise(tmp_path: Path) -> None:
    mask = drawn()
    mask[3, 3] = 3
    colours = np.concatenate([COLOURS, [[0, 0, 200]]]).astype(np.uint8)
    with pytest.raises(DataError, match="holds the colour #0000c8 in 1 pixels"):
        read(saved(tmp_path / "m.png", mask, colours))


def test_a_photograph_is_no_mask_of_these_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="holds the colours"):
        read(tmp_path / "m.png")


def test_greys_far_apart_are_read_from_jpeg_with_labels_that_are_numbers(tmp_path: Path) -> None:
    mask = drawn(size=128)
    path = tmp_path / "m.jpg"
    Image.fromarray(np.array([0, 128, 255], np.uint8)[mask]).save(path, quality=75)
    found = read(path, {128: 1, 255: 2})
    assert (found.classes != mask).mean() < 0.02
    assert found.snapped
    with pytest.raises(DataError, match="holds the label"):
        read(path, {128: 1, 130: 2, 255: 2})  # which noise cannot tell apart


def test_colours_without_labels_for_them_come_with_the_labels_to_give(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", drawn())
    sample = Sample("k", path, path, "p", "d", "train")
    with pytest.raises(DataError) as caught:
        read_mask(sample, ReadingRules())
    assert '{"#000000": 0, "#006400": 1, "#ff0000": 2}' in caught.value.fix
    with pytest.raises(DataError, match="the labels of the source are numbers") as caught:
        read(path, {1: 1})
    assert '"#ff0000"' in caught.value.fix


# Recipes


def section(path: Path, **source: Any) -> DataSettings:
    data = {"sources": [{"kind": "folder", "path": str(path), **source}], "classes": ["tumour", "vessel"], "size": 32}
    return parse({"data": data}).data


def test_keys_are_written_in_several_ways(tmp_path: Path) -> None:
    labels = {"#F00": "tumour", "#006400": 2, "255": "ignore", "#000000": "background"}
    source = section(tmp_path, labels=labels).sources[0]
    resolved = with_class_indices(source, ("tumour", "vessel")).model_dump()["labels"]
    assert resolved == {"#ff0000": 1, "#006400": 2, 255: 255, "#000000": 0}


@pytest.mark.parametrize("key", ["red", "#ff00", "#gg0000", "ff0000", "1.5"])
def test_other_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(RecipeError, match="is not a value of a mask; write whole numbers"):
        section(tmp_path, labels={key: 1})


def test_a_colour_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="#ff0000 appears twice"):
        section(tmp_path, labels={"#F00": 1, "#ff0000": 1})


def test_labels_that_are_to_be_found_out_are_refused_with_the_way_to_them(folder_data: Path) -> None:
    with pytest.raises(DataError, match="are auto") as caught:
        open_manifest(section(folder_data, labels="auto"), needs=())
    assert "medarts doctor" in caught.value.fix
    with pytest.raises(RecipeError, match="Did you mean 'auto'"):
        section(folder_data, labels="automatic")


def test_the_share_of_snapped_pixels_is_reported_once_a_set(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((folder_data / "masks").iterdir()):
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        mask[2:8, 2:8] = 2
        saved(path.with_suffix(".jpg"), mask, quality=90)
        path.unlink()
    labels = {"#ff0000": "tumour", "#006400": "vessel"}
    settings = section(folder_data, labels=labels).model_copy(update={"cache": tmp_path / "cache"})
    open_store(open_manifest(settings, needs=()), settings)
    reported = [line for line in capsys.readouterr().err.splitlines() if "no labelled colour" in line]
    assert len(reported) == 1
    assert reported[0].startswith("folder: ")


# What the doctor proposes


def coloured(folder_data: Path) -> Path:
    for path in sorted((folder_data / "masks").iterdir()):
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        mask[2:8, 2:8] = 2
        saved(path, mask)
    return folder_data


def test_the_doctor_prints_labels_that_the_next_recipe_takes(folder_data: Path, medarts: Any, tmp_path: Path) -> None:
    status, output, _ = medarts("doctor", coloured(folder_data), "--out", tmp_path / "found.csv")
    assert status == 1
    lines = [line[4:] for line in output.splitlines() if line.startswith("    ")]
    block = yaml.safe_load("\n".join(lines))
    assert block == {"classes": 3, "labels": {"#000000": "background", "#006400": 1, "#ff0000": 2}}
    assert all("% of the pixels, in" in line for line in lines[2:])
    source = {"kind": "folder", "path": str(folder_data), "labels": block["labels"]}
    settings = parse({"data": {"sources": [source], "classes": block["classes"], "size": 32}}).data
    assert not examine(settings.sources, needs=settings).failed


def test_the_doctor_takes_a_recipe_whose_labels_are_to_be_found_out(folder_data: Path) -> None:
    settings = section(coloured(folder_data), labels="auto")
    found = examine(settings.sources, needs=settings)
    assert any("are auto" in finding.problem for finding in found.findings)
    assert '"#006400": 1' in "\n".join(found.summaries[0].labels)


def test_binary_masks_need_no_labels(folder_data: Path) -> None:
    (summary,) = examine([make_source(kind="folder", path=folder_data)]).summaries
    assert summary.labels == ()


def test_a_class_that_no_training_mask_shows_is_an_error(folder_data: Path, tmp_path: Path) -> None:
    labels = {"#000000": "background", "#ff0000": "tumour", "#006400": "tumour", "#0000ff": "vessel"}
    settings = section(coloured(folder_data), labels=labels).model_copy(update={"cache": tmp_path / "cache"})
    store = open_store(open_manifest(settings, needs=()), settings)
    task = SegmentationTask(settings, loss="ce_dice")
    with pytest.raises(DataError, match=r"shows the class 'vessel' \(labels #0000ff\), only tumour"):
        task.check(store, {"training": store.manifest.of_split("train")})
    task.check(store, {"validation": store.manifest.of_split("val")})
