"""Predict the frames of a video one after the other, as they come from a camera, and print frames per second.

python examples/predict_video.py MODEL FOLDER    # an exported network (or a run), and the frames as image files
python examples/predict_video.py --quick         # trains a small network on generated frames first

Reading videos is left to a library of your choice: whatever gives frames as arrays takes the place of `frames`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import medarts

HEIGHT, WIDTH = 120, 160


def moving_disc(number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields frames of a bright disc that moves over a noisy ground, and where it is."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for time_step in range(number):
        top, left = 60 + 40 * np.sin(time_step / 9), 80 + 60 * np.cos(time_step / 13)
        disc = (y - top) ** 2 + (x - left) ** 2 < 18**2
        yield (generator.integers(0, 120, (HEIGHT, WIDTH)) + 110 * disc).astype(np.uint8), disc


def trained_on_discs() -> Path:
    images, masks = zip(*moving_disc(60), strict=True)
    recipe = {
        "data": {"size": 32},
        "train": {"epochs": 3, "batch": 8, "model": {"name": "unet", "width": 8, "depth": 3}},
    }
    data = medarts.from_arrays(np.stack(images), np.stack(masks), size=32)
    return medarts.train("unet", recipe, data=data, out="runs/discs").path


def frames() -> Iterator[np.ndarray]:
    if "--quick" in sys.argv:
        yield from (frame for frame, _ in moving_disc(100))
    else:
        yield from (np.asarray(Image.open(path)) for path in sorted(Path(sys.argv[2]).iterdir()))


model = medarts.load(trained_on_discs() if "--quick" in sys.argv else sys.argv[1])
first = next(frames())
model.predict(first)  # the first pass takes longer

began, number, area = time.perf_counter(), 0, 0
for frame in frames():
    area += int((model.predict(frame) >= model.info.threshold).sum())
    number += 1
seconds = time.perf_counter() - began
print(f"{number} frames of {first.shape[1]} x {first.shape[0]} pixels: {number / seconds:.1f} frames per second")
print(f"{area / number:.0f} pixels of a frame are foreground on average")
