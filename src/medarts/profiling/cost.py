"""What networks cost on the CPU: parameters, FLOPs, latency in PyTorch and exported, peak memory.

What is timed is a network alone, its last head, on images that have its size: the same in every backend. An exported
network runs as it is deployed, in ONNX Runtime, and in OpenVINO where that is installed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count, product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medarts.config import NormName
from medarts.deploy.engines import ENGINES, Engine
from medarts.deploy.graphs import Translation
from medarts.errors import MedartsError, RecipeError, RunError
from medarts.models import Architecture, build_network, without_weights
from medarts.network import InferenceForm, Network
from medarts.network.inference import faster, shipped
from medarts.profiling.flops import FlopCounter
from medarts.profiling.latency import Timing, threads_of_cpu, time_in_turns
from medarts.profiling.memory import Form, peak_of_inference_mb

Norms = NormName | Mapping[str, NormName | None] | None
"""Kind of the norms of all networks, or of each by its name; None stands for those of the network's paper."""

Backend = Literal["torch", "inference form", "onnxruntime", "openvino"]
BACKENDS: dict[Backend, str] = {
    "torch": "PyTorch, as built",
    "inference form": "PyTorch, inference form",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
"""What runs a network, and what it is called where people read: PyTorch, with the network as it is trained or in its
form for inference, which scores images (``medarts.network.inference``), and what runs an exported file."""

Timings = dict[Backend, tuple[Timing, ...]]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a network whose last head is used, as it is when images are scored.

    Attributes:
        parameters: trainable parameters, those of early heads included.
        flops: floating point operations of convolutions and matrix products for one image, 2 per multiply-add; norms,
            pooling, activations and sums are not counted. What papers call MACs, and often "FLOPs", is half of this.
        size: height and width of the images, in pixels.
        in_channels: channels of the images.
        outputs: outputs of the network.
        timings: latency by backend, of each by threads and batch. Empty where it was not measured. A network without a
            form for inference lacks that, and all lack OpenVINO where it is not installed.
        memory_mb: peak memory of inference in PyTorch in MB (10^6 bytes) by batch, see ``medarts.profiling.memory``;
            of the form that scores images. Empty where it was not measured.
    """

    parameters: int
    flops: int
    size: int
    in_channels: int
    outputs: int
    timings: Timings = field(default_factory=dict)
    memory_mb: dict[int, float] = field(default_factory=dict)

    def latency_ms(self, *, threads: int, batch: int = 1, backend: Backend = "onnxruntime") -> float:
        """Returns the median milliseconds of a pass, of the exported network unless another backend is asked for.

        Raises:
            ValueError: that was not measured.
        """
        for timing in self.timings.get(backend, ()):
            if (timing.threads, timing.batch) == (threads, batch):
                return timing.median_ms
        raise ValueError(f"{backend} with {threads} threads and batches of {batch} was not measured")

    def as_json(self) -> dict[str, Any]:
        """Returns the cost as what JSON can hold."""
        return {**asdict(self), "memory_mb": {str(batch): peak for batch, peak in self.memory_mb.items()}}

    @classmethod
    def read(cls, content: Mapping[str, Any], *, origin: str = "cost.json") -> "Cost":
        """Returns a cost from what ``as_json`` made; other keys are passed over.

        Args:
            content: what JSON holds.
            origin: names it in errors.

        Raises:
            RunError: it is something else, such as a cost that an older medarts wrote.
        """
        try:
            timings = content["timings"]
            if not {*timings} <= {*BACKENDS} or (timings and "onnxruntime" not in timings):
                raise ValueError(f"timings of {', '.join(timings)}")
            return cls(
                **{key: int(content[key]) for key in ("parameters", "flops", "size", "in_channels", "outputs")},
                timings={backend: tuple(Timing(**timing) for timing in of) for backend, of in timings.items()},
                memory_mb={int(batch): float(peak) for batch, peak in content["memory_mb"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{origin} holds no cost that this version of medarts can read ({type(error).__name__}: {error}).",
                fix="Measure it again.",
            ) from None


def measure_costs(
    architectures: Mapping[str, Architecture],
    *,
    in_channels: int,
    outputs: int,
    size: int,
    norm: Norms = None,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    repeats: int = 20,
    memory: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Cost]:
    """Measures networks with fresh weights on the CPU, whether or not there is a GPU, without gradients.

    Latencies can be compared: all networks, in every backend, are in memory at once and timed in turns, on the same
    images with the same number of threads. Exporting a network takes from seconds to half a minute. Peak memory is that
    of a process of its own for every network and batch, on the largest of ``threads``.

    Args:
        architectures: genotypes and baselines, by name.
        in_channels: channels of the images.
        outputs: outputs of the networks.
        size: height and width of the images, in pixels.
        norm: kind of the norms, of all or by name.
        threads: numbers of threads of the CPU.
        batches: images of a pass.
        repeats: timed passes, at least 2; three more warm up. With 0, parameters and FLOPs are counted, and nothing is
            measured.
        memory: whether peak memory is measured, which takes some seconds for every network and batch.
        progress: called with the steps done and the number of steps.

    Returns:
        The costs by name, in the order given.

    Raises:
        MedartsError: a network cannot be built, not take such images, or not be exported.
        RecipeError: a network needs more memory than there is.
        ValueError: 1 repeat, which has no spread.
    """
    kinds = norm if isinstance(norm, Mapping) else dict.fromkeys(architectures, norm)
    of_all = {"in_channels": in_channels, "outputs": outputs, "size": size}
    plans = {name: _Plan(without_weights(each), norm=kinds[name], **of_all) for name, each in architectures.items()}
    if repeats == 0:
        threads, memory = (), False
    # Counting needs shapes alone: on the meta device no weight is made and nothing is computed.
    with torch.device("cpu" if repeats else "meta"):
        networks = {name: plan.build() for name, plan in plans.items()}
    exports, peaks_of = len(plans) * bool(threads), len(plans) * len(batches) * memory
    step = _counted(progress, peaks_of + exports + len(threads) * len(batches) * repeats)
    shapes = [(batch, in_channels, size, size) for batch in batches]
    # First, as this is where too much is noticed.
    peaks = _peaks(plans, batches if memory else (), threads=max(threads, default=1), after_each=step)
    files = _exported(plans, networks, after_each=step) if threads else {}
    timings = _time(networks, files, shapes, threads=threads, repeats=repeats, after_turn=step)
    image = None if repeats else torch.empty(1, in_channels, size, size, device="meta")
    return {
        name: Cost(
            parameters=count_parameters(network),
            flops=count_flops(last_head(network, network), in_channels=in_channels, size=size, images=image),
            timings=timings[name],
            memory_mb=peaks[name],
            **of_all,
        )
        for name, network in networks.items()
    }


def count_parameters(network: nn.Module, *, without: Collection[str] = ()) -> int:
    """Returns the number of trainable parameters; one that several modules share counts once.

    Args:
        network: the network.
        without: names of parameters that do not count.
    """
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and name not in without
    )


def count_flops(form: Form, *, in_channels: int, size: int, images: Tensor | None = None) -> int:
    """Returns the operations of a pass of one image, as ``Cost.flops`` counts them.

    Args:
        form: the network as it runs.
        in_channels: channels of the image.
        size: its height and width, in pixels.
        images: one image on the device of the network. Default: random on the CPU.
    """
    counter = FlopCounter()
    with torch.inference_mode(), counter:
        form(_images(1, in_channels, size) if images is None else images)
    return counter.total


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a network is built from; called, it gives the form that runs where images are scored."""

    architecture: Architecture
    in_channels: int
    outputs: int
    size: int
    norm: NormName | None

    def build(self) -> Network:
        """Returns the network in evaluation mode, after it has agreed to the size of the images."""
        network = build_network(
            self.architecture, in_channels=self.in_channels, outputs=self.outputs, norm=self.norm
        ).eval()
        network.check_size(self.size)
        return network

    def __call__(self) -> Form:
        network = self.build()
        return last_head(shipped(network, in_channels=self.in_channels, size=self.size), network)


def _exported(
    plans: Mapping[str, _Plan], networks: Mapping[str, Network], *, after_each: Callable[[], None]
) -> dict[str, bytes]:
    """Returns every network as the content of an ONNX file.

    Raises:
        MedartsError: a network cannot be exported.
    """
    found: dict[str, bytes] = {}
    for name, network in networks.items():
        found[name] = exported(name, network, in_channels=plans[name].in_channels, size=plans[name].size)
        after_each()
    return found


def exported(name: str, network: Network, *, in_channels: int, size: int) -> bytes:
    """Returns a network as the content of the ONNX file of which latency is measured.

    Args:
        name: of the network, for the error.
        network: in evaluation mode, on the CPU.
        in_channels: channels of the images.
        size: their height and width, in pixels.

    Raises:
        MedartsError: it cannot be exported.
    """
    return Exports().exported(name, network, in_channels=in_channels, size=size)


class Exports:
    """Exports networks one after the other; where they differ in their width alone, only the first takes its time."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], Translation] = {}

    def exported(self, name: str, network: Network, *, in_channels: int, size: int) -> bytes:
        """Returns a network as `exported` does."""
        first = self._first.get((in_channels, size))
        content = None if first is None else first.of(network)
        if content is not None:
            return content
        try:
            translation = Translation(network, in_channels=in_channels, size=size)
            content = translation.content
        except Exception as error:  # its classes have no common base
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise MedartsError(
                f"{name} cannot be exported to ONNX, as which its latency is measured ({reason}).",
                fix="Build it of operations that torch.onnx can export, or count alone, with 0 repeats.",
            ) from error
        self._first.setdefault((in_channels, size), translation)
        return content


def _time(
    networks: Mapping[str, Network],
    files: Mapping[str, bytes],
    shapes: Sequence[tuple[int, int, int, int]],
    *,
    threads: Sequence[int],
    repeats: int,
    after_turn: Callable[[], None],
) -> dict[str, Timings]:
    """Times networks in turns with every number of threads and every shape of a batch (B, C, H, W).

    Args:
        networks: as built.
        files: the same, exported.
        shapes: of the images.
        threads: of the CPU, for every backend.
        repeats: turns.
        after_turn: called after each.
    """
    timings: dict[str, Timings] = {name: {} for name in networks}
    forms: dict[str, InferenceForm] = {}
    for name, network in networks.items() if threads else ():
        if (form := network.inference_form(next(network.parameters()).dtype)) is not None:
            forms[name] = form.eval()
    for number in threads:
        with threads_of_cpu(number):
            _, in_channels, size, _ = shapes[0]
            used = {
                name: faster(form, networks[name], in_channels=in_channels, size=size) for name, form in forms.items()
            }
        engines = {
            (name, backend): engine(files[name], threads=number)
            for name in networks
            for backend, engine in ENGINES.items()
            if backend == "onnxruntime" or find_spec(backend)
        }
        for shape in shapes:
            images = _images(*shape[:3])
            passes: dict[tuple[str, Backend], Callable[[], object]] = {}
            for name, network in networks.items():
                passes[name, "torch"] = partial(last_head(network, network), images)
                if name in forms:
                    passes[name, "inference form"] = partial(last_head(forms[name], network), images)
            passes |= {key: partial(run_exported, engine, images) for key, engine in engines.items()}
            timed = time_in_turns(
                [*passes.values()], threads=number, batch=shape[0], repeats=repeats, after_turn=after_turn
            )
            timing_of = dict(zip(passes, timed, strict=True))
            for name, backend in passes:
                as_used = "torch" if backend == "inference form" and used[name] is networks[name] else backend
                timings[name][backend] = (*timings[name].get(backend, ()), timing_of[name, as_used])
    return timings


def run_exported(engine: Engine, images_bchw: Tensor) -> object:
    """Runs an exported network."""
    # The limits are what networks with what comes before them take; a network alone has no such input.
    return engine.run(images_bchw.numpy(), np.empty((len(images_bchw), 2), np.float32))


def last_head(form: nn.Module, network: Network) -> Form:
    """Returns a form of a network with its last head alone."""
    return partial(form, head=network.heads[-1])


def _images(batch: int, channels: int, size: int) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def _counted(progress: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """Returns a function that tells how many times it was called."""
    numbers = count(1)
    return lambda: progress(next(numbers), total)


def _peaks(
    plans: Mapping[str, _Plan], batches: Sequence[int], *, threads: int, after_each: Callable[[], None]
) -> dict[str, dict[int, float]]:
    """Returns the peak memory in MB of every network, by batch."""
    peaks: dict[str, dict[int, float]] = {name: {} for name in plans}
    for name, batch in product(plans, batches):
        peaks[name][batch] = _peak(name, plans[name], batch=batch, threads=threads)
        after_each()
    return peaks


def _peak(name: str, plan: _Plan, *, batch: int, threads: int) -> float:
    shape = (batch, plan.in_channels, plan.size, plan.size)
    try:
        return peak_of_inference_mb(plan, shape=shape, threads=threads)
    except MemoryError:
        raise RecipeError(
            f"{name} runs out of memory with {batch} images of {plan.size} x {plan.size} at a time.",
            fix="Use smaller batches, smaller images or a narrower network.",
        ) from None
