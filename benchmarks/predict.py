"""`medarts predict` with an exported network: start-up, memory over many images, and what kills lose.

    python benchmarks/predict.py [--images N] [--kills N] [--json]

Every figure is of `python -m medarts predict` in a process of its own. Targets: less than 1.5 s of the processor for
one small image, a difference of the peak resident memory between image 100 and the last of 1,000 below 50 MB, and of 20
kills at random moments none that loses more than the image in hand or leaves a file that is not whole. The network is
a U-Net of width 8 and depth 3 with random weights at 96 px; images are colour PNG of ten sizes from 200 x 267 to
400 x 533.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medarts import create_model
from medarts.deploy.deployable import Deployable
from medarts.deploy.graphs import to_onnx
from medarts.deploy.info import ImageKind, ModelInfo, Provenance

SIZES = 10
EARLY = 100
"""The image from which on memory should not grow."""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
CPU_TIME = """
import os, sys
from medarts.cli import main
try:
    main()
except SystemExit:
    print(sum(os.times()[:2]), len({"torch", "pandas", "scipy", "monai", "matplotlib"} & set(sys.modules)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        network = write_network(root / "net.onnx")
        images = write_images(root / "images", arguments.images)
        found = {
            "start": start(network, images, root),
            "memory": memory(network, images, root / "masks", number=arguments.images),
            "kills": kills(network, images, root, kills=arguments.kills, number=arguments.images),
        }
    print(json.dumps(found) if arguments.json else "\n".join(f"{name}: {about}" for name, about in found.items()))


def write_network(path: Path) -> Path:
    torch.manual_seed(0)
    info = ModelInfo(
        name="unet",
        task="segmentation",
        outputs=("foreground",),
        in_channels=3,
        size=96,
        head="last",
        kinds=(ImageKind(channels=3, dtype="uint8", range=(0.0, 255.0)),),
        provenance=Provenance(
            medarts="", torch="", created="", recipe="", weights="", architecture="unet", seed=0, images={}
        ),
    )
    network = create_model("unet", width=8, depth=3, outputs=1).eval()
    info = info.model_copy(update={"head": network.heads[-1]})
    path.write_bytes(to_onnx(Deployable(network, info).eval()))
    return path


def write_images(folder: Path, number: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(number):
        scale = 2 + index % SIZES * 2 / (SIZES - 1)
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        size = (round(133.3 * scale), round(100 * scale))
        Image.fromarray(coarse).resize(size).save(folder / f"{index:05}.png", compress_level=1)
    return folder


def start(network: Path, images: Path, root: Path) -> dict[str, Any]:
    """Returns seconds of the processor and of the clock of a whole call on one image, the best of five."""
    small = root / "small.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(small)
    taken, clock = [], []
    for number in range(5):
        words = ["predict", network, small, "--out", root / f"small-{number}"]
        began = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", CPU_TIME, *map(str, words)],
            env=ENVIRONMENT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        clock.append(time.perf_counter() - began)
        seconds, heavy = run.stdout.splitlines()[-1].split()
        taken.append(float(seconds))
        assert heavy == "0"
    return {"cpu_s": min(taken), "clock_s": min(clock)}


def begin(network: Path, images: Path, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "medarts", "predict", str(network), str(images), "--out", str(out), *options]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def memory(network: Path, images: Path, out: Path, *, number: int) -> dict[str, Any]:
    """Returns the peak resident memory in MB at image `EARLY` and at the end, and images per second."""
    process = begin(network, images, out)
    began, early, last = time.perf_counter(), None, 0.0
    while process.poll() is None:
        last = peak_mb(process.pid) or last
        if early is None and finished(out) >= EARLY:
            early = last
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    assert process.returncode == 0
    assert finished(out) == number
    assert early is not None
    return {
        "early_mb": early,
        "last_mb": last,
        "difference_mb": last - early,
        "images_per_s": number / seconds,
    }


def peak_mb(pid: int) -> float | None:
    """Returns the peak of a process's resident memory; None where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return float(status.partition("VmHWM:")[2].split()[0]) / 1e3 if "VmHWM:" in status else None


def finished(out: Path) -> int:
    table = out / "predictions.csv"
    return max(0, table.read_bytes().count(b"\n") - 1) if table.exists() else 0


def kills(network: Path, images: Path, root: Path, *, kills: int, number: int) -> dict[str, Any]:
    """Kills a prediction again and again, and compares what is there with an undisturbed one."""
    dice, out = random.Random(0), root / "killed"
    lost, most_unnamed = 0, 0
    for kill in range(kills):
        goal = round(number * (kill + dice.random()) / kills)
        process = begin(network, images, out, "--batch", "1")
        while process.poll() is None and finished(out) < goal:
            time.sleep(0.0005)
        time.sleep(dice.uniform(0, 0.02))
        process.kill()
        process.communicate()
        with (out / "predictions.csv").open(newline="", encoding="utf-8") as table:
            rows = [row for row in csv.reader(table) if len(row) == 7][1:]
        named, masks = {row[0] for row in rows}, {path.stem for path in out.glob("[0-9]*.png")}
        lost += len(named - masks)
        most_unnamed = max(most_unnamed, len(masks - named))
        for name in masks:
            Image.open(out / f"{name}.png").load()  # fails on a file that is not whole
    process = begin(network, images, out)
    process.communicate()
    assert process.returncode == 0
    different = [
        path.name for path in (root / "masks").iterdir() if path.read_bytes() != (out / path.name).read_bytes()
    ]
    rest = {path.name for path in out.iterdir()} - {path.name for path in (root / "masks").iterdir()}
    return {
        "kills": kills,
        "named_without_a_mask": lost,
        "most_masks_not_yet_named": most_unnamed,
        "files_that_differ_at_the_end": len(different),
        "files_left_over": len(rest),
    }


if __name__ == "__main__":
    main()
