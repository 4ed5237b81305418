"""Search, train and evaluate on NumPy arrays: no folder of images, no recipe file.

python examples/search_on_arrays.py            # some minutes on two cores
python examples/search_on_arrays.py --quick    # a few steps, to see that it works
"""

import sys

import numpy as np

import medarts

QUICK = "--quick" in sys.argv


def discs(number: int, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Grey images of a bright disc on noise, and masks of the disc."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    images = generator.normal(90, 25, (number, size, size))
    centres, radii = generator.uniform(14, size - 14, (number, 2)), generator.uniform(5, 12, number)
    masks = np.hypot(rows - centres[:, :1, None], columns - centres[:, 1:, None]) < radii[:, None, None]
    return (images + 60 * masks).clip(0, 255).astype(np.uint8), masks


images, masks = discs(60 if QUICK else 400)
# Two images belong to one patient, who stays on one side of every split.
data = medarts.from_arrays(images, masks, patients=[f"patient {n // 2}" for n in range(len(images))])

recipe = {
    "space": {"name": "nas-wdan", "init_channel": 4},
    "search": {"stages": [{"depth": 3, "epochs": 1 if QUICK else 10, "batch": 8}], "arch_after": 0},
    "train": {"epochs": 1 if QUICK else 20, "batch": 8, "optimizer": "adamw", "lr": 2e-3, "lr_min": 1e-5},
}
searched = medarts.search(recipe, data=data, out="runs/discs-search")
print(medarts.load_genotype(searched))

trained = medarts.train(searched, data=data, out="runs/discs")
scores = medarts.evaluate(trained, data=data)
print(scores.summary)

probabilities = medarts.load(trained).predict(images[0])
print("foreground:", int((probabilities > 0.5).sum()), "of", probabilities.size, "pixels")
