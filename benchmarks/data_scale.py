"""A data set that is larger than a process should be: how fast it is read, what it takes, and what an epoch adds.

    python benchmarks/data_scale.py [--images 100000] [--size 64] [--json]

Writes PNG images with masks, reads them into an image cache, and trains a network of one convolution on them for three
epochs, in two processes at once; first all of it for a tenth of the images, where one process is measured, too. Every
part is a process of its own. Seconds are of the processor, so that other work on the machine has little part in them;
images/s are by the clock. Memory is that of /proc/PID/smaps_rollup, so this runs on Linux alone.

What an epoch adds is everything but the steps and the validation: the order of the images, journals, checkpoints.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _running import note

EPOCHS = 3
BATCH = 250
PROCESSES = (1, 2)
"""Processes that read images, and that train at once."""

Row = dict[str, Any]


def write_images(folder: Path, number: int, size: int) -> None:
    """Writes colour images of a disc in noise, and masks; ten images a patient."""
    import numpy as np
    from PIL import Image

    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 60, (64, size, size, 3), np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for index in range(number):
        y, x, radius = generator.uniform((size * 0.2, size * 0.2, size * 0.08), (size * 0.8, size * 0.8, size * 0.2))
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        image = noise[index % 64] + (disc * (80 + index % 97)).astype(np.uint8)[..., None]
        name = f"p{index // 10:06d}_{index % 10}.png"
        Image.fromarray(image).save(folder / "images" / name, compress_level=1)
        Image.fromarray((255 * disc).astype(np.uint8)).save(folder / "masks" / name, compress_level=1)


def memory_mb() -> dict[str, float]:
    """Returns the memory of this process in MB: its own, and what it shares with others."""
    found: dict[str, float] = {"own": 0.0, "shared": 0.0}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, *numbers = line.split()
        kind = {"Private_Clean:": "own", "Private_Dirty:": "own", "Shared_Clean:": "shared", "Shared_Dirty:": "shared"}
        if name in kind:
            found[kind[name]] += int(numbers[0]) / 1e3
    return {name: round(value) for name, value in found.items()}


def processor_seconds() -> float:
    """Returns the processor time of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def data_section(folder: Path, cache: Path, size: int) -> dict[str, Any]:
    """Returns the section data of the recipe."""
    source = {"kind": "folder", "path": str(folder), "patients": "{patient}_{n}"}
    still = {"flip": False, "transpose": False, "brightness": 0}
    return {"sources": [source], "size": size, "cache": str(cache), "cache_gb": 500, "augmentation": still}


def reading(folder: Path, cache: Path, size: int, *, processes: int) -> Row:
    """Lists the images, makes their digests, and reads them into the cache; then opens it again."""
    from medarts.config import parse
    from medarts.data.opening import open_manifest
    from medarts.data.store import open_store

    data = parse({"data": data_section(folder, cache, size)}).data
    row: Row = {"processes": processes, "MB at first": memory_mb()["own"]}
    began = processor_seconds()
    manifest = open_manifest(data, needs=("train", "val"))
    row["listing, s"], began = processor_seconds() - began, processor_seconds()
    manifest.fingerprint()
    row["digests, s"] = processor_seconds() - began
    row["MB when listed"] = memory_mb()["own"]
    began, clock = processor_seconds(), time.perf_counter()
    store = open_store(manifest, data, threads=processes)
    spent, passed = processor_seconds() - began, time.perf_counter() - clock
    number = len(store.manifest.samples)
    row |= {"images": number, "reading, s": spent, "images/s": number / passed, "images/s of a core": number / spent}
    row["MB when read"] = memory_mb()["own"]
    began = processor_seconds()
    open_store(manifest, data)
    row["opening again, s"] = processor_seconds() - began
    (place,) = cache.glob("v*")
    return {**row, "GB on disk": sum(path.stat().st_size for path in place.iterdir()) / 1e9}


def training(folder: Path, cache: Path, size: int) -> Row:
    """Trains a network of one convolution, and returns what was spent within and beside the steps."""
    from torch import nn

    import medarts
    from medarts.config import parse
    from medarts.engine.engine import start
    from medarts.models.baseline import BaselineNetwork
    from medarts.registry import Settings
    from medarts.training.trainer import Training, prepare_training, that_trains

    @medarts.register_model("one-convolution", settings=Settings, task="segmentation")
    class OneConvolution(BaselineNetwork):
        def __init__(self, settings: Any, *, in_channels: int, outputs: int, norm: Any = None) -> None:
            super().__init__(depth=1, head_names=["1"])
            self.only = nn.Conv2d(in_channels, outputs, 1)

        @property
        def output_biases(self) -> Any:
            return (self.only.bias,)

        def _logits(self, x_bchw: Any, wanted: Any) -> Any:
            return [self.only(x_bchw)]

    row: Row = {"memory": [], "beside the steps, ms": []}
    spent = {"steps": 0.0, "batches": 0.0, "validation": 0.0, "epoch": 0.0}

    def timed(name: str, work: Any, *given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return work(*given, **named)
        finally:
            spent[name] += time.process_time() - began

    class Timed(Training):
        def begin_epoch(self) -> None:
            spent.update(dict.fromkeys(spent, 0.0))
            spent["epoch"] = -time.process_time()
            super().begin_epoch()

        def step(self) -> None:
            timed("steps", super().step)

        def validate(self) -> dict[str, Any]:
            return timed("validation", super().validate)

        def save(self, kind: str = "last", **about: Any) -> None:
            super().save(kind, **about)
            if kind == "last":
                beside = time.process_time() + spent["epoch"] - spent["steps"] - spent["validation"]
                row["beside the steps, ms"].append(1e3 * beside)
                row["memory"].append(memory_mb())

    model = {"train": {"model": {"name": "one-convolution"}, "epochs": EPOCHS, "batch": BATCH}}
    compute = {"evaluation": {"batch": BATCH}, "compute": {"device": "cpu", "threads": 1}}
    recipe = parse({"data": data_section(folder, cache, size), **model, **compute})
    recipe = that_trains(recipe, recipe.train.model)
    made: list[Training] = []

    def prepare() -> Training:
        job = prepare_training(recipe, recipe.train.model, make=Timed)
        load = job.training._load
        job.training._load = lambda indices: timed("batches", load, indices)
        made.append(job)
        return job

    began = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        start(Timed, recipe, Path(out, "run"), prepare)
    row["images"], row["steps"] = len(made[0].training.indices), made[0].steps
    row["all, s"] = time.process_time() - began
    row["a batch from the cache, ms"] = 1e3 * spent["batches"] / made[0].steps
    row["a step, ms"] = 1e3 * spent["steps"] / made[0].steps
    row["validation, ms a batch"] = 1e3 * spent["validation"] * BATCH / len(made[0].validation.indices)
    return row


def in_process(work: str, folder: Path, cache: Path, size: int, **more: int) -> "subprocess.Popen[str]":
    """Starts a part of this benchmark in a process of its own."""
    words = [f"--{name}={value}" for name, value in more.items()]
    command = [sys.executable, __file__, "--part", work, "--folder", str(folder), "--cache", str(cache)]
    return subprocess.Popen([*command, f"--size={size}", *words], stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> Row:
    """Returns what a part has found."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"A part of the benchmark ended with status {process.returncode}.")
    found: Row = json.loads(output.splitlines()[-1])
    return found


def measured(data: Path, caches: Path, size: int, *, at_once: Sequence[int]) -> Row:
    """Returns all figures of a data set.

    Args:
        data: its folder.
        caches: folder of the caches, which are removed.
        size: of the images.
        at_once: processes that read, and processes that train at once.
    """
    found: Row = {"reading": [], "training": []}
    for number in at_once:
        note(f"reading {data} by {number} processes")
        cache = caches / f"cache-{number}"
        found["reading"].append(answer(in_process("reading", data, cache, size, processes=number)))
        note(f"training on {data}, {number} processes at once")
        begun = [in_process("training", data, cache, size) for _ in range(number)]
        found["training"].append([answer(process) for process in begun])
        shutil.rmtree(cache)
    return found


def rounded(value: Any) -> str:
    """Returns a figure of a table."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else str(value)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table."""
    print(f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(rounded(value) for value in row.values())} |")
    print(flush=True)


def lines_of_training(found: Sequence[Row]) -> Iterator[Row]:
    """Yields a line for each training, with its memory after each epoch."""
    for row in found:
        memory = {
            f"MB {kind}, epochs 1 to {EPOCHS}": ", ".join(str(of[kind]) for of in row["memory"])
            for kind in ("own", "shared")
        }
        beside = row["beside the steps, ms"][-1]
        figures = {key: row[key] for key in ("a batch from the cache, ms", "a step, ms", "validation, ms a batch")}
        about = {"at once": len(found), "images": row["images"], "steps": row["steps"]}
        yield {**about, **figures, "beside the steps, ms a step": beside / row["steps"], **memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    for name, kind in (("part", str), ("folder", Path), ("cache", Path), ("processes", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "reading":
        print(json.dumps(reading(given.folder, given.cache, given.size, processes=given.processes)))
    elif given.part == "training":
        print(json.dumps(training(given.folder, given.cache, given.size)))
    else:
        found = {}
        with tempfile.TemporaryDirectory(prefix="data-scale-") as folder:
            os.environ["XDG_CACHE_HOME"] = folder  # digests of files that are gone afterwards
            for number, at_once in ((given.images // 10, PROCESSES), (given.images, PROCESSES[-1:])):
                data = Path(folder, f"{number}-images")
                note(f"writing {data}")
                write_images(data, number, given.size)
                found[number] = measured(data, Path(folder), given.size, at_once=at_once)
                note(json.dumps(found[number]))
        if given.json:
            print(json.dumps(found))
        else:
            show([row for of in found.values() for row in of["reading"]])
            show([line for of in found.values() for some in of["training"] for line in lines_of_training(some)])


if __name__ == "__main__":
    main()
