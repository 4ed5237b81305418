"""Latency of exported networks in milliseconds that mean the same on a busy machine and on another day.

Whatever is timed takes turns with one fixed network. How long that takes when the machine is free is measured once
and kept; how much longer it takes now says by how much to divide. So a budget in milliseconds does not depend on what
else the machine does, as far as that slows both alike.
"""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.models import create_model
from medarts.network import Network
from medarts.profiling.cost import count_flops, exported, last_head, run_exported
from medarts.profiling.latency import time_in_turns
from medarts.system.cached import ask, user_cache

REFERENCE_WIDTH, REFERENCE_SIZE = 8, 64
"""Of the fixed network, a U-Net of about 2 ms on one core: long against the clock, short against what is timed."""

ROUNDS, REPEATS = 5, 20
TABLE = "milliseconds (machine TEXT, what TEXT, ms REAL NOT NULL, PRIMARY KEY (machine, what)) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one pass of one image.

    Attributes:
        ms: milliseconds on this machine when it is free: the median of the passes divided by ``slowdown``.
        median_ms: the median as it was measured.
        spread_ms: interquartile range of the passes, as measured.
        slowdown: how many times as long as usual the reference took meanwhile.
    """

    ms: float
    median_ms: float
    spread_ms: float
    slowdown: float


def latency_file() -> Path:
    """Returns the file in which latencies are kept, which need not exist; without it they are measured again."""
    return user_cache() / "latency-1.sqlite"


@cache
def machine(threads: int) -> str:
    """Returns what latencies depend on beside the network: processor, threads, ONNX Runtime."""
    return f"{_processor()}, {threads} threads, ONNX Runtime {version('onnxruntime')}"


def measured_latencies(passes: Sequence[Callable[[], object]], *, threads: int, repeats: int = 30) -> list[Latency]:
    """Times passes of exported networks, one image each, in turns with the reference.

    Args:
        passes: what is timed.
        threads: of the CPU, with which the engines of the passes were made.
        repeats: turns, at least 2.
    """
    usual, reference = usual_ms(threads), _reference(threads)
    now, *found = time_in_turns([reference, *passes], threads=threads, batch=1, repeats=repeats)
    slowdown = now.median_ms / usual
    return [Latency(each.median_ms / slowdown, each.median_ms, each.spread_ms, slowdown) for each in found]


def usual_ms(threads: int) -> float:
    """Returns how long the reference takes on this machine when it is free, measured the first time it is asked for.

    That is the lower quartile of a hundred passes: others at work lengthen most of them, seldom all.
    """
    key = (machine(threads), "reference")
    known = ask(latency_file(), lambda rows: rows.execute(_FIND, key).fetchone(), table=TABLE)
    if known is not None:
        return float(known[0])
    reference = _reference(threads)
    medians = [
        time_in_turns([reference], threads=threads, batch=1, repeats=REPEATS)[0].median_ms for _ in range(ROUNDS)
    ]
    ms = statistics.quantiles(medians, n=4, method="inclusive")[0]
    ask(latency_file(), lambda rows: rows.execute(_KEEP, (*key, ms)), table=TABLE)
    return ms


@cache
def reference_flops() -> int:
    """Returns the operations of a pass of the reference."""
    network = _network()
    return count_flops(last_head(network, network), in_channels=3, size=REFERENCE_SIZE)


def _network() -> Network:
    return create_model("unet", in_channels=3, outputs=1, width=REFERENCE_WIDTH).eval()


_FIND = "SELECT ms FROM milliseconds WHERE machine = ? AND what = ?"
_KEEP = "INSERT OR IGNORE INTO milliseconds VALUES (?, ?, ?)"


@cache
def _reference(threads: int) -> Callable[[], object]:
    """Returns a pass of the reference."""
    engine = OnnxRuntimeEngine(exported("unet", _network(), in_channels=3, size=REFERENCE_SIZE), threads=threads)
    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, REFERENCE_SIZE, REFERENCE_SIZE), np.float32))
    return partial(run_exported, engine, image)


def _processor() -> str:
    """Returns the name of the processor."""
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
