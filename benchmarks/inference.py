"""Networks as built against as shipped for inference: time, outputs, and where the time goes.

    python benchmarks/inference.py [--genotype NAME] [--size N] [--batch N] [--threads N] [--norm group|batch] [--json]
    python benchmarks/inference.py --grid [--size N] [--batch N] [--threads N] [--json]

The forms run in turns, so that what else the machine does meets them alike, and a ratio is the median of the ratios
of turns. The first command looks into one derived network; its target is a time as built of at least 1.5 times that as
shipped, in fp32, of the published network for ISIC at 256 px, batch 1, on 2 cores. The second one times many networks,
widths and sizes, in fp32, and says for each how long it takes as it was built, as it is shipped (the form that images
are scored in), and how far their logits lie apart. On one thread it counts the processor's time, which is that of the
clock on an idle machine and little more on a busy one. It takes two to four minutes; its target is that none is slower
as shipped. Its rows are Markdown.
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

from medarts.models import create_model
from medarts.network import Network
from medarts.network.inference import for_inference, shipped
from medarts.network.layers import Norm
from medarts.registry import models
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan.network import NasWdanNetwork

ISIC = "stage1_layer9_110epoch_double_deep_final"
CVC = "layer7_double_deep"
CHAOS = "stage0_double_deep_ep80_newim"
MIX_DOUBLE = "alpha0_5_stage1_double_deep_ep80"
MIX = "alpha0_5_stage1_nodouble_deep_ep80"
PASSES = 3
"""Timed passes of a form in a turn, after one that brings it back into the cache."""

LEAST_SECONDS = 1.5
"""For which a network of the grid is timed, and as many turns as were asked for."""

PARTS = ("convolution", "norm", "elementwise and layout", "other")
LAYOUT = ("add", "relu", "clamp", "cat", "mul", "copy", "contiguous", "clone", "pool", "upsample", "shuffle", "sigmoid")

Form = Callable[[Tensor], list[Tensor]]

GRID: tuple[tuple[str, int, Norm | None, int], ...] = (
    *(("unet", width, None, 64) for width in (8, 12, 16, 20, 24, 32)),
    *(("unet", width, None, size) for size in (96, 128, 256) for width in (12, 16, 24)),
    *((name, 12, None, 64) for name in ("attention-unet", "unetpp", "multiresunet", "resenc-unet", "r2unet")),
    *((name, 16, None, 96) for name in ("attention-unet", "unetpp", "r2unet", "attention-r2unet")),
    *((name, 8, None, 96) for name in ("multiresunet", "resenc-unet")),
    *((MIX, width, norm, 64) for norm in ("group", "batch") for width in (4, 5, 6, 8, 12, 16)),
    *((MIX, width, norm, 128) for norm in ("group", "batch") for width in (5, 8, 12)),
    *((MIX, 16, norm, 256) for norm in ("group", "batch")),
    *((name, 4, norm, 96) for norm in ("group", "batch") for name in (ISIC, CVC, CHAOS, MIX_DOUBLE)),
    *((MIX, 8, norm, 96) for norm in ("group", "batch")),
)
"""Networks with width, norm (None: that of the paper), and height and width of the images in pixels. At 96 px there are
those of recipes/benchmark-cpu.yaml in their widths."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotype", default=ISIC, help="of the zoo, a file, or a run")
    parser.add_argument("--size", type=int, help="default: 256, and all with --grid")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: 2, and 1 with --grid")
    parser.add_argument("--norm", choices=("group", "batch"), default="group")
    parser.add_argument("--repeats", type=int, default=15, help="turns")
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.threads = arguments.threads or (1 if arguments.grid else 2)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.grid:
        grid(size=arguments.size, batch=arguments.batch, turns=arguments.repeats, as_json=arguments.json)
        return
    arguments.size = arguments.size or 256
    network = NasWdanNetwork(load(arguments.genotype), norm=arguments.norm).eval()
    network.check_size(arguments.size)
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    with_statistics(network, images)
    forms = {"built": network, "fp32": for_inference(network), "bf16": for_inference(network, dtype=torch.bfloat16)}
    with torch.inference_mode():
        result = measure(forms, images, repeats=arguments.repeats)
    about = {name: getattr(arguments, name) for name in ("genotype", "size", "batch", "threads", "norm", "repeats")}
    result = {**about, "gflops": count_flops(network, images) / 1e9, **result}
    print(json.dumps(result) if arguments.json else table(result))


def grid(*, size: int | None, batch: int, turns: int, as_json: bool) -> None:
    """Prints a row for every network of the grid, as soon as it is measured."""
    rows = []
    if not as_json:
        print("| network | width | norm | px | built, ms | shipped, ms | shipped / built | difference |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, width, norm, side in (row for row in GRID if size in (None, row[-1])):
        network, images = built(name, width, norm), torch.rand(batch, 3, side, side)
        with_statistics(network, images)
        form = shipped(network, in_channels=3, size=side)
        row = {"network": name, "width": width, "norm": norm, "size": side, "is_itself": form is network}
        rows.append({**row, **in_turns(network, form, images, turns=turns)})
        if not as_json:
            print(line(rows[-1]), flush=True)
    if as_json:
        print(json.dumps({"batch": batch, "threads": torch.get_num_threads(), "turns": turns, "rows": rows}))
        return
    slower = [row for row in rows if row["ratio"][1] > 1]
    print(f"\n{len(rows)} networks, {len(slower)} of them slower as shipped; largest ratio {worst(rows):.2f}")


def built(name: str, width: int, norm: Norm | None) -> Network:
    width_of = {"width": width} if name in models else {"init_channel": width}
    return create_model(name, norm=norm, outputs=1, **width_of)


@torch.inference_mode()
def in_turns(network: Network, form: Network, images: Tensor, *, turns: int) -> dict[str, Any]:
    """Returns milliseconds of both and the ratio of turns, each with quartiles, and the difference of the logits."""
    head, clock = network.heads[-1], time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    expected, found = network(images, head), form(images, head)
    times, start = [], clock()
    while len(times) < turns + 2 or clock() - start < LEAST_SECONDS:
        pair = []
        for each in (network, form):
            begin = clock()
            each(images, head)
            pair.append(1000 * (clock() - begin))
        times.append(pair)
    del times[:2]  # which warm up
    return {
        "built_ms": quartiles([own for own, _ in times]),
        "shipped_ms": quartiles([other for _, other in times]),
        "ratio": quartiles([other / own for own, other in times]),
        "max_rel_diff": float((found - expected).abs().max() / expected.abs().max()),
    }


def line(row: dict[str, Any]) -> str:
    low, ratio, high = row["ratio"]
    milliseconds = (f"{row[key][1]:.1f} ({row[key][0]:.1f} to {row[key][2]:.1f})" for key in ("built_ms", "shipped_ms"))
    norm = row["norm"] or "its own"
    words = (f"`{row['network']}`", row["width"], norm, row["size"], *milliseconds)
    itself = " (itself)" if row["is_itself"] else ""
    return (
        "| "
        + " | ".join(map(str, words))
        + f" | {ratio:.2f} ({low:.2f} to {high:.2f}){itself} | {row['max_rel_diff']:.0e} |"
    )


def worst(rows: list[dict[str, Any]]) -> float:
    return max(float(row["ratio"][1]) for row in rows)


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
