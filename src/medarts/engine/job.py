"""What search and training share: gradients, saving, going on, stopping, and noticing a loss that is not finite."""

import dataclasses
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import DivergedError, RunError
from medarts.system.console import inform
from medarts.system.memory import is_out_of_memory
from medarts.system.process import InterruptedRunError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Place = TypeVar("Place", bound="DataclassInstance")
"""Where a job stands."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a job will take, from a few of its steps.

    Attributes:
        parameters: trainable weights.
        seconds: time of the whole job.
        memory_mb: peak memory so far, of the GPU where one is used, else resident.
        accumulate: parts into which its batches are split.
        images_at_once: images of the largest part.
    """

    parameters: int
    seconds: float
    memory_mb: float
    accumulate: int
    images_at_once: int


def median_seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Returns the median time of some work, after one pass that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def backward(fabric: Fabric, losses: Iterable[Tensor]) -> float:
    """Adds the gradient of a sum of losses, and returns the sum.

    Args:
        fabric: does the backward passes in the run's precision.
        losses: of the parts of a batch. Each is taken only when the gradient of the one before it is done: where a
            generator makes them, the activations of no two parts are in memory together.
    """
    total = 0.0
    for loss in losses:
        fabric.backward(loss)
        total += float(loss.detach())
    return total


def save_point(
    run: RunDirectory,
    model: nn.Module,
    state: dict[str, Any],
    *,
    fabric: Fabric,
    place: checkpoint.Place,
    where: str,
    kind: str = "last",
) -> None:
    """Saves a point to go on from, with the lengths and digests of the journals at that moment.

    Args:
        run: the run.
        model: the model whose tensors are saved.
        state: everything else.
        fabric: holds the state of mixed precision.
        place: where the job stands.
        where: the same, in words for errors.
        kind: "last" or "best".

    Raises:
        DivergedError: a weight is no longer finite; the point before stays.
        RunError: the disk is full; the point before stays.
    """
    weights: dict[str, Tensor] = model.state_dict()
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            diverged(run, f"weight {name}", where)
    precision = fabric.strategy.precision.state_dict()
    everything = {**state, "journals": run.journal_lengths(), "digests": run.journal_digests(), "precision": precision}
    checkpoint.save(run.checkpoints, kind, Checkpoint(weights, everything), place=place)


def load_point(run: RunDirectory, *, fabric: Fabric) -> Checkpoint | None:
    """Returns the last whole point saved and cuts the journals back to it; None where there is none yet.

    Raises:
        RunError: there are points, but none is whole or fits this medarts; or a journal has lost or changed lines.
    """
    point = checkpoint.load(run.checkpoints, "last")
    if point is None:
        run.cut_journals({})
        return None
    for path in point.damaged:
        inform(f"Checkpoint {path} is damaged; the run goes on from the one before, {point.path}.")
    with restoring(point):
        run.cut_journals(point.state["journals"], point.state["digests"])
        fabric.strategy.precision.load_state_dict(point.state["precision"])
    return point


@contextmanager
def restoring(point: Checkpoint) -> Iterator[None]:
    """Names a checkpoint in what goes wrong while a job takes its state from it.

    Raises:
        RunError: it has other fields or tensors than this medarts writes for such a run.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(
            f"Checkpoint {point.path} does not fit its run ({reason}).",
            fix="Use the medarts that wrote it, see run.json; or begin a new run.",
        ) from error


def restored(kind: type[Place], values: Mapping[str, Any]) -> Place:
    """Returns a place from its values.

    Raises:
        ValueError: they are not those of its fields.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    if set(values) != fields:
        raise ValueError(f"{', '.join(sorted(set(values) ^ fields))} of the place")
    return kind(**values)


def check_finite(run: RunDirectory | None, value: float, *, name: str, place: str) -> None:
    """Stops a run whose loss is no longer finite.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    if not math.isfinite(value):
        diverged(run, f"{name} {value}", place)


def diverged(run: RunDirectory | None, what: str, place: str) -> NoReturn:
    """Raises the error of a run that has diverged."""
    name = f"The run {run.path}" if run is not None else "The trial"
    kept = run is not None and run.checkpoints.exists()
    raise DivergedError(
        f"{name} diverged: {what} is not finite at {place}." + kept * " The last good checkpoint was kept.",
        fix="Lower the learning rate or the clipping norm, or use fp32, and start again.",
    )


def leave(run: RunDirectory, command: str) -> NoReturn:
    """Raises the end of a run that was asked to stop and has been saved."""
    raise InterruptedRunError(
        f"Stopped; {run.path} is saved.", fix=f"Go on with: {command} --resume {shlex.quote(str(run.path))}"
    )
