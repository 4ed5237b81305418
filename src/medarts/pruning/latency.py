"""How fast a network is before and after a cut: exported, as it is deployed, and timed in turns."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import network_to_onnx
from medarts.errors import MedartsError, shortened
from medarts.network import Network
from medarts.profiling.latency import time_in_turns

THREADS = 1
"""Of the CPU. On several, what else the machine does decides more."""

TURNS = 20
"""Timed passes of each network."""


class Latency(BaseModel):
    """Latency before and after a cut, of a pass of one image in ONNX Runtime.

    >>> Latency(before_ms=5.0, cut_ms=4.0, threads=1, size=64).share
    0.8

    Attributes:
        before_ms: of the network before the cut, median in milliseconds.
        cut_ms: of what is left, timed in turns with it.
        threads: threads of the CPU.
        size: height and width of the image, in pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    before_ms: Annotated[float, Field(gt=0)]
    cut_ms: Annotated[float, Field(gt=0)]
    threads: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=1)]

    @property
    def share(self) -> float:
        """What is left of the latency."""
        return self.cut_ms / self.before_ms


def latency_beside(network: Network, image: Tensor) -> Callable[[Network], Latency]:
    """Returns what measures the latency of a cut network in turns with that of the whole one.

    Args:
        network: the whole one, in evaluation mode, on the CPU, as is the cut one.
        image: (1, C, H, W) of the size that they are timed for.

    Raises:
        MedartsError: the network cannot be exported; the function that is returned raises it too.
    """
    given = np.random.default_rng(0).random((1, *image.shape[1:]), np.float32)

    def exported(each: Network) -> Callable[[], object]:
        engine = OnnxRuntimeEngine(_onnx(each, given.shape), threads=THREADS)
        return partial(engine.run, given, np.empty((1, 2), np.float32))

    whole = exported(network)

    def latency_of(other: Network) -> Latency:
        before, after = time_in_turns([whole, exported(other)], threads=THREADS, batch=1, repeats=TURNS)
        return Latency(before_ms=before.median_ms, cut_ms=after.median_ms, threads=THREADS, size=given.shape[-1])

    return latency_of


def _onnx(network: Network, shape: Sequence[int]) -> bytes:
    try:
        return network_to_onnx(network, in_channels=shape[1], size=shape[-1])
    except Exception as error:  # its classes have no common base
        raise MedartsError(
            f"The network cannot be exported to ONNX, as which its latency is measured ({shortened(str(error))}).",
            fix="Use keep_flops, or build the network of operations that torch.onnx can export.",
        ) from error
