"""Use a trained network from Python: probabilities for images of any size, drawn on the image.

python examples/load_and_predict.py RUN IMAGE    # your training run and image
python examples/load_and_predict.py --quick      # trains a small network on generated images first
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import medarts


def trained_on_squares() -> tuple[Path, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (60, 32, 32), dtype=np.uint8)
    masks = np.zeros(images.shape, bool)
    masks[:, 8:20, 8:20] = True
    images[masks] += 55
    recipe = {"train": {"epochs": 2, "batch": 8, "model": {"name": "unet", "width": 8, "depth": 3}}}
    run = medarts.train("unet", recipe, data=medarts.from_arrays(images, masks), out="runs/squares")
    return run.path, np.kron(images[0], np.ones((3, 2), np.uint8))  # 96 x 64 pixels


if "--quick" in sys.argv:
    run, image = trained_on_squares()
else:
    run, image = Path(sys.argv[1]), np.asarray(Image.open(sys.argv[2]))

model = medarts.load(run)
probabilities = model.predict(image)
print(f"{model.info.name} sees {model.info.size} px; {probabilities.shape} probabilities for an image of {image.shape}")
Image.fromarray((255 * probabilities).round().astype(np.uint8)).save("probabilities.png")
