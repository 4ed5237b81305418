"""The one error a user sees: what was wrong, where, and what to do about it."""

import difflib
from collections.abc import Callable, Iterable
from functools import partial


class MedartsError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with status 1.

    Args:
        problem: what is wrong, naming the file or field.
        fix: what to do about it.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem} {fix}".strip())
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[Callable[..., "MedartsError"], tuple[str, str]]:
        """Lets the error cross from one process to another with its two parts."""
        return partial(_rebuild, type(self)), (self.problem, self.fix)


def _rebuild(kind: type[MedartsError], problem: str, fix: str) -> MedartsError:
    return kind(problem, fix=fix)


class DataError(MedartsError):
    """A data set or one of its files cannot be used."""


class RecipeError(MedartsError):
    """A recipe has an unknown key, a wrong value, or values that do not fit together."""


class GenotypeError(MedartsError):
    """A genotype cannot be read, or does not belong to the space it is used in."""


class RunError(MedartsError):
    """A run directory cannot be opened, resumed or written."""


class DivergedError(MedartsError):
    """The loss became NaN or infinite; the last good checkpoint was kept."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns a fix that names the nearest of ``valid``, or all of them where none is near.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    "Did you mean 'epochs'?"
    """
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"Valid here: {', '.join(choices)}."
