"""Where does the time of a pruned network go? A profile by kinds of operators, before and after a cut.

    python benchmarks/pruning_profile.py [--size 64] [--json]

Cuts a published genotype of nas-wdan (C = 8, batch norm) and a U-Net of width 16 by l1 to 70, 50 and 30 % of their
FLOPs, and as far as it goes, exports all, and runs them in turns in ONNX Runtime on one thread, whose own profiler
says what each kind of operator takes. Networks are not trained: how fast they are depends on shapes alone. One that is
cut as far as it goes hardly computes anything: its time is what does not depend on arithmetic.

The runtime computes convolutions in blocks of channels and pads what is smaller. "Padded" FLOPs count that, GFLOP/s do
not.
"""

import argparse
import copy
import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from medarts.config import KeepSettings
from medarts.deploy.graphs import network_to_onnx
from medarts.models import build_network, create_model
from medarts.network import Network
from medarts.profiling.cost import count_flops
from medarts.pruning.criteria import make_criterion, scores_of
from medarts.pruning.selection import Cuts, choose_for
from medarts.pruning.units import cut, find_units, small_image
from medarts.spaces import load_genotype

KEEPS = (0.7, 0.5, 0.3)
TURNS = 200
"""Profiled passes of each network."""
WHOLE, HALF, LEAST = "100 %", "50 %", "least"


def searched() -> Network:
    genotype = load_genotype("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=8)
    return build_network(genotype, in_channels=3, outputs=1, norm="batch")


NETWORKS: dict[str, Callable[[], Network]] = {
    "searched": searched,
    "unet": lambda: create_model("unet", width=16, norm="batch"),
}


class Kind(NamedTuple):
    """What the operators of a kind do in a pass: how often they run, for how long, and what they compute."""

    calls: int
    ms: float
    flops: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="height and width of the image, in pixels")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    arguments = parser.parse_args()
    found = {name: measured(make, arguments.size) for name, make in NETWORKS.items()}
    print(json.dumps(found, indent=1) if arguments.json else "\n\n".join(tables(*item) for item in found.items()))


def measured(make: Callable[[], Network], size: int) -> dict[str, dict[str, Any]]:
    """Returns what is known of the whole network, and of what each cut leaves of it."""
    torch.manual_seed(0)
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    networks = cut_networks(make().eval(), torch.from_numpy(image))
    contents = {name: network_to_onnx(network, in_channels=3, size=size) for name, network in networks.items()}
    exact = profiles(contents, image, passes=1, optimized=False)
    padded = profiles(contents, image, passes=TURNS, optimized=True)
    found = {}
    for name, network in networks.items():
        flops = count_flops(network, in_channels=3, size=size)
        assert sum(kind.flops for kind in exact[name].values()) == flops, "some arithmetic is of no known operator"
        kinds = {}
        for kind, what in padded[name].items():
            known = exact[name][kind].flops if kind in exact[name] else 0
            kinds[kind] = {**what._asdict(), "flops": known, "padded": max(known, what.flops)}
        found[name] = {"flops": flops, "ms": sum(kind["ms"] for kind in kinds.values()), "kinds": kinds}
    return found


def cut_networks(whole: Network, image: torch.Tensor) -> dict[str, Network]:
    small = small_image(whole, 3)
    units = find_units(whole, small)
    cuts = Cuts(whole, units, scores_of(make_criterion("l1"), units), scope="layer", image=image)
    found = {WHOLE: whole}
    for keep in KEEPS:
        found[f"{100 * keep:.0f} %"] = smaller = copy.deepcopy(whole)
        cut(smaller, choose_for(KeepSettings(flops=keep), cuts).removals, small, units=units)
    return found | {LEAST: cuts.copy(cuts.last, whole)}


def session(content: bytes, *, optimized: bool = True, **options: Any) -> onnxruntime.InferenceSession:
    """Returns what runs a network, as it is deployed, or with the operators of the file."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    if not optimized:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # The profiler leaves weights out that are laid out beforehand, and with them their shapes.
        settings.add_session_config_entry("session.disable_prepacking", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def run(network: onnxruntime.InferenceSession, image: np.ndarray[Any, Any]) -> None:
    network.run(None, {network.get_inputs()[0].name: image})


def profiles(
    contents: Mapping[str, bytes], image: np.ndarray[Any, Any], *, passes: int, optimized: bool
) -> dict[str, dict[str, Kind]]:
    """Returns what the operators of every kind do in each network; the passes take turns."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = [
            session(content, optimized=optimized, enable_profiling=True, profile_file_prefix=f"{folder}/{number}")
            for number, content in enumerate(contents.values())
        ]
        for _ in range(passes):
            for each in profiled:
                run(each, image)
        logs = [json.loads(Path(each.end_profiling()).read_text(encoding="utf-8")) for each in profiled]
    return {name: kinds_of(events) for name, events in zip(contents, logs, strict=True)}


def kinds_of(events: Sequence[Mapping[str, Any]]) -> dict[str, Kind]:
    of_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, milliseconds, flops in operators(events):
        of_kind[name].append((milliseconds, flops))
    return {name: Kind(len(each), *map(sum, zip(*each, strict=True))) for name, each in of_kind.items()}


def operators(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """Yields the kind of every operator, its milliseconds, and its FLOPs by the shapes that it saw.

    The time is the median over the passes, as now and then an operator waits for what else the machine does.
    """
    of_node = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            of_node[event["args"]["node_index"]].append(event)
    for ran in of_node.values():
        about = ran[0]["args"]
        given = [next(iter(each.values())) for each in about["input_type_shape"]]
        (made,) = about["output_type_shape"][0].values()
        kind, flops = arithmetic(about["op_name"], given, made)
        yield kind, statistics.median(event["dur"] for event in ran) / 1000, flops


def arithmetic(name: str, given: Sequence[Sequence[int]], made: Sequence[int]) -> tuple[str, float]:
    """Returns the kind of an operator and its FLOPs, 2 per multiply-add."""
    match name:
        case "Conv" | "FusedConv":
            filters, read, height, _ = given[1]
            depthwise = read == 1 and filters > 1
            kind = f"convolution {height}x{height}{', depthwise' if depthwise else ''}"
            return kind, 2 * math.prod(made) * math.prod(given[1][1:])
        case "ConvTranspose":
            return "transposed convolution", 2 * math.prod(given[0]) * math.prod(given[1][1:])
        case "Gemm" | "MatMul" | "FusedMatMul":
            return "matrix product", 2 * math.prod(made) * given[0][-1]
        case "ReorderInput" | "ReorderOutput":
            return "reordering into blocks and back", 0
        case "Reshape" | "Transpose" | "Shape" | "Squeeze" | "Unsqueeze" | "Gather":
            return "reshaping", 0
    return name, 0


def tables(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes what the cuts of a network give, and the operators of the whole network and of its half."""
    whole = found[WHOLE]
    lines = [
        f"{name}",
        "",
        "| FLOPs | MFLOPs | padded | ms | times faster | convolutions, ms | other operators, ms | operators |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for keep, row in found.items():
        kinds = row["kinds"].values()
        computing = sum(kind["ms"] for kind in kinds if kind["padded"])
        lines.append(
            f"| {keep} | {row['flops'] / 1e6:.1f} | {sum(kind['padded'] for kind in kinds) / 1e6:.1f} | "
            f"{row['ms']:.2f} | {whole['ms'] / row['ms']:.2f} | {computing:.2f} | {row['ms'] - computing:.2f} | "
            f"{sum(kind['calls'] for kind in kinds)} |"
        )
    compared = (WHOLE, HALF)
    lines += [
        "",
        f"| operator |{''.join(f' {each}: calls | ms | share | GFLOP/s |' for each in compared)}",
        f"| --- |{' --- | --- | --- | --- |' * len(compared)}",
    ]
    for kind in sorted(whole["kinds"], key=lambda kind: -whole["kinds"][kind]["ms"]):
        lines.append(f"| {kind} |{''.join(cells(found[each]['kinds'], kind) for each in compared)}")
    return "\n".join(lines)


def cells(kinds: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in kinds:
        return " 0 | | | |"
    kind, total = kinds[name], sum(each["ms"] for each in kinds.values())
    rate = f"{kind['flops'] / kind['ms'] / 1e6:.1f}" if kind["flops"] else ""
    return f" {kind['calls']:.0f} | {kind['ms']:.2f} | {kind['ms'] / total:.0%} | {rate} |"


if __name__ == "__main__":
    main()
