"""How fast is a training step of a derived network? As built against its form for training, in one run.

    OMP_NUM_THREADS=1 python benchmarks/training_speed.py [--genotype NAME] [--layers L] [--stem chest|cifar] [--unet]
                                                          [--channels 8] [--norm batch] [--size 64] [--batch 16]
                                                          [--repeats 15] [--profile] [--bf16] [--at-once] [--json]

A step is a forward and a backward pass with all heads, clipping, AdamW and the moving average. As built, the optimizer
is the default one of PyTorch, and its moving average goes tensor by tensor; the other side is what trainings run. Steps
are timed in turns, by the time of the processor, which other programs on the machine change less than that of the
clock. The table gives minima and medians in ms, the ratio of minima, and the median of ratios. --layers and --stem are
of genotypes of darts; these drop paths as in the middle of a training.

The rate of both sides, and of the form of a U-Net of width 16 in the same turns, is three times the FLOPs of a forward
pass, a second of the medians.

``--bf16`` compares, in place of the network as built, the form in fp32 with the form in bf16; with ``--unet``, those of
that U-Net in place of a derived network.

``--at-once`` compares two trainings at once, a process of one thread each, with one training of two threads, in turns,
by the clock; so nothing else should run. OMP_NUM_THREADS may be 1: threads are set here.

``--profile`` adds the operations in which each side spends its time.
"""

import argparse
import contextlib
import copy
import itertools
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from medarts import create_model, load_genotype
from medarts.models.unet import UNetSettings
from medarts.network import Network
from medarts.system.memory import keep_freed_memory
from medarts.training.averaging import MovingAverage

PARTS = ("forward", "backward", "clipping", "optimizer", "average")
DECAY = 0.99
SHOWN = 12
FINDINGS = 14
UNET_WIDTH = 16
ROUNDS, STEPS = 7, 3
"""Most rounds of trainings at once, and steps of each training in one."""
TARGET = 1.6
"""Of the steps a second of two trainings at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotype", default="alpha0_5_stage1_nodouble_deep_ep80")
    parser.add_argument("--layers", type=int, help="cells of a genotype of darts")
    parser.add_argument("--stem", choices=("chest", "cifar"), help="of a genotype of darts")
    parser.add_argument("--channels", type=int, default=8, help="C")
    parser.add_argument("--norm", choices=("batch", "group"), default="batch")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="the form in bf16 against the form in fp32")
    parser.add_argument("--unet", action="store_true", help="with --bf16: of a U-Net")
    parser.add_argument("--at-once", action="store_true", help="two trainings at once against one of two threads")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.at_once and (given.bf16 or given.profile):
        parser.error("--at-once takes neither --bf16 nor --profile.")
    if given.unet and not given.bf16:
        parser.error("--unet needs --bf16.")
    keep_freed_memory()  # as trainings do
    if given.at_once:
        result = at_once(given)
        print(json.dumps(result) if given.json else table_at_once(result))
        return
    torch.set_num_threads(1)
    built, images = made(given)
    unet = made_unet()
    if given.bf16:
        steps = {
            "form, fp32": Step(built, images, new=True),
            "form, bf16": Step(copy.deepcopy(built), images, new=True, bf16=True),
        }
    else:
        steps = {"as built": Step(built, images, new=False), "form": Step(copy.deepcopy(built), images, new=True)}
    steps["U-Net"] = Step(unet, images, new=True, bf16=given.bf16)
    result = compare(steps, repeats=given.repeats)
    print(json.dumps(result) if given.json else table(result))
    if given.profile:
        for name, step in steps.items():
            print(f"\n{name}\n{profiled(step)}")


def made(given: argparse.Namespace) -> tuple[Network, torch.Tensor]:
    """Returns the network, and a batch."""
    torch.manual_seed(0)
    images = torch.rand(given.batch, 3, given.size, given.size)
    if given.unet:
        return made_unet(), images
    genotype = load_genotype(given.genotype)
    settings: dict[str, Any] = {"init_channel": given.channels}
    if genotype.space == "darts":
        asked = {"layers": given.layers, "stem": given.stem}
        settings |= {name: value for name, value in asked.items() if value is not None}
        network = create_model(genotype.with_settings(**settings), in_channels=3, outputs=FINDINGS)
        network.at(0.5)
    elif given.layers or given.stem:
        raise SystemExit(f"--layers and --stem are of genotypes of darts; {given.genotype} is of {genotype.space}.")
    else:
        network = create_model(genotype.with_settings(**settings), in_channels=3, outputs=1, norm=given.norm)
    return network, images


def made_unet() -> Network:
    return create_model(UNetSettings(width=UNET_WIDTH), in_channels=3, outputs=1, norm="batch")


class Step:
    """A training step that can be repeated.

    Args:
        network: what is trained.
        images: the batch.
        new: whether it is what trainings run.
        bf16: whether passes are in bf16, as with ``compute.precision``.
    """

    def __init__(self, network: Network, images: torch.Tensor, *, new: bool, bf16: bool = False) -> None:
        self.network, self.images, self.bf16 = network, images, bf16
        self.model: nn.Module = (network.training_form() if new else network).train()
        self.optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True if new else None)
        self.average: AveragedModel = (
            MovingAverage(network, decay=DECAY)
            if new
            else AveragedModel(network, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True)
        )
        with torch.no_grad():
            shape = copy.deepcopy(network)(images[:2]).shape[1:]  # a pass would change running statistics
        self.targets = (torch.rand(len(images), *shape) > 0.5).float()

    def __call__(self) -> list[float]:
        """Returns the seconds of its parts."""
        self.optimizer.zero_grad()
        times = [time.process_time()]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = self.model(self.images, all_heads=True)
        losses = [F.binary_cross_entropy_with_logits(logits.float(), self.targets) for logits in outputs]
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


def count_flops(network: Network, images: torch.Tensor) -> float:
    """Returns the GFLOPs of a forward pass of a batch, as built."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).eval()(images, all_heads=True)
    return int(counter.get_total_flops()) / 1e9


def compare(steps: dict[str, Step], *, repeats: int) -> dict[str, Any]:
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name in [*steps] if number % 2 else reversed([*steps]):
            times[name].append(steps[name]())
    whole = {name: [sum(parts) for parts in of_side[1:]] for name, of_side in times.items()}  # the first warms up
    before, after, _ = whole
    ratios = [one / two for one, two in zip(whole[before], whole[after], strict=True)]
    sides = {
        name: {
            part: {"min_ms": 1e3 * min(column), "median_ms": 1e3 * statistics.median(column)}
            for part, column in zip((*PARTS, "step"), [*zip(*of_side[1:], strict=True), whole[name]], strict=True)
        }
        for name, of_side in times.items()
    }
    return {
        **sides,
        "gflops_a_second": {
            name: 3 * count_flops(steps[name].network, steps[name].images) / statistics.median(of_side)
            for name, of_side in whole.items()
        },
        "ratio_of_minima": min(whole[before]) / min(whole[after]),
        "median_ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4, method="inclusive")[::2],
    }


def table(result: dict[str, Any]) -> str:
    rates = result["gflops_a_second"]
    sides = [*rates][:2]
    rows = [f"{'ms, minimum and median':24}" + "".join(f"{side:>18}" for side in sides)]
    for part in (*PARTS, "step"):
        cells = (f"{result[side][part]['min_ms']:.1f} {result[side][part]['median_ms']:.1f}" for side in sides)
        rows.append(f"{part:24}" + "".join(f"{cell:>18}" for cell in cells))
    low, high = result["ratio_quartiles"]
    rows.append(f"{'ratio of minima':24}{result['ratio_of_minima']:>18.2f}")
    rows.append(f"{'median ratio':24}{result['median_ratio']:>18.2f} ({low:.2f} to {high:.2f})")
    rows.append(
        f"{'GFLOP/s':24}" + "".join(f"{rates[side]:>18.1f}" for side in sides) + f", U-Net {rates['U-Net']:.1f}"
    )
    return "\n".join(rows)


def at_once(given: argparse.Namespace) -> dict[str, Any]:
    """Returns steps a second of two trainings of one thread at once, and of one of two threads, in turns."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, list[Connection]] = {"two trainings": [], "one training": []}
    processes = []
    for name, threads in (("two trainings", 1), ("two trainings", 1), ("one training", 2)):
        own, other = context.Pipe()
        processes.append(context.Process(target=serve, args=(given, threads, other)))
        processes[-1].start()
        other.close()
        sides[name].append(own)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for pipes in sides.values():
            answers(pipes, 1)  # warms up
        for number in range(min(given.repeats, ROUNDS)):
            for name in [*sides] if number % 2 else reversed([*sides]):
                began = time.perf_counter()
                answers(sides[name], STEPS)
                rates[name].append(STEPS * len(sides[name]) / (time.perf_counter() - began))
    finally:
        for pipe in itertools.chain(*sides.values()):
            pipe.close()
        for process in processes:
            process.join()
    ratios = [two / one for two, one in zip(rates["two trainings"], rates["one training"], strict=True)]
    return {
        "steps_a_second": {name: statistics.median(values) for name, values in rates.items()},
        "median_ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4, method="inclusive")[::2],
    }


def answers(pipes: list[Connection], steps: int) -> None:
    """Has processes do some steps, all at once, and waits for them."""
    for pipe in pipes:
        pipe.send(steps)
    for pipe in pipes:
        try:
            pipe.recv()
        except EOFError:
            raise SystemExit("A process has ended; its error is above.") from None


def serve(given: argparse.Namespace, threads: int, pipe: Connection) -> None:
    """Does as many steps as are asked for, until no more can come."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    network, images = made(given)
    step = Step(network, images, new=True)
    with contextlib.suppress(EOFError):
        while True:
            for _ in range(pipe.recv()):
                step()
            pipe.send(None)


def table_at_once(result: dict[str, Any]) -> str:
    rows = [f"{name:16}{rate:8.2f} steps a second" for name, rate in result["steps_a_second"].items()]
    low, high = result["ratio_quartiles"]
    return "\n".join([*rows, f"{'ratio':16}{result['median_ratio']:8.2f} ({low:.2f} to {high:.2f}), target {TARGET}"])


def profiled(step: Step) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    return recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=SHOWN, max_name_column_width=50)


if __name__ == "__main__":
    main()
