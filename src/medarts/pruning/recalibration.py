"""Running statistics of batch norms after a cut: what is left behind it has maps of other means and variances.

Source: EagleEye (Li et al. 2020, arXiv 2007.02491), section 3: statistics taken anew on training images show what a cut
network is worth; with the old ones a network that loses nothing else can be as bad as a random one.
"""

from typing import Any

import torch

from medarts.network import Network
from medarts.system.randomness import seed_of
from medarts.training.trainer import Training

BATCHES = 30
"""Training batches whose statistics are averaged for a cut network; an epoch where that is shorter."""


@torch.no_grad()
def recalibrate(training: Training, network: Network, *, batches: int = BATCHES) -> None:
    """Takes the running statistics of a network anew, in place; it is in evaluation mode afterwards.

    Norms that are not run in evaluation mode, as those of an auxiliary head, keep theirs.

    Args:
        training: gives the images, in batches and augmented as in its steps.
        network: on the device of the training.
        batches: training batches, at most.
    """
    network.eval()
    norms = _norms(network)
    if not norms:
        return
    recipe, momenta = training.recipe, [norm.momentum for norm in norms]
    order = training.training.order(0, seed=recipe.seed, sampling=recipe.data.sampling)
    parts = 0
    try:
        for norm in norms:
            norm.train()
        for step in range(min(batches, training.steps)):
            seed = seed_of(recipe.seed, "statistics", step)
            data = recipe.data
            batch = training.training.training(order, step, settings=data.augmentation, seed=seed, resize=data.resize)
            for images in batch.images.chunk(recipe.train.accumulate):
                parts += 1
                for norm in norms:
                    norm.momentum = 1 / parts  # the mean of all so far; the first replaces what was there
                network(images, all_heads=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()


def _norms(network: Network) -> list[Any]:
    """Returns the modules with running statistics, whatever their class."""
    return [module for module in network.modules() if getattr(module, "running_mean", None) is not None]
