"""Exporting runs: verified on real images, refused where the two differ, written whole or not at all."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.deploy.engines_of_tests import masks_info

import medarts
from medarts.deploy import exporting, quantization
from medarts.deploy.deployable import Deployable
from medarts.deploy.graphs import to_onnx
from medarts.deploy.reference_images import of_files
from medarts.engine.directory import RunDirectory

RECIPE: dict[str, Any] = {
    "data": {"size": 32, "in_channels": 1},
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unetpp", "width": 4, "depth": 3}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module", autouse=True)
def each_graph_once() -> Iterator[Callable[[Deployable], bytes]]:
    """Translates equal networks once for all tests: it takes seconds."""
    contents: dict[str, bytes] = {}

    def cached(one: Deployable) -> bytes:
        key = one.info.model_dump_json()
        if key not in contents:
            contents[key] = to_onnx(one)
        return contents[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "to_onnx", cached)
        yield cached


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs, in 8 bits, of several sizes."""
    root, generator = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(20):
        height, width = generator.integers(30, 60, 2)
        rows, columns = np.mgrid[:height, :width]
        mask = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < generator.integers(50, 150)
        image = generator.integers(0, 120, (height, width)) + 100 * mask
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{number:02}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return medarts.train(None, RECIPE, data=[str(folder)], out=tmp_path_factory.mktemp("runs") / "discs")


def test_an_exported_run_predicts_as_the_run(run: RunDirectory, tmp_path: Path) -> None:
    exported = medarts.export(run, tmp_path / "net.onnx")
    assert exported.verification.images > 8
    assert exported.verification.difference < 1e-4
    assert exported.info.kinds[0].model_dump() == {"channels": 1, "dtype": "uint8", "range": (0.0, 255.0)}
    assert exported.info.expected_range == (0, 255)
    image = np.random.default_rng(1).integers(0, 256, (41, 57)).astype(np.uint8)
    assert np.allclose(medarts.load(tmp_path / "net.onnx").predict(image), medarts.load(run).predict(image), atol=1e-4)
    assert f"{exported.verification.difference:.1e}" in exported.summary


def test_a_file_is_replaced_by_force_alone(run: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(medarts.MedartsError, match=r"net\.onnx is there already.*--force"):
        medarts.export(run, path)
    assert path.read_bytes() == b"mine"
    medarts.export(run, path, force=True)
    assert medarts.load(path).info.name == "unetpp"


def test_a_head_alone_is_exported_with_its_parts_alone(run: RunDirectory) -> None:
    import onnx

    last, early, average = (medarts.export(run, head=head, force=True).path for head in (None, "1", "average"))
    assert [path.name for path in (last, early, average)] == [
        "unetpp.onnx",
        "unetpp-head-1.onnx",
        "unetpp-head-average.onnx",
    ]
    nodes = [len(onnx.load(path).graph.node) for path in (early, last, average)]
    assert nodes == sorted(nodes)
    assert nodes[0] < nodes[1]
    image = np.random.default_rng(1).integers(0, 256, (41, 57)).astype(np.uint8)
    for path, head in ((early, "1"), (average, "average")):
        expected = medarts.load(run, head=head).predict(image)
        assert np.allclose(medarts.load(path).predict(image), expected, atol=1e-4)
        assert not np.allclose(medarts.load(last).predict(image), expected, atol=1e-4)
    with pytest.raises(medarts.MedartsError, match=r"no head '9'"):
        medarts.export(run, head="9")


def test_an_export_that_differs_is_not_written(
    run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    each_graph_once: Callable[[Deployable], bytes],
) -> None:
    def of_other_weights(one: Deployable) -> bytes:
        content = each_graph_once(one)
        with torch.no_grad():
            list(one.network.parameters())[-1].add_(0.01)  # the bias of the head
        return content

    monkeypatch.setattr(exporting, "to_onnx", of_other_weights)
    with pytest.raises(medarts.MedartsError, match=r"differs from PyTorch by up to .* nothing was written"):
        medarts.export(run, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_ranges_of_int8_are_those_of_all_validation_images(run: RunDirectory, tmp_path: Path) -> None:
    exported = medarts.export(run, tmp_path / "net.onnx")
    images = np.random.default_rng(0).random((16, 32, 32), dtype=np.float32) * np.linspace(0.1, 1, 16)[:, None, None]
    contents = []
    for ordered in (images, images[::-1]):
        store = medarts.from_arrays(ordered, np.ones((16, 32, 32), np.uint8), splits=["val"] * 16)
        contents.append(quantization.quantized(exported.path.read_bytes(), exported.info, store))
    assert contents[0] == contents[1]


def test_int8_says_what_it_loses_and_is_refused_where_that_is_much(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    exported = medarts.export(run, tmp_path / "net.onnx", int8=True, allow_loss=1)
    in_float, in_int8 = exported.scores
    best = run.read_journal("metrics.jsonl")[-1]["val_dice"]
    assert in_float == pytest.approx(best, abs=1e-3)
    assert abs(in_float - in_int8) < 0.1
    assert f"{in_int8:.4f} in int8" in exported.summary
    model = onnx.load(exported.path)
    weights = {each.name: each for each in model.graph.initializer}
    scales = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert any(np.prod(weights[name].dims) > 1 for name in scales), "no weight is quantized by channel"
    resizes = {name for node in model.graph.node if node.op_type == "Resize" for name in (node.input[0],)}
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert "image" in {node.input[0] for node in model.graph.node}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert resizes - dequantized
    image = np.random.default_rng(1).integers(0, 256, (41, 57)).astype(np.uint8)
    differences = np.abs(medarts.load(exported.path).predict(image) - medarts.load(run).predict(image))
    assert 0 < differences.max() < 0.2

    values = iter([0.9, 0.8])
    monkeypatch.setattr(exporting, "score", lambda *_: next(values))
    with pytest.raises(medarts.MedartsError, match=r"falls from 0\.9000 to 0\.8000; at most 0\.01 .*--allow-loss"):
        medarts.export(run, tmp_path / "lost.onnx", int8=True)
    assert not (tmp_path / "lost.onnx").exists()


def test_a_torch_archive_runs_without_medarts(run: RunDirectory, tmp_path: Path) -> None:
    exported = medarts.export(run, tmp_path / "net.pt2", torch=True)
    about = {"medarts.json": ""}
    network = torch.export.load(tmp_path / "net.pt2", extra_files=about).module()
    assert json.loads(about["medarts.json"])["name"] == "unetpp"
    image = np.random.default_rng(1).integers(0, 256, (41, 57)).astype(np.uint8)
    with torch.inference_mode():
        probabilities, mask = network(torch.from_numpy(image[None, None].astype(np.float32)))
    assert np.allclose(probabilities[0, 0], medarts.load(run).predict(image), atol=1e-5)
    assert mask.shape == (1, 41, 57)
    assert exported.verification.difference < 1e-6
    with pytest.raises(medarts.MedartsError, match="one form at a time"):
        medarts.export(run, int8=True, torch=True)


def test_a_loss_is_allowed_in_int8_alone(run: RunDirectory) -> None:
    with pytest.raises(medarts.MedartsError, match=r"allow_loss is for.*Add int8"):
        medarts.export(run, allow_loss=0.1)


def test_bad_images_are_left_out_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "worse.png").write_text("no image")
    found = of_files([tmp_path, *sorted((folder / "images").iterdir())[:3]], masks_info())
    assert [example.name.name for example in found] == ["00.png", "01.png", "02.png"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["skipped", "skipped"]
    with pytest.raises(medarts.MedartsError, match=r"bad\.png .*nor can 1 more"):
        of_files([tmp_path], masks_info())


def test_a_run_is_loaded_where_pytorch_is_installed(run: RunDirectory) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import medarts\n"
        f"for call in (lambda: medarts.load({str(run.path)!r}), lambda: medarts.create_model('unet')):\n"
        "    try: call()\n"
        "    except medarts.MedartsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert all(line.startswith("torch is not installed") for line in done.stdout.splitlines())
    assert all(line.endswith('pip install "medarts[train]"') for line in done.stdout.splitlines())


def test_images_that_are_gone_are_asked_for(folder: Path, run: RunDirectory, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "moved")
    try:
        with pytest.raises(medarts.MedartsError, match=r"no longer in .*--images FOLDER"):
            medarts.export(run, tmp_path / "net.onnx")
        with pytest.raises(medarts.MedartsError, match=r"no longer in "):
            medarts.export(run, tmp_path / "net.onnx", images=moved / "images", int8=True)
        exported = medarts.export(run, tmp_path / "net.onnx", images=moved / "images")
        assert exported.verification.images == 20
    finally:
        moved.rename(folder)


def test_a_run_on_images_in_memory_is_verified_on_those_that_are_given(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32)).astype(np.uint8)
    recipe = {**RECIPE, "data": {}, "train": {**RECIPE["train"], "model": {"name": "unet", "width": 2, "depth": 2}}}
    run = medarts.train(None, recipe, data=(images, images > 128), out=tmp_path / "run")
    with pytest.raises(medarts.MedartsError, match=r"were in memory.*data=\(images, targets\)"):
        medarts.export(run)
    exported = medarts.export(run, data=(images, images > 128), int8=True, allow_loss=1)
    assert exported.verification.difference < 1e-4
    assert exported.scores is not None
    assert exported.path == run.path / "unet-int8.onnx"


def test_calibration_takes_images_one_by_one(run: RunDirectory) -> None:
    from medarts.data.opening import open_data
    from medarts.deploy.runs import deployable_of

    info = deployable_of(run).info
    reader = quantization._Reader(open_data(run.recipe.data, needs=("val",)), info)
    given = list(iter(reader.get_next, None))
    assert len(given) > 1
    assert {each["image"].shape for each in given} == {(1, 1, 32, 32)}
    assert max(each["image"].max() for each in given) > 100
