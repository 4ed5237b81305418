"""What a training run has trained."""

from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.models import Architecture, network_of, without_weights
from medarts.network import Network
from medarts.spaces.genotype import load_genotype


def architecture_of(run: RunDirectory) -> Architecture:
    """Returns what a training run trains."""
    return run.recipe.train.model or load_genotype(run.path)


def load_network(run: RunDirectory, kind: str = "best") -> Network:
    """Returns the network of a training run with the weights of a checkpoint.

    Raises:
        RunError: there is no checkpoint yet.
    """
    point = checkpoint_of(run, kind)
    network = network_of(run.recipe, without_weights(architecture_of(run)))
    network.load_state_dict(point.weights)
    return network


def checkpoint_of(run: RunDirectory, kind: str = "best") -> Checkpoint:
    """Returns a checkpoint of a training run: "best", by the validation score, or "last".

    Raises:
        RunError: there is none yet.
    """
    point = checkpoint.load(run.checkpoints, kind)
    if point is None:
        raise RunError(f"{run.path} has no checkpoint yet.", fix=f"Train it: medarts train --resume {run.path}")
    return point
