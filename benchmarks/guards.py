"""Does a guard, a selection or a regularizer keep a search from collapsing, where plain DARTS collapses?

    python benchmarks/guards.py FOLDER

For both spaces, a small search space of operations that learn nothing (identity or skip, pooling, noise) against
convolutions, on phantoms of 32 px that only convolutions solve. NAS-WDAN finds the discs that have a satellite on their
left, and neither identity nor pooling tells left from right. DARTS tells pairs of discs side by side from pairs one
above the other, which skips do not; pooling is no candidate there, as behind a learned stem it is enough for that. A
network of convolutions and one of identities are trained, to show that. Then every method searches with five seeds.
Alphas learn fast and from early on, beside weights that are not yet worth much: that makes plain DARTS collapse.

Prints Markdown: the share of operations that learn nothing in the genotype, mean and range over seeds; how many
genotypes have collapsed, that is, consist of more than half of them; the score (Dice, AUROC) of the supernet's weights
in the genotype, and of the genotype trained from scratch. Finished runs in FOLDER are kept.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import note
from numpy.typing import NDArray
from torch import Tensor, nn

import medarts
from medarts.data.store import ImageStore
from medarts.nas.guard import free_share
from medarts.spaces import space_of
from medarts.spaces.genotype import Genotype

SIZE, SEEDS = 32, range(5)
DISTANCE = 8
"""Between a disc and its satellite, and between the discs of a pair, in pixels."""


# --- operations that learn nothing -------------------------------------------------------------------------------


class Noise(nn.Module):
    """Noise of spread 1 in place of what it reads (S4 of RobustDARTS, arXiv 1909.09656)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x_bchw: Tensor) -> Tensor:
        b, c, h, w = x_bchw.shape
        return torch.randn(b, c, round(h * self.scale), round(w * self.scale))


class Repeat(nn.Module):
    """Doubles the size without parameters."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        return torch.relu(x_bchw).repeat_interleave(2, 2).repeat_interleave(2, 3)


def noise(channels: int, settings: Any) -> nn.Module:
    return Noise()


def down_noise(channels: int, settings: Any) -> nn.Module:
    return Noise(0.5)


def up_noise(channels: int, settings: Any) -> nn.Module:
    return Noise(2.0)


def up_repeat(channels: int, settings: Any) -> nn.Module:
    return Repeat()


def noise_of_stride(channels: int, stride: int, settings: Any) -> nn.Module:
    return Noise(1 / stride)


for kind, builder in (("normal", noise), ("down", down_noise), ("up", up_noise), ("up", up_repeat)):
    medarts.register_operation("nas-wdan", kind, builder.__name__, builder, free=True)
for kind in ("normal", "reduce"):
    medarts.register_operation("darts", kind, "noise", noise_of_stride, free=True)


# --- images ------------------------------------------------------------------------------------------------------


def satellites(number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns images of two discs each, and the mask of those with a satellite on the left."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = 0.3 + 0.02 * generator.normal(size=(number, SIZE, SIZE))
    masks = np.zeros((number, SIZE, SIZE), bool)
    for place in range(number):
        for row in (9, 23):
            side = int(generator.integers(2))
            cy, cx = row + generator.uniform(-2, 2), generator.uniform(13, 19)
            disc = np.hypot(y - cy, x - cx) < 4
            away = DISTANCE if side else -DISTANCE
            satellite = np.hypot(y - cy - generator.uniform(-1, 1), x - cx - away) < 1.8
            images[place] += 0.6 * disc + 0.3 * satellite
            if side == 0:
                masks[place] |= disc
    return images.clip(0, 1).astype(np.float32), masks


def pairs(number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns images of a pair of discs each, and whether it is side by side, or one above the other, (N, 2)."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = 0.3 + 0.06 * generator.normal(size=(number, SIZE, SIZE))
    labels = np.zeros((number, 2), np.uint8)
    for place in range(number):
        stacked = int(generator.integers(2))
        labels[place, stacked] = 1
        cy, cx = generator.uniform(10, 22, 2)
        for half in (-DISTANCE / 2, DISTANCE / 2):
            py, px = (cy + half, cx) if stacked else (cy, cx + half)
            images[place] += 0.5 * (np.hypot(y - py, x - px) < 2)
    return images.clip(0, 1).astype(np.float32), labels


# --- searches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A space: its recipe, its images, and two uniform networks by the operation of each set."""

    space: str
    recipe: dict[str, Any]
    store: ImageStore
    convolutions: dict[str, str]
    identities: dict[str, str]


SAME = {"augmentation": {"flip": False, "transpose": False, "brightness": 0.0, "shift": 0.0}}
"""A mirrored image would be another."""

ON_CPU = {"threads": 1, "device": "cpu"}


def nas_wdan() -> Case:
    images, masks = satellites(240)
    operations = {
        "normal": ["identity", "noise", "dil_conv"],
        "down": ["avg_pool", "down_noise", "down_dil_conv"],
        "up": ["up_repeat", "up_noise", "up_dil_conv"],
    }
    recipe = {
        "data": SAME,
        "space": {"init_channel": 4, "double_down_channel": False, "intermediate_nodes": 2, "operations": operations},
        "search": {
            "stages": [{"depth": 3, "epochs": 7, "batch": 8}],
            "loss": "bce_dice",
            "lr": 0.025,
            "arch_lr": 0.1,
            "arch_after": 3,
            "mixing": {"alpha": 0.0},
        },
        "derive": {"paths": "all"},
        "train": {"epochs": 6, "batch": 8, "optimizer": "adamw", "lr": 3e-3, "norm": "batch"},
        "compute": ON_CPU,
    }
    convolutions, identities = ({kind: names[place] for kind, names in operations.items()} for place in (2, 0))
    store = medarts.from_arrays(images, masks, fractions=(0.2, 0.2))
    return Case("nas-wdan", recipe, store, convolutions, identities)


def darts() -> Case:
    images, labels = pairs(600)
    names = ["skip_connect", "noise", "sep_conv_3x3"]
    recipe = {
        "data": SAME,
        "space": {
            "name": "darts", "stem": "cifar", "search_channel": 4, "init_channel": 4, "layers": 4,
            "intermediate_nodes": 2, "drop_path_prob": 0.0, "operations": {"normal": names, "reduce": names},
        },
        "search": {
            "stages": [{"depth": 4, "epochs": 8, "batch": 16}], "lr": 0.05, "arch_lr": 0.03, "arch_after": 0,
        },
        "train": {"epochs": 8, "batch": 16, "optimizer": "adamw", "lr": 5e-3, "schedule": "cosine"},
        "compute": ON_CPU,
    }  # fmt: skip
    store = medarts.from_arrays(images, labels, findings=["side by side", "stacked"], fractions=(0.2, 0.2))
    kinds = ("normal", "reduce")
    return Case("darts", recipe, store, dict.fromkeys(kinds, names[-1]), dict.fromkeys(kinds, names[0]))


METHODS = {
    "plain": [],
    "guard (roll_back)": ["search.guard={}"],
    "perturbation, alphas frozen": [
        "search.lr=0.1", "search.stages.0.epochs=14", "search.arch_after=14",
        "derive.select={name: perturbation, batches: 4, tune: 8, lr: 1.0}",
    ],
    "auxiliary skip + beta decay": [
        "search.supernet.auxiliary_skip=1.0", "search.regularizers=[{name: beta_decay, weight: 5.0}]",
    ],
}  # fmt: skip
"""Name -> changes of the recipe. A selection that asks the supernet needs one that has learned something, so it has
twice the epochs and a larger rate; it decides without alphas, which stay equal (DARTS-PT with fixed alphas)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    for case in (nas_wdan(), darts()):
        rows = [
            (method, [searched(case, folder, method, changes, seed) for seed in SEEDS])
            for method, changes in METHODS.items()
        ]
        any_genotype = rows[0][1][0]["genotype"]
        uniform = {
            "convolutions alone": trained(case, folder, of_one_kind(any_genotype, case.convolutions)),
            "identity alone": trained(case, folder, of_one_kind(any_genotype, case.identities)),
        }
        print(table(case.space, rows, uniform))


def searched(case: Case, folder: Path, method: str, changes: list[str], seed: int) -> dict[str, Any]:
    """Searches, unless that was done, and returns the genotype, what it consists of, and its scores."""
    words = method.replace("+", "").replace(",", "").replace("(", "").replace(")", "").split()
    path = folder / f"{case.space}-{'-'.join(words)}-seed{seed}"
    if not (path / "summary.json").exists():
        if (path / "run.json").exists():
            medarts.resume(path, data=case.store)
        else:
            medarts.search(case.recipe, data=case.store, out=path, changes=[f"seed={seed}", *changes])
    genotype = replace(medarts.load_genotype(path), name=path.name)
    found = {
        "genotype": genotype,
        "share": free_share(genotype, space_of(genotype).free),
        "discrete": json.loads((path / "summary.json").read_text(encoding="utf-8"))["discrete"],
        "trained": trained(case, folder, genotype),
    }
    note(f"{path.name}: share {found['share']:.2f}, score {found['discrete']:.3f}, trained {found['trained']:.3f}")
    return found


def trained(case: Case, folder: Path, genotype: Genotype) -> float:
    """Trains a genotype, unless that was done, and returns its best validation score."""
    path = folder / f"{genotype.name}-trained"
    if not (path / "summary.json").exists():
        if (path / "run.json").exists():
            medarts.resume(path, data=case.store)
        else:
            medarts.train(genotype, case.recipe, data=case.store, out=path)
    return float(json.loads((path / "summary.json").read_text(encoding="utf-8"))["best_score"])


def of_one_kind(genotype: Genotype, names: dict[str, str]) -> Genotype:
    """Returns a genotype with one operation of each set on all edges."""
    resizing = {"down", "up"}
    cells = {
        kind: tuple(
            tuple((names["normal" if kind in resizing and state != 1 else kind], state) for _, state in node)
            for node in cell
        )
        for kind, cell in genotype.cells.items()
    }
    return replace(genotype, cells=cells, name=f"{genotype.space}-{names['normal']}")


def table(space: str, rows: list[tuple[str, list[dict[str, Any]]]], uniform: dict[str, float]) -> str:
    lines = [
        f"{space}; trained: " + ", ".join(f"{name} {score:.3f}" for name, score in uniform.items()),
        "",
        "| method | share that learns nothing | collapsed | discretised score | trained |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method, found in rows:
        share, discrete, score = (np.array([one[key] for one in found]) for key in ("share", "discrete", "trained"))
        lines.append(
            f"| {method} | {share.mean():.2f} ({share.min():.2f} to {share.max():.2f}) "
            f"| {(share > 0.5).sum()} of {len(found)} | {discrete.mean():.3f} | {score.mean():.3f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
