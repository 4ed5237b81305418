"""What benchmarks share: `medarts` runs the program, `note` says how far they are, `one_message` how they failed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medarts.errors import MedartsError


def medarts(*words: object) -> None:
    """Runs the program of this environment; a failure ends the benchmark with what it said."""
    program = Path(sys.executable).with_name("medarts")
    ended = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode:
        raise SystemExit(f"medarts {' '.join(map(str, words))} failed: {ended.stderr}")


def note(text: str) -> None:
    """Prints a line beside the results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def one_message() -> Iterator[None]:
    """Ends the script with the message of an error that its user can mend, in place of a traceback."""
    try:
        yield
    except MedartsError as error:
        raise SystemExit(str(error)) from None
