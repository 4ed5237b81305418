"""A loss of your own with a parameter: Tversky, which weighs missed pixels and false alarms differently.

python examples/own_loss.py [--quick]
"""

import sys

import numpy as np
import torch

import medarts
from medarts.registry import Settings

QUICK = "--quick" in sys.argv


class TverskySettings(Settings):
    """Tversky loss (arXiv 1706.05721).

    Attributes:
        alpha: weight of false positives.
        beta: weight of false negatives.
    """

    alpha: float = 0.3
    beta: float = 0.7


@medarts.register_loss("my_tversky", task="segmentation", outputs="binary", settings=TverskySettings)
def tversky(logits, target, *, settings):
    """Returns a value for each image; logits are B x 1 x H x W, class indices B x H x W."""
    predicted = torch.sigmoid(logits).flatten(1)
    true = target.to(predicted.dtype).flatten(1)
    hits = (predicted * true).sum(1)
    false_alarms, missed = (predicted * (1 - true)).sum(1), ((1 - predicted) * true).sum(1)
    return 1 - (hits + 1) / (hits + settings.alpha * false_alarms + settings.beta * missed + 1)


generator = np.random.default_rng(0)
images = generator.integers(0, 200, (60 if QUICK else 300, 32, 32), dtype=np.uint8)
masks = np.zeros(images.shape, bool)
masks[:, 10:16, 10:16] = True
images[masks] += 55

recipe = {"train": {"epochs": 1 if QUICK else 20, "batch": 8, "loss": {"name": "my_tversky", "beta": 0.8}}}
data = medarts.from_arrays(images, masks)
run = medarts.train(
    "unet", recipe, data=data, out="runs/own-loss", changes=["train.model.width=8", "train.model.depth=3"]
)
print(medarts.evaluate(run, data=data).summary)
