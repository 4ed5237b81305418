"""What is kept in the user's cache folder, in databases whose loss costs time alone."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def user_cache() -> Path:
    """Returns the user's cache folder of medarts, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medarts"


def ask(database: Path, work: Callable[[sqlite3.Connection], T], *, table: str) -> T | None:
    """Returns what a database answers in one transaction, None where it cannot: what it kept is then made again.

    A damaged database is removed. One that is locked for long, or in a folder that cannot be written, is left alone.

    Args:
        database: its file, which need not exist.
        work: asks it.
        table: name and columns of its table, which is created where it is missing.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            return work(connection)
    except (sqlite3.OperationalError, OSError):
        return None
    except sqlite3.DatabaseError:
        with contextlib.suppress(OSError):
            database.unlink(missing_ok=True)
        return None
