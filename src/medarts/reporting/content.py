"""What the parts of the page read, and how they write numbers."""

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medarts.errors import RunError
from medarts.metrics import metric
from medarts.registry import metrics
from medarts.system.files import open_table, read_whole

Content = dict[str, Any]

_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, StopIteration, EOFError,
    RecursionError, csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading something else than what was written leads to."""


@contextmanager
def reading(path: Path, *, fix: str) -> Iterator[None]:
    """Names a file, or a folder of files, in the errors of what is made of its content."""
    try:
        yield
    except RunError:
        raise
    except FileNotFoundError as error:
        raise RunError(f"{error.filename or path} is missing.", fix=fix) from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path} is damaged ({type(error).__name__}: {reason}).", fix=fix) from error


def read_json(path: Path) -> Content:
    """Returns a JSON file that holds an object."""
    content = json.loads(read_whole(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table by column."""
    with open_table(path) as file:
        rows = list(csv.DictReader(file, strict=True))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"a line of {path.name} has more or fewer cells than its first")
    return rows


def label_of(key: str) -> str:
    """Returns what a metric is called on pages: its title, or its key in words where it is not registered.

    >>> label_of("val_dice"), label_of("hd95"), label_of("my_metric")
    ('Dice', 'HD95', 'my metric')
    """
    name = key.removeprefix("val_")
    return metric(name).title if name in metrics else name.replace("_", " ")


def decimals(value: float | None) -> str:
    """Writes a score; a dash where it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def significant(value: float) -> str:
    """Writes a number with three significant digits, or all digits before the point.

    >>> [significant(value) for value in (1234.5, 97.04, 2.158, 0.05127, 0.000123, 0)]
    ['1,234', '97.0', '2.16', '0.0513', '0.000123', '0']
    """
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 9.996 is 10.0, not 10.00
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def p_text(value: float) -> str:
    """Writes a p value.

    >>> [p_text(value) for value in (0.0312, 0.0004)]
    ['0.031', '<0.001']
    """
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """Writes a number of things whose plural ends in s.

    >>> counted(1, "patient"), counted(1200, "image")
    ('1 patient', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def share(part: int, whole: int) -> str | None:
    """Writes a part as per cent of the whole; None where there is nothing to be a part of."""
    return f"{100 * part / whole:.1f} %" if whole else None


def card(name: str, value: str, interval: str | None = None) -> Content:
    """Returns a number that stands at the top of the page, with its name."""
    return {"name": name, "value": value, "interval": interval}


def listed(words: list[str]) -> str:
    """Writes words as a list in a sentence: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
