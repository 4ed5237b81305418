"""The point from which a run goes on: its last whole checkpoint, and what does not fit into it."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_fabric import Fabric

from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.system.console import inform
from medarts.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = TypeVar("State", bound="DataclassInstance")


def load_point(run: RunDirectory, *, fabric: Fabric) -> Checkpoint | None:
    """Returns the last whole checkpoint and cuts the journals back to it; None if there is none yet.

    Raises:
        RunError: no checkpoint is whole or fits this medarts; or a journal has lost or changed lines.
    """
    point = checkpoint.load(run.checkpoints, "last")
    if point is None:
        run.cut_journals({})
        return None
    for path in point.damaged:
        inform(f"Checkpoint {path} is damaged; the run resumes from the one before, {point.path}.")
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
            fix="Use the version of medarts that wrote it, see run.json; or start a new run.",
        ) from error


def restored(kind: type[State], values: Mapping[str, Any]) -> State:
    """Returns a loop state from its values.

    Raises:
        ValueError: they are not those of its fields.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    if set(values) != fields:
        raise ValueError(f"{', '.join(sorted(set(values) ^ fields))} of the loop state")
    return kind(**values)
