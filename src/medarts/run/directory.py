"""A run directory: everything that came of a recipe.

recipe.yaml        the whole recipe, defaults included
run.json           kind, environment, fingerprints
manifest.csv       the samples and their splits
metrics.jsonl      one line an epoch; equal for a resumed and an uninterrupted run
architecture.jsonl one line an epoch of a search: alphas, betas, the genotype so far
timing.jsonl       one line an epoch: seconds and peak memory
genotype.json      the genotype that was found, or that is trained
checkpoints/       last and best
summary.json, cost.json, scores/, pictures/, report.html
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medarts import __version__
from medarts.errors import RunError
from medarts.recipe import Recipe, fingerprint, load, to_yaml

JOURNALS = ("metrics.jsonl", "architecture.jsonl", "timing.jsonl")

BEGUN = {
    f"{prefix}{name}" for name in ("recipe.yaml", "manifest.csv", "genotype.json") for prefix in ("", ".unfinished-")
} | {".unfinished-run.json"}
"""What a run that was killed before run.json stood may have left."""


class RunDirectory:
    """A run on disk; ``create`` a new one, ``open`` one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path,
        recipe: Recipe,
        *,
        kind: str,
        data_fingerprint: str,
        files: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> "RunDirectory":
        """Makes a run directory and stamps it.

        Args:
            path: the folder, new or empty.
            recipe: what the run does.
            kind: "search" or "train".
            data_fingerprint: of the manifest of its data.
            files: names and texts of the files it begins with, such as its manifest.
            **facts: more for run.json, such as the environment.

        Raises:
            RunError: the folder already holds something.
        """
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        for name, text in {"recipe.yaml": to_yaml(recipe), **(files or {})}.items():
            write_whole(path / name, text)
        run.write_json(  # last: a folder with run.json has all the rest
            "run.json",
            {
                "kind": kind,
                "name": path.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "medarts": __version__,
                "recipe_fingerprint": fingerprint(recipe),
                "data_fingerprint": data_fingerprint,
                "finished": False,
                **facts,
            },
        )
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuses a folder that holds something, other than a run that was killed before it began.

        Raises:
            RunError: it does.
        """
        if path.is_file() or (path.is_dir() and any(item.name not in BEGUN for item in path.iterdir())):
            if (path / "run.json").exists():
                fix = f"Give another --out, or go on with that run: --resume {path}."
                raise RunError(f"{path} already holds another run.", fix=fix)
            raise RunError(f"{path} already holds files.", fix="Give another --out.")

    @classmethod
    def open(cls, path: Path, *, kind: str | None = None) -> "RunDirectory":
        """Opens a run directory.

        Raises:
            RunError: it is none, or of another kind.
        """
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run directory.", fix="Give the folder that search or train made.")
        run = cls(path)
        found = run.facts["kind"]
        if kind is not None and found != kind:
            raise RunError(f"{path} is a {found} run.", fix=f"Give a {kind} run.")
        return run

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says."""
        return self.read_json("run.json")

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return load(self.path / "recipe.yaml")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_unchanged(self, data_fingerprint: str) -> None:
        """Refuses to go on with data other than those the run began with.

        Raises:
            RunError: a file, a split or a reading rule has changed.
        """
        if data_fingerprint != self.facts["data_fingerprint"]:
            raise RunError(
                f"The data of {self.path} have changed since it began.",
                fix="Restore the files named in its manifest.csv, or start a new run.",
            )

    def finish(self, **facts: Any) -> None:
        """Marks the run as finished."""
        self.write_json("run.json", {**self.facts, **facts, "finished": True})

    def append(self, journal: str, record: Mapping[str, Any]) -> None:
        """Appends a line to a journal.

        Raises:
            RunError: it cannot be written; the last checkpoint is whole.
        """
        with _writing(self.path / journal), (self.path / journal).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint counts on what stands here

    def journal_sizes(self) -> dict[str, int]:
        """Returns how long the journals are now, in bytes."""
        paths = {name: self.path / name for name in JOURNALS}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def truncate_journals(self, sizes: Mapping[str, int]) -> None:
        """Cuts the journals back to where a checkpoint was made; what came later is done again.

        Raises:
            RunError: a journal has lost lines since.
        """
        present = self.journal_sizes()
        for name, size in ((name, sizes.get(name, 0)) for name in JOURNALS):
            if present[name] < size:
                raise RunError(f"{self.path / name} has lost lines of epochs done.", fix="Copy the run again.")
            if present[name] > size:
                os.truncate(self.path / name, size)

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of the run.

        Raises:
            RunError: it is no JSON.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self.path / name} is damaged ({error}).", fix="Copy the run again.") from None
        return content

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the run, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        write_whole(self.path / name, json.dumps(content, indent=1) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under another name and renames it, so that it is never half there.

    Args:
        path: the file.
        content: its bytes, or its text, which is encoded as UTF-8; surrogates of file names become their bytes again.

    Raises:
        RunError: it cannot be written.
    """
    unfinished = path.with_name(f".unfinished-{path.name}")
    with _writing(path):
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogateescape"))
        unfinished.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(f"{path} could not be written ({reason}).", fix="Make room on the disk, then resume.") from error
