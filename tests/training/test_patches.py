"""Networks of patches, of neighbouring slices and of several files, from training to predictions and exported files."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_runs_of_tests import InThisProcess

import medarts
from medarts.data.arrays import from_dataset
from medarts.data.reading import unframed
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, RecipeError
from medarts.evaluation.calibrating import as_shipped
from medarts.training.trained import load_network

SIZE = 32
RECIPE: dict[str, Any] = {
    "data": {"sampling": {"foreground": 0.5}},
    "train": {"epochs": 2, "batch": 4, "lr": 0.01, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


class Spots(torch.utils.data.Dataset):
    """Images of several sizes with a bright disc."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int):
        generator = np.random.default_rng(number)
        height, width = generator.integers(24, 90, 2)
        rows, columns = np.mgrid[:height, :width]
        mask = (rows - generator.integers(height)) ** 2 + (columns - generator.integers(width)) ** 2 < 40
        image = generator.normal(90, 20, (height, width)) + 90 * mask
        return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return medarts.train(None, RECIPE, data=patches(), out=tmp_path_factory.mktemp("runs") / "patches")


def patches() -> Any:
    return from_dataset(Spots(), size=SIZE, resize="patches")


def test_a_resumed_training_equals_an_uninterrupted_one(run: RunDirectory, tmp_path: Path) -> None:
    from medarts.training.trainer import resume_training, start_training

    architecture = run.recipe.train.model
    resumed = start_training(run.recipe, architecture, tmp_path / "resumed", data=patches(), pause=1)
    resume_training(resumed.path, data=patches())
    for name in ("metrics.jsonl",):
        assert (resumed.path / name).read_bytes() == (run.path / name).read_bytes()
    one, other = (load_network(each).state_dict() for each in (run, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_predictions_are_those_that_are_scored(run: RunDirectory) -> None:
    data, model = patches(), medarts.load(run.path)
    network = as_shipped(load_network(run), run.recipe)
    for number in (0, 5):
        image = torch.from_numpy(data.images[number][None].astype(np.float32))
        with torch.inference_mode():
            scored = unframed(network(image).sigmoid(), data.framing(number))
        found = model.predict(Spots()[number][0])
        assert found.shape == Spots()[number][0].shape
        np.testing.assert_allclose(found, scored[0, 0].numpy(), atol=2e-3)  # stored images are of 16 bits


def test_scores_and_an_exported_file_are_of_whole_images(run: RunDirectory, tmp_path: Path) -> None:
    scores = medarts.evaluate(run, data=patches(), split="test")
    assert scores.table["image"].nunique() == len(patches().manifest.of_split("test").samples)
    path = medarts.export(run, tmp_path / "net.onnx", data=patches()).path
    exported = medarts.load(path, threads=1)
    image = Spots()[3][0]
    np.testing.assert_allclose(exported.predict(image), medarts.load(run.path).predict(image), atol=1e-4)
    assert exported.predict(image[:20, :25]).shape == (20, 25)
    Image.fromarray(image).save(tmp_path / "a.png")
    medarts.predict(path, [tmp_path / "a.png"], out=tmp_path / "out", flip=True)
    assert Image.open(tmp_path / "out/a.png").size == image.shape[::-1]
    with pytest.raises(RecipeError, match="trained on patches"):
        medarts.predict(path, [tmp_path / "a.png"], out=tmp_path / "other", window=64)


def test_a_search_sees_patches_in_both_halves(tmp_path: Path) -> None:
    recipe = {
        **RECIPE,
        "space": {"name": "nas-wdan", "init_channel": 2, "intermediate_nodes": 2},
        "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 2}], "arch_after": 0},
    }
    found = medarts.search(recipe, data=patches(), out=tmp_path / "search")
    assert len(found.read_journal("metrics.jsonl")) == 1


def volumes(folder: Path, *, files: int) -> Path:
    """Writes volumes of 4 slices of 20 x 28, each of so many files, with masks."""
    for number in range(6):
        generator = np.random.default_rng(number)
        mask = np.zeros((20, 28, 4), np.uint8)
        mask[5:12, 6:15, 1:3] = 1
        affine = np.diag([-1.0, -1, 3, 1])
        for file in range(files):
            values = (generator.normal(50, 10, mask.shape) + 60 * mask * (file + 1)).astype(np.int16)
            name = f"{number}_{file:04}.nii.gz" if files > 1 else f"{number}.nii.gz"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), folder / "images" / name)
        (folder / "masks").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "masks" / f"{number}.nii.gz")
    return folder


def of_volumes(folder: Path, tmp_path: Path, **data: Any) -> dict[str, Any]:
    source = {"kind": "folder", "path": str(folder), "percentiles": [0.5, 99.5]}
    about = {"sources": [source], "size": SIZE, "cache": str(tmp_path / "cache"), **data}
    return {**RECIPE, "data": about, "train": {**RECIPE["train"], "epochs": 1}}


def test_a_network_of_neighbouring_slices(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "set", files=1)
    run = medarts.train(None, of_volumes(folder, tmp_path, context=1), out=tmp_path / "run")
    assert run.facts["parts"] == [1, 1, 1]
    model = medarts.load(run.path)
    path = folder / "images" / "3.nii.gz"
    found = model.predict(path)
    assert found.shape == (4, 28, 20)  # rows and columns as they are shown
    volume = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
    in_memory = model.predict(volume.astype(np.float32) / 255)  # percentiles are those of any values
    np.testing.assert_allclose(found, in_memory, atol=1e-4)
    exported = medarts.export(run, tmp_path / "net.onnx").path
    np.testing.assert_allclose(medarts.load(exported, threads=1).predict(path), found, atol=1e-4)
    medarts.predict(exported, [path], out=tmp_path / "out", overlay=True)
    assert nibabel.load(tmp_path / "out/3.nii.gz").shape == (20, 28, 4)


def test_folds_of_patches_of_classes_that_overlap_in_mm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels of 1.0 x 0.7 mm are brought to 0.8: scores, masks and overlays are at the size of the files."""
    monkeypatch.setattr("medarts.system.workers.Processes", InThisProcess)
    folder = volumes(tmp_path / "set", files=1)
    affine = np.diag([-0.7, -1, 3, 1])
    for number in range(6):
        image = nibabel.load(folder / "images" / f"{number}.nii.gz")
        body, spot = np.zeros((2, *image.shape), np.uint8)
        body[3:15, 3:20], spot[5:12, 6:15, 1:3] = 1, 1
        for name, values in (("body", body), ("spot", spot)):
            (folder / "masks" / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), folder / "masks" / name / f"{number}.nii.gz")
        (folder / "masks" / f"{number}.nii.gz").unlink()
        values = (np.asarray(image.dataobj) + 90 * body).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / "images" / f"{number}.nii.gz")
    recipe = of_volumes(folder, tmp_path, resize="patches", spacing_mm=0.8, folds=2, in_channels=1)
    recipe["data"] |= {"size": 16, "classes": ["body", "spot"], "overlap": True, "sampling": {"foreground": 0.5}}
    recipe["data"]["sources"][0]["mask"] = "masks/{class}/{name}"
    recipe["train"] = {**recipe["train"], "epochs": 4, "lr": 0.05, "optimizer": "adamw"}
    run = medarts.train(None, recipe, out=tmp_path / "run")
    table = medarts.evaluate(run).table
    assert table[table["kind"] == "image"]["image"].nunique() == 24
    fold = run.path / "folds" / "1"
    of_fold = medarts.evaluate(fold).table.query("metric == 'dice' and kind == 'image'")
    model = medarts.load(fold)
    (name,) = {key.split("/")[0] for key in of_fold["image"][:1]}
    found = model.predict(folder / "images" / f"{name}.nii.gz")
    assert found.shape == (4, 2, 28, 20)
    for number, of_class in enumerate(("body", "spot")):
        volume = nibabel.load(folder / "masks" / of_class / f"{name}.nii.gz")
        truth = np.asarray(volume.dataobj).transpose(2, 1, 0) > 0
        predicted = found[:, number] >= 0.5
        total = predicted.sum((1, 2)) + truth.sum((1, 2))
        dice = np.where(total > 0, 2 * (predicted & truth).sum((1, 2)) / total.clip(1), 1)
        rows = of_fold[(of_fold["class"] == of_class) & of_fold["image"].str.startswith(f"{name}/")]
        np.testing.assert_allclose(rows["value"], dice, atol=0.02)
        assert of_class == "spot" or ((dice > 0.2) & (dice < 1)).any()
    medarts.predict(run, [folder / "images" / f"{name}.nii.gz"], out=tmp_path / "out", overlay=True)
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert all(nibabel.load(tmp_path / "out" / each).shape == (20, 28, 4) for each in written)
    assert len(written) == 2
    pictures = [Image.open(path).size for path in (tmp_path / "out").rglob("*.png")]
    assert pictures == [(20, 28)] * 4


def test_a_network_of_several_files(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "set", files=2)
    run = medarts.train(None, of_two_files(folder, tmp_path), out=tmp_path / "run")
    assert run.facts["parts"] == [1, 1]
    medarts.predict(run, [folder / "images"], out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [f"{n}.nii.gz" for n in range(6)]
    exported = medarts.load(medarts.export(run, tmp_path / "net.onnx", images=[folder / "images"]).path, threads=1)
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in range(2):
        (folder / "images" / f"0_{file:04}.nii.gz").rename(alone / f"0_{file:04}.nii.gz")
    np.testing.assert_allclose(exported.predict(alone), medarts.load(run.path).predict(alone), atol=1e-4)
    (alone / "0_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"one of 1 files of an image.*NAME_0000 to NAME_0001"):
        exported.predict(alone)


def of_two_files(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe whose source lists images of two files, as layouts of several files do."""
    from dataclasses import replace
    from typing import Literal

    from medarts.config import MaskSourceSettings
    from medarts.data.sources import Listing, Pair, Source, register_source, rules_of
    from medarts.registry import sources

    if "two-files" not in sources:

        class TwoFilesSettings(MaskSourceSettings):
            kind: Literal["two-files"] = "two-files"

        @register_source("two-files", settings=TwoFilesSettings)
        class TwoFiles(Source):
            layout = "NAME_0000 and NAME_0001"

            def find(self, settings: Any, findings: tuple[str, ...] | None = None) -> Listing:
                pairs = []
                for mask in sorted((settings.path / "masks").iterdir()):
                    name = mask.name.removesuffix(".nii.gz")
                    first, second = (settings.path / "images" / f"{name}_{n:04}.nii.gz" for n in range(2))
                    pair = Pair("", first, mask, patient=name, more=(second,))
                    pairs += [replace(pair, key=f"{name}/{n}", slice_index=n) for n in range(4)]
                return Listing(tuple(pairs), (), rules_of(settings))

    recipe = of_volumes(folder, tmp_path, in_channels=2)
    recipe["data"]["sources"][0]["kind"] = "two-files"
    return recipe
