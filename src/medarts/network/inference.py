"""The form that a network is used in: the one for inference, unless this machine runs the network itself faster.

Which kernels a form for inference chooses follows from shapes alone, and is right on the machines that it was measured
on (docs/performance.md). Another processor or another PyTorch may have a slow kernel where these have a fast one, so
both are timed once, on one image, before one is used.
"""

import math
import time
from itertools import count

import torch
from torch import Tensor

from medarts.network import InferenceForm, Network

CLEARLY_SLOWER = 1.05
"""Times as long as the network itself. Less is the noise of two shortest passes."""

FEWEST_TURNS = 3
ENOUGH_SECONDS = 0.5
"""After that many turns and seconds there is no further turn; after one of both, where the form has been the faster."""

_IS_FINE = time.get_clock_info("process_time").resolution < 1e-4
"""Whether time of the processor is counted in shorter steps than a pass."""


def _now() -> float:
    """Returns seconds of the clock that tells two passes apart.

    Other work on the machine makes a pass long by the clock on the wall, but hardly in time of the processor. That is
    the sum over threads, though: of several, it would prefer the form that leaves them idle.
    """
    return time.process_time() if _IS_FINE and torch.get_num_threads() == 1 else time.perf_counter()


def for_inference(network: Network, *, dtype: torch.dtype | None = None) -> InferenceForm:
    """Returns a network with the same outputs in evaluation mode, up to rounding, that takes less time on a CPU.

    Weights and running statistics are taken over as they are now, on the device where they are now.

    Args:
        network: stays as it is.
        dtype: in which it computes, such as ``torch.bfloat16``. Default: that of the network.

    Raises:
        TypeError: the network has no such form.
    """
    form = network.inference_form(dtype or next(network.parameters()).dtype)
    if form is None:
        raise TypeError(f"{type(network).__name__} has no form for inference")
    return form.eval()


def shipped(network: Network, *, in_channels: int, size: int, dtype: torch.dtype | None = None) -> Network:
    """Returns what a network is used as, in evaluation mode, with equal outputs up to rounding.

    Args:
        network: is in evaluation mode afterwards.
        in_channels: channels of the images that it is used on.
        size: their height and width, in pixels.
        dtype: in which it computes, such as ``torch.bfloat16``. Default: that of the network.
    """
    form = network.inference_form(dtype or next(network.parameters()).dtype)
    return network.eval() if form is None else faster(form.eval(), network, in_channels=in_channels, size=size)


def faster(form: InferenceForm, network: Network, *, in_channels: int, size: int) -> Network:
    """Returns a network's form for inference, or the network itself where the form is clearly slower on this CPU.

    Only a form that differs from the network by rounding is exchanged for it: one in another dtype would have other
    scores. Nothing is timed off the CPU.

    Args:
        form: of the network.
        network: see ``shipped``, as are the others.
        in_channels: channels of the images.
        size: their height and width, in pixels.
    """
    network.eval()
    weight = next(network.parameters())
    if weight.device.type != "cpu" or form.dtype != weight.dtype:
        return form
    image = torch.rand(1, in_channels, size, size, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    of_network, of_form = _best_seconds(network, form, image)
    return network if of_form > CLEARLY_SLOWER * of_network else form


@torch.inference_mode()
def _best_seconds(network: Network, form: Network, image_1chw: Tensor) -> tuple[float, float]:
    """Returns the shortest pass of a network and of its form, taken in turns after one that warms up."""
    of_network = of_form = math.inf
    start, head = _now(), network.heads[-1]
    for turn in count():
        passes = _seconds(network, image_1chw, head), _seconds(form, image_1chw, head)
        if turn:
            of_network, of_form = min(of_network, passes[0]), min(of_form, passes[1])
            enough = turn >= FEWEST_TURNS, _now() - start > ENOUGH_SECONDS
            if all(enough) or (any(enough) and of_form <= of_network):
                break
    return of_network, of_form


def _seconds(network: Network, image_1chw: Tensor, head: str) -> float:
    start = _now()
    network(image_1chw, head)
    return _now() - start
