"""Prune a trained network to half of its operations, and see which channels are left.

python examples/prune.py            # some minutes on two cores
python examples/prune.py --quick    # a few steps, to see that it works
"""

import json
import sys

import numpy as np

import medarts

QUICK = "--quick" in sys.argv

generator = np.random.default_rng(0)
images = generator.integers(0, 200, (40 if QUICK else 400, 32, 32), dtype=np.uint8)
masks = np.zeros(images.shape, bool)
masks[:, 8:20, 8:20] = True
images[masks] += 55
data = medarts.from_arrays(images, masks)

recipe = {"train": {"epochs": 1 if QUICK else 20, "batch": 8, "model": {"name": "unet", "width": 8, "depth": 3}}}
trained = medarts.train("unet", recipe, data=data, out="runs/squares")

small = medarts.prune(trained, data=data, method="l1", keep_flops=0.5, epochs=1 if QUICK else 10, out="runs/small")
pruning = json.loads((small.path / "pruning.json").read_text(encoding="utf-8"))
before, after = pruning["size"], pruning["steps"][-1]["size"]
for quantity in ("parameters", "flops"):
    print(f"{quantity}: {after[quantity]:,} of {before[quantity]:,}")
for layer, channels in after["channels"].items():
    print(f"  {layer}: {channels} of {before['channels'][layer]} channels")
print(medarts.evaluate(small, data=data).summary)
