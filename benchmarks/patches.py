"""What foreground sampling does for masks with 1 % foreground: patches with and without it, the same steps.

    python benchmarks/patches.py [--seeds 3]    # prints a table; some minutes on one core

Images of 128 x 128 px show one faint disc, 1 % of the pixels, in noise, beside brighter lines that are background. A
U-Net of width 8 is trained on crops of 32 px, once on crops anywhere and once with half of them on foreground, with
every loss. Most crops show none otherwise, and the Dice loss of such a crop is best where nothing is predicted; binary
cross-entropy learns from all of them.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import medarts

SIDE, PATCH, IMAGES = 128, 32, 24
SHARE = 0.01
"""Of the pixels that are foreground."""

LOSSES = ("dice", "bce_dice", "bce")
WAYS: dict[str, str | dict[str, float]] = {"crops anywhere": "by_size", "foreground: 0.5": {"foreground": 0.5}}

RECIPE: dict[str, Any] = {
    "train": {
        "epochs": 4, "batch": 16, "lr": 0.01, "optimizer": "adamw",
        "model": {"name": "unet", "width": 8, "depth": 3},
    },
    "evaluation": {"bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}  # fmt: skip


def discs(number: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and masks (N, H, W), uint8 and boolean."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    radius = np.sqrt(SHARE * SIDE**2 / np.pi)
    images, masks = [], []
    for _ in range(number):
        y, x = generator.uniform(radius, SIDE - radius, 2)
        mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        image = generator.normal(90, 25, mask.shape) + 45 * mask
        for line in generator.integers(0, SIDE, 4):
            image[line] += 60
        images.append(image.clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def dice(sampling: str | dict[str, float], folder: Path, *, loss: str, seed: int) -> float:
    """Returns the mean Dice on the test images of a training by a way of sampling."""
    data = medarts.from_arrays(*discs(IMAGES), size=PATCH, resize="patches")
    train = {**RECIPE["train"], "loss": loss}
    recipe = {**RECIPE, "seed": seed, "train": train, "data": {"sampling": sampling}}
    run = medarts.train(None, recipe, data=data, out=folder)
    table = medarts.evaluate(run, data=data).table
    return float(table.loc[table["metric"] == "dice", "value"].mean())


def main() -> None:
    """Prints the Dice of both ways of sampling, a row for each loss: the mean over seeds, and each in brackets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    print(f"| loss | {' | '.join(WAYS)} |\n| --- |{' --- |' * len(WAYS)}")
    for loss in LOSSES:
        cells = []
        for sampling in WAYS.values():
            with tempfile.TemporaryDirectory() as folder:
                found = [dice(sampling, Path(folder, str(seed)), loss=loss, seed=seed) for seed in range(seeds)]
            cells.append(f"{np.mean(found):.3f} ({', '.join(f'{one:.3f}' for one in found)})")
        print(f"| {loss} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
