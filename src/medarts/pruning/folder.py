"""The folder of a pruning, which is the run of its last fine-tuning. It holds besides

    prune.json             the plan: what was asked for, of which network; the same command goes on
    pruning.json           the record, see ``record.py``
    steps/1-sparse         the training before the first cut, where the method wants one
    steps/1-fine-tuning    the training after it, where more steps follow

and so on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medarts.config.reading import difference_words, value_differences
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import damaged_facts
from medarts.errors import RunError
from medarts.pruning.record import FILE as RECORD
from medarts.system.files import exists, remove_empty
from medarts.system.process import InterruptedRunError

PLAN, STEPS = "prune.json", "steps"

ELSEWHERE = "Choose another folder (out; --out on the command line)"


class PruningFolder:
    """The folder of a pruning.

    Args:
        path: of it.
        steps: of the pruning.
        plan: what tells the pruning from others; see `medarts.pruning.request.Request.plan`.
    """

    def __init__(self, path: Path, *, steps: int, plan: Mapping[str, Any]) -> None:
        self.path, self._steps, self._plan = path, steps, plan

    def sparse(self, number: int) -> Path:
        """Returns the folder of the training before the cut of a step, from 1 on."""
        return self.path / STEPS / f"{number}-sparse"

    def fine_tuning(self, number: int) -> Path:
        """Returns the folder of the training after the cut of a step, from 1 on."""
        return self.path if number == self._steps else self.path / STEPS / f"{number}-fine-tuning"

    @contextmanager
    def at_work(self, command: str) -> Iterator[None]:
        """Keeps other processes out of the folder, which is new or one of the same pruning.

        Args:
            command: goes on with it.

        Raises:
            RunError: it is the folder of something else.
            InterruptedRunError: Ctrl-C.
        """
        with self._held():
            try:
                yield
            except KeyboardInterrupt:
                raise InterruptedRunError(
                    f"Stopped; what is finished of {self.path} is kept.", fix=f"Resume with: {command}"
                ) from None
            finally:
                self._tidy()

    def write_plan(self) -> None:
        """Writes what was asked for, once."""
        if not exists(self.path / PLAN):
            RunDirectory(self.path).write_json(PLAN, self._plan)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps other processes out of the folder; see `at_work`."""
        if exists(self.path / PLAN):
            self._check_plan()
            with RunDirectory(self.path).at_work("prune"):
                yield
        else:
            # A pruning that was killed in its first check or cut has left the folder of a training without one.
            with RunDirectory.reserved(self.path, "prune", beside=(PLAN, STEPS)):
                self._check_steps()
                yield

    def _check_steps(self) -> None:
        """Refuses trainings, or files of others, where the first training of a pruning will be.

        Raises:
            RunError: there are some.
        """
        first = [self.path / STEPS / f"1-{training}" for training in ("sparse", "fine-tuning")]
        RunDirectory.check_free(self.path / STEPS, beside=[folder.name for folder in first])
        for folder in first:
            RunDirectory.check_free(folder)

    def _check_plan(self) -> None:
        """Refuses the folder of another pruning.

        Raises:
            RunError: it is one.
        """
        found, wanted = RunDirectory(self.path).read_json(PLAN), self._plan
        if not isinstance(found["recipe"], dict):
            raise damaged_facts(self.path / PLAN, "recipe")
        if found["weights"] != wanted["weights"]:
            raise RunError(
                f"{self.path} holds a pruning of {found['source']} with other weights than those of "
                f"{wanted['source']}.",
                fix=f"{ELSEWHERE}.",
            )
        differing = value_differences(found["recipe"], wanted["recipe"])
        if others := [each for each in differing if each[0] != "train.accumulate"]:
            raise RunError(
                f"{self.path} holds a pruning by other settings ({difference_words(others)}).",
                fix=f"{ELSEWHERE}, or give the settings of that one, which then goes on.",
            )

    def _tidy(self) -> None:
        """Removes what a pruning has written of which nothing has come, so that another one can have the folder."""
        first = self.sparse(1), self.fine_tuning(1)
        if any((folder / "run.json").exists() for folder in (*first, self.path)):  # steps of a whole one may be gone
            return
        for name in (RECORD, PLAN):  # the plan last: without it nothing else counts
            (self.path / name).unlink(missing_ok=True)
        remove_empty([*(folder for folder in first if folder != self.path), self.path / STEPS])
