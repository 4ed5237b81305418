"""Checkpoints that are whole or absent.

A checkpoint is a folder, written under another name, flushed to the disk, and renamed when complete. A process
that is killed, or a disk that fills up, while one is written leaves the one before it untouched.

last-000001-000012-000000  kind, and where the job was, such as stage, epoch, step
  weights.safetensors      tensors of the model
  state.pt                 everything else
  checkpoint.json          the format, and the SHA-256 of both files

Names and bytes follow from the position alone, so that they are those of a job that was never interrupted.
"""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from medarts.errors import OUT_OF_ROOM, RunError, system_fix
from medarts.system.files import UNFINISHED, flush_folder, read_whole, reason_of

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
ABOUT = "checkpoint.json"
_DIGITS = 16
FORMAT = 2
"""Raise it when what a checkpoint holds changes."""

Position = tuple[int, ...]
"""Where a job was: its steps done last, epochs and more before them."""


class _DamagedError(Exception):
    """A file is missing, or has other bytes than were written."""


@dataclass(frozen=True)
class Checkpoint:
    """A point from which a job resumes.

    Attributes:
        weights: tensors of the model.
        state: everything else, of plain values and tensors (optimizers, counters).
        path: the folder it was read from.
        damaged: newer checkpoints that could not be read.
    """

    weights: dict[str, Tensor]
    state: dict[str, Any]
    path: Path | None = None
    damaged: tuple[Path, ...] = ()


def save(folder: Path, kind: str, checkpoint: Checkpoint, *, position: Position) -> None:
    """Writes a checkpoint of a kind ("last", "best"), and then removes the older ones of that kind.

    Of "last" the one at the end of the epoch before is kept too, in case a file of the newest is damaged later.

    Args:
        folder: of the checkpoints; its parent must be there.
        kind: "last" or "best".
        checkpoint: what is written.
        position: where the job is; one of the same position is replaced.

    Raises:
        RunError: the disk is full or cannot be written; the checkpoint before stays.
    """
    target = folder / "-".join((kind, *(f"{number:06d}" for number in position)))
    unfinished = folder / f"{UNFINISHED}{target.name}"
    for leftover in folder.glob(f"{UNFINISHED}{kind}-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        folder.mkdir(exist_ok=True)  # without parents: a run that was moved away is not begun again here
        unfinished.mkdir()
        _write_all(unfinished, checkpoint)
        if target.exists():  # made again, as after a fall back to the one before
            target.rename(unfinished / "before")
        unfinished.rename(target)
        flush_folder(folder)
    except OSError as error:
        if (unfinished / "before").exists() and not target.exists():
            (unfinished / "before").rename(target)
        shutil.rmtree(unfinished, ignore_errors=True)
        needed = f"It takes {_megabytes(checkpoint):.1f} MB, and up to four are kept at a time."
        raise RunError(
            f"The checkpoint in {folder} could not be written ({reason_of(error)}); the previous one is intact.",
            fix=f"{system_fix(error)} {needed}" if error.errno in OUT_OF_ROOM else system_fix(error),
        ) from error
    shutil.rmtree(target / "before", ignore_errors=True)
    found = _all(folder, kind)
    before = max((older for older in found if older < position and older[-1] == 0), default=position)
    for other, path in found.items():
        if other != position and (kind != "last" or other != before):
            shutil.rmtree(path)


def load(folder: Path, kind: str) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a kind, or None where there is none yet.

    Nothing is tidied up, as another process may be writing the next one; ``save`` overwrites what a killed one left.

    Raises:
        RunError: all are damaged, or one may not be read, or is of another format.
    """
    found, damaged = _all(folder, kind), {}
    for position in sorted(found, reverse=True):
        path = found[position]
        try:
            weights, state = _read(path)
        except _DamagedError as error:
            damaged[path] = str(error)
        else:
            return Checkpoint(weights, state, path, tuple(damaged))
    for path, reason in damaged.items():
        raise RunError(f"Checkpoint {path} is damaged: {reason}.", fix="Copy it again, or start a new run.")
    return None


def newest(folder: Path, kind: str) -> Position | None:
    """Returns the position of the newest checkpoint of a kind, without reading it; None where there is none yet."""
    return max(_all(folder, kind), default=None)


def drop_newest(folder: Path, kind: str) -> None:
    """Removes the newest checkpoint of a kind, so that the job resumes from the one before, which is read first.

    Raises:
        RunError: the one before is missing or damaged; nothing is removed then.
    """
    found = _all(folder, kind)
    *_, before, last = None, *sorted(found)
    if before is None:
        raise RunError(f"{folder} has no checkpoint before {found[last]}.", fix="Start a new run.")
    try:
        _read(found[before])
    except _DamagedError as error:
        raise RunError(f"Checkpoint {found[before]} is damaged: {error}.", fix="Start a new run.") from None
    shutil.rmtree(found[last])


def _megabytes(checkpoint: Checkpoint) -> float:
    """Returns the size of the tensors of a checkpoint, which all but make it up."""

    def nbytes(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        return sum(map(nbytes, parts))

    return nbytes([checkpoint.weights, checkpoint.state]) / 1e6


def _all(folder: Path, kind: str) -> dict[Position, Path]:
    """Returns the checkpoints by their positions; what else lies there, such as a copy by hand, is passed over."""
    name = re.compile(rf"{kind}((?:-\d+)+)", re.ASCII)
    paths = folder.iterdir() if folder.is_dir() else ()
    matches = {path: name.fullmatch(path.name) for path in paths}
    return {tuple(map(int, match[1][1:].split("-"))): path for path, match in matches.items() if match}


def _write_all(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    state = _plain(checkpoint.state)
    digests = {
        WEIGHTS: _write(folder / WEIGHTS, lambda file: file.write(safetensors_bytes(tensors))),
        STATE: _write(folder / STATE, lambda file: torch.save(state, file)),
    }
    about = json.dumps({"format": FORMAT, "sha256": digests}, indent=1)
    _write(folder / ABOUT, lambda file: file.write(about.encode() + b"\n"))
    flush_folder(folder)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        weights, state = _contents(path)
        # From bytes: the libraries cannot open paths that are not UTF-8.
        tensors = dict(sorted(safetensors_load(weights).items()))
        return tensors, torch.load(io.BytesIO(state), weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename or path).name} is missing") from None
    except (pickle.UnpicklingError, safetensors.SafetensorError) as error:  # whole, but not what medarts writes
        raise RunError(f"Checkpoint {path} is not the checkpoint of a run.", fix="Start a new run.") from error


def _contents(path: Path) -> tuple[bytes, bytes]:
    """Returns the bytes of the weights and of the state, once they are known to be those that were written.

    Raises:
        RunError: the checkpoint is of another format.
        _DamagedError: its bytes are not those that were written.
    """
    try:
        about = json.loads(read_whole(path / ABOUT))
        written, digests = about["format"], {name: about["sha256"][name] for name in (WEIGHTS, STATE)}
    except (ValueError, LookupError, TypeError):
        raise _DamagedError(f"{ABOUT} cannot be read") from None
    if written != FORMAT:
        raise RunError(
            f"Checkpoint {path} has format {written}, but this medarts reads {FORMAT}.",
            fix="Use the version of medarts that wrote it, see run.json; or start a new run.",
        )
    contents = {name: read_whole(path / name) for name in digests}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise _DamagedError(f"{name} has other bytes than were written")
    return contents[WEIGHTS], contents[STATE]


class _Digesting:
    """A file that notes the SHA-256 of what is written into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, write: Callable[[Any], object]) -> str:
    """Writes a file through to the disk, and returns its SHA-256."""
    with path.open("xb") as file:
        digesting = _Digesting(file)
        try:
            write(digesting)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # the error of the system, under what torch made of it
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return digesting.digest.hexdigest()


def _plain(value: Any) -> Any:
    """Returns the same value in containers and strings of its own.

    A pickle notes which objects are one and the same, and that differs between values computed and values read.
    """
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return sys.intern(value) if isinstance(value, str) else value


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """Returns the digits of named tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(json.dumps([name, str(tensor.dtype), [*tensor.shape]]).encode())
        # Copied, as what has one element is contiguous whatever its strides are, and then has no view as bytes.
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]
