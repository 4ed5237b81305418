"""MONAI bundles: MONAI itself accepts and runs them, and they give what the packed network gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out
from PIL import Image
from tests.small_runs_of_tests import LABELS, SMALL
from torch import nn

import medarts as library
from medarts.deploy.graphs import to_onnx
from medarts.deploy.package import Package, open_package
from medarts.errors import DataError, RunError
from medarts.sharing import bundle
from medarts.sharing.bundle import write_bundle

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
GREY = IMAGES[..., 0]

ONNX: dict[int, bytes] = {}
"""The exported network of the package of masks, which takes seconds to make."""

# Of the schema that MONAI publishes (meta_schema_20240725), required keys with the type of their values.
REQUIRED = {
    **dict.fromkeys(("schema", "version", "monai_version", "pytorch_version", "numpy_version"), str),
    **dict.fromkeys(("task", "description", "authors", "copyright"), str),
    **dict.fromkeys(("required_packages_version", "network_data_format"), dict),
}
OPTIONAL = {
    **dict.fromkeys(("changelog", "eval_metrics"), dict),
    **dict.fromkeys(("data_source", "data_type", "image_classes", "pred_classes", "intended_use", "name"), str),
}
TENSOR = {
    **dict.fromkeys(("type", "format", "dtype"), str),
    **dict.fromkeys(("spatial_shape", "value_range"), list),
    "num_channels": int,
    "is_patch_data": bool,
    "channel_def": dict,
    "modality": str,
}


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Package, Path]]:
    """Returns a packed network and its bundle, made once for each kind."""
    root = tmp_path_factory.mktemp("bundles")
    made: dict[str, tuple[Package, Path]] = {}
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "binary": (GREY, GREY > 128, SMALL),
        "classes": (IMAGES, np.digitize(GREY, (80, 160)), {**SMALL, "train": {**SMALL["train"], "loss": "ce_dice"}}),
        "findings": (GREY, LABELS, {**SMALL, "train": {"epochs": 1, "batch": 4}, "space": {"name": "darts"}}),
    }

    def get(kind: str) -> tuple[Package, Path]:
        if kind not in made:
            images, targets, recipe = kinds[kind]
            small = library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=False)
            run = library.train(
                small if kind == "findings" else None, recipe, data=(images, targets), out=root / f"{kind}-run"
            )
            library.evaluate(run, data=(images, targets))
            package = open_package(library.pack(run))
            folder = write_bundle(package, to_onnx(package.deployable()), root / kind)
            made[kind] = package, folder
        return made[kind]

    return get


KINDS = pytest.mark.parametrize("kind", ["binary", "classes", "findings"])


@KINDS
def test_the_metadata_have_what_the_published_schema_requires(kind: str, bundle_of: Any) -> None:
    package, folder = bundle_of(kind)
    found = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    assert REQUIRED.keys() <= found.keys() <= REQUIRED.keys() | OPTIONAL.keys()
    assert {key: type(value) for key, value in found.items()} == {key: (REQUIRED | OPTIONAL)[key] for key in found}
    form = found["network_data_format"]
    assert set(form) == {"inputs", "outputs"}
    for tensor in (form["inputs"]["image"], form["outputs"]["pred"]):
        assert {key: type(value) for key, value in tensor.items()} == {key: TENSOR[key] for key in tensor}
        assert TENSOR.keys() - {"modality"} <= tensor.keys()
        assert len(tensor["channel_def"]) == tensor["num_channels"]
        assert len(tensor["value_range"]) == 2
    assert list(form["outputs"]["pred"]["channel_def"].values()) == [*package.info.outputs]
    assert found["eval_metrics"]


@KINDS
def test_monai_verifies_inputs_and_outputs(kind: str, bundle_of: Any) -> None:
    _, folder = bundle_of(kind)
    meta, config = str(folder / "configs/metadata.json"), str(folder / "configs/inference.json")
    given: dict[str, Any] = {"meta_file": meta, "config_file": config, "device": "cpu", "bundle_root": str(folder)}
    verify_net_in_out("network_def", **given, any=40)
    wrong = {"_meta_::network_data_format::outputs::pred::num_channels": 9}
    with pytest.raises(ValueError, match="channel number"):
        verify_net_in_out("network_def", **given, **wrong)


@KINDS
def test_monai_gives_from_files_what_medarts_gives(kind: str, bundle_of: Any, tmp_path: Path) -> None:
    """Not square, and of another size than in training: reading, scaling, decision and writing all count."""
    package, folder = bundle_of(kind)
    moved = shutil.copytree(folder, tmp_path / "moved")
    (moved / "images").mkdir()
    images = [IMAGES[0, :20], np.repeat(IMAGES[1], 2, axis=0)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(moved / f"images/{number}.png")
    parser = ConfigParser()
    parser.read_config(moved / "configs/inference.json")
    parser["bundle_root"] = str(moved)
    network, after = parser.get_parsed_content("network_def"), parser.get_parsed_content("postprocessing")
    grey = package.info.in_channels == 1
    for number, item in enumerate(parser.get_parsed_content("dataset")):
        raw = np.asarray(Image.fromarray(images[number]).convert("L" if grey else "RGB"))
        with torch.inference_mode():
            item["pred"] = network(item["image"][None])[0]
        model = library.load(package.path)
        outputs = next(model.run([model._read(raw, None, 0, None)], batch=1))
        wanted = outputs["probabilities" if package.info.task == "segmentation" else "calibrated"]
        assert np.allclose(np.asarray(item["pred"]), wanted, atol=1e-5)
        after(item)
        if kind != "findings":
            with Image.open(moved / f"predictions/{number}_mask.png") as mask:
                assert np.array_equal(np.asarray(mask), outputs["mask"] * (255 if kind == "binary" else 1))


@KINDS
def test_every_form_of_the_network_is_in_it(kind: str, bundle_of: Any) -> None:
    package, folder = bundle_of(kind)
    weights = torch.load(folder / "models/model.pt", weights_only=True)
    assert weights.keys() == package.trained.weights.keys()
    session = onnxruntime.InferenceSession(folder / "models/model.onnx", providers=["CPUExecutionProvider"])
    image = np.full((1, package.info.in_channels, 40, 24), 100, np.float32)
    name = "probabilities" if package.info.task == "segmentation" else "calibrated"
    with torch.inference_mode():
        script = torch.jit.load(folder / "models/model.ts")(torch.from_numpy(image))
    assert np.allclose(session.run([name], {"image": image})[0], script.numpy(), atol=1e-4)
    text = (folder / "docs/README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {package.info.name}\n")
    assert "## Use in MONAI" in text


def test_a_bundle_that_predicts_otherwise_is_not_left_behind(
    bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, _ = bundle_of("binary")
    scripted = bundle._scripted

    def wrong(wrapped: nn.Module) -> bytes:
        parameter = next(wrapped.parameters())
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(2)
            content = scripted(wrapped)
            parameter.copy_(before)
        return content

    monkeypatch.setattr(bundle, "_scripted", wrong)
    with pytest.raises(RunError, match="gives other probabilities than the network"):
        write_bundle(package, b"", tmp_path / "bundle")
    assert [*tmp_path.iterdir()] == []


def test_runs_and_packages_are_exported_as_bundles(
    bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, _ = bundle_of("binary")
    run, data = package.path.with_name("binary-run"), (GREY, GREY > 128)
    monkeypatch.setattr("medarts.deploy.exporting.to_onnx", lambda deployable: ONNX.setdefault(0, to_onnx(deployable)))
    for source, out in ((package.path, tmp_path / "a"), (run, None)):
        exported = library.export(source, out, bundle=True, data=data)
        assert exported.verification.difference < 1e-4
        assert exported.path == (out or run / "unet-bundle")
        names = sorted(path.name for path in exported.path.rglob("*") if path.is_file())
        wanted = ["README.md", "inference.json", "metadata.json", "model.onnx", "model.pt", "model.ts"]
        assert names == wanted
    with pytest.raises(RunError, match="one form at a time"):
        library.export(run, bundle=True, int8=True, data=data)
    with pytest.raises(RunError, match="exists already"):
        library.export(run, bundle=True, data=data)


def test_a_package_is_exported(bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = bundle_of("binary")
    monkeypatch.setattr("medarts.deploy.exporting.to_onnx", lambda deployable: ONNX.setdefault(0, to_onnx(deployable)))
    exported = library.export(package.path, data=(GREY, GREY > 128))
    assert exported.path == package.path.with_suffix(".onnx")
    found, wanted = library.load(exported.path), library.load(package.path)
    assert np.allclose(found.predict(GREY), wanted.predict(GREY), atol=1e-4)
    assert found.info == wanted.info
    with pytest.raises(DataError, match=r"has no images; .*--images FOLDER"):
        library.export(package.path, tmp_path / "other.onnx")
    for option in ({"checkpoint": "last"}, {"domain": "arrays"}):
        with pytest.raises(RunError, match="Leave checkpoint and domain out"):
            library.export(package.path, **option, data=(GREY, GREY > 128))
    with pytest.raises(RunError, match="does not replace a folder"):
        library.export(package.path, bundle=True, force=True, data=(GREY, GREY > 128))
    with pytest.raises(RunError, match="Int8 needs the validation images"):
        library.export(package.path, int8=True, data=(GREY, GREY > 128))


def test_a_folder_that_exists_is_left_alone(bundle_of: Any, tmp_path: Path) -> None:
    package, _ = bundle_of("binary")
    with pytest.raises(RunError, match="exists already"):
        write_bundle(package, b"", tmp_path)
