"""How fast is a training step of a derived network? As built against its form for training, in one run.

    OMP_NUM_THREADS=1 python benchmarks/training_speed.py [--genotype NAME] [--channels 8] [--norm batch] [--size 64]
                                                          [--batch 16] [--repeats 15] [--profile] [--json]

A step is a forward and a backward pass with all heads, clipping, AdamW and the moving average. As built, the optimizer
is the default one of PyTorch, and its moving average goes tensor by tensor; the other side is what trainings run. Steps
are timed in turns, by the time of the processor, which other programs on the machine change less than that of the
clock. The table gives minima and medians in ms, the ratio of minima, and the median of ratios.

``--profile`` adds the operations in which each side spends its time.
"""

import argparse
import copy
import itertools
import json
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.profiler import ProfilerActivity, profile

from medarts import create_model, load_genotype
from medarts.network import Network
from medarts.training.averaging import MovingAverage

PARTS = ("forward", "backward", "clipping", "optimizer", "average")
DECAY = 0.99
SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotype", default="alpha0_5_stage1_nodouble_deep_ep80")
    parser.add_argument("--channels", type=int, default=8, help="C")
    parser.add_argument("--norm", choices=("batch", "group"), default="batch")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    genotype = load_genotype(given.genotype).with_settings(init_channel=given.channels)
    built = create_model(genotype, in_channels=3, outputs=1, norm=given.norm)
    images = torch.rand(given.batch, 3, given.size, given.size)
    steps = {"built": Step(built, images, new=False), "form": Step(copy.deepcopy(built), images, new=True)}
    result = compare(steps, repeats=given.repeats)
    print(json.dumps(result) if given.json else table(result))
    if given.profile:
        for name, step in steps.items():
            print(f"\n{name}\n{profiled(step)}")


class Step:
    """A training step that can be repeated.

    Args:
        network: what is trained.
        images: the batch.
        new: whether it is what trainings run.
    """

    def __init__(self, network: Network, images: torch.Tensor, *, new: bool) -> None:
        self.network, self.images = network, images
        self.model: nn.Module = (network.training_form() if new else network).train()
        self.optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True if new else None)
        self.average: AveragedModel = (
            MovingAverage(network, decay=DECAY)
            if new
            else AveragedModel(network, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True)
        )
        self.targets = (images.mean(1, keepdim=True) > 0.5).float()

    def __call__(self) -> list[float]:
        """Returns the seconds of its parts."""
        self.optimizer.zero_grad()
        times = [time.process_time()]
        outputs = self.model(self.images, all_heads=True)
        losses = [F.binary_cross_entropy_with_logits(logits, self.targets) for logits in outputs]
        times.append(time.process_time())
        torch.stack(losses).mean().backward()
        times.append(time.process_time())
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        times.append(time.process_time())
        self.optimizer.step()
        times.append(time.process_time())
        self.average.update_parameters(self.network)
        times.append(time.process_time())
        return [after - before for before, after in itertools.pairwise(times)]


def compare(steps: dict[str, Step], *, repeats: int) -> dict[str, Any]:
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name in [*steps] if number % 2 else reversed([*steps]):
            times[name].append(steps[name]())
    whole = {name: [sum(parts) for parts in of_side[1:]] for name, of_side in times.items()}  # the first warms up
    ratios = [built / form for built, form in zip(whole["built"], whole["form"], strict=True)]
    sides = {
        name: {
            part: {"min_ms": 1e3 * min(column), "median_ms": 1e3 * statistics.median(column)}
            for part, column in zip((*PARTS, "step"), [*zip(*of_side[1:], strict=True), whole[name]], strict=True)
        }
        for name, of_side in times.items()
    }
    return {
        **sides,
        "ratio_of_minima": min(whole["built"]) / min(whole["form"]),
        "median_ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4, method="inclusive")[::2],
    }


def table(result: dict[str, Any]) -> str:
    rows = [f"{'ms, minimum and median':24}{'as built':>18}{'form':>18}"]
    for part in (*PARTS, "step"):
        cells = (
            f"{result[side][part]['min_ms']:.1f} {result[side][part]['median_ms']:.1f}" for side in ("built", "form")
        )
        rows.append(f"{part:24}" + "".join(f"{cell:>18}" for cell in cells))
    low, high = result["ratio_quartiles"]
    rows.append(f"{'ratio of minima':24}{result['ratio_of_minima']:>18.2f}")
    rows.append(f"{'median ratio':24}{result['median_ratio']:>18.2f} ({low:.2f} to {high:.2f})")
    return "\n".join(rows)


def profiled(step: Step) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    return recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=SHOWN, max_name_column_width=50)


if __name__ == "__main__":
    main()
