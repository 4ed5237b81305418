"""Masks scored at the size of their files: as ``medarts predict`` writes them, with distances in mm, and as volumes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import write_folder_data
from tests.data.dicom_sets_of_tests import ellipse as dicom_ellipse
from tests.data.dicom_sets_of_tests import enhanced, segmentation, series
from tests.deploy.dicoms import AXIAL, OBLIQUE, dataset, write

import medarts
from medarts import terminal
from medarts.config import make_source, parse
from medarts.data.arrays import from_arrays
from medarts.data.formats import raw_image
from medarts.data.opening import open_data
from medarts.engine.directory import RunDirectory
from medarts.evaluation.evaluate import evaluate
from medarts.evaluation.pictures import Pictures
from medarts.evaluation.pictures import from_arrays as pictures_in
from medarts.evaluation.scores import Scores, of_images, of_volumes
from medarts.evaluation.truths import Truths
from medarts.metrics import Tolerance
from medarts.metrics.masks import mask_scores
from medarts.registry import models
from medarts.training.trainer import start_training

ROW, COLUMN, SLICE = 0.4, 0.9, 3.0
Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module", params=["fit", "squash"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A U-Net that finds bright discs, on images of 32 pixels."""
    root = tmp_path_factory.mktemp("own-size")
    recipe = parse(
        {
            "data": {
                "sources": [{"kind": "folder", "path": str(write_folder_data(root / "blobs")), "name": "blobs"}],
                "size": 32,
                "resize": request.param,
                "cache": str(root / "cache"),
            },
            "train": {"epochs": 6, "batch": 4, "optimizer": "adamw", "lr": 0.02},
            "evaluation": {"batch": 4, "bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
    )
    return start_training(recipe, models.choose({"name": "unet", "width": 4, "depth": 2}), root / "run")


@pytest.mark.parametrize(("files", "context"), [(1, 1), (2, 0), (2, 1)])
def test_pages_show_a_slice_without_its_neighbours_and_other_files(tmp_path: Path, files: int, context: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        volumes = {f"images/{name}_{n:04d}": rng.integers(0, 256, (16, 16, 4)) for n in range(files)}
        for path, values in (volumes | {f"masks/{name}": np.eye(16)[..., None].repeat(4, 2)}).items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), np.eye(4)), tmp_path / f"{path}.nii.gz")
    source = {"kind": "folder", "path": str(tmp_path), "image": "images/{name}_{channel}", "window": [0, 255]}
    data = {"sources": [source], "size": 16, "context": context, "in_channels": files * (2 * context + 1)}
    recipe = parse({"data": data | {"cache": str(tmp_path / "cache")}})
    store = open_data(recipe.data, needs=("train", "val"))
    pictures = Pictures(store, recipe)
    for row, sample in enumerate(store.manifest.samples):
        own = raw_image(sample.image, sample.slice_index).values
        assert np.array_equal(pictures.image(row), own)


def ellipse(number: int = 0) -> Bytes:
    """A bright ellipse of another place and size for every number, on 70 x 45 pixels."""
    y, x = np.mgrid[:70, :45]
    return (((y - 30 - 2 * number) / 20) ** 2 + ((x - 20) / (9 + number)) ** 2 <= 1).astype(np.uint8)


def picture(mask: Bytes, seed: int) -> Bytes:
    return (150 * mask + np.random.default_rng(seed).integers(0, 60, mask.shape)).astype(np.uint8)


def png(path: Path, values: Bytes, number: int) -> None:
    Image.fromarray(values).save(path / f"{number}.png")


def tiff(path: Path, values: Bytes, number: int) -> None:
    resolution = (10 / COLUMN, 10 / ROW)
    tifffile.imwrite(path / f"{number}.tif", values, resolution=resolution, resolutionunit=3)


def dicom(orientation: tuple[float, ...]) -> Callable[[Path, Bytes, int], None]:
    def save(path: Path, values: Bytes, number: int) -> None:
        place = {"ImageOrientationPatient": list(orientation), "ImagePositionPatient": [0, 0, 5 * number]}
        about = {"PixelSpacing": [ROW, COLUMN], "SeriesInstanceUID": f"1.2.{number}", **place}
        write(path / f"{number}.dcm", dataset(values, instance=f"1.2.3.{number}", **about))

    return save


def write_set(root: Path, save: Callable[[Path, Bytes, int], None], *, images: int = 3) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        save(root / "images", picture(ellipse(number), number), number)
        save(root / "masks", 255 * ellipse(number), number)
    return root


def scored(run: RunDirectory, folder: Path) -> Scores:
    source = make_source(kind="folder", path=folder, name="others", window=(0, 255), fractions=(0, 0))
    return evaluate(run.path, sources=(source,), split="all")


def rows_of(scores: Scores, image: str) -> dict[str, tuple[float, str]]:
    table = of_images(scores.table)
    return {row.metric: (row.value, row.unit) for row in table[table["image"] == image].itertuples()}


@pytest.mark.parametrize(("longest", "shape"), [(512, (70, 45)), (35, (35, 23))])
def test_pages_show_the_masks_that_are_scored(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, shape: tuple[int, int]
) -> None:
    """At the size of the file, up to that of a page; the network has seen 32 pixels."""
    monkeypatch.setattr("medarts.evaluation.pictures.LONGEST", longest)
    own = RunDirectory.open(shutil.copytree(run.path, tmp_path / "run"))
    scores = scored(own, write_set(tmp_path / "others", png))
    (file,) = own.path.glob("scores/all-*/examples.npz")
    with np.load(file) as arrays:
        pictures = pictures_in(arrays)
    assert len(pictures) == 4  # best, median and worst, and a third in the gallery
    for each in pictures:
        number = int(each.title.split(" · ")[-2])
        assert (each.image.shape, each.target.shape, each.predicted.shape) == ((*shape, 3), shape, shape)
        assert each.stretch == 1
        dice = rows_of(scores, str(number))["dice"][0]
        drawn = 2 * (each.predicted & each.target).sum() / (each.predicted.sum() + each.target.sum())
        assert drawn == pytest.approx(dice, abs=1e-6 if longest == 512 else 0.05)
        if longest == 512:
            np.testing.assert_array_equal(each.image[..., 0], picture(ellipse(number), number))
            np.testing.assert_array_equal(each.target, ellipse(number))


@pytest.mark.parametrize(
    ("save", "known"),
    [(png, False), (tiff, True), (dicom(AXIAL), True), (dicom(OBLIQUE), True)],
    ids=["png", "tiff", "dicom", "oblique dicom"],
)
def test_scores_are_those_of_the_masks_that_predict_writes(
    run: RunDirectory, tmp_path: Path, save: Callable[[Path, Bytes, int], None], known: bool
) -> None:
    folder = write_set(tmp_path / "others", save)
    scores = scored(run, folder)
    model = medarts.load(run.path)
    for number in range(3):
        path = next((folder / "images").glob(f"{number}.*"))
        predicted, true = model.predict(path) >= 0.5, ellipse(number) == 1
        assert predicted.shape == (70, 45)
        assert predicted.any()
        expected = mask_scores(predicted, true, spacing=(ROW, COLUMN) if known else None)
        found = rows_of(scores, str(number))
        assert {name: value for name, (value, _) in found.items()} == pytest.approx(expected, nan_ok=True, rel=1e-4)
        assert found["hd95"][1] == ("mm" if known else "px")
        assert found["nsd"][1] == ("at 2 mm" if known else "at 2 px")
    assert scores.external == ("others",)


def volume(root: Path, codes: str) -> Path:
    """Writes a volume of five slices, 3 mm apart, in stored axes of these codes; slices stay the last."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    masks = np.stack([ellipse(number) for number in range(5)], -1)
    images = np.stack([picture(ellipse(number), number) for number in range(5)], -1)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(codes)
    )
    for name, seen in (("images", images), ("masks", 255 * masks)):
        stored = nibabel.Nifti1Image(seen.swapaxes(0, 1), np.diag([-COLUMN, -ROW, SLICE, 1]))
        nibabel.save(stored.as_reoriented(turn), root / name / "scan.nii.gz")
    return root


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PRI"])
def test_slices_are_put_together_and_scored_in_mm(run: RunDirectory, tmp_path: Path, codes: str) -> None:
    folder = volume(tmp_path / "others", codes)
    scores = scored(run, folder)
    predicted = medarts.load(run.path).predict(folder / "images" / "scan.nii.gz") >= 0.5
    true = np.stack([ellipse(number) == 1 for number in range(5)])
    true = true[::-1] if codes == "PRI" else true  # slices run from head to foot
    expected = mask_scores(predicted, true, spacing=(SLICE, ROW, COLUMN))
    found = of_volumes(scores.table)
    assert set(found["image"]) == set(found["patient"]) == {"scan"}
    assert dict(zip(found["metric"], found["value"], strict=True)) == pytest.approx(expected, nan_ok=True, rel=1e-4)
    units = dict(zip(found["metric"], found["unit"], strict=True))
    assert (units["dice"], units["hd95"], units["false_area"]) == ("", "mm", "mm3")
    of_slice = rows_of(scores, "scan/002")
    assert of_slice["assd"][0] == pytest.approx(mask_scores(predicted[2], true[2], spacing=(ROW, COLUMN))["assd"])
    assert scores.volumes is not None
    assert scores.volumes.set_index(["dataset", "metric"]).loc[("others", "dice"), "images"] == 1


def test_frames_of_an_enhanced_object_are_put_together_in_the_order_of_space(run: RunDirectory, tmp_path: Path) -> None:
    images = series(tmp_path / "files", slices=5)
    enhanced(tmp_path / "frames" / "whole", images, (2, 0, 4, 3, 1), slope=0)
    masks = np.stack([dicom_ellipse(scale) for scale in (0.6, 0.8, 1.0, 0.9, 0.4)])
    path = segmentation(tmp_path / "files" / "seg.dcm", images, {"foreground": masks})
    data = pydicom.dcmread(path)
    del data.ReferencedSeriesSequence
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    data.save_as(tmp_path / "frames" / "seg.dcm")
    tables = []
    for name in ("files", "frames"):
        source = make_source(kind="dicom", path=tmp_path / name, name="others", window=(0, 140), fractions=(0, 0))
        tables.append(evaluate(run.path, sources=(source,), split="all").table)
    found = [of_volumes(table).set_index("metric")["value"] for table in tables]
    assert found[0]["hd95"] > 0
    pd.testing.assert_series_equal(*found)


def test_a_volume_with_a_gap_has_overlap_and_no_distances(run: RunDirectory, tmp_path: Path) -> None:
    folder = volume(tmp_path / "others", "LPS")
    parts = ["test", "test", "gap", "test", "test"]
    lines = [f"scan/{number:03d},{part}" for number, part in enumerate(parts)]
    (folder / "splits.csv").write_text("\n".join(["id,split", *lines]) + "\n")
    source = make_source(kind="folder", path=folder, name="others", window=(0, 255))
    scores = evaluate(run.path, sources=(source,))
    found = of_volumes(scores.table).set_index("metric")["value"]
    assert 0 < found["dice"] <= 1
    assert found[["hd95", "assd", "nsd"]].isna().all()


def test_known_and_unknown_spacing_are_not_averaged(run: RunDirectory, tmp_path: Path, capsys) -> None:
    folder = write_set(tmp_path / "others", tiff)
    png(folder / "images", picture(ellipse(), 7), 7)
    png(folder / "masks", 255 * ellipse(), 7)
    scores = scored(run, folder)
    summary = scores.summary.set_index(["dataset", "metric"])
    assert np.isnan(summary.loc[("others", "hd95"), "value"])
    assert sorted(summary.loc[("others", "hd95"), "unit"].split(" and ")) == ["mm", "px"]
    assert not np.isnan(summary.loc[("others", "dice"), "value"])
    terminal.show_scores(scores)
    assert "Images differ in their unit (mm and px)" in " ".join(capsys.readouterr().out.split())


def test_arrays_are_scored_at_their_own_size(run: RunDirectory) -> None:
    masks = [ellipse(number) for number in range(4)]
    images = np.stack([picture(mask, number)[..., None].repeat(3, -1) for number, mask in enumerate(masks)])
    store = from_arrays(images, np.stack(masks), size=32, resize=run.recipe.data.resize, splits=["test"] * 4)
    scores = evaluate(run.path, data=store)
    model = medarts.load(run.path)
    for number, mask in enumerate(masks):
        expected = mask_scores(model.predict(images[number]) >= 0.5, mask == 1)
        found = rows_of(scores, f"{number:06d}")
        assert found["dice"][0] == pytest.approx(expected["dice"], abs=1e-3)  # stores hold half precision
        assert found["hd95"][1] == "px"


def test_a_mask_is_read_as_its_file_has_it(run: RunDirectory, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "others", png)
    source = make_source(kind="folder", path=folder, name="others", fractions=(0, 0))
    store = open_data(run.recipe.data.model_copy(update={"sources": (source,)}), needs=())
    truth = Truths(store, run.recipe).of(1)
    assert np.array_equal(truth.stored, ellipse(1))
    assert truth.states.tolist() == [1]
    assert truth.spacing is None


def test_a_tolerance_of_the_recipe_is_that_of_the_scores(run: RunDirectory, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "others", png, images=1)
    source = make_source(kind="folder", path=folder, name="others", fractions=(0, 0))
    store = open_data(run.recipe.data.model_copy(update={"sources": (source,)}), needs=())
    settings = run.recipe.evaluation.model_copy(update={"tolerance_px": 5.0})
    truths = Truths(store, run.recipe.model_copy(update={"evaluation": settings}))
    shifted = np.roll(ellipse(0), 4, axis=1)
    found = truths.scores(shifted, truths.of(0).stored, 0, vanished=False, spacing=None)
    assert found["nsd"] == 1
    assert mask_scores(shifted == 1, ellipse(0) == 1, tolerance=Tolerance(px=1.0))["nsd"] < 0.9
