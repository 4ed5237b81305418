"""A trained network on arrays: what it takes for an image, and that it predicts what evaluation scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.deploy.dicoms import dataset, write
from tests.deploy.engines_of_tests import PixelEngine, masks_info

import medarts
from medarts.data.formats import raw_image
from medarts.data.opening import open_data
from medarts.data.reading import unframed
from medarts.deploy.model import TrainedModel
from medarts.engine.directory import RunDirectory
from medarts.training.trained import load_network

RECIPE: dict[str, Any] = {
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}
GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (20, 32, 32)).astype(np.uint8)
COLOUR = GENERATOR.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def run_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDirectory]:
    """Trains on arrays, once for each name."""
    runs: dict[str, RunDirectory] = {}
    root = tmp_path_factory.mktemp("trained")

    def run(name: str, images: Any, targets: Any, recipe: dict[str, Any] = RECIPE) -> RunDirectory:
        if name not in runs:
            runs[name] = medarts.train(None, recipe, data=(images, targets), out=root / name)
        return runs[name]

    return run


@pytest.fixture
def grey(run_on: Callable[..., RunDirectory]) -> TrainedModel:
    return medarts.load(run_on("grey", GREY, GREY > 128).path)


@pytest.fixture
def colour(run_on: Callable[..., RunDirectory]) -> TrainedModel:
    recipe = {**RECIPE, "train": {**RECIPE["train"], "loss": "ce_dice"}}
    return medarts.load(run_on("colour", COLOUR, np.digitize(COLOUR[..., 0], (80, 160)), recipe).path)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GREY[0], (32, 32)),
        (GREY[:1], (1, 32, 32)),
        (GREY[:3], (3, 32, 32)),
        (GREY[:5], (5, 32, 32)),
        (GREY[:3, None], (3, 32, 32)),
        (GREY[0, :, :, None], (32, 32)),
        (COLOUR[0], (32, 32)),
        (COLOUR[:2], (2, 32, 32)),
        (torch.from_numpy(GREY[:3]), (3, 32, 32)),
    ],
)
def test_three_axes_are_a_stack_for_a_network_of_grey_images(
    grey: TrainedModel, images: Any, shape: tuple[int, ...]
) -> None:
    assert grey.predict(images).shape == shape


def test_three_axes_with_channels_are_one_image(grey: TrainedModel) -> None:
    assert grey.predict(np.moveaxis(COLOUR[0], -1, 0), channels="first").shape == (32, 32)
    assert np.array_equal(grey.predict(COLOUR[0], channels="last"), grey.predict(COLOUR[0]))


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR[0], (3, 32, 32)),
        (np.moveaxis(COLOUR[0], -1, 0), (3, 32, 32)),
        (COLOUR[0, ..., :1], (3, 32, 32)),
        (GREY[0], (3, 32, 32)),
        (GREY[:2], (2, 3, 32, 32)),
        (GREY[:5], (5, 3, 32, 32)),
        (COLOUR[:2], (2, 3, 32, 32)),
    ],
)
def test_three_axes_are_an_image_if_one_has_the_channels_of_the_network(
    colour: TrainedModel, images: Any, shape: tuple[int, ...]
) -> None:
    assert colour.predict(images).shape == shape


@pytest.mark.parametrize("slices", [2, 3, 5])
def test_three_axes_are_a_volume_for_a_network_with_context(slices: int) -> None:
    """Even where the slices are as many as the channels."""
    model = TrainedModel(masks_info(in_channels=3, context=1, parts=(1, 1, 1)), PixelEngine())
    volume = np.full((slices, 8, 3), 51, np.uint8)
    assert model.predict(volume).shape == (slices, 8, 3)
    assert model.predict(np.zeros((3, 8, 9), np.uint8), channels="first").shape == (8, 9)


def test_axes_that_tell_nothing_are_asked_for(colour: TrainedModel) -> None:
    image = np.zeros((3, 20, 3), np.uint8)
    with pytest.raises(medarts.MedartsError, match=r"one image or several.*channels=\"first\".* or a list of images"):
        colour.predict(image)
    assert colour.predict(image, channels="first").shape == (3, 20, 3)
    assert colour.predict(image, channels="last").shape == (3, 3, 20)


@pytest.mark.parametrize("images", [np.zeros(5), np.zeros((1, 1, 1, 4, 4)), [], np.zeros((0, 32, 32)), [[1, 2], [3]]])
def test_what_is_no_image_is_refused(grey: TrainedModel, images: Any) -> None:
    with pytest.raises(medarts.MedartsError, match=r"images"):
        grey.predict(images)


def test_nested_lists_of_numbers_are_arrays(grey: TrainedModel) -> None:
    images = (GREY / 255).astype(np.float32)
    assert np.array_equal(grey.predict(images[0].tolist()), grey.predict(images[0]))
    assert np.array_equal(grey.predict(images[:3].tolist()), grey.predict(images[:3]))


def test_a_list_of_images_of_any_sizes_gives_a_list(grey: TrainedModel) -> None:
    images = [GREY[0], torch.from_numpy(GREY[1, :20, :24]), COLOUR[2]]
    found = grey.predict(images, batch=2)
    assert [each.shape for each in found] == [(32, 32), (20, 24), (32, 32)]
    assert np.allclose(found[0], grey.predict(GREY[0]), atol=1e-5)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_an_image(grey: TrainedModel, batch: int) -> None:
    with pytest.raises(medarts.MedartsError, match=f"batch is {batch}"):
        grey.predict(GREY[:3], batch=batch)


def test_a_checkpoint_is_best_or_last(run_on: Callable[..., RunDirectory]) -> None:
    run = run_on("grey", GREY, GREY > 128).path
    assert medarts.load(run, checkpoint="last").predict(GREY[0]).shape == (32, 32)
    with pytest.raises(medarts.MedartsError, match=r"'lost', but best and last\. Did you mean 'last'\?"):
        medarts.load(run, checkpoint="lost")
    with pytest.raises(medarts.MedartsError, match="Valid here: best, last"):
        medarts.load(run, checkpoint="nonsense")


def test_types_are_scaled_by_their_range(grey: TrainedModel) -> None:
    wanted = grey.predict(GREY[0])
    assert np.allclose(grey.predict(GREY[0].astype(np.uint16) * 257), wanted, atol=1e-4)
    assert np.allclose(grey.predict(GREY[0] / 255), wanted, atol=1e-4)
    with pytest.raises(medarts.MedartsError, match="Image 0"):
        grey.predict(GREY[0].astype(np.int64))
    with pytest.raises(medarts.MedartsError, match="NaN"):
        grey.predict(np.full((32, 32), np.nan))


def test_exclusive_classes_add_up_to_one_at_every_size(colour: TrainedModel) -> None:
    for image in (COLOUR[0], COLOUR[0, :20], np.repeat(COLOUR[0], 2, axis=1)):
        found = colour.predict(image)
        assert found.shape == (3, *image.shape[:2])
        assert found.dtype == np.float32
        assert np.allclose(found.sum(0), 1, atol=1e-5)
    assert colour.info.outputs == ("class 0", "class 1", "class 2")


def test_predictions_are_those_that_are_scored(run_on: Callable[..., RunDirectory]) -> None:
    """Larger images than the network sees, in floats that float16 rounds, as stores do."""
    images = GENERATOR.random((20, 48, 48)).astype(np.float32)
    data = medarts.from_arrays(images, images > 0.5, size=32)
    run = medarts.train(None, RECIPE, data=data, out=run_on("grey", GREY, GREY > 128).path.parent / "resized")
    model = medarts.load(run.path)
    network = load_network(run)
    with torch.inference_mode():
        scored = torch.sigmoid(network.eval()(torch.from_numpy(data.images[:].astype(np.float32))))
        scored = F.interpolate(scored, size=(48, 48), mode="bilinear", antialias=True)[:, 0]
    assert np.allclose(model.predict(images), scored.numpy(), atol=1e-6)


def test_predictions_of_padded_images_are_those_that_are_scored(run_on: Callable[..., RunDirectory]) -> None:
    images = GENERATOR.random((20, 30, 48)).astype(np.float32)
    data = medarts.from_arrays(images, images > 0.5, size=32)
    run = medarts.train(None, RECIPE, data=data, out=run_on("grey", GREY, GREY > 128).path.parent / "padded")
    assert run.recipe.data.resize == "fit"
    model, network = medarts.load(run.path), load_network(run).eval()
    with torch.inference_mode():
        scored = torch.sigmoid(network(torch.from_numpy(data.images[:].astype(np.float32))))
        expected = torch.cat([unframed(scored[n : n + 1], data.framing(n)) for n in range(20)])
    found = model.predict(images)
    assert found.shape == (20, 30, 48)
    assert np.allclose(found, expected[:, 0].numpy(), atol=1e-6)


def test_predictions_of_shrunk_patches_are_those_that_are_scored(tmp_path: Path) -> None:
    """Values beyond the window are clipped before an image is resized, which edges show."""
    generator = np.random.default_rng(1)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    masks = np.kron(generator.integers(0, 2, (8, 10, 12)), np.ones((1, 4, 4), int)).astype(np.uint8)
    for number, mask in enumerate(masks):
        Image.fromarray(255 * mask).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(255 * mask).save(tmp_path / "set" / "masks" / f"{number}.png")
    source = {"kind": "folder", "path": str(tmp_path / "set"), "window": [100, 130], "fractions": [0.25, 0.25]}
    data = {"sources": [source], "size": 16, "resize": "patches", "scale": 0.6, "in_channels": 1}
    run = medarts.train(None, {**RECIPE, "data": {**data, "cache": str(tmp_path / "cache")}}, out=tmp_path / "run")
    model, store = medarts.load(run.path), open_data(run.recipe.data, needs=())
    for index, sample in enumerate(store.manifest.samples):
        raw = raw_image(sample.image)
        prepared = model.prepare([raw], path=sample.image)
        low, high = prepared.limits
        np.testing.assert_allclose((prepared.values - low) / (high - low), store.images[index], atol=2e-3)


def test_a_network_of_chaos_scales_by_the_window_of_the_kind(tmp_path: Path) -> None:
    """The recipe says none, and files of CT no range: values are those of a common abdominal window."""
    folder, generator = tmp_path / "chaos", np.random.default_rng(2)
    for patient in range(10):
        at = folder / "Train_Sets" / "CT" / str(patient)
        values = generator.integers(-400, 500, (32, 32)).astype(np.int16)
        write(
            at / "DICOM_anon" / "i1.dcm", dataset(values, instance=f"1.2.{patient}", RescaleSlope=1, RescaleIntercept=0)
        )
        (at / "Ground").mkdir()
        Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8)).save(at / "Ground" / "1.png")
    data = {"sources": [{"kind": "chaos", "path": str(folder)}], "size": 32, "in_channels": 1}
    run = medarts.train(None, {**RECIPE, "data": {**data, "cache": str(tmp_path / "cache")}}, out=tmp_path / "run")
    model, store = medarts.load(run.path), open_data(run.recipe.data, needs=())
    assert model.info.window == (-160.0, 240.0)
    sample = store.manifest.samples[0]
    prepared = model.prepare([raw_image(sample.image)], path=sample.image)
    low, high = prepared.limits
    np.testing.assert_allclose(((prepared.values - low) / (high - low)).clip(0, 1), store.images[0], atol=2e-3)


def test_a_dice_of_predictions_is_that_of_evaluate(run_on: Callable[..., RunDirectory], grey: TrainedModel) -> None:
    run = run_on("grey", GREY, GREY > 128)
    table = medarts.evaluate(run, data=(GREY, GREY > 128), split="all").table
    dice = table[table["metric"] == "dice"].set_index("image")["value"]
    predicted, masks = grey.predict(GREY) > 0.5, GREY > 128
    own = 2 * (predicted & masks).sum((1, 2)) / (predicted.sum((1, 2)) + masks.sum((1, 2)))
    assert np.allclose(own, [dice[f"{number:06d}"] for number in range(20)], atol=5e-3)


def test_findings_are_a_probability_each(run_on: Callable[..., RunDirectory], small_densenet: None) -> None:
    recipe = {**RECIPE, "train": {"epochs": 1, "batch": 4, "model": {"name": "chexnet"}}}
    labels = np.stack([np.arange(20) % 2, np.arange(20) // 2 % 2], 1)
    run = run_on("findings", GREY, labels, recipe)
    model = medarts.load(run.path)
    found = model.predict(GREY[:3])
    assert found.shape == (3, 2)
    assert ((found >= 0) & (found <= 1)).all()
    assert model.predict(GREY[0]).shape == (2,)
    assert model.info.outputs == ("finding 1", "finding 2")
    table = medarts.evaluate(run, data=(GREY, labels), split="all").table
    logits = table[table["metric"] == "logit"].pivot(index="image", columns="class", values="value")
    scored = 1 / (1 + np.exp(-logits[list(model.info.outputs)].to_numpy()))  # without temperature
    assert np.allclose(model.predict(GREY), scored, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (None, "images is None"),
        ([None], "Image 0 is None"),
        (GREY[0].astype(np.int64), r"stores int64 .*Give uint8 .*astype\(np\.uint8\), or images / 255"),
        (GREY[0].astype(np.float32), r"stores float32 .*images / 255"),
    ],
)
def test_other_images_are_refused_with_what_to_do(grey: TrainedModel, images: Any, problem: str) -> None:
    with pytest.raises(medarts.MedartsError, match=problem):
        grey.predict(images)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batch": None}, "batch is None"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"channels": "frist"}, "channels is 'frist'"),
    ],
)
def test_other_options_are_refused(grey: TrainedModel, options: Any, problem: str) -> None:
    with pytest.raises(medarts.MedartsError, match=problem):
        grey.predict(GREY, **options)


def test_what_is_no_run_is_not_loaded() -> None:
    for other in (None, 3):
        with pytest.raises(medarts.MedartsError, match=f"{other} is not a run"):
            medarts.load(other)
    with pytest.raises(medarts.MedartsError, match="no checkpoint None"):
        medarts.load("run", checkpoint=None)


def test_what_is_not_there_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(medarts.MedartsError, match=r"There is no file or folder .*net\.onnx"):
        medarts.load(tmp_path / "net.onnx")


def test_a_name_that_no_file_can_have_is_not_loaded() -> None:
    with pytest.raises(medarts.MedartsError, match="There is no file or folder"):
        medarts.load("x" * 5000)


@pytest.mark.parametrize("threads", [0, -1, "two"])
def test_threads_are_a_number(threads: Any) -> None:
    with pytest.raises(medarts.MedartsError, match="threads is"):
        medarts.load(__file__, threads=threads)


def test_an_alpha_channel_is_no_stack(grey: TrainedModel, colour: TrainedModel) -> None:
    for model in (grey, colour):
        with pytest.raises(medarts.MedartsError, match=r"alpha channel.*images\[\.\.\., :3\]"):
            model.predict(np.zeros((9, 8, 4), np.uint8))
