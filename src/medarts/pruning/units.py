"""Units of channels of any trained network: found, and cut.

Which channels go together follows from the graph of the network (``channels.py``), and is verified: units whose removal
does not give what the masked network gives are fixed. What is not to be cut is found in the same way: heads, what reads
the image, layers of one channel, and what only training runs, such as an auxiliary head: no image that is scored costs
less without it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medarts.errors import RunError
from medarts.network import Network
from medarts.pruning.channels import Joined, Member, Removals, Unit, joined_channels
from medarts.pruning.cutting import TOLERANCE, difference, in_float64, masked, shrink, zero_filters

__all__ = [
    "Joined",
    "Member",
    "Removals",
    "Unit",
    "cut",
    "examine",
    "find_units",
    "masked",
    "small_image",
    "zero_filters",
]

UNVERIFIED = "a cut that changes the outputs"

PROBE_TOLERANCE = 1e-6
"""Like ``TOLERANCE``, for units of a network that need not be trained; wrong channels make 1e-3 and more."""

PROBES = 2
"""One set of channels may happen to suit an operation that changes their order."""

NOISE_IMAGES = 4


def find_units(network: Network, image_1chw: Tensor) -> list[Unit]:
    """Returns the units of a network that can be cut, in the order of its layers.

    Args:
        network: stays as it is.
        image_1chw: an image that it takes; a small one does, see ``small_image``.

    >>> from medarts.models import create_model
    >>> network = create_model("unet", width=4, depth=2)
    >>> for unit in find_units(network, small_image(network, 3)):
    ...     print(unit.name, unit.channels)
    encoder.0.0.conv 4
    encoder.0.1.conv 4
    encoder.1.1.0.conv 8
    encoder.1.1.1.conv 8
    decoder.0.up.conv.conv 4
    decoder.0.block.0.conv 4
    decoder.0.block.1.conv 4
    """
    return examine(network, image_1chw).units


def examine(network: Network, image_1chw: Tensor) -> Joined:
    """Returns the units of a network, and the names of those that cannot be cut, each with the reason.

    Args:
        network: stays as it is.
        image_1chw: see ``find_units``.
    """
    joined = joined_channels(network, image_1chw)
    examined, image = in_float64(network, image_1chw)
    _disturb(examined, image)
    units: list[Unit] = []
    _add_verified(examined, joined.units, image, units)
    unverified = {unit.name: UNVERIFIED for unit in joined.units if unit not in units}
    return Joined(units, {**joined.fixed, **unverified})


def _add_verified(network: Network, candidates: Sequence[Unit], image_1chw: Tensor, units: list[Unit]) -> None:
    """Adds to units those candidates of which a part can be cut together with a part of each unit."""
    if not candidates or _is_cuttable(network, [*units, *candidates], image_1chw):
        units += candidates
    elif len(candidates) > 1:
        half = len(candidates) // 2
        _add_verified(network, candidates[:half], image_1chw, units)
        _add_verified(network, candidates[half:], image_1chw, units)


def _is_cuttable(network: Network, units: Sequence[Unit], image_1chw: Tensor) -> bool:
    removals = (half_of_each(units, seed=seed) for seed in range(PROBES))
    try:
        return all(difference(network, units, each, image_1chw) <= PROBE_TOLERANCE for each in removals)
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit
        return False


def half_of_each(units: Sequence[Unit], *, seed: int = 0) -> dict[str, list[int]]:
    """Returns removals of about half of the channels of each unit, at random."""
    generator = torch.Generator().manual_seed(seed)
    removals = {}
    for unit in units:
        length = unit.channels // unit.together
        chosen = [
            block * length + place
            for block in range(unit.together)
            for place in torch.randperm(length, generator=generator)[: length // 2].tolist()
        ]
        removals[unit.name] = sorted(chosen)
    return removals


@torch.no_grad()
def _disturb(network: Network, image_1chw: Tensor) -> None:
    """Moves scales, shifts and statistics off the values that networks begin with, which hide what they do.

    Batch norms get the statistics of noise, so that the maps of a network that was never trained do not fade away.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1 or not parameter.any():
            parameter.add_(torch.rand(parameter.shape, generator=generator).to(parameter))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    noise = torch.rand((NOISE_IMAGES, *image_1chw.shape[1:]), generator=generator).to(image_1chw)
    with torch.random.fork_rng(devices=[]):
        network.train().forward_heads(noise)
    network.eval()


def cut(network: Network, removals: Removals, image_1chw: Tensor, *, units: Sequence[Unit] | None = None) -> None:
    """Removes channels from a network, in place, having verified on an image that it computes what the masked one does.

    Outputs of all heads are compared in float64. A cut that is refused leaves the network as it was.

    Args:
        network: keeps its mode.
        removals: channels by the names of units; those of ``find_units`` of the network as it is.
        image_1chw: see ``find_units``.
        units: those of the network, where they are known; otherwise they are found.

    Raises:
        RunError: there is no such unit or channel, nothing would be left of a unit, its blocks would not stay equal, or
            outputs differ by more than 1e-5 of the largest.
    """
    units = joined_channels(network, image_1chw).units if units is None else units
    examined, image = in_float64(network, image_1chw)
    error = difference(examined, units, removals, image)
    if not error <= TOLERANCE:
        raise RunError(
            f"The cut network would give other outputs, by {error:.1e} of the largest.",
            fix="See that its weights are finite, and prune it by another method or to another share. From Python, "
            "remove channels of units that find_units gives.",
        )
    shrink(network, units, removals)


def small_image(network: Network, in_channels: int) -> Tensor:
    """Returns a random image, 1CHW, of the smallest size that a network takes and that leaves maps of 2x2 pixels."""
    size = network.small_size
    image = torch.rand(1, in_channels, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(next(network.parameters()))
