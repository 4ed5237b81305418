"""What a training has trained: recipe, architecture and weights, whether they are in a run or came in one file."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from medarts.config import Recipe
from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint, of_weights
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.models import Architecture, network_of, without_weights
from medarts.models.ensemble import FILE as ENSEMBLE
from medarts.models.ensemble import read_ensemble
from medarts.models.pruned import FILE as STRUCTURE
from medarts.models.pruned import Pruned, read_pruned
from medarts.network import Network
from medarts.network.structure import Structure
from medarts.spaces.genotype import load_genotype


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network.

    Attributes:
        origin: where it was read from; names it in messages.
        recipe: by which it was trained, with the names of its outputs.
        architecture: what it is made by, without the weights it began with.
        weights: its tensors.
    """

    origin: str
    recipe: Recipe
    architecture: Architecture
    weights: dict[str, Tensor]

    def build(self) -> Network:
        """Returns the network with its weights.

        Raises:
            RunError: they are those of another network.
            MedartsError: this medarts cannot build the network.
        """
        network = network_of(self.recipe, self.architecture)
        put_weights(self.weights, network, self.architecture, origin=self.origin)
        return network


def put_weights(
    weights: Mapping[str, Tensor], network: Network, architecture: Architecture, *, origin: str, strict: bool = True
) -> None:
    """Puts weights into a network, in place.

    Args:
        weights: tensors by name.
        network: that takes them.
        architecture: what it was built by.
        origin: names the weights in errors.
        strict: all tensors of the network are given.

    Raises:
        RunError: they are those of another network.
    """
    try:
        network.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        pruned = isinstance(architecture, Pruned)
        restored = f"Restore the {STRUCTURE} that belongs to them, or use" if pruned else "Use"
        raise RunError(
            f"The weights of {origin} are not those of {architecture.name} ({' '.join(str(error).split())[:200]}).",
            fix=f"{restored} the version of medarts that trained it.",
        ) from None


def architecture_of(run: RunDirectory, recipe: Recipe | None = None) -> Architecture:
    """Returns what a training run trains.

    Args:
        run: the run.
        recipe: by which it goes on. Default: its own.

    Raises:
        GenotypeError, RunError: its genotype, or what was cut away of its network, is missing or damaged.
    """
    base = (recipe or run.recipe).train.model or load_genotype(run.path)
    if is_ensemble(run):
        ensemble = read_ensemble(run.path, base)
        run.check_files(ENSEMBLE)
        return ensemble
    if STRUCTURE not in run.facts["files"]:
        return base
    pruned = read_pruned(run.path, base)
    run.check_files(STRUCTURE)  # last, as all other errors say more
    return pruned


def is_ensemble(run: RunDirectory) -> bool:
    """Whether a run is that of all folds, whose network is an ensemble."""
    return ENSEMBLE in run.facts["files"]


def folds_of(run: RunDirectory) -> list[RunDirectory]:
    """Returns the trainings of the folds of a run, in their order.

    Raises:
        RunError: one is missing, or is no longer the one whose network is in the ensemble.
    """
    folds = run.recipe.data.folds or 0
    found = [RunDirectory.open(folder_of_fold(run.path, fold), kind="train") for fold in range(1, folds + 1)]
    point = checkpoint.load(run.checkpoints, "best")
    for number, fold in enumerate(found):
        if point is None:
            break
        start = member_prefix(number)
        own = {name.removeprefix(start): of for name, of in point.weights.items() if name.startswith(start)}
        if of_weights(own) != of_weights(checkpoint_of(fold).weights):
            raise RunError(
                f"{fold.path} was trained on after its network became part of {run.path}.",
                fix=f"Take over its new weights: medarts train --resume {shlex.quote(str(run.path))}",
            )
    return found


def folder_of_fold(run: Path, fold: int) -> Path:
    """Returns the folder of the training of a fold, from 1 on."""
    return run / "folds" / str(fold)


def member_prefix(member: int) -> str:
    """Returns what the names of the weights of a member of an ensemble begin with."""
    return f"members.{member}."


def structure_in(run: RunDirectory) -> Structure | None:
    """Returns what was cut away of the network of a run; None for a search, and for a network that is whole.

    Raises:
        GenotypeError, RunError: see `architecture_of`.
    """
    architecture = None if run.facts["kind"] == "search" else architecture_of(run)
    return architecture.structure if isinstance(architecture, Pruned) else None


def trained_of(run: RunDirectory, kind: str = "best") -> TrainedNetwork:
    """Returns what a training run has trained, with the weights of a checkpoint.

    Raises:
        RunError: there is no checkpoint yet.
    """
    weights = checkpoint_of(run, kind).weights
    return TrainedNetwork(str(run.path), run.recipe, without_weights(architecture_of(run)), weights)


def load_network(run: RunDirectory, kind: str = "best") -> Network:
    """Returns the network of a training run with the weights of a checkpoint.

    Raises:
        RunError: there is no checkpoint yet.
    """
    return trained_of(run, kind).build()


def checkpoint_of(run: RunDirectory, kind: str = "best") -> Checkpoint:
    """Returns a checkpoint of a training run: "best", by the validation score, or "last".

    Raises:
        RunError: there is none yet.
    """
    point = checkpoint.load(run.checkpoints, kind)
    if point is None:
        facts = run.facts
        if kind != "best" and is_ensemble(run):
            raise RunError(f"{run.path} has the best weights of every fold alone.", fix="Leave checkpoint out.")
        if facts["finished"] or facts["kind"] == "prune":  # no command trains the one before a cut by itself
            raise RunError(f"{run.path} has no checkpoint.", fix="Copy the run again.")
        fix = f"Train it: medarts train --resume {shlex.quote(str(run.path))}"
        raise RunError(f"{run.path} has no checkpoint yet.", fix=fix)
    return point
