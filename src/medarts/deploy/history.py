"""What each source of a prediction was when it was predicted, and what was written of it: sources.jsonl.

A source whose files have another size or time of writing since is predicted again, and what was written of it is
removed first. Folders that an earlier version began have no such file; their sources count as unchanged.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from medarts.errors import RunError
from medarts.system.files import read_text, write_whole, writing

SOURCES = "sources.jsonl"

_LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class Predicted:
    """A source that was predicted.

    Attributes:
        state: of its files, see `state_of`.
        rows: that it has in predictions.csv.
        results: the other files that were written of it, relative to the folder.
    """

    state: str
    rows: int
    results: tuple[str, ...]


def state_of(paths: Iterable[Path]) -> str:
    """Returns what differs when files have changed: a digest of their names, sizes and times of writing."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
        except OSError:  # raised again when it is read
            continue
        digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _inside(name: str) -> str:
    """Returns a name of a result, which is removed where its source has changed, if it lies in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(name)
    return name


class History:
    """The file; a source is appended before its rows are, so that a kill between the two loses nothing.

    Args:
        folder: of the prediction.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / SOURCES
        self._entries: dict[str, Predicted] = {}

    def read(self) -> dict[str, Predicted]:
        """Returns the last entry of each source by its name, and removes what a kill has left half written.

        Raises:
            RunError: it is damaged, or cannot be read or written.
        """
        if not self._path.exists():
            return {}
        text = read_text(self._path, largest=_LARGEST, noun="record", error=RunError)
        whole = text[: text.rfind("\n") + 1]
        found = {}
        try:
            for line in whole.splitlines():
                entry = json.loads(line)
                found[entry.pop("image")] = Predicted(
                    entry["state"], entry["rows"], tuple(map(_inside, entry["results"]))
                )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RunError(
                f"{self._path} is damaged.", fix="Choose another folder, or start over with --force."
            ) from None
        if whole != text:
            write_whole(self._path, whole)
        self._entries = dict(found)
        return found

    def append(self, image: str, entry: Predicted) -> None:
        """Adds a source; one that was in hand at a kill, and is as it was, has its entry already.

        Raises:
            RunError: it cannot be written.
        """
        if self._entries.get(image) == entry:
            return
        with writing(self._path), self._path.open("a", encoding="ascii") as file:
            file.write(json.dumps({"image": image, **asdict(entry)}) + "\n")
        self._entries[image] = entry

    def remove_results(self, entry: Predicted) -> None:
        """Removes what was written of a source, as far as it is there.

        Raises:
            RunError: it cannot be removed.
        """
        for name in entry.results:
            path = self._folder / name
            with writing(path):
                path.unlink(missing_ok=True)
