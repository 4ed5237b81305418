"""CheXNet: the DenseNet-121 with which searched networks are compared on chest X-rays.

Rajpurkar et al., CheXNet: Radiologist-Level Pneumonia Detection on Chest X-Rays with Deep Learning, 2017
(arXiv:1711.05225); Huang et al., Densely Connected Convolutional Networks, CVPR 2017.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import safetensors
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from medarts.config.section import LATER, Whole
from medarts.errors import RecipeError
from medarts.models import register_model
from medarts.network import FindingNetwork, check_batch_norms
from medarts.network.layers import Norm, pooled_logits
from medarts.registry import Settings

SMALLEST = 32
"""Height and width of images whose last feature maps are one pixel; they are 32 times smaller than the image."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_OTHER_MEAN, _OTHER_STD = 0.45, 0.225

_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar")
# Bytes that are not weights lead the unpickler astray in many ways.
_UNREADABLE = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError, safetensors.SafetensorError
)  # fmt: skip

_HEAD = "class_layers."
_PREFIXES = re.compile(r"^(?:(?:module|densenet121|densenet)\.)+")
_LAYER = re.compile(r"\b(denselayer\d+)\.(norm|conv)\.?([12])\.")
_CLASSIFIER = re.compile(r"^classifier\.(?:0\.)?")


class CheXNetSettings(Settings):
    """CheXNet, a DenseNet-121 (arXiv 1711.05225), for images with findings.

    Attributes:
        name: of the model.
        growth: channels that each layer adds; the stem has twice as many. 32 in the paper, and in published weights.
        weights: file of weights from which it starts. Default: fresh ones.
    """

    name: Literal["chexnet"] = "chexnet"
    growth: Annotated[Annotated[Whole, Field(ge=1, le=256)], LATER] = 32
    weights: Path | None = None


@register_model("chexnet", settings=CheXNetSettings, task="classification", outputs=14, size=224, width="growth")
class CheXNet(FindingNetwork):
    """A DenseNet-121 with one linear head.

    Images of 0..1 are standardised inside, by ImageNet's mean and deviation, since published weights expect it.

    Args:
        settings: growth, and weights, a file to start from, .safetensors or what torch.save wrote (.pt, .pth, .tar).
            Its tensors may have MONAI's names, torchvision's, or those of the public CheXNet checkpoints, or be weights
            of this network. Its head is taken where it has as many outputs; otherwise, as with weights of ImageNet, the
            head starts afresh. Without a file all weights are random, from torch's global generator.
        in_channels: channels of the images. One channel is standardised by the mean of ImageNet's three.
        outputs: findings; 3 channels and 14 outputs make 6,968,206 parameters.
        norm: batch or None, as it has batch norms.

    Raises:
        RecipeError: other norms are wanted, or the file is missing or cannot be read, or its tensors are not
            those of this network.
    """

    def __init__(
        self,
        settings: CheXNetSettings | None = None,
        *,
        in_channels: int = 3,
        outputs: int = 14,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_batch_norms(norm, "chexnet")
        settings = settings or CheXNetSettings()
        weights, growth = settings.weights, settings.growth
        state = None if weights is None else _read(weights)
        from monai.networks.nets import DenseNet121

        self.densenet = DenseNet121(
            spatial_dims=2, in_channels=in_channels, out_channels=outputs, init_features=2 * growth, growth_rate=growth
        )
        mean, std = _standard(in_channels)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.mean: Tensor
        self.std: Tensor
        if weights is not None and state is not None:
            _fill(self.densenet, state, weights)
        self._lay_out()

    def check_size(self, size: int) -> None:
        """Refuses images of which too little would be left in the last feature maps.

        Raises:
            RecipeError: ``size`` is below `SMALLEST`.
        """
        if size < SMALLEST:
            raise RecipeError(
                f"The size {size} is too small for CheXNet, which makes images {SMALLEST} times smaller.",
                fix=f"Use {SMALLEST} or more.",
            )

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the last feature maps: rounded up by the stem, then down by each pooling."""
        return -(-size // 4) // 8

    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the last feature maps, rectified, BCHW: 32 times smaller, with 32 times the growth as channels.

        Args:
            x_bchw: images, 0..1.
        """
        maps: Tensor = self.densenet.features((x_bchw - self.mean) / self.std)
        return maps.relu_()

    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
        return pooled_logits(cast(nn.Linear, self.densenet.class_layers.out), features_bchw)


def _standard(in_channels: int) -> tuple[Tensor, Tensor]:
    """Returns the mean and the deviation by which every channel is standardised, each (C, 1, 1)."""
    mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
    if in_channels == 1:
        mean, std = mean.mean()[None], std.mean()[None]
    elif in_channels != len(mean):
        mean, std = torch.full((in_channels,), _OTHER_MEAN), torch.full((in_channels,), _OTHER_STD)
    return mean[:, None, None], std[:, None, None]


def _read(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a weights file by the names they have there."""
    if path.suffix not in _SUFFIXES:
        raise RecipeError(f"{path} is not a file of weights.", fix=f"Its name should end in {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise RecipeError(f"There is no file of weights {path}.", fix="Correct the path, or train without weights.")
    fix = "Give tensors by name, as torch.save(network.state_dict(), file) writes them."
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except _UNREADABLE as error:
        raise RecipeError(f"{path} cannot be read as weights ({type(error).__name__}).", fix=fix) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise RecipeError(f"{path} holds a {type(state).__name__} and no tensors by name.", fix=fix)
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise RecipeError(f"{path}: {key!r} is not a tensor.", fix=fix)
    return dict(state)


def _monai_name(key: str) -> str:
    """Returns the name that MONAI's DenseNet has for a tensor of a published one; any other key stays as it is."""
    name = _LAYER.sub(r"\1.layers.\2\3.", _PREFIXES.sub("", key))
    return _CLASSIFIER.sub(f"{_HEAD}out.", name)


def _fill(densenet: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Puts the tensors of a file into a network whose head may keep its own.

    Raises:
        RecipeError: a tensor is missing, unknown, there twice, or of another shape.
    """
    expected = densenet.state_dict()
    keys: dict[str, str] = {}
    for key in state:
        other = keys.setdefault(_monai_name(key), key)
        if other != key:
            raise RecipeError(f"{path}: {other} and {key} are one tensor.", fix="Give weights of a single network.")
    head = [name for name in expected if name.startswith(_HEAD)]
    other_head = all(state[keys[name]].shape[:1] != expected[name].shape[:1] for name in head if name in keys)
    if other_head:
        keys = {name: key for name, key in keys.items() if name not in head}
    problem = _misfit(expected, {name: state[key] for name, key in keys.items()}, optional=head if other_head else [])
    if problem is not None:
        name, what = problem
        channels = expected["features.conv0.weight"].shape[1]
        fix = f"Give weights of a DenseNet-121 for images of {channels} channel{'' if channels == 1 else 's'}."
        raise RecipeError(f"{path}: {keys.get(name, name)} {what}.", fix=fix)
    densenet.load_state_dict({name: state[key] for name, key in keys.items()}, strict=False)


def _misfit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, optional: list[str]
) -> tuple[str, str] | None:
    """Returns the first name with which two sets of tensors differ and how; None where they fit.

    Files written before batch norms counted their batches have no such counts; only a momentum of None reads them.
    """
    for name, tensor in expected.items():
        if name not in found:
            if name not in optional and not name.endswith("num_batches_tracked"):
                return name, "is missing"
        elif found[name].shape != tensor.shape:
            return name, f"has the shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return next(((name, "is unknown") for name in found if name not in expected), None)
