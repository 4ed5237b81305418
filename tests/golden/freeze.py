"""Freezes results: ``python tests/golden/freeze.py [NAME ...] [--section SECTION ...] [--only PATTERN]``.

The frozen numbers say that a change of the code changes no result. So freeze anew only where a result is meant to be
another one, such as intervals by a better method: these numbers alone, in a commit of its own that says why. Numbers
that still agree with the frozen ones are left as they are, so that the diff shows what changed. Never freeze to make a
test pass; where numbers differ and nobody can say why, the code is wrong. A new format, a new name or a moved module is
no reason either: adapt ``reading.py`` and ``recipes.py``.

Freeze with the oldest code that is right: what was wrong when it was frozen is kept wrong by the test.

Numbers that were frozen anew, because their method was changed deliberately:

* Intervals on data sets of fewer than 10 patients (here the four of "cells", and means over data sets in which they
  count). A percentile bootstrap of so few is too narrow; now it is Student's t on the jackknife for means, and what the
  sign-flip test does not reject for differences.
* Interval and p of differences between networks of several seeds (here the benchmark's "found vs unet"). They held for
  the trained networks only; now seeds are random as patients are, and so two seeds show next to nothing.
* What is trained on a CPU, and its scores. Fused optimizers and the form of derived networks for training round in
  another order, which grows over some steps as it does on another machine. With both switched off the masks and the
  benchmark gave the frozen numbers of before, and so did the findings with their form switched off. Frozen as a whole,
  on another machine; searches have the numbers of before.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import agreement  # noqa: E402
import images  # noqa: E402
import reading  # noqa: E402
import recipes  # noqa: E402

FROZEN = HERE / "frozen"
PIPELINES = {"masks": recipes.masks, "findings": recipes.findings, "benchmark": recipes.benchmark}
PARAMETERS = "parameters"
SECTIONS = ("images", "genotypes", "weights", "epochs", *reading.SECTIONS)
"""Of all that is frozen of a pipeline."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # medarts measures with two threads, which need not spin in between
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}
"""Kernels that most machines have, so that fewer of them round otherwise."""


def produce(name: str, folder: Path) -> dict[str, Any]:
    """Runs the commands of a pipeline in a folder and returns all that is frozen of it, by section."""
    images.write_all(folder / "data")
    commands = folder / "commands.json"
    commands.write_text(json.dumps(PIPELINES[name](folder)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(HERE / "drive.py"), str(folder), str(commands)],
        env=os.environ | ENVIRONMENT | {"XDG_CACHE_HOME": str(folder / "home"), "PYTHONPATH": _python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return collect(folder)


def collect(folder: Path) -> dict[str, Any]:
    """Returns all that is frozen of the runs and comparisons in a folder."""
    found: dict[str, Any] = {
        "machine": machine(),
        "images": images.digest(folder / "data"),
        "genotypes": {},
        "weights": {},
        "epochs": {},
        **{section: {} for section in reading.SECTIONS},
    }
    for name, run in reading.runs_of(folder).items():
        is_search = reading.is_search(run)
        if reading.has_genotype(run):
            found["genotypes"][name] = reading.genotype_of(run)
        for which in ("last",) if is_search else ("last", "best"):
            found["weights"][f"{name}/{which}"] = weights(reading.weights_of(run, which))
        epochs = reading.epochs_of(run) | reading.summary_of(run)
        epochs |= reading.architecture_of(run) if is_search else {}
        found["epochs"] |= {f"{name}/{key}": value for key, value in epochs.items()}
        found["image scores"] |= {f"{name}/{key}": value for key, value in reading.image_scores(run).items()}
        for section, numbers in reading.mean_scores(run).items():
            found[section] |= {f"run {name}/{key}": value for key, value in numbers.items()}
    for section, numbers in reading.comparison_numbers(folder).items():
        found[section] |= numbers
    return found


def weights(tensors: Iterable[Tensor]) -> dict[str, Any]:
    """Returns what tells weights from others, whatever their names and their order: digests, number and norm."""
    tensors = [*tensors]
    digests = sorted(_digest(tensor) for tensor in tensors)
    return {
        "digest": hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        "tensors": " ".join(digest[:8] for digest in digests),
        "numbers": sum(tensor.numel() for tensor in tensors),
        "norm": sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5,
    }


def machine() -> dict[str, str]:
    """Returns what decides how numbers are rounded."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.exists() else []
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    wanted = ("model name", "cpu family", "model", "stepping", "cache size")
    return {
        "processor": ", ".join(f"{name} {about[name]}" for name in wanted if name in about) or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def read(name: str) -> dict[str, Any]:
    """Returns what is frozen under a name."""
    return dict(json.loads((FROZEN / f"{name}.json").read_text(encoding="utf-8")))


def write(name: str, content: dict[str, Any]) -> None:
    """Freezes."""
    FROZEN.mkdir(exist_ok=True)
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    (FROZEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def thawed(found: dict[str, Any], frozen: dict[str, Any], *, sections: Iterable[str], only: str) -> dict[str, Any]:
    """Returns what is frozen with the new numbers of sections whose names match a pattern, where they differ."""
    changed = dict(frozen)
    for section in sections:
        if not isinstance(found[section], dict):
            changed[section] = found[section]
            continue
        changed[section] = dict(frozen[section])
        for name in filter(re.compile(only).search, found[section].keys() | frozen[section].keys()):
            now, before = ({name: each[section][name]} if name in each[section] else {} for each in (found, frozen))
            if not now:
                del changed[section][name]
            elif agreement.differences(section, now, before, same_machine=True):
                changed[section] |= now
    return changed


def main() -> None:
    """Freezes what the command line names; everything by default."""
    parser = argparse.ArgumentParser(description="Freezes results; see the head of this file for when one may.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*PIPELINES, PARAMETERS))}")
    parser.add_argument("--section", action="append", help="this section alone, such as intervals")
    parser.add_argument("--only", default="", metavar="PATTERN", help="numbers whose names match, such as ^cells/")
    given = parser.parse_args()
    for name in given.names or (*PIPELINES, PARAMETERS):
        if name == PARAMETERS:
            write(name, dict(reading.parameters_by_network()))
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = produce(name, Path(folder))
        if given.section or given.only:
            found = thawed(found, read(name), sections=given.section or SECTIONS, only=given.only)
        write(name, found)


def _digest(tensor: Tensor) -> str:
    head = f"{tuple(tensor.shape)} {tensor.dtype} ".encode()
    return hashlib.sha256(head + tensor.contiguous().cpu().numpy().tobytes()).hexdigest()


def _python_path() -> str:
    """Returns the folder of the medarts that is tested, in front of what is there."""
    import medarts

    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(Path(medarts.__file__).parents[1]), *([before] if before else [])])


if __name__ == "__main__":
    main()
