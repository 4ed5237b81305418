"""What init proposes beyond size and epochs, each with its reason, and where it leaves it out."""

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.data.layouts_of_tests import put
from tests.proposal.recipes_of_tests import SMALLEST

import medarts
from medarts import terminal
from medarts.config import load
from medarts.data.reading import resize_mask
from medarts.engine.listing import read_listing
from medarts.pool.search import recipe_after
from medarts.proposal.shrinking import Outlines
from medarts.spaces import load_genotype
from medarts.spaces.nas_wdan.settings import NasWdanSettings

pytestmark = pytest.mark.usefixtures("nothing_rendered")


def pairs(root: Path, masks: list[np.ndarray], *, names: str = "{}") -> Path:
    generator = np.random.default_rng(0)
    for n, mask in enumerate(masks):
        name = names.format(n)
        put(root / "images" / f"{name}.png", generator.integers(0, 255, mask.shape, dtype=np.uint8))
        put(root / "masks" / f"{name}.png", mask)
    return root


def lines(size: int, *, width: int, step: int = 16) -> np.ndarray:
    return np.broadcast_to(np.where(np.arange(size) % step < width, 255, 0).astype(np.uint8), (size, size))


def volumes(root: Path, *, pixels: list[float], gap: float, slices: int = 6, size: int = 48) -> Path:
    generator = np.random.default_rng(0)
    for n, mm in enumerate(pixels):
        image = generator.integers(0, 200, (size, size, slices)).astype(np.int16)
        mask = np.zeros((size, size, slices), np.uint8)
        mask[8:32, 8:32] = 1
        for folder, values in (("images", image), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([mm, mm, gap, 1.0])), root / folder / f"{n}.nii.gz")
    return root


def proposed(root: Path):
    """Returns the data of the proposal, and the lines of its recipe."""
    found = medarts.init(root, measure=False, force=True, changes="data.folds=null")
    return found.recipe.data, Path("recipe.yaml").read_text().splitlines()


def reason(text: list[str], key: str) -> str:
    return next(line for line in text if line.strip().startswith(f"{key}:")).partition("# ")[2]


def test_thin_structures_in_large_images_are_seen_in_patches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thin = pairs(tmp_path / "thin", [lines(512, width=1)] * 6)
    data, text = proposed(thin)
    assert (data.resize, data.size, data.scale) == ("patches", 128, 1.0)
    assert data.sampling.model_dump() == {"foreground": 0.33}
    assert reason(text, "resize").startswith("shrunk to 128 px, masks would be 0.")
    assert reason(text, "size") == "of a patch; 16 of them cover an image"
    thicker, _ = proposed(pairs(tmp_path / "thicker", [lines(512, width=2)] * 6))
    assert (thicker.resize, thicker.scale) == ("patches", 0.5)  # which these survive
    searched = medarts.search("recipe.yaml", changes=[*SMALLEST, "data.size=64"], out="s")
    assert medarts.train(searched, out="t").facts["finished"]


@pytest.mark.parametrize(("size", "width", "step"), [(512, 256, 512), (128, 1, 16)])
def test_thick_structures_and_small_images_need_no_patches(tmp_path, monkeypatch, size, width, step):
    monkeypatch.chdir(tmp_path)
    data, _ = proposed(pairs(tmp_path / "data", [lines(size, width=width, step=step)] * 6))
    assert data.resize == "fit"


def test_structures_as_thin_as_pixels_of_networks_get_a_whole_top_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def space(root: Path) -> tuple[object, ...]:
        found = medarts.init(root, measure=False, force=True, changes="data.folds=null").recipe
        assert found.data.size == 128
        assert isinstance(found.space, NasWdanSettings)
        choices = found.space.choices
        assert choices.full_size_head == (choices.stem_stride == (2,),)
        return found.data.resize, found.space.stem_stride, choices.stem_stride, choices.depth

    assert space(pairs(tmp_path / "thin", [lines(128, width=1)] * 6)) == ("fit", 1, (1,), (3, 4, 5))
    text = Path("recipe.yaml").read_text().splitlines()
    assert reason(text, "stem_stride").startswith("at half the size masks would be 0.")
    assert space(pairs(tmp_path / "thin in large", [lines(512, width=1)] * 6))[:2] == ("patches", 1)
    assert space(pairs(tmp_path / "thick", [lines(128, width=32, step=64)] * 6)) == ("fit", 2, (2,), (3, 4, 5))
    searched = medarts.search(
        "recipe.yaml", changes=[*SMALLEST, "space.stem_stride=1", "space.choices.stem_stride=[1]"]
    )
    assert load_genotype(searched).settings["stem_stride"] == 1
    assert medarts.train(searched, out="t").facts["finished"]


def test_pixels_of_several_sizes_are_brought_to_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, text = proposed(volumes(tmp_path / "differing", pixels=[0.5, 0.8, 0.8, 0.8], gap=9.0))
    assert (data.resize, data.spacing_mm, data.scale, data.context) == ("patches", 0.8, 1.0, 0)
    assert reason(text, "resize") == "pixels have 0.5 to 0.8 mm; a network learns one size best"
    alike, _ = proposed(volumes(tmp_path / "alike", pixels=[0.8] * 4, gap=9.0))
    assert (alike.resize, alike.spacing_mm) == ("fit", None)
    silent = pairs(tmp_path / "differing", [lines(48, width=24, step=48)] * 2, names="png{}")  # of its pixels
    assert proposed(silent)[0].spacing_mm is None


def test_near_slices_see_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, text = proposed(volumes(tmp_path / "near", pixels=[1.0] * 4, gap=3.0))
    assert (data.context, data.in_channels) == (1, 3)
    assert reason(text, "context") == "slices are 3 mm apart: each sees the next on either side"
    searched = medarts.search("recipe.yaml", changes=SMALLEST, out="s")
    assert medarts.train(searched, out="t").facts["finished"]
    assert proposed(volumes(tmp_path / "far", pixels=[1.0] * 4, gap=8.0))[0].context == 0
    assert proposed(volumes(tmp_path / "few", pixels=[1.0] * 4, gap=3.0, slices=3))[0].context == 0


def test_few_patients_are_divided_into_folds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = pairs(tmp_path / "few", [lines(32, width=16, step=32)] * 12)
    recipe = medarts.init(root, measure=False).recipe
    assert recipe.data.folds == 5
    assert reason(Path("recipe.yaml").read_text().splitlines(), "folds") == (
        "12 images: each is tested once, instead of 2 of them alone; the search sees fold 1"
    )
    two = [*SMALLEST, "data.folds=2"]  # the fewest, as each is a process
    searched = medarts.search("recipe.yaml", changes=two, out="s")
    assert searched.recipe.data.fold == 1
    assert "whose patients other folds are tested on" in " ".join(capsys.readouterr().err.split())
    trained = medarts.train(searched, out="t")
    assert "has seen" not in capsys.readouterr().err  # the run says it
    terminal.show_training(trained)
    of_fold_1 = sum(cells["split"] != "test" for cells in read_listing(Path("s/manifest.csv")).values())
    line = f"The search that chose the genotype has seen {of_fold_1} patients on whom it is tested"
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in medarts.report(trained).read_text(encoding="utf-8")
    with zipfile.ZipFile(medarts.pack(trained, out="t.medarts")) as package:
        (card,) = (package.read(name).decode() for name in package.namelist() if name.endswith(".md"))
    assert f"search of its genotype has seen, so that scores are a little too good | {of_fold_1} |" in card
    undivided = medarts.search("recipe.yaml", changes=[*SMALLEST, "data.folds=null"], out="s0")
    assert medarts.train(undivided, changes=["data.folds=2"], out="t0").facts["seen_by_search"] > 0
    baseline = medarts.train(searched, changes=["train.model={name: unet, width: 4, depth: 2}"], out="t1")
    assert (baseline.recipe.data.fold, "seen_by_search" in baseline.facts) == (None, False)
    assert (trained.recipe.data.folds, trained.recipe.data.fold) == (2, None)
    assert len(list(Path("t/folds").iterdir())) == 2
    one = medarts.search(load(Path("recipe.yaml")), changes=[*two, "data.fold=2"], out="s2")
    assert recipe_after(one).data.fold == 2


@pytest.mark.parametrize(("images", "folds"), [((12, 40), 5), ((6, 8), 3), ((5, 40), None), ((30, 40), None)])
def test_the_smallest_data_set_decides_the_folds(tmp_path, monkeypatch, images, folds):
    monkeypatch.chdir(tmp_path)
    roots = [pairs(tmp_path / f"of{number}", [lines(32, width=16, step=32)] * number) for number in images]
    assert medarts.init(*roots, measure=False).recipe.data.folds == folds


@pytest.mark.parametrize("kind", ["many", "divided", "one shows it", "very few"])
def test_folds_are_left_out_where_they_would_not_help(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    masks = [lines(32, width=16, step=32)] * {"many": 30, "very few": 5}.get(kind, 12)
    if kind == "one shows it":
        masks = [*masks[:-1], np.where(np.arange(32) < 8, 85, masks[-1]).astype(np.uint8)]
    root = pairs(tmp_path / "data", masks)
    if kind == "divided":
        rows = [f"{n},{split}" for n, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2)]
        (root / "splits.csv").write_text("\n".join(("id,split", *rows)))
    found = medarts.init(root, measure=False)
    assert (found.recipe.data.folds, len(found.looks[0].shown)) == (None, 2 if kind == "one shows it" else 1)


def test_few_of_many_and_fewer_of_large_masks_are_shrunk(monkeypatch):
    shrunk = []

    def noted(mask, shape, *, several):
        shrunk.append(shape)
        return resize_mask(mask, shape, several=several)

    monkeypatch.setattr("medarts.proposal.shrinking.resize_mask", noted)
    outlines = Outlines()
    for _ in range(40):
        outlines.add(np.minimum(lines(64, width=4), 1))
    outlines.kept(lambda height, width: (height // 2, width // 2))
    assert 3 <= len(shrunk) <= 16
    shrunk.clear()
    monkeypatch.setattr("medarts.proposal.shrinking.PIXELS", 64 * 64)
    outlines.kept(lambda height, width: (height // 2, width // 2))
    assert len(shrunk) == 3
