"""Latency of exported networks in milliseconds that mean the same on a busy machine and on another day.

Whatever is timed takes turns with one fixed network. How long that takes when the machine is free is measured once
and kept; how much longer it takes now says by how much to divide. So a budget in milliseconds does not depend on what
else the machine does, as far as that slows both alike.
"""

import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
from medarts.profiling.latency import times_in_turns
from medarts.system.cached import ask, user_cache

REFERENCE_WIDTH, REFERENCE_SIZE = 8, 64
"""Of the fixed network, a U-Net of about 2 ms on one core: long against the clock, short against what is timed."""

ROUNDS, REPEATS = 5, 20
TABLE = "milliseconds (machine TEXT, what TEXT, ms REAL NOT NULL, PRIMARY KEY (machine, what)) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one pass of one image.

    Attributes:
        ms: milliseconds on this machine when it is free: the lower quartile of the passes divided by ``slowdown``.
            Others at work lengthen some passes many times, so that a median may be one of these.
        median_ms: median of the passes as measured.
        spread_ms: their interquartile range, as measured.
        slowdown: how many times as long as usual the reference took meanwhile, by its lower quartile.
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
    usual = usual_ms(threads)
    now, *found = _times([_reference(threads), *passes], threads=threads, repeats=repeats)
    slowdown = _quartiles(now)[0] / usual
    quartiles = map(_quartiles, found)
    return [Latency(low / slowdown, median, high - low, slowdown) for low, median, high in quartiles]


def usual_ms(threads: int) -> float:
    """Returns how long the reference takes on this machine when it is free, measured the first time it is asked for.

    That is the lower quartile of a round of passes, of the quickest round.
    """
    known = kept_ms(["reference"], threads=threads)
    if not known:
        rounds = (_times([_reference(threads)], threads=threads, repeats=REPEATS)[0] for _ in range(ROUNDS))
        known = {"reference": min(_quartiles(times)[0] for times in rounds)}
        keep_ms(known, threads=threads)
    return known["reference"]


def _times(passes: Sequence[Callable[[], object]], *, threads: int, repeats: int) -> list[list[float]]:
    """Returns milliseconds by pass, as on a core of their own.

    ONNX Runtime computes in the calling thread where it has one. The time of the processor that the thread took is then
    the latency on a free core: it leaves out when others had the core, which on a busy machine is most of the time.
    """
    clock = time.thread_time if threads == 1 else None
    return times_in_turns(passes, threads=threads, repeats=repeats, clock=clock)


def kept_ms(names: Sequence[str], *, threads: int) -> dict[str, float]:
    """Returns the milliseconds of what has been timed on this machine, by name."""
    of = machine(threads)

    def found(rows: sqlite3.Connection) -> dict[str, float]:
        answers = (rows.execute(_FIND, (of, name)).fetchone() for name in names)
        return {name: answer[0] for name, answer in zip(names, answers, strict=True) if answer is not None}

    return ask(latency_file(), found, table=TABLE) or {}


def keep_ms(milliseconds: Mapping[str, float], *, threads: int) -> None:
    """Keeps the milliseconds of what was timed on this machine, unless they are known."""
    rows = [(machine(threads), name, ms) for name, ms in milliseconds.items()]
    ask(latency_file(), lambda database: database.executemany(_KEEP, rows), table=TABLE)


@cache
def reference_flops() -> int:
    """Returns the operations of a pass of the reference."""
    network = _network()
    return count_flops(last_head(network, network), in_channels=3, size=REFERENCE_SIZE)


def _network() -> Network:
    return create_model("unet", in_channels=3, outputs=1, width=REFERENCE_WIDTH).eval()


def _quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, median, high


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
