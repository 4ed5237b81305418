"""A search space of your own: which kernel sizes, and in which order? A supernet, a rule that derives, a network.

python examples/own_space.py [--quick]
"""

import sys
from dataclasses import replace

import numpy as np
from torch import nn

import medarts
from medarts.models.baseline import BaselineNetwork
from medarts.spaces.base import SearchSpace, Supernet
from medarts.spaces.cells import alphas_snapshot, initial, strongest
from medarts.spaces.genotype import Genotype
from medarts.spaces.sampling import operation_changes

QUICK = "--quick" in sys.argv
OPERATIONS = {"conv_1x1": 1, "conv_3x3": 3, "conv_7x7": 7}


def convolution(name, channels):
    kernel = OPERATIONS[name]
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class KernelsSettings(medarts.Settings):
    """A row of convolutions at full resolution.

    Attributes:
        init_channel: channels of every convolution.
        blocks: number of convolutions.
    """

    init_channel: int = 8
    blocks: int = 3


class KernelsSupernet(Supernet):
    """Every block is the sum of all candidates, weighed by the softmax of its alphas."""

    def __init__(self, settings, candidates, *, in_channels, outputs):
        super().__init__()
        self.settings, self.candidates, self.genotype = settings, candidates, None
        channels = settings.init_channel
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(nn.ModuleList(convolution(name, channels) for name in row) for row in candidates)
        self.head = nn.Conv2d(channels, outputs, 1)
        self.alphas = initial(settings.blocks, len(candidates[0]))

    def architecture(self):
        return [self.alphas]

    def forward_heads(self, x_bchw):
        weights = self.alphas.softmax(-1) if self.genotype is None else self.one_hot(self.genotype)
        x = self.stem(x_bchw)
        for row, of_block in zip(self.blocks, weights, strict=True):
            x = sum(weight * operation(x) for operation, weight in zip(row, of_block, strict=True))
        return [self.head(x)]

    def one_hot(self, genotype):
        chosen = [node[0][0] for node in genotype.cells["kernels"]]
        rows = [[float(name == kept) for name in row] for row, kept in zip(self.candidates, chosen, strict=True)]
        return self.alphas.new_tensor(rows)

    def strongest(self, keep):
        return strongest({"kernels": self.candidates}, {"kernels": self.alphas}, keep)

    def derive(self, settings, *, name, provenance):
        best = self.alphas.argmax(-1).tolist()
        # Node i reads state i + 1: the node before it, or the stem, s1.
        cell = tuple(((row[place], i + 1),) for i, (row, place) in enumerate(zip(self.candidates, best, strict=True)))
        values = {"init_channel": self.settings.init_channel, "blocks": self.settings.blocks}
        return Genotype(name, "kernels", {"kernels": cell}, values, provenance=dict(provenance))

    def discretise(self, genotype):
        self.genotype = genotype

    def snapshot(self):
        edges = tuple((i, i + 1) for i in range(self.settings.blocks))
        return {"alphas": {"kernels": alphas_snapshot(edges, self.candidates, self.alphas)}}


class KernelsNetwork(BaselineNetwork):
    """The strongest candidate of every block."""

    def __init__(self, genotype, *, in_channels, outputs):
        super().__init__(depth=1, head_names=["1"])
        channels = genotype.settings["init_channel"]
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(convolution(node[0][0], channels) for node in genotype.cells["kernels"]))
        self.head = nn.Conv2d(channels, outputs, 1)

    def _logits(self, x_bchw, wanted):
        return [self.head(self.blocks(self.stem(x_bchw)))]


@medarts.register_space("kernels", settings=KernelsSettings)
class Kernels(SearchSpace):
    task = "segmentation"
    defaults = {"train": {"optimizer": "adamw", "lr": 2e-3}}  # what this space changes of a recipe's defaults
    cell_inputs = {"kernels": ("the image", "the stem")}

    def check(self, stage, size, *, fewest):
        """Every stage and size will do."""

    def supernet(self, stage, candidates):
        rows = candidates["kernels"] if candidates else (tuple(OPERATIONS),) * self.settings.blocks
        return KernelsSupernet(self.settings, rows, in_channels=self.in_channels, outputs=self.outputs)

    @classmethod
    def settings_of(cls, genotype):
        for node in genotype.cells["kernels"]:
            if node[0][0] not in OPERATIONS:
                raise medarts.MedartsError(f"There is no operation {node[0][0]}.", fix=f"Use {', '.join(OPERATIONS)}.")
        return KernelsSettings(**genotype.settings)

    @classmethod
    def network(cls, genotype, *, in_channels, outputs, norm=None):
        return KernelsNetwork(genotype, in_channels=in_channels, outputs=outputs)

    @classmethod
    def random_genotype(cls, like, *, seed):
        return replace(cls.sample(cls.settings_of(like), seed=seed), name=f"{like.name}-random-{seed}")

    @classmethod
    def sample(cls, settings, *, seed):
        names = np.random.default_rng(seed).choice(list(OPERATIONS), settings.blocks)
        cell = tuple(((str(name), i + 1),) for i, name in enumerate(names))
        values = {"init_channel": settings.init_channel, "blocks": settings.blocks}
        provenance = {"source": "random", "seed": seed}
        return Genotype(f"random-{seed}", "kernels", {"kernels": cell}, values, provenance=provenance)

    @classmethod
    def changes(cls, genotype, settings, generator):
        return {"operation": list(operation_changes(genotype, lambda kind, state: list(OPERATIONS)))}


def main():
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    centres = generator.uniform(8, 24, (2, 60 if QUICK else 300, 1, 1))
    masks = np.hypot(rows - centres[0], columns - centres[1]) < 6
    images = (generator.normal(90, 30, masks.shape) + 40 * masks).clip(0, 255).astype(np.uint8)
    data = medarts.from_arrays(images, masks)

    recipe = {
        "space": {"name": "kernels", "blocks": 3},
        "search": {"stages": [{"epochs": 1 if QUICK else 10, "batch": 8}], "arch_after": 0},
        "train": {"epochs": 1 if QUICK else 20, "batch": 8},
    }
    searched = medarts.search(recipe, data=data, out="runs/own-space-search")
    genotype = medarts.load_genotype(searched)
    print("kernels:", ", ".join(node[0][0] for node in genotype.cells["kernels"]))

    trained = medarts.train(searched, data=data, out="runs/own-space")
    print(medarts.evaluate(trained, data=data).summary)
    # Costs are measured in a process of its own, which runs this file again: hence the function main.
    measured = medarts.cost(trained, threads=[1], repeats=2 if QUICK else 20)
    for cost in measured.values():
        print(f"{cost.parameters} parameters, {cost.latency_ms(threads=1):.1f} ms, {cost.memory_mb[1]:.0f} MB")


if __name__ == "__main__":
    main()
