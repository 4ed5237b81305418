"""A run directory: everything that came of a recipe.

recipe.yaml        the whole recipe, defaults included
run.json           kind, environment, fingerprints, the values that decide, and what was changed when it went on
manifest.csv       the samples and their splits
metrics.jsonl      one line an epoch; equal for a resumed and an uninterrupted run
architecture.jsonl one line an epoch of a search: alphas, betas, the genotype so far
timing.jsonl       one line an epoch: seconds, what they were spent on, and peak memory
genotype.json      the genotype that was found, or that is trained
structure.json     what was cut away of a pruned network
ensemble.json      of a training of all folds: how many networks are one; folds/ has their runs
searched.txt       digests of the images that the search of its genotype has learned or chosen by
initial.safetensors  the weights that a fine-tuning begins with
pruning.json       how the network was pruned; prune.json and steps/ are of the pruning itself
checkpoints/       last, the end of the epoch before it, and best
summary.json, cost.json, calibration.json, scores/, pictures/, report.html
.lock, .owner.json while a process is at work

One process at a time writes into it. A command that only reads needs no lock: all files but the journals are replaced
as a whole, and a journal is read up to its last whole line.
"""

import hashlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medarts import __version__
from medarts.config import Recipe, fingerprint, load, to_yaml
from medarts.config.reading import deciding_values, difference_words, fingerprint_of, value_differences
from medarts.engine.facts import FORMAT, check_facts, check_file_digests, damaged_facts, file_digests
from medarts.engine.listing import change_words, listing_of, read_listing
from medarts.errors import RunError, quoted, system_fix
from medarts.system import lock
from medarts.system.files import (
    UNFINISHED,
    append_line,
    exists,
    make_folder,
    open_file,
    read_whole,
    reason_of,
    refuse_links,
    remove_empty,
    write_whole,
    writing,
)
from medarts.system.names import name_of

Record = dict[str, Any]
"""A line of a journal."""

JOURNALS = ("metrics.jsonl", "architecture.jsonl", "timing.jsonl")
_DIGESTED = ("metrics.jsonl", "architecture.jsonl")
"""Those whose bytes are equal for a resumed and an uninterrupted run; seconds are not."""

INITIAL_WEIGHTS = "initial.safetensors"
SEARCHED = "searched.txt"
_FIRST = (
    "recipe.yaml", "manifest.csv", "genotype.json", "structure.json", "ensemble.json", SEARCHED, INITIAL_WEIGHTS,
)  # fmt: skip
_BEGUN = {f"{prefix}{name}" for name in _FIRST for prefix in ("", UNFINISHED)} | {f"{UNFINISHED}run.json"} | lock.FILES
"""What a run that was killed before run.json stood may have left."""


class _Content(dict[str, Any]):
    """What a JSON file of a run says; a key that it lacks is an error that names the file."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self._path} is damaged: it lacks {key}.", fix="Copy the run again.")


class RunDirectory(os.PathLike[str]):
    """A run on disk, and a path: ``create`` a new one, ``open`` one that is there.

    Args:
        path: the folder.
        is_written: whether this process is the one that writes what a job does; others leave all as it is.
    """

    def __init__(self, path: Path, *, is_written: bool = True) -> None:
        self.path = path
        self.is_written = is_written
        self._lengths: dict[str, int] | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(
        cls,
        path: Path,
        recipe: Recipe,
        *,
        kind: str,
        data_fingerprint: str,
        files: Mapping[str, str | bytes] | None = None,
        beside: Collection[str] = (),
        **facts: Any,
    ) -> "RunDirectory":
        """Makes a run directory and stamps it.

        Args:
            path: the folder, new or empty.
            recipe: what the run does.
            kind: "search", "train" or "prune".
            data_fingerprint: of the manifest of its data.
            files: names and contents of the files it begins with, such as its manifest.
            beside: names of what may be in the folder already.
            **facts: more for run.json, such as the environment.

        Raises:
            RunError: the folder already holds something, another process is at work on it, or it cannot be written.
        """
        with cls.reserved(path, kind, beside=beside):
            run = cls(path)
            for name, content in {"recipe.yaml": to_yaml(recipe), **(files or {})}.items():
                write_whole(path / name, content)
            run.write_json(  # last: a folder with run.json has all the rest
                "run.json",
                {
                    "format": FORMAT,
                    "kind": kind,
                    "name": name_of(path),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "medarts": __version__,
                    "recipe": deciding_values(recipe),
                    "recipe_fingerprint": fingerprint(recipe),
                    "data_fingerprint": data_fingerprint,
                    "finished": False,
                    "files": file_digests(path, kind, finished=False),
                    **facts,
                },
            )
        return run

    @classmethod
    @contextmanager
    def reserved(cls, path: Path, work: str, *, beside: Collection[str] = ()) -> Iterator[None]:
        """Makes the folder of a new run and keeps other processes out of it; may be nested.

        Where no run has come of it at the end, nothing is left of it.

        Args:
            path: the folder, new or empty.
            work: what will be done there, for the message of others.
            beside: names of what may be in the folder already.

        Raises:
            RunError: the folder already holds something, another process is at work on it, or it cannot be written.
        """
        if exists(path / lock.LOCK) and not exists(path / "run.json"):
            with lock.held(path, work):  # whoever is at work there is named, rather than the files of that work
                pass
        cls.check_free(path, beside=beside)
        made = make_folder(path)
        try:
            with lock.held(path, work):
                cls.check_free(path, beside=beside)  # nobody else can have put a run there since
                yield
        finally:
            if not (path / "run.json").exists():
                remove_empty(made)

    @staticmethod
    def check_free(path: Path, *, beside: Collection[str] = ()) -> None:
        """Refuses a folder that holds something, other than a run that was killed before it began.

        Args:
            path: the folder.
            beside: names of what may be in it.

        Raises:
            RunError: it does.
        """
        known = _BEGUN | {f"{prefix}{name}" for name in beside for prefix in ("", UNFINISHED)}
        try:
            is_file = path.is_file()
            holds = path.is_dir() and any(item.name not in known for item in path.iterdir())
        except OSError as error:
            raise RunError(f"{path} could not be read ({reason_of(error)}).", fix=system_fix(error)) from error
        if is_file:
            raise RunError(f"{path} is a file.", fix="Choose a folder (out; --out on the command line).")
        if holds and (path / "run.json").exists():
            resumed = f"--resume {shlex.quote(str(path))}"
            fix = f"Choose another folder (out; --out on the command line), or resume that run ({resumed})."
            raise RunError(f"{path} already holds another run.", fix=fix)
        if holds:
            raise RunError(
                f"{path} already holds files.", fix="Choose another folder (out; --out on the command line)."
            )

    @classmethod
    def open(cls, path: Path, *, kind: str | None = None) -> "RunDirectory":
        """Opens a run directory.

        Raises:
            RunError: it is none, of another kind, or of another format.
        """
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run directory.", fix="Give the folder of a search or training run.")
        run = cls(path)
        found = run.facts["kind"]
        if kind is not None and found != kind:
            raise RunError(f"{path} is a {found} run.", fix=f"Give a {kind} run.")
        return run

    @contextmanager
    def at_work(self, work: str, *, patience: float = 0.0) -> Iterator[None]:
        """Keeps other processes from writing into the run; may be nested.

        Args:
            work: what is done, for the message of others.
            patience: seconds to wait for another process.

        Raises:
            RunError: another process is at work on it, it holds symbolic links, or it cannot be written.
        """
        refuse_links(self.path)
        with lock.held(self.path, work, patience=patience):
            yield

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            RunError: it is damaged, or of another format.
        """
        facts = self.read_json("run.json")
        check_facts(self.path / "run.json", facts)
        return facts

    @property
    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            RunError: its file was edited since the run began.
            RecipeError: its file is damaged.
        """
        recipe = self.recipe_file()
        edited = list(self.differences(recipe))
        if edited:
            raise self.was_edited(edited)
        return recipe

    def recipe_file(self) -> Recipe:
        """Reads the file of the recipe, whether or not it was edited."""
        return load(self.path / "recipe.yaml", kept=True)

    def differences(self, recipe: Recipe) -> Iterator[tuple[str, Any, Any]]:
        """Yields the values that decide the run and are others in a recipe: field, value of the run, and other.

        Raises:
            RunError: what run.json says of the run's recipe is damaged.
        """
        facts = self.facts
        if fingerprint_of(facts["recipe"]) != facts["recipe_fingerprint"]:
            raise damaged_facts(self.path / "run.json", "recipe")
        return value_differences(facts["recipe"], json.loads(json.dumps(deciding_values(recipe))))

    def was_edited(self, differences: Iterable[tuple[str, Any, Any]]) -> RunError:
        """Returns the error of a recipe file that differs from the recipe that the run was started with."""
        return RunError(
            f"{self.path / 'recipe.yaml'} was edited since the run began ({difference_words(differences)}).",
            fix="Restore the old values, or start a new run with the new ones.",
        )

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_unchanged(self, data_fingerprint: str, *, manifest: str = "") -> None:
        """Refuses to resume with data other than those the run began with.

        Args:
            data_fingerprint: of the data as they are now.
            manifest: their manifest as CSV, by which the error names what has changed.

        Raises:
            RunError: a file, a split or a reading rule has changed.
        """
        if data_fingerprint == self.facts["data_fingerprint"]:
            return
        changed = ""
        if manifest:
            with suppress(RunError):  # then nothing more is known
                words = change_words(read_listing(self.path / "manifest.csv"), listing_of(io.StringIO(manifest)))
                changed = f" ({words})"
        raise RunError(
            f"The data of {self.path} have changed since it began{changed}.",
            fix="Restore the files named in its manifest.csv, or start a new run.",
        )

    def check_files(self, *names: str) -> None:
        """Refuses a run of which a file that can be neither changed nor made again has changed, or is gone.

        Args:
            names: of the files, as they stand in run.json. Default: all.

        Raises:
            RunError: names the file.
        """
        digests = self.facts["files"]
        check_file_digests(self.path, {name: digests[name] for name in names or digests})

    def finish(self, **facts: Any) -> None:
        """Marks the run as finished."""
        before = self.facts
        files = file_digests(self.path, before["kind"], finished=True)
        self.write_json("run.json", {**before, **facts, "files": files, "finished": True})

    def discard(self) -> None:
        """Removes a run that has no checkpoint yet, so that its folder is free again; others stay."""
        if not self.is_written:
            return
        if self.checkpoints.exists() and any(self.checkpoints.iterdir()):
            return
        for name in ("run.json", *_FIRST, *JOURNALS):  # run.json first: without it nothing else counts
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        with suppress(FileNotFoundError):
            self.checkpoints.rmdir()

    def drop_scores(self) -> bool:
        """Removes all scores, as those of weights that are no longer there; returns whether there were any.

        Raises:
            RunError: they cannot be removed.
        """
        folder = self.path / "scores"
        if not self.is_written or not folder.is_dir():
            return False
        with writing(folder):
            shutil.rmtree(folder)
        return True

    def append(self, journal: str, record: Mapping[str, Any]) -> None:
        """Appends a line to a journal.

        Raises:
            RunError: it cannot be written, or is a symbolic link; the last checkpoint is whole.
        """
        if not self.is_written:
            return
        lengths = self.journal_lengths()
        append_line(self.path / journal, json.dumps(record))
        self._lengths = {**lengths, journal: lengths[journal] + 1}

    def journal_lengths(self) -> dict[str, int]:
        """Returns how many whole lines the journals have now."""
        if self._lengths is None:
            self._lengths = {name: sum(1 for _ in _whole_lines(self.path / name)) for name in JOURNALS}
        return dict(self._lengths)

    def journal_digests(self) -> dict[str, str]:
        """Returns the SHA-256 of the whole lines of the journals that a checkpoint vouches for."""
        return {name: _digest(_whole_lines(self.path / name)) for name in _DIGESTED}

    def cut_journals(self, lengths: Mapping[str, int], digests: Mapping[str, str] | None = None) -> None:
        """Cuts the journals back to where a checkpoint was made; what came later is done again.

        Args:
            lengths: lines to keep, by the journal; none of those that are not named.
            digests: of these lines, as ``journal_digests`` returned them; those that are not named are not checked.

        Raises:
            RunError: a journal has lost or changed lines since, or cannot be written.
        """
        if not self.is_written:
            return
        for name in JOURNALS:
            path, wanted = self.path / name, lengths.get(name, 0)
            kept = [line for line, _ in zip(_whole_lines(path), range(wanted), strict=False)]
            if len(kept) < wanted:
                raise RunError(f"{path} lacks lines of finished epochs.", fix="Copy the run again.")
            if _digest(kept) != (digests or {}).get(name, _digest(kept)):
                raise RunError(f"{path} is damaged: a line is not as the run wrote it.", fix="Copy the run again.")
            size = sum(map(len, kept))
            if path.exists() and path.stat().st_size > size:
                with writing(path):
                    os.truncate(path, size)
        self._lengths = {name: lengths.get(name, 0) for name in JOURNALS}

    def read_journal(self, name: str, *, numbers: Collection[str] = (), parts: Collection[str] = ()) -> list[Record]:
        """Returns the lines of a journal; none if there is no such file yet.

        A last line without its end is left out: the process that wrote it was killed, and that epoch is done again.

        Args:
            name: of the file.
            numbers: what every line has a number for.
            parts: what a line has named numbers for, unless an earlier version wrote it.

        Raises:
            RunError: names the first line that is damaged.
        """
        path, records = self.path / name, []
        for number, line in enumerate(_whole_lines(path), 1):
            record = _parsed(path, line, where=f" in line {number}")
            for key in numbers:
                if not _is_number(record.get(key)):
                    raise self.damaged_line(name, number, f"it has no number for {key}")
            for key in parts:
                of_key = record.get(key, {})
                if not isinstance(of_key, dict) or not all(map(_is_number, of_key.values())):
                    raise self.damaged_line(name, number, f"it has no numbers for {key}")
            records.append(record)
        return records

    def damaged_line(self, name: str, number: int, reason: str) -> RunError:
        """Returns the error of a line of a journal, counted from 1."""
        return RunError(f"{self.path / name} is damaged in line {number} ({reason}).", fix="Copy the run again.")

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of the run; a key that is asked for and missing is a RunError.

        Raises:
            RunError: it cannot be read, or is not a JSON object.
        """
        path = self.path / name
        try:
            text = read_whole(path)
        except FileNotFoundError:
            raise RunError(f"{path} is missing.", fix="Copy the run again.") from None
        return _parsed(path, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the run, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        if not self.is_written:
            return
        write_whole(self.path / name, json.dumps(content, indent=1) + "\n")


def is_begun(path: Path) -> bool:
    """Whether there is a run at a path, finished or not."""
    return (path / "run.json").is_file()


def epochs_done(path: Path) -> int:
    """Returns how many epochs a run has done, which may be at work or not begun.

    A run without a journal of its own, such as a search by training, has done those of the runs in it.
    """
    if (path / "metrics.jsonl").exists():
        return own_epochs_done(path)
    return sum(own_epochs_done(journal.parent) for journal in path.glob("*/*/metrics.jsonl"))


def own_epochs_done(path: Path) -> int:
    """Returns how many epochs stand in the journal of a run; 0 where it has none."""
    journal = path / "metrics.jsonl"
    return read_whole(journal).count(b"\n") if journal.exists() else 0


def path_of(run: RunDirectory | Path | str) -> Path:
    """Returns the folder of a run.

    Raises:
        RunError: it is neither a run nor a path.
    """
    if not isinstance(run, str | os.PathLike):
        raise RunError(f"{quoted(run)} is not a run.", fix="Give a run, or its folder.")
    return Path(run)


def _parsed(path: Path, text: bytes, *, where: str = "") -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged{where} ({error}).", fix="Copy the run again.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged{where} (it is not a JSON object).", fix="Copy the run again.")
    return _Content(path, content)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digest(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _whole_lines(path: Path) -> Iterable[bytes]:
    """Yields the lines of a journal; the last one only if a newline ends it, as a killed process may have begun it."""
    if not path.exists():
        return
    with open_file(path) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
