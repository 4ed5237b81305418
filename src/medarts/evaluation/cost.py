"""What a network costs: trainable parameters, FLOPs and CPU latency, as built and as shipped for inference."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one forward pass of one image.

    Attributes:
        parameters: trainable parameters.
        flops: floating point operations of convolutions and matrix products, 2 per multiply-add; norms,
            pooling, activations and sums are not counted. What papers call MACs, and often "FLOPs", is half
            of this.
        latency_ms: median time in milliseconds on the CPU at batch 1, of the network as built.
        spread: interquartile range of the times, in milliseconds.
        inference_ms: the same as shipped for inference, see ``medarts.networks.inference``; None where the network
            has no such form.
        inference_spread: its interquartile range.
    """

    parameters: int
    flops: int
    latency_ms: float
    spread: float
    inference_ms: float | None = None
    inference_spread: float | None = None


def measure_cost(
    network: nn.Module,
    *,
    in_channels: int,
    size: int,
    shipped: nn.Module | None = None,
    repeats: int = 20,
    threads: int | None = None,
) -> Cost:
    """Measures a network on the CPU, in evaluation mode and without gradients.

    The network's modes (training or not, of every module) are afterwards what they were before.

    Args:
        network: takes images (1, in_channels, size, size) in float32; on the CPU.
        in_channels: channels of the image.
        size: height and width of the image, in pixels.
        shipped: the same network as shipped for inference; the two are timed in turns.
        repeats: timed passes, at least 2; three more warm up.
        threads: threads of the CPU while measuring; as set where not given.

    Raises:
        ValueError: the network is not on the CPU, or fewer than 2 repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats is {repeats}; a spread needs at least 2")
    if any(parameter.device.type != "cpu" for parameter in network.parameters()):
        raise ValueError("the network is not on the CPU, where latency is measured; call network.cpu() first")
    image = torch.rand(1, in_channels, size, size, generator=torch.Generator().manual_seed(0))
    networks = [network] if shipped is None else [network, shipped]
    with torch.inference_mode(), _evaluation_mode(network), _threads(threads):
        flops = _count_flops(network, image)
        latency, *inference = [_median_and_spread(times) for times in _time_passes(networks, image, repeats)]
    return Cost(count_parameters(network), flops, *latency, *(inference[0] if inference else (None, None)))


def count_parameters(network: nn.Module) -> int:
    """Returns the number of trainable parameters; one that several modules share counts once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _count_flops(network: nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def _time_passes(networks: Sequence[nn.Module], image: Tensor, repeats: int) -> list[list[float]]:
    """Returns the milliseconds of ``repeats`` passes of every network, timed in turns."""
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(_WARM_UP):
            network(image)
    for _ in range(repeats):
        for network, passes in zip(networks, times, strict=True):
            start = time.perf_counter()
            network(image)
            passes.append(1000 * (time.perf_counter() - start))
    return times


def _median_and_spread(times: Sequence[float]) -> tuple[float, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, high - low


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    # Each module's own mode, as network.train() would also wake parts that someone keeps in evaluation mode.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
