"""What does a second-order search step cost? Against a first-order one, in one run.

    python benchmarks/second_order.py [--space darts|nas-wdan] [--precision fp32] [--repeats 9] [--json]

A search step is the gradient of the architecture, that of the weights, and both updates. nas-wdan: D=4, C=16, 2 images;
darts: 12 layers, C=16, 4 images and 14 findings; both 128 px and the fused backend. Steps are interleaved and
repeated; the table gives medians, quartiles and the median of the ratios. Peak memory is what two steps (the second
has momentum) add to the peak of a fresh process that holds the supernet.

By the number of passes a second-order step costs 2.6 first-order ones: with 1 for a forward pass, a backward pass is
1 for the architecture alone and 2 with the weights, which makes (1 + 1) + (1 + 2) = 5 against 3 + 3 + 2 + 2 for the
architecture and 3 for the weights.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from supernet import interleaved, quartiles
from torch import Tensor
from torch.nn import functional as F

from medarts.config import ComputeSettings
from medarts.engine.device import make_fabric, peak_memory_mb
from medarts.nas.gradients import Objective, first_order
from medarts.registry import gradients
from medarts.spaces.base import Supernet
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts.supernet import DartsSupernet
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet

TARGETS = {"time_ratio": 2.7, "memory_ratio": 1.3}
BATCH = {"nas-wdan": 2, "darts": 4}


@dataclass(frozen=True)
class Case:
    """What is run, and how."""

    gradient: str
    space: str
    size: int
    precision: str
    device: str


def build(space: str) -> Supernet:
    """Returns the supernet that is measured."""
    torch.manual_seed(0)
    if space == "darts":
        return DartsSupernet(DartsSettings(search_channel=16), depth=12, outputs=14)
    return NasWdanSupernet(LatticeSettings(depth=4, init_channel=16, double_down_channel=True, intermediate_nodes=4))


class Step:
    """A search step that can be repeated."""

    def __init__(self, case: Case) -> None:
        self.fabric = make_fabric(ComputeSettings(device=case.device, precision=case.precision))
        supernet = build(case.space)
        self.weights, self.architecture = supernet.weights(), supernet.architecture()
        self.model, self.of_weights, self.of_architecture = self.fabric.setup(
            supernet,
            torch.optim.SGD(self.weights, 0.025, momentum=0.9, weight_decay=3e-4),
            torch.optim.Adam(self.architecture, 3e-4),
        )
        self.gradient = gradients.get(case.gradient)
        self.training, self.validation = (self.objective(case, seed) for seed in (1, 2))

    def objective(self, case: Case, seed: int) -> Objective:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(BATCH[case.space], 3, case.size, case.size, generator=generator).to(self.fabric.device)
        with torch.no_grad():
            shape = self.model(images, all_heads=True)[-1].shape
        targets = (torch.rand(shape, generator=generator) > 0.5).float().to(self.fabric.device)

        def losses() -> Iterator[Tensor]:
            torch.manual_seed(seed)
            outputs = self.model(images, all_heads=True)
            yield torch.stack([F.binary_cross_entropy_with_logits(out.float(), targets) for out in outputs]).mean()

        return losses

    def __call__(self) -> None:
        self.of_weights.zero_grad()
        self.of_architecture.zero_grad()
        self.gradient(
            self.fabric,
            training=self.training,
            validation=self.validation,
            weights=self.weights,
            architecture=self.architecture,
            optimizer=self.of_weights,
        )
        self.of_architecture.step()
        first_order(self.fabric, self.training, held=self.architecture)
        self.of_weights.step()
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    arguments = parse()
    cases = [
        Case(name, arguments.space, arguments.size, arguments.precision, arguments.device)
        for name in ("first_order", "second_order")
    ]
    result = compare(cases, repeats=arguments.repeats)
    print(json.dumps(result) if arguments.json else table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=tuple(BATCH), default="darts")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def compare(cases: list[Case], *, repeats: int) -> dict[str, object]:
    memory = [peak_memory(case) for case in cases]
    seconds = interleaved([Step(case) for case in cases], repeats=repeats)
    ratios = [second / first for first, second in zip(*seconds, strict=True)]
    result: dict[str, object] = {
        "time_ratio": statistics.median(ratios),
        "time_ratio_quartiles": quartiles(ratios),
        "memory_ratio": memory[1] / memory[0],
    }
    for case, times, megabytes in zip(cases, seconds, memory, strict=True):
        result[case.gradient] = {
            "seconds": statistics.median(times),
            "seconds_quartiles": quartiles(times),
            "memory_mb": megabytes,
        }
    return result


def peak_memory(case: Case) -> float:
    """Returns the MB that two steps add to the peak of a fresh process with the supernet in it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, case).result()


def _peak_memory(case: Case) -> float:
    step = Step(case)
    held = peak_memory_mb(step.fabric.device)
    for _ in range(2):
        step()
    return peak_memory_mb(step.fabric.device) - held


def table(result: dict[str, object]) -> str:
    rows = []
    for name, value in result.items():
        if isinstance(value, dict):
            low, high = value["seconds_quartiles"]
            rows.append(f"{name:14}{value['seconds']:.3f} s ({low:.3f} to {high:.3f}), {value['memory_mb']:.0f} MB")
        elif name in TARGETS:
            verdict = "met" if value <= TARGETS[name] else "missed"
            rows.append(f"{name:14}{value:.2f}, target at most {TARGETS[name]}: {verdict}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
