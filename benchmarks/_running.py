"""What benchmarks share that run the program: `medarts`, and `note` for how far they are."""

import os
import subprocess
import sys
from pathlib import Path


def medarts(*words: object) -> None:
    """Runs the program of this environment; a failure ends the benchmark with what it said."""
    program = Path(sys.executable).with_name("medarts")
    ended = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode:
        raise SystemExit(f"medarts {' '.join(map(str, words))} failed: {ended.stderr}")


def note(text: str) -> None:
    """Prints a line beside the results."""
    print(text, file=sys.stderr, flush=True)
