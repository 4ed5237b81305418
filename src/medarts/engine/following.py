"""Runs of other processes, followed by their journals: a line for every epoch that they have done, and in long ones.

It is for a process that waits for others and has no terminal: there a bar shows how far all of them are.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medarts.engine.directory import RunDirectory, is_begun, own_epochs_done
from medarts.errors import MedartsError
from medarts.system.console import MOST_SECONDS_A_LINE, Bar, has_lines, in_words, inform


@dataclass(frozen=True, slots=True)
class Followed:
    """A run that another process is at.

    Attributes:
        name: of the run in lines.
        path: its folder.
        epochs: in all, of the stages of a search together.
    """

    name: str
    path: Path
    epochs: int


class Follower:
    """Tells what runs have done since it looked last.

    Args:
        runs: runs that may be at work; what they have done by now is not told.
        bar: of the epochs of all of them; it is moved on before `tell` is called.
    """

    def __init__(self, runs: Iterable[Followed], bar: Bar) -> None:
        self._runs, self._bar = list(runs), bar
        self._told = {run.path: own_epochs_done(run.path) for run in self._runs} if has_lines() else {}
        self._last_line = time.monotonic()

    def follow(self, runs: Iterable[Followed]) -> None:
        """Follows further runs too, from their first epoch on; those that are followed already stay as they are."""
        for run in runs if has_lines() else ():
            if run.path not in self._told:
                self._runs.append(run)
                self._told[run.path] = 0

    def tell(self) -> None:
        """Writes a line for every new epoch of every run, else one a minute; nothing on a terminal."""
        if not has_lines():
            return
        for run in self._runs:
            if own_epochs_done(run.path) > self._told[run.path] and is_begun(run.path):
                with suppress(MedartsError):  # whoever needs the run will say what is damaged
                    self._tell_run(run)
        if time.monotonic() - self._last_line >= MOST_SECONDS_A_LINE:
            self._last_line = time.monotonic()
            inform(f"at work: {self._bar.words('epoch')}")

    def _tell_run(self, run: Followed) -> None:
        directory = RunDirectory(run.path)
        metrics, timing = (directory.read_journal(f"{name}.jsonl") for name in ("metrics", "timing"))
        for number in range(self._told[run.path], min(len(metrics), len(timing))):
            self._told[run.path] = number + 1
            line = metrics[number]
            score = next(key for key in line if key.startswith("val_") and key != "val_loss" and "_by_" not in key)
            journals = {"metrics.jsonl": line, "timing.jsonl": timing[number]}
            self._last_line = time.monotonic()
            inform(epoch_line(run.name, number + 1, run.epochs, journals, score, left=self._bar.left))


def epoch_line(
    name: str, epoch: int, epochs: int, journals: Mapping[str, Mapping[str, Any]], score: str, *, left: float | None
) -> str:
    """Returns the line that tells an epoch where there is no progress bar.

    Args:
        name: of the work.
        epoch: the one that is done, from 1 on.
        epochs: in all.
        journals: its lines of metrics.jsonl and timing.jsonl.
        score: key of the validation score.
        left: seconds until the work is done; None where that is not known.
    """
    metrics, seconds = journals["metrics.jsonl"], journals["timing.jsonl"]["seconds"]
    loss = metrics.get("train_loss")
    parts = [f"loss {loss:.3f}"] * isinstance(loss, float) + [
        f"{score} {_shown(metrics.get(score))}",
        in_words(seconds),
    ]
    parts += [] if left is None else [f"about {in_words(left)} left"]
    return f"{name} epoch {epoch}/{epochs}: {', '.join(parts)}"


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "undefined"
