"""A candidate operation of your own in the search: a 7x7 depthwise convolution.

python examples/own_operation.py [--quick]
"""

import sys

import numpy as np
from torch import nn

import medarts

QUICK = "--quick" in sys.argv


def conv_7x7(channels, settings):
    """Sees further than the published operations; runs beside the fused ones, with its own gradient."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.GroupNorm(1, channels, affine=settings.affine),
    )


medarts.register_operation("nas-wdan", "normal", "conv_7x7", conv_7x7)

generator = np.random.default_rng(0)
images = generator.integers(0, 255, (60 if QUICK else 300, 32, 32), dtype=np.uint8)
images[:, 8:20, 8:20] |= 128
masks = np.zeros(images.shape, bool)
masks[:, 8:20, 8:20] = True

recipe = {
    # A search has the published candidates unless the recipe names others.
    "space": {"init_channel": 4, "operations": {"normal": ["none", "identity", "conv", "conv_7x7"]}},
    "search": {"stages": [{"depth": 3, "epochs": 1 if QUICK else 10, "batch": 8}], "arch_after": 0},
}
run = medarts.search(recipe, data=medarts.from_arrays(images, masks), out="runs/own-operation")
genotype = medarts.load_genotype(run)
chosen = [operation for node in genotype.cells["normal"] for operation, _ in node]
print("normal cell:", ", ".join(chosen))
