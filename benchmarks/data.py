"""Is the input side faster than the networks? Images a second: batches with augmentation against training.

    python benchmarks/data.py --data FOLDER [--size 128] [--batch 8] [--json]

Both sides run in one process with the same threads, interleaved, several repeats; the table gives medians. The target
is that making a batch takes below 10 % of a training step of the smallest network that is trained on it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from medarts.config import AugmentationSettings, DataSettings
from medarts.data.batches import Batches, Mixture
from medarts.data.choosing import choose_sources
from medarts.data.opening import open_data
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.tasks import SegmentationTask

REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--genotype", default="alpha0_5_stage1_nodouble_deep_ep80")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    settings = DataSettings(sources=choose_sources([str(arguments.data)]), size=arguments.size, resize="squash")
    began = time.perf_counter()
    store = open_data(settings, needs=("train",))
    opening = time.perf_counter() - began
    batches = Batches(
        store, store.manifest.of_split("train"), batch=arguments.batch, name="training set", device=torch.device("cpu")
    )
    order = batches.order(0, seed=0, sampling="by_size")
    network = NasWdanNetwork(load(arguments.genotype))
    task = SegmentationTask(settings, loss="bce_dice")
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    loading, training = [], []
    for step in range(REPEATS + 1):
        began = time.perf_counter()
        batch = batches.training(order, step, settings=AugmentationSettings(), seed=step)
        loading.append(time.perf_counter() - began)
        began = time.perf_counter()
        optimizer.zero_grad()
        task.loss(network(batch.images, all_heads=True), Mixture(batch.images, ((1.0, batch.targets),))).backward()
        optimizer.step()
        training.append(time.perf_counter() - began)
    load_seconds, step_seconds = statistics.median(loading[1:]), statistics.median(training[1:])
    result = {
        "opening_seconds": opening,
        "batch_ms": 1e3 * load_seconds,
        "step_ms": 1e3 * step_seconds,
        "input_fraction": load_seconds / step_seconds,
        "images_per_second_input": arguments.batch / load_seconds,
        "images_per_second_training": arguments.batch / step_seconds,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:28} {value:10.3f}")


if __name__ == "__main__":
    main()
