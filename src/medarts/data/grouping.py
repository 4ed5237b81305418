"""Many faults of one kind in one line: how many there are, the first of them, and what they have in common."""

import re
from collections.abc import Iterable, Sequence

SHOWN = 3
"""Names in a line that sums up many."""

_NUMBER = re.compile(r"((?<![Cc]lass )(?<!\d)-?\d[\d.,]*(?<![.,])(?:e[+-]?\d+)?)")
_ANY = "…"


def kind_of(problem: str) -> str:
    """Returns what two problems have in common that differ in their numbers alone, those of classes excepted.

    >>> kind_of("holds the label 3 in 40 pixels.")
    'holds the label … in … pixels.'
    """
    return _NUMBER.sub(_ANY, problem)


def common(problems: Iterable[str]) -> str:
    """Returns problems of one kind as one: numbers that differ become "…".

    >>> common(["holds the label 3 in 40 pixels.", "holds the label 3 in 7 pixels."])
    'holds the label 3 in … pixels.'
    """
    parts = zip(*(_NUMBER.split(problem) for problem in problems), strict=True)
    return "".join(same[0] if len(set(same)) == 1 else _ANY for same in parts)


def first_of(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are.

    >>> first_of(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    mark = "; " if any("," in name for name in names[:SHOWN]) else ", "
    return mark.join(names[:SHOWN]) + more
