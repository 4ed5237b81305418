"""Metrics as TensorBoard events, for those who watch them there; the run's own record is metrics.jsonl."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medarts.errors import RecipeError


def require_tensorboard() -> None:
    """Refuses a recipe that asks for TensorBoard where it is not installed.

    Raises:
        RecipeError: the extra is missing.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise RecipeError(
            "compute.tensorboard needs the package tensorboard.", fix="pip install 'medarts[tensorboard]'"
        )


def write_events(folder: Path, record: Mapping[str, Any], *, step: int) -> None:
    """Appends the numbers of a record; those of a mapping inside it are named with a slash.

    Args:
        folder: of the events.
        record: as in metrics.jsonl.
        step: epochs done in the whole run.
    """
    from torch.utils.tensorboard import SummaryWriter

    # A writer an epoch: what a killed run had written beyond its checkpoint is purged when the epoch is done again.
    with SummaryWriter(str(folder), purge_step=step) as writer:
        for name, value in _numbers(record):
            writer.add_scalar(name, value, step)


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
