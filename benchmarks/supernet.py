"""How fast is a search step? The reference backend of a supernet against the fused one, in one run.

    python benchmarks/supernet.py [--space nas-wdan] [--depth 4] [--channels 16] [--size 128] [--batch 2]
                                  [--precision fp32] [--json]

A search step is a forward and a backward pass for the architecture, the same for the weights, and both updates. The
supernet of nas-wdan segments two classes; that of darts (chest stem, depth 12, batch 4) predicts 14 findings.
Steps of both backends are interleaved and repeated; the table gives medians, quartiles and their ratios. Peak memory
is what a step adds to a fresh process that holds the supernet. The machine's rate is that of its fastest large
product of matrices, measured in the same run. Differences are the largest of outputs and gradients in float64,
relative to the largest value of each tensor.

``--precision bf16`` compares the fused backend in bf16 with the reference in fp32. ``--one-path`` compares, in place of
the backends, the fused step of all operations with that of one path (``search.relaxation: gumbel``), which draws anew
for every pass. Options --partial and --recompute are those of search.supernet.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from medarts.config import ComputeSettings, SupernetSettings
from medarts.engine.device import make_fabric, peak_memory_mb
from medarts.nas.gradients import first_order
from medarts.spaces.base import Supernet
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts import supernet as darts
from medarts.spaces.darts.supernet import DartsSupernet
from medarts.spaces.nas_wdan import supernet as nas_wdan
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet
from medarts.spaces.relaxations import Draw, Gumbel, GumbelSettings

DEFAULTS = {"nas-wdan": {"depth": 4, "batch": 2}, "darts": {"depth": 12, "batch": 4}}
FINDINGS = 14
OF_PATHS = 4
"""Target of the mixed step over that of one path."""
EXACT_SIZES = {"nas-wdan": 32, "darts": 72}
"""For comparisons; that of darts becomes odd on the way down."""


@dataclass(frozen=True)
class Case:
    """What is run, and how."""

    space: str
    backend: str
    depth: int
    channels: int
    size: int
    batch: int
    precision: str
    device: str
    supernet: SupernetSettings
    one_path: bool = False

    def build(self) -> Supernet:
        supernet = self.mixed()
        if self.one_path:
            supernet.relaxation = Gumbel(GumbelSettings(name="gumbel"))
        return supernet

    def mixed(self) -> Supernet:
        torch.manual_seed(0)
        if self.space == "darts":
            return DartsSupernet(
                DartsSettings(stem="chest", search_channel=self.channels),
                depth=self.depth,
                outputs=FINDINGS,
                supernet=self.supernet,
                backend=darts.REFERENCE if self.backend == "reference" else darts.FUSED,
            )
        return NasWdanSupernet(
            LatticeSettings(
                depth=self.depth, init_channel=self.channels, double_down_channel=True, intermediate_nodes=4
            ),
            supernet=self.supernet,
            backend=nas_wdan.REFERENCE if self.backend == "reference" else nas_wdan.FUSED,
        )

    def targets(self, images: Tensor) -> Tensor:
        if self.space == "darts":
            return (torch.rand(len(images), FINDINGS, generator=torch.Generator().manual_seed(3)) > 0.8).float()
        return (images.mean(1, keepdim=True) > 0.5).float()


def main() -> None:
    arguments = parse()
    cases = [case_of(arguments, name) for name in ("reference", "fused")]
    if arguments.one_path:
        of_paths = one_path(cases[1], repeats=arguments.repeats)
        print(json.dumps(of_paths) if arguments.json else table_of_paths(of_paths))
        return
    result = compare(cases, repeats=arguments.repeats)
    result["max_abs_diff"] = largest_difference(cases)
    print(json.dumps(result) if arguments.json else table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=tuple(DEFAULTS), default="nas-wdan")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--partial", type=int, choices=(1, 2, 4), default=1, help="partial channels of the fused backend"
    )
    parser.add_argument("--recompute", action="store_true", help="recompute activations, fused backend")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--one-path", action="store_true", help="the mixed step against one of a single path")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    parser.set_defaults(**DEFAULTS[arguments.space])
    return parser.parse_args()


def case_of(arguments: argparse.Namespace, backend: str) -> Case:
    fused = backend == "fused"
    return Case(
        arguments.space,
        backend,
        arguments.depth,
        arguments.channels,
        arguments.size,
        arguments.batch,
        arguments.precision if fused else "fp32",
        arguments.device,
        SupernetSettings(
            partial_channels=arguments.partial if fused else 1,
            edge_normalisation=fused and arguments.partial > 1,
            recompute=fused and arguments.recompute,
        ),
    )


class Step:
    """A search step that can be repeated."""

    def __init__(self, case: Case) -> None:
        fabric = make_fabric(ComputeSettings(device=case.device, precision=case.precision))
        self.supernet = supernet = case.build()
        self.passes = 0
        self.weights, self.architecture = supernet.weights(), supernet.architecture()
        self.model, self.of_weights, self.of_architecture = fabric.setup(
            supernet, torch.optim.SGD(self.weights, 0.025, momentum=0.9), torch.optim.Adam(self.architecture, 2e-4)
        )
        self.fabric = fabric
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(case.batch, 3, case.size, case.size, generator=generator)
        self.images, self.targets = images.to(fabric.device), case.targets(images).to(fabric.device)

    def __call__(self) -> None:
        for optimizer, held in ((self.of_architecture, self.weights), (self.of_weights, self.architecture)):
            optimizer.zero_grad()
            self.passes += 1
            with self.supernet.drawing(Draw(seed=self.passes, progress=0.5)):
                first_order(self.fabric, lambda: [self.loss()], held=held)
            optimizer.step()
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()

    def loss(self) -> Tensor:
        losses = [
            F.binary_cross_entropy_with_logits(out.float(), self.targets)
            for out in self.model(self.images, all_heads=True)
        ]
        return torch.stack(losses).mean()


def compare(cases: list[Case], *, repeats: int) -> dict[str, object]:
    steps = [Step(case) for case in cases]
    seconds = interleaved(steps, repeats=repeats)
    flops = [count_flops(case) for case in cases]
    peak = matrix_rate(torch.float32, cases[0].device)
    result: dict[str, object] = {
        "time_ratio": statistics.median(reference / fused for reference, fused in zip(*seconds, strict=True)),
        "time_ratio_quartiles": quartiles([reference / fused for reference, fused in zip(*seconds, strict=True)]),
        "peak_gflops_fp32": peak / 1e9,
    }
    memory = [peak_memory(case) for case in cases]
    result["memory_ratio"] = memory[1] / memory[0]
    for case, times, work, megabytes in zip(cases, seconds, flops, memory, strict=True):
        rate = work / statistics.median(times)
        limit = matrix_rate(torch.bfloat16, case.device) if case.precision == "bf16" else peak
        result[case.backend] = {
            "precision": case.precision,
            "seconds": statistics.median(times),
            "seconds_quartiles": quartiles(times),
            "gflops": work / 1e9,
            "flops_fraction": rate / limit,
            "memory_mb": megabytes,
        }
        result["flops_fraction"] = rate / limit  # of the last, the fused backend
    return result


def one_path(mixed: Case, *, repeats: int) -> dict[str, object]:
    """Returns the times of the fused step of all operations and of one path, and their ratios."""
    seconds = interleaved([Step(mixed), Step(replace(mixed, one_path=True))], repeats=repeats)
    ratios = [whole / single for whole, single in zip(*seconds, strict=True)]
    return {
        "mixed": statistics.median(seconds[0]),
        "one path": statistics.median(seconds[1]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": quartiles(ratios),
    }


def table_of_paths(result: dict[str, object]) -> str:
    rows = [f"{name:12}{_cell(result[name])} s" for name in ("mixed", "one path")]
    ratio = f"{_cell(result['ratio'])} ({_cell(result['ratio_quartiles'])}), target at least {OF_PATHS}"
    return "\n".join([*rows, f"{'ratio':12}{ratio}"])


def interleaved(steps: list[Step], *, repeats: int) -> list[list[float]]:
    """Returns the times of every step; the order turns around from one round to the next."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for number in range(repeats):
        order = range(len(steps)) if number % 2 else reversed(range(len(steps)))
        for index in order:
            began = time.perf_counter()
            steps[index]()
            times[index].append(time.perf_counter() - began)
    return times


def quartiles(values: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def count_flops(case: Case) -> int:
    """Returns the FLOPs of a step's convolutions: two forward passes, and one and two times as much backward.

    Counted on the forward pass of the reference backend; PyTorch's counter takes the backward pass of a grouped
    convolution for that of a dense one.
    """
    supernet = replace(case, backend="reference").build()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        supernet(torch.rand(case.batch, 3, case.size, case.size))
    return 5 * int(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Returns the FLOP/s of the fastest product of two 2048 x 2048 matrices, written in two ways."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    images = a.view(1, 32, 64, 2048).permute(0, 3, 1, 2)
    ways: list[Callable[[], Tensor]] = [lambda: a @ b, lambda: F.conv2d(images, b[:, :, None, None])]
    best = 0.0
    for way in ways:
        for _ in range(6):
            began = time.perf_counter()
            way()
            if a.device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


def peak_memory(case: Case) -> float:
    """Returns the MB that a step adds to a fresh process with the supernet in it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, case).result()


def _peak_memory(case: Case) -> float:
    step = Step(case)
    if step.fabric.device.type == "cuda":
        held = torch.cuda.memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
    else:
        held = resident_memory()
    step()
    return peak_memory_mb(step.fabric.device) - held


def resident_memory() -> float:
    """Returns the memory of this process now, in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


def largest_difference(cases: list[Case]) -> float:
    """Returns the largest relative difference of outputs and gradients of both backends, in float64."""
    tensors = []
    for case in cases:
        # Both with the partial channels of the fused backend.
        supernet = replace(case, supernet=cases[1].supernet).build().double().eval().to(case.device)
        generator, size = torch.Generator().manual_seed(2), EXACT_SIZES[case.space]
        if case.space == "nas-wdan":
            size = max(size, 2**case.depth)
        x = torch.rand(case.batch, 3, size, size, generator=generator, dtype=torch.float64).to(case.device)
        outputs = supernet(x, all_heads=True)
        torch.autograd.backward(torch.stack([out.square().sum() for out in outputs]).sum())
        tensors.append([*outputs, *(p.grad for p in supernet.parameters() if p.grad is not None)])
    pairs = zip(*tensors, strict=True)
    return max(
        float((one - two).detach().abs().max() / two.detach().abs().max().clamp_min(1e-30)) for one, two in pairs
    )


def table(result: dict[str, object]) -> str:
    rows = [f"{'':28}{'reference':>14}{'fused':>14}"]
    reference, fused = result["reference"], result["fused"]
    assert isinstance(reference, dict)
    assert isinstance(fused, dict)
    rows += [f"{name:28}{_cell(reference[name]):>14}{_cell(fused[name]):>14}" for name in reference]
    rows += [f"{name:28}{_cell(value)}" for name, value in result.items() if name not in ("reference", "fused")]
    return "\n".join(rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        return " to ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return str(value)


if __name__ == "__main__":
    main()
