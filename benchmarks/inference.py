"""A derived network as built against as shipped for inference: time, outputs, and where the time goes.

    python benchmarks/inference.py [--genotype NAME] [--size N] [--batch N] [--threads N] [--norm group|batch] [--json]

The forms run in turns, so that what else the machine does meets them alike, and a ratio is the median of the ratios
of turns. The target is a time as built of at least 1.5 times that as shipped, in fp32, of the published network for
ISIC at 256 px, batch 1, on 2 cores.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from medarts.networks.inference import for_inference
from medarts.networks.weave import WeaveNetwork
from medarts.spaces.reading import load

ISIC = "stage1_layer9_110epoch_double_deep_final"
PASSES = 3
"""Timed passes of a form in a turn, after one that brings it back into the cache."""

PARTS = ("convolution", "norm", "elementwise and layout", "other")
LAYOUT = ("add", "relu", "clamp", "cat", "mul", "copy", "contiguous", "clone", "pool", "upsample", "shuffle", "sigmoid")

Form = Callable[[Tensor], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotype", default=ISIC, help="of the zoo, a file, or a run")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--norm", choices=("group", "batch"), default="group")
    parser.add_argument("--repeats", type=int, default=15, help="turns")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = WeaveNetwork(load(arguments.genotype), norm=arguments.norm).eval()
    network.check_size(arguments.size)
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    with_statistics(network, images)
    forms = {"built": network, "fp32": for_inference(network), "bf16": for_inference(network, dtype=torch.bfloat16)}
    with torch.inference_mode():
        result = measure(forms, images, repeats=arguments.repeats)
    about = {name: getattr(arguments, name) for name in ("genotype", "size", "batch", "threads", "norm", "repeats")}
    result = {**about, "gflops": count_flops(network, images) / 1e9, **result}
    print(json.dumps(result) if arguments.json else table(result))


def with_statistics(network: nn.Module, images: Tensor) -> None:
    """Gives batch norms running statistics that are those of images, as after a training."""
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.cat([images, images.flip(-1)]))
    network.eval()


def measure(forms: dict[str, Form], images: Tensor, *, repeats: int) -> dict[str, Any]:
    """Returns times, ratios, differences and shares of all forms."""
    outputs = {name: form(images) for name, form in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, form in forms.items():
            form(images)
            times[name].append(statistics.median(milliseconds(form, images) for _ in range(PASSES)))
    ratios = {
        name: quartiles([a / b for a, b in zip(times["built"], times[name], strict=True)]) for name in ("fp32", "bf16")
    }
    return {
        "time_ratio": ratios["fp32"][1],
        "bf16_time_ratio": ratios["bf16"][1],
        "ratio_quartiles": ratios,
        "ms": {name: quartiles(values) for name, values in times.items()},
        "max_abs_diff": difference(outputs, "fp32")[0],
        "max_rel_diff": difference(outputs, "fp32")[1],
        "bf16_max_abs_diff": difference(outputs, "bf16")[0],
        "bf16_max_rel_diff": difference(outputs, "bf16")[1],
        "parts_ms": {name: parts(form, images) for name, form in forms.items()},
    }


def milliseconds(form: Form, images: Tensor) -> float:
    start = time.perf_counter()
    form(images)
    return 1000 * (time.perf_counter() - start)


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def difference(outputs: dict[str, list[Tensor]], name: str) -> tuple[float, float]:
    """Returns the largest difference of logits to those as built, and the largest relative to a head's largest."""
    pairs = [((a - b).abs().max(), b.abs().max()) for a, b in zip(outputs[name], outputs["built"], strict=True)]
    return max(float(off) for off, _ in pairs), max(float(off / largest) for off, largest in pairs)


def parts(form: Form, images: Tensor) -> dict[str, float]:
    """Returns where the milliseconds of a pass go, by the profiler; medians of several passes."""
    passes = []
    for _ in range(3 * PASSES):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            form(images)
        passes.append(dict.fromkeys(PARTS, 0.0))
        for event in profiler.key_averages():
            passes[-1][_part(event.key)] += event.self_cpu_time_total / 1000
    return {name: statistics.median(spent[name] for spent in passes) for name in PARTS}


def _part(operator: str) -> str:
    if "conv" in operator:
        return "convolution"
    if "norm" in operator:
        return "norm"
    # addmm is the squeeze-excite, and stays with what is left: views, allocations, means.
    return "elementwise and layout" if any(word in operator for word in LAYOUT) and "addmm" not in operator else "other"


def count_flops(network: nn.Module, images: Tensor) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['genotype']}, {result['norm']} norm, batch {result['batch']}, {result['size']} px, "
        f"{result['threads']} threads, {result['gflops']:.1f} GFLOPs",
        f"{'':6}{'ms (quartiles)':>24}{'built / this':>22}{'GFLOP/s':>9}   by the profiler, ms",
    ]
    for name, (low, median, high) in result["ms"].items():
        ratio = result["ratio_quartiles"].get(name, [1.0, 1.0, 1.0])
        speed = 1000 * result["gflops"] / median
        shares = ", ".join(f"{part} {spent:.0f}" for part, spent in result["parts_ms"][name].items())
        lines.append(
            f"{name:6}{f'{median:.1f} ({low:.1f} to {high:.1f})':>24}"
            f"{f'{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})':>22}{speed:9.0f}   {shares}"
        )
    lines += [
        f"largest difference of logits, fp32: {result['max_abs_diff']:.1e}, relative {result['max_rel_diff']:.1e}",
        f"largest difference of logits, bf16: {result['bf16_max_abs_diff']:.1e}, "
        f"relative {result['bf16_max_rel_diff']:.1e}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
