"""Latency of exported networks in milliseconds that mean the same on a busy machine and on another day.

Whatever is timed takes turns with one fixed network. The shortest time that it has taken is kept, as that of the free
machine; how much longer it takes now says by how much to divide. So a budget in milliseconds does not depend on what
else the machine does, as far as that slows both alike.

What was measured of an exported network is kept as well, by the digest of the file: the same network has the same cost
whenever it is asked for, and a search that was killed draws the same candidates again.
"""

import json
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

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

REFERENCE_VERSION = 1
"""Is raised when the fixed network or its export changes: older times are of another one."""

QUICKER = 0.95
"""Part of the kept time of the reference that it has to take, or less, to be kept in its place. The machine was busy
when the other was measured; a difference below that is chance."""

ROUNDS, REPEATS = 5, 20
TABLE = "milliseconds (machine TEXT, what TEXT, ms REAL NOT NULL, PRIMARY KEY (machine, what)) WITHOUT ROWID"
NETWORKS = "networks (machine TEXT, what TEXT, numbers TEXT NOT NULL, PRIMARY KEY (machine, what)) WITHOUT ROWID"


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
    """Returns what latencies depend on beside the network: processor, threads, libraries, and the reference."""
    libraries = f"ONNX Runtime {version('onnxruntime')}, torch {version('torch')}"
    return f"{_processor()}, {threads} threads, {libraries}, reference {REFERENCE_VERSION}"


def measured_latencies(passes: Sequence[Callable[[], object]], *, threads: int, repeats: int = 30) -> list[Latency]:
    """Times passes of exported networks, one image each, in turns with the reference.

    Args:
        passes: what is timed.
        threads: of the CPU, with which the engines of the passes were made.
        repeats: turns, at least 2.
    """
    usual = usual_ms(threads)
    now, *found = _times([_reference(threads), *passes], threads=threads, repeats=repeats)
    reference = _quartiles(now)[0]
    if reference < QUICKER * usual:
        _lower_usual_ms(reference, before=usual, threads=threads)
        usual = reference
    slowdown = reference / usual
    quartiles = map(_quartiles, found)
    return [Latency(low / slowdown, median, high - low, slowdown) for low, median, high in quartiles]


def usual_ms(threads: int) -> float:
    """Returns how long the reference takes on this machine when it is free, measured the first time it is asked for.

    The first value is the smallest of the lower quartiles of several rounds of passes. Whatever is timed later may
    lower it.
    """
    known = kept_ms(["reference"], threads=threads)
    if not known:
        rounds = (_times([_reference(threads)], threads=threads, repeats=REPEATS)[0] for _ in range(ROUNDS))
        known = {"reference": min(_quartiles(times)[0] for times in rounds)}
        keep_ms(known, threads=threads)
    return known["reference"]


def _lower_usual_ms(ms: float, *, before: float, threads: int) -> None:
    """Keeps a shorter time of the reference, and shortens alike what was measured in comparison with the one before."""
    of = machine(threads)
    row = (ms / before, of, of, before)
    ask(latency_file(), lambda database: database.execute(_SHORTEN, row), table=TABLE)


def kept_latency(digest: str, measure: Callable[[], Latency], *, threads: int) -> Latency:
    """Returns the latency of an exported network on this machine, measured the first time it is asked for.

    Args:
        digest: of its file.
        measure: measures it.
        threads: of the CPU.
    """

    def found() -> list[float]:
        latency = measure()
        return [latency.ms, latency.median_ms, latency.spread_ms, latency.slowdown, usual_ms(threads)]

    ms, median_ms, spread_ms, slowdown, usual = _kept(f"latency {digest}", found, threads=threads)
    slower = usual_ms(threads) / usual  # the reference may have become quicker since
    return Latency(ms * slower, median_ms, spread_ms, slowdown / slower)


def kept_memory_mb(digest: str, measure: Callable[[], float], *, threads: int) -> float:
    """Returns the peak memory of an exported network in MB, as `kept_latency` does its latency."""
    return _kept(f"memory {digest}", lambda: [measure()], threads=threads)[0]


def _kept(what: str, measure: Callable[[], list[float]], *, threads: int) -> list[float]:
    """Returns the numbers that are kept of something; measures and keeps them where there are none."""
    of = machine(threads)

    def found(database: sqlite3.Connection) -> Any:
        return database.execute("SELECT numbers FROM networks WHERE machine = ? AND what = ?", (of, what)).fetchone()

    row = ask(latency_file(), found, table=NETWORKS)
    if row is not None:
        return [float(number) for number in json.loads(row[0])]
    numbers = measure()
    new = (of, what, json.dumps(numbers))
    ask(
        latency_file(),
        lambda database: database.execute("INSERT OR IGNORE INTO networks VALUES (?, ?, ?)", new),
        table=NETWORKS,
    )
    return numbers


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
_SHORTEN = "UPDATE milliseconds SET ms = ms * ? WHERE machine = ? AND EXISTS (" + (
    # Or two processes that find the same would shorten twice.
    "SELECT 1 FROM milliseconds WHERE machine = ? AND what = 'reference' AND ms = ?)"
)
"""Of all rows of a machine, that of the reference included."""


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
