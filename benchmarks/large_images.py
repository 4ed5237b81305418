"""Does a step have a cliff? Time and memory of training steps from 64 to 512 px and from 1 to 64 images.

    OMP_NUM_THREADS=2 python benchmarks/large_images.py [--channels 8] [--megapixels 4] [--repeats 3] [--json]
    OMP_NUM_THREADS=2 python benchmarks/large_images.py --search [--channels 16] [--depth 4] [--megapixels 1]

A training step is that of `benchmarks/training_speed.py` with the form that trainings run, of the genotype
`alpha0_5_stage1_nodouble_deep_ep80`; with ``--search`` it is that of the fused supernet in `benchmarks/supernet.py`.
Each size and batch has a process of its own. The table gives the median of its steps by the clock and what it
adds to the memory of the process that holds the network, and both for a pixel of an image. Batches of more than
``--megapixels`` are left out; nothing else should run.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from supernet import Case, resident_memory
from supernet import Step as SearchStep
from training_speed import Step as TrainingStep

from medarts import create_model, load_genotype
from medarts.config import SupernetSettings
from medarts.engine.device import peak_memory_mb
from medarts.system.memory import keep_freed_memory

GENOTYPE = "alpha0_5_stage1_nodouble_deep_ep80"
SIZES = (64, 128, 256, 512)
BATCHES = (1, 4, 12, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="steps of a search")
    parser.add_argument("--channels", type=int, help="C; default: 8, with --search 16")
    parser.add_argument("--depth", type=int, default=4, help="of the supernet")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument(
        "--megapixels", type=float, help="of a batch at most, of 2^20 pixels; default: 4, with --search 1"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.channels = given.channels or (16 if given.search else 8)
    limit = given.megapixels or (1 if given.search else 4)
    rows = []
    for size in given.sizes:
        for batch in given.batches:
            if batch * size**2 <= limit * 2**20:
                rows.append(measured(given, size, batch))
                if not given.json:
                    print(line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps(rows))


def measured(given: argparse.Namespace, size: int, batch: int) -> dict[str, float]:
    """Returns time and memory of a step, by a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, given, size, batch).result()


def _measured(given: argparse.Namespace, size: int, batch: int) -> dict[str, float]:
    keep_freed_memory()
    step = search_step(given, size, batch) if given.search else training_step(given, size, batch)
    held = resident_memory()
    step()  # warms up
    times = []
    for _ in range(given.repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    memory = peak_memory_mb(torch.device("cpu")) - held
    pixels = batch * size**2
    return {
        "size": size, "batch": batch, "seconds": statistics.median(times), "memory_mb": memory,
        "us_a_pixel": 1e6 * statistics.median(times) / pixels, "kb_a_pixel": 1e3 * memory / pixels,
    }  # fmt: skip


def training_step(given: argparse.Namespace, size: int, batch: int) -> Callable[[], Any]:
    torch.manual_seed(0)
    genotype = load_genotype(GENOTYPE).with_settings(init_channel=given.channels)
    network = create_model(genotype, in_channels=3, outputs=1, norm="batch")
    return TrainingStep(network, torch.rand(batch, 3, size, size), new=True)


def search_step(given: argparse.Namespace, size: int, batch: int) -> Callable[[], Any]:
    return SearchStep(
        Case("nas-wdan", "fused", given.depth, given.channels, size, batch, "fp32", "cpu", SupernetSettings())
    )


def line(row: dict[str, float]) -> str:
    return (
        f"{row['size']:4.0f} px, {row['batch']:2.0f} images: {row['seconds']:7.3f} s, {row['memory_mb']:6.0f} MB; "
        f"{row['us_a_pixel']:6.2f} µs and {row['kb_a_pixel']:6.2f} kB a pixel"
    )


if __name__ == "__main__":
    main()
