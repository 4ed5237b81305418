"""MONAI bundles: a packed network as a folder that MONAI runs without medarts.

configs/metadata.json   versions, inputs and outputs, by the schema that MONAI publishes
configs/inference.json  from a folder of PNG or JPEG files to masks or a table, for ``python -m monai.bundle run``
models/model.ts         TorchScript: stored values in, probabilities at the size of the image out
models/model.onnx       the exported network, with all of its outputs
models/model.pt         the weights alone
docs/README.md          the model card
"""

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medarts.deploy.deployable import Deployable
from medarts.deploy.exporting import Exported, verified
from medarts.deploy.graphs import quiet
from medarts.deploy.info import ModelInfo
from medarts.deploy.package import CARD_TEXT, Package
from medarts.deploy.reference_images import Example
from medarts.deploy.verification import TOLERANCE
from medarts.errors import RunError
from medarts.system.files import UNFINISHED, exists, flush_folder, make_folder, write_whole, writing

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
"""Of metadata.json; MONAI downloads it to verify a bundle."""

VERSION = "0.1.0"
"""Of every bundle: another training is another bundle."""

_USE = """
## Use in MONAI

    pip install "monai[fire,ignite,pillow]"
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUT

`models/model.ts` takes stored values (batch, {channels}, height, width) as float32 and returns probabilities; scaling,
resizing and the activation are in it. `models/model.onnx` has the same and the decision beside, `models/model.pt` the
weights alone.
"""


class _Probabilities(nn.Module):
    """A network with the one output that MONAI expects: probabilities, of findings the calibrated ones."""

    def __init__(self, deployable: Deployable) -> None:
        super().__init__()
        self.deployable = deployable
        wanted = "probabilities" if deployable.info.task == "segmentation" else "calibrated"
        self._place = deployable.output_names.index(wanted)

    def forward(self, image_bchw: Tensor) -> Tensor:
        """Returns probabilities (B, K, H, W), or (B, F) of findings."""
        found: Tensor = self.deployable(image_bchw)[self._place]
        return found


def export_bundle(package: Package, folder: Path, examples: Sequence[Example], *, head: str | None = None) -> Exported:
    """Writes a MONAI bundle, whose exported network has been verified on images.

    Args:
        package: the packed network.
        folder: new.
        examples: the images.
        head: an earlier head, or "average". Default: that of the package.

    Raises:
        RunError: see `write_bundle`; or the exported network differs from PyTorch.
    """
    if exists(folder):
        raise RunError(f"{folder} exists already.", fix="Choose another folder.")
    deployable = package.deployable(head)
    content, _, verification = verified(deployable, examples, form="onnx")
    write_bundle(package, content, folder, head=head)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(folder, deployable.info, size / 1e6, verification)


def write_bundle(package: Package, onnx: bytes, folder: Path, *, head: str | None = None) -> Path:
    """Writes a MONAI bundle, once it gives what the packed network gives.

    Args:
        package: the packed network.
        onnx: the exported network.
        folder: new.
        head: an earlier head, or "average". Default: that of the package.

    Returns:
        The folder.

    Raises:
        RunError: the folder exists, it cannot be written, or the bundle gives other probabilities.
    """
    if exists(folder):
        raise RunError(f"{folder} exists already.", fix="Choose another folder.")
    deployable = package.deployable(head)
    if deployable.info.resize == "patches" or deployable.info.parts:
        raise RunError(
            f"{package.path} has a network of patches, several files or neighbouring slices, which the inferer of a "
            "bundle does not know.",
            fix="Export it as ONNX (medarts export).",
        )
    wrapped = _Probabilities(deployable).eval()
    script = _scripted(wrapped)
    files: dict[str, bytes] = {
        "configs/metadata.json": _json(metadata(deployable.info, package.card)),
        "configs/inference.json": _json(inference(deployable.info)),
        "models/model.ts": script,
        "models/model.onnx": onnx,
        "models/model.pt": _saved(package.trained.weights),
        "docs/README.md": package.files[CARD_TEXT] + _USE.format(channels=deployable.info.in_channels).encode(),
    }
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    try:
        for name, content in files.items():
            make_folder((unfinished / name).parent)
            write_whole(unfinished / name, content)
        _verify(unfinished, wrapped)
        with writing(folder):
            unfinished.rename(folder)
            flush_folder(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def metadata(info: ModelInfo, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``metadata.json``.

    Args:
        info: of the network.
        card: the model card.
    """
    import monai

    masks = info.task == "segmentation"
    names = {str(number): name for number, name in enumerate(info.outputs)}
    colours = {"0": "grey"} if info.in_channels == 1 else {str(n): f"channel {n}" for n in range(info.in_channels)}
    kind = "segmentation" if masks else "classification"
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"trained, weights {info.provenance.weights}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "name": info.name,
        "task": f"{kind} of {', '.join(info.foreground)}",
        "description": f"{info.provenance.architecture}, {card['cost']['parameters']:,} parameters; see docs/README.md",
        "authors": "not stated",
        "copyright": "not stated",
        "data_source": ", ".join(card["data"]),
        "data_type": "png",
        "image_classes": f"{info.in_channels} channels of stored values, which the network itself scales",
        "pred_classes": "; ".join(f"channel {number}: {name}" for number, name in names.items()),
        "eval_metrics": _scores(card),
        "intended_use": "Research, not diagnosis or treatment",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if info.window is not None and info.window[0] < 0 else "magnitude",
                    "modality": "n/a",
                    "num_channels": info.in_channels,
                    "spatial_shape": ["*", "*"],
                    "dtype": "float32",
                    "value_range": [*(info.window or info.expected_range)],
                    "is_patch_data": False,
                    "channel_def": colours,
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if masks else "probabilities",
                    "format": "labels" if masks else "classes",
                    "num_channels": len(info.outputs),
                    "spatial_shape": ["*", "*"] if masks else [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": names,
                }
            },
        },
    }


_SWAP = {"_target_": "Transposed", "indices": [0, 2, 1]}
"""MONAI reads and writes pictures as (width, height)."""


def inference(info: ModelInfo) -> dict[str, Any]:
    """Returns ``inference.json``: from a folder of PNG or JPEG files to masks, or to a table of probabilities."""
    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(sum((glob.glob(@dataset_dir + end) for end in ('/*.png', '/*.jpg', '/*.jpeg')), []))",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location='cpu')",
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _before(info)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": _after(info)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _before(info: ModelInfo) -> list[dict[str, Any]]:
    """Returns what reads a picture for the network."""
    grey = info.in_channels == 1
    mode = "L" if grey else "RGB"
    return [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "PILReader",
            "converter": f"$lambda image: image.convert('{mode}')",
            "image_only": False,
        },
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel" if grey else -1},
        {**_SWAP, "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]


def _after(info: ModelInfo) -> list[dict[str, Any]]:
    """Returns what writes what the network predicts."""
    if info.task == "classification":
        saver = {"_target_": "CSVSaver", "output_dir": "@output_dir", "filename": "findings.csv"}
        return [{"_target_": "SaveClassificationd", "keys": "pred", "meta_keys": "image_meta_dict", "saver": saver}]
    decide = {"argmax": True} if info.exclusive else {"threshold": info.threshold}
    return [
        {"_target_": "AsDiscreted", "keys": "pred", **decide},
        {**_SWAP, "keys": "pred"},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "meta_keys": "image_meta_dict",
            "output_dir": "@output_dir",
            "output_postfix": "mask",
            "output_ext": ".nii.gz" if info.overlap else ".png",  # a channel for each class, which PNG lacks
            "output_dtype": "$numpy.uint8",
            "scale": 255 if len(info.outputs) == 1 else None,
            "resample": False,
            "separate_folder": False,
        },
    ]


def _scores(card: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scores of the card that are defined, by metric, class and data set."""
    rows = [row for row in card["scores"]["rows"] if row["value"] is not None]
    return {f"{row['metric']}, {row['class']}, {row['dataset']}": row["value"] for row in rows}


def _scripted(wrapped: _Probabilities) -> bytes:
    """Returns a network as TorchScript; sizes of images stay free, as shapes are traced like values."""
    info = wrapped.deployable.info
    example = torch.zeros(1, info.in_channels, info.size + 1, info.size + 2)
    with quiet(), torch.no_grad():  # of values that could become constants; what came of it is verified
        traced: torch.jit.ScriptModule = torch.jit.trace(wrapped, example, check_trace=False)  # type: ignore[no-untyped-call]
    target = io.BytesIO()
    torch.jit.save(traced, target)
    return target.getvalue()


def _verify(folder: Path, wrapped: _Probabilities) -> None:
    """Refuses a bundle that MONAI cannot run, or that gives other probabilities than the packed network."""
    from monai.bundle import ConfigParser, verify_net_in_out

    meta, config = str(folder / "configs/metadata.json"), str(folder / "configs/inference.json")
    with quiet():
        verify_net_in_out("network_def", meta_file=meta, config_file=config, device="cpu", bundle_root=str(folder))
        parser = ConfigParser()
        parser.read_config(config)
        parser["bundle_root"] = str(folder)
        network = parser.get_parsed_content("network_def").eval()
    info = wrapped.deployable.info
    low, high = info.window or info.expected_range
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((2, info.size, info.size), (1, info.size + 13, info.size // 2 + 5)):
        images = low + (high - low) * torch.rand(batch, info.in_channels, height, width, generator=generator)
        with torch.inference_mode():
            difference = float((network(images) - wrapped(images)).abs().max())
        if not difference <= TOLERANCE:
            raise RunError(
                f"The bundle gives other probabilities than the network: they differ by {difference:.1e}.",
                fix="Export the network as ONNX alone (without bundle).",
            )


def _saved(weights: Mapping[str, Tensor]) -> bytes:
    target = io.BytesIO()
    torch.save(dict(weights), target)
    return target.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
