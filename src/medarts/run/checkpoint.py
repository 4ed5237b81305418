"""Checkpoints that are whole or absent.

A checkpoint is a folder, written under another name, flushed to the disk, and renamed when complete. A process
that is killed, or a disk that fills up, while one is written leaves the one before it untouched.
"""

import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medarts.errors import RunError

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
UNFINISHED = ".unfinished-"

# Bytes that are no checkpoint lead the unpickler astray in many ways.
_DAMAGED = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError, safetensors.SafetensorError
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A point from which a job goes on.

    Attributes:
        weights: tensors of the model.
        state: everything else, of plain values and tensors (optimizers, counters).
    """

    weights: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, kind: str, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint of a kind ("last", "best") and then removes the older ones of that kind.

    Raises:
        RunError: the disk is full or cannot be written; the checkpoint before stays.
    """
    number = max((_number(path) for path in _all(folder, kind)), default=-1) + 1
    unfinished = folder / f"{UNFINISHED}{kind}-{number:06d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
        save_file(tensors, unfinished / WEIGHTS)
        torch.save(checkpoint.state, unfinished / STATE)
        for path in (unfinished / WEIGHTS, unfinished / STATE, unfinished):
            _flush(path)
        unfinished.rename(folder / f"{kind}-{number:06d}")
        _flush(folder)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RunError(
            f"The checkpoint in {folder} could not be written ({error}); the one before it is whole.",
            fix="Make room on the disk, then resume the run.",
        ) from error
    for path in _all(folder, kind):
        if _number(path) < number:
            shutil.rmtree(path)


def load(folder: Path, kind: str) -> Checkpoint | None:
    """Returns the newest checkpoint of a kind, or None where there is none yet.

    Nothing is tidied up, as another process may be writing the next one; ``save`` overwrites what a killed one left.

    Raises:
        RunError: its files are damaged.
    """
    found = _all(folder, kind)
    if not found:
        return None
    newest = max(found, key=_number)
    try:
        state = torch.load(newest / STATE, weights_only=True, map_location="cpu")
        return Checkpoint(load_file(newest / WEIGHTS), state)
    except _DAMAGED as error:
        reason = type(error).__name__
        raise RunError(f"Checkpoint {newest} is damaged ({reason}).", fix="Copy the run again.") from error


def _all(folder: Path, kind: str) -> list[Path]:
    return list(folder.glob(f"{kind}-[0-9]*"))


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
