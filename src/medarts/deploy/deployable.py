"""A network with what comes before and after it as one module: stored values in, probabilities and decisions out.

This is the meaning of every deployed form: runs predict with it, `medarts export` writes it as one graph, and exported
files are verified against it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.data.geometry import LEAST
from medarts.deploy.engines import Floats, Outputs, failed
from medarts.deploy.info import ModelInfo
from medarts.network import Network


class Deployable(nn.Module):
    """A network from stored values to probabilities; its outputs are described in ``medarts.deploy.engines``.

    Args:
        network: in evaluation mode.
        info: of the network.
    """

    limits: Tensor
    thresholds: Tensor

    def __init__(self, network: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.network = network
        self.info = info
        self.register_buffer("limits", torch.tensor([info.window or info.expected_range]), persistent=False)
        self.register_buffer("thresholds", torch.tensor(info.finding_thresholds), persistent=False)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return output_names(self.info)

    def forward(self, image_bchw: Tensor, limits_b2: Tensor | None = None) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of ``output_names``.

        Args:
            image_bchw: values as stored, float32.
            limits_b2: for networks with percentiles: the values that become 0 and 1, of each part of an image; nan for
                those of each image.
        """
        x = self._as_seen(image_bchw, limits_b2)
        logits = _logits(self.network, x, self.info.head)
        return self._findings(logits) if self.info.task == "classification" else self._masks(logits, image_bchw)

    def _as_seen(self, image_bchw: Tensor, limits_b2: Tensor | None) -> Tensor:
        """Returns images as the network was trained on them: 0..1, at its size."""
        limits = self.limits
        if self.info.percentiles is not None:
            parts = torch.split(image_bchw, [*self.info.channels_of_parts], 1)
            own = torch.stack([_percentile(part, of) for part in parts for of in self.info.percentiles], 1)
            limits = own if limits_b2 is None else torch.where(torch.isnan(limits_b2), own, limits_b2)
        low, high = (self._of_channels(limits[:, side::2])[:, :, None, None] for side in (0, 1))
        width = high - low
        # Multiplied, not divided, as training does: the two round differently. An image of equal percentiles is 0.
        x = torch.where(width > 0, (image_bchw - low) * torch.where(width > 0, width, 1.0).reciprocal(), 0.0)
        x = x.clamp(0, 1)
        # Not rounded to float16 as in stores of images: what differs by 1e-7 between two runtimes would differ by 5e-4.
        if self.info.resize == "patches":
            return x
        if self.info.resize == "fit":
            return _fitted(x, self.info.size)
        size = (self.info.size, self.info.size)
        return F.interpolate(x, size=size, mode="bilinear", antialias=True).clamp(0, 1)

    def _of_channels(self, values_bp: Tensor) -> Tensor:
        """Returns values of the parts of an image as values of its channels; those of all channels stay."""
        if values_bp.shape[1] == 1:
            return values_bp
        channels = self.info.channels_of_parts
        return torch.cat([values_bp[:, at : at + 1].expand(-1, number) for at, number in enumerate(channels)], 1)

    def _masks(self, logits: Tensor, image_bchw: Tensor) -> tuple[Tensor, ...]:
        probabilities = torch.softmax(logits, 1) if self.info.exclusive else torch.sigmoid(logits)
        # Probabilities are resized, not logits: those of exclusive classes still add up to one.
        own = probabilities
        if self.info.resize != "patches":
            size = image_bchw.shape[-2:]
            own = _inside(own, size, self.info.size) if self.info.resize == "fit" else own
            own = F.interpolate(own, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        mask = own.argmax(1) if self.info.exclusive else own >= self.info.threshold
        if not self.info.exclusive and not self.info.overlap:
            mask = mask[:, 0]
        return own, mask.to(torch.uint8)

    def _findings(self, logits: Tensor) -> tuple[Tensor, ...]:
        temperature = 1.0 if self.info.calibration is None else self.info.calibration.temperature
        calibrated = torch.sigmoid(logits / temperature)
        return logits, torch.sigmoid(logits), calibrated, (calibrated >= self.thresholds).to(torch.uint8)


def _fitted(images_bchw: Tensor, size: int) -> Tensor:
    """Returns images resized with their aspect ratio kept, padded with 0 to a square; see ``fitted`` of the data."""
    (rows, columns), (top, left) = _place(images_bchw.shape[-2:], size)
    y = F.interpolate(images_bchw, size=(rows, columns), mode="bilinear", antialias=True).clamp(0, 1)
    # By indices, as an exported graph is one for all sizes of images, and padding would be a case for each side.
    row, column = (torch.arange(size, device=y.device) - start for start in (top, left))
    # Not by &, which torch.onnx has no translation of: it would trace the whole graph once more to take it apart.
    in_rows, in_columns = (torch.logical_and(at >= 0, at < n) for at, n in ((row, rows), (column, columns)))
    inside = torch.logical_and(in_rows[:, None], in_columns)
    one = torch.ones((), dtype=torch.int64, device=y.device)
    y = y.index_select(2, row.clamp(min=0).minimum(one * (rows - 1)))
    y = y.index_select(3, column.clamp(min=0).minimum(one * (columns - 1)))
    return torch.where(inside, y, 0.0)


def _inside(values_bkhw: Tensor, shape: Sequence[int], size: int) -> Tensor:
    """Returns the part of a square that shows an image of a shape, without the padding of `_fitted`."""
    (rows, columns), (top, left) = _place(shape, size)
    row, column = (torch.arange(length, device=values_bkhw.device) for length in (rows, columns))
    return values_bkhw.index_select(2, row + top).index_select(3, column + left)


def _place(shape: Sequence[int], size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns rows, columns and place of a fitted image as ``medarts.data.geometry.fitted`` does, also of symbols."""
    longer = _larger(*shape)
    rows, columns = (_larger((2 * side * size + longer) // (2 * longer), LEAST) for side in shape)
    return (rows, columns), ((size - rows) // 2, (size - columns) // 2)


def _larger(one: Any, other: Any) -> Any:
    """Returns the larger of two lengths, which are tensors where TorchScript traces them."""
    if isinstance(one, Tensor):
        return one.clamp(min=other)
    return torch.sym_max(one, other)  # type: ignore[no-untyped-call]


def output_names(info: ModelInfo) -> tuple[str, ...]:
    """Returns the names of the outputs of a network, in their order."""
    if info.task == "segmentation":
        return "probabilities", "mask"
    return "logits", "probabilities", "calibrated", "decisions"


class TorchEngine:
    """A network in PyTorch, on the device where it is.

    Args:
        deployable: in evaluation mode.
    """

    name = "torch"

    def __init__(self, deployable: Deployable) -> None:
        self.deployable = deployable.eval()
        self._names = deployable.output_names

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        device = self.deployable.limits.device  # forms for inference have no parameters
        given = torch.from_numpy(images_bchw).to(device), torch.from_numpy(limits_b2).to(device)
        try:
            with torch.inference_mode():
                found = self.deployable(*given)
        except RuntimeError as error:
            raise failed("PyTorch", images_bchw, error) from error
        return {name: each.cpu().numpy() for name, each in zip(self._names, found, strict=True)}


def _logits(network: nn.Module, x_bchw: Tensor, head: str) -> Tensor:
    logits: Tensor = network(x_bchw, head) if isinstance(network, Network) else network(x_bchw)
    return logits


def _percentile(image_bchw: Tensor, percentage: float) -> Tensor:
    """Returns a percentile of each image (B,), interpolated as numpy.percentile does."""
    values = image_bchw.flatten(1)
    values = torch.sort(values, 1).values
    place = (values.shape[1] - 1) * torch.tensor(percentage / 100, dtype=torch.float64)
    below = place.floor()
    first = below.long().reshape(1, 1).expand(values.shape[0], 1)
    second = torch.clamp(first + 1, max=values.shape[1] - 1)
    start, end = values.gather(1, first)[:, 0], values.gather(1, second)[:, 0]
    return start + (end - start) * (place - below).float()
