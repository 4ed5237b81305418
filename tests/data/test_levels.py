"""Masks without labels that are binary one by one, and of several classes taken together."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.config import DataSettings, SourceSettings, make_source
from medarts.data.classifying import classify
from medarts.data.doctor import examine
from medarts.data.formats.raw import Raw
from medarts.data.levels import DomainLevels
from medarts.data.manifest import ReadingRules
from medarts.data.opening import open_sources
from medarts.data.store import open_store
from medarts.errors import DataError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def disc(radius: float = 9.0, size: int = 40) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - 19) ** 2 + (x - 21) ** 2 < radius**2


def drawn(value, ground=0, **more) -> np.ndarray:
    """Returns a mask HWC with a disc of a value or colour."""
    value, ground = np.atleast_1d(value), np.atleast_1d(ground)
    return np.where(disc(**more)[..., None], value, ground).astype(np.uint8)


def jpeg(values: np.ndarray, quality: int = 80) -> Raw:
    content = io.BytesIO()
    Image.fromarray(values.squeeze()).save(content, "JPEG", quality=quality)
    stored = np.asarray(Image.open(content))
    return Raw(stored if stored.ndim == 3 else stored[..., None], (0.0, 255.0), lossy=True)


def problem(*masks: np.ndarray | Raw) -> DataError | None:
    levels = DomainLevels()
    for number, values in enumerate(masks):
        raw = values if isinstance(values, Raw) else Raw(values, (0.0, 65535.0 if values.dtype == np.uint16 else 255.0))
        levels.add(classify(raw, ReadingRules(), path=Path(f"{number}.png")).levels)
    return levels.problem("set")


@pytest.mark.parametrize(
    ("masks", "words", "fix"),
    [
        ((drawn(255), drawn(128)), "foreground values.* 128 (1.png), 255 (0.png)", "{128: 1, 255: 2}"),
        ((drawn(128), drawn(255), drawn(192)), "128 (0.png), 192 (2.png), 255 (1.png)", "{128: 1, 192: 2, 255: 3}"),
        ((drawn(1), drawn(128), drawn(255)), "1 (0.png)", "{1: 1, 128: 2, 255: 1}"),
        ((drawn(255), drawn(255, ground=100)), "background values.* 0 (0.png), 100 (1.png)", "{100: 1, 255: 2}"),
        (
            (drawn(RED), drawn(GREEN)),
            "foreground colours.* (0, 255, 0) (1.png), (255, 0, 0) (0.png)",
            '"#00ff00": 1, "#ff0000": 2',
        ),
        ((drawn(WHITE), drawn(RED)), "255 (0.png)", '"#ff0000": 1, "#ffffff": 2'),
        (
            (jpeg(drawn(RED, radius=16)), jpeg(drawn(GREEN, radius=16))),
            "foreground colours",
            "Save the masks without JPEG",
        ),
        ((jpeg(drawn(255)), jpeg(drawn(160, radius=16))), "foreground values", "Save the masks without JPEG"),
        ((drawn(1), drawn(255), drawn(255, ground=1)), "value 1 is the foreground", "{1: 1, 255: ignore} where 255"),
    ],
)
def test_files_that_differ_are_several_classes(masks, words, fix):
    found = problem(*masks)
    assert found is not None
    for word in words.split(".*"):
        assert word in found.problem
    assert fix in (found.fix or "")


@pytest.mark.parametrize(
    "masks",
    [
        (drawn(1), drawn(255), drawn(0), drawn(1, ground=1), drawn(255, ground=255)),
        (drawn(255), drawn(1), drawn(255), drawn(1)),
        (drawn(255), drawn(254), drawn(250)),
        (drawn(255), drawn(255).astype(np.uint16) * 257),
        (drawn(255), drawn(0, ground=255)),
        (drawn(RED), drawn(RED), drawn(0)),
        (drawn(255), np.where(disc(1.2), 180, 0)[..., None].astype(np.uint8)),  # what scaling left of a spot
        *([jpeg(drawn(255, radius=r), q) for r in (2, 3, 5, 9, 14)] for q in (20, 50, 80, 95)),
        [jpeg(drawn(RED, radius=r)) for r in (2, 3, 5, 9, 14)],
    ],
)
def test_files_of_one_class_are_binary(masks):
    assert problem(*masks) is None


@pytest.mark.parametrize("reduced", [3, 5, 8])
def test_smooth_edges_of_small_things_are_no_class(reduced):
    size = (40 // reduced, 40 // reduced)
    soft = [np.asarray(Image.fromarray(drawn(255, radius=r)[..., 0]).resize(size)) for r in range(4, 16)]
    assert problem(drawn(255), *(values[..., None] for values in soft)) is None


def folder(root: Path, values: list[int] | list[tuple[int, int, int]], *, palette: bool = False) -> SourceSettings:
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number, value in enumerate(values):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)).save(
            root / f"images/{number}.png"
        )
        mask = Image.fromarray(drawn(value).squeeze())
        if palette:
            mask = mask.convert("P")
            mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask.save(root / f"masks/{number}.png")
    return make_source(kind="folder", path=root, name="set")


def test_the_store_refuses_the_files_of_a_domain_that_differ(tmp_path):
    data = DataSettings(sources=(folder(tmp_path, [255, 128] * 3),), size=16, cache=tmp_path / "cache", in_channels=1)
    with pytest.raises(DataError, match=r"masks of set have different.* 128 \(.*1\.png\), 255 \(.*0\.png\)"):
        open_store(open_sources(data.sources), data)


def test_the_doctor_names_the_indices_of_a_palette(tmp_path):
    source = folder(tmp_path, [1, 2] * 6, palette=True)
    found = [finding for finding in examine([source]).findings if finding.level == "error"]
    assert len(found) == 1
    assert "foreground colours" in found[0].problem
    assert found[0].fix == "Give the source labels, such as {1: 2, 2: 1}."
    labelled = source.model_copy(update={"labels": {1: 1, 2: 2}})
    assert not examine([labelled]).failed
