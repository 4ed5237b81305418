"""Runs every check of the project, on any system: `python tools/check.py` in an environment with the dev extra.

`make test` calls it after setting up an environment, and so does the workflow; the commands are listed here alone.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

TESTS = "pytest -n auto --dist loadfile --no-loadscope-reorder"  # tests/conftest.py has an order
CHECKS = ("ruff check .", "ruff format --check .", "lint-imports", "mypy")


def main() -> int:
    """Runs the tests, and the other checks beside them one after the other; returns the status of the first to fail.

    What a check prints is shown as a whole when it ends. One that fails ends the tests.
    """
    print(f"$ {TESTS} &", flush=True)
    tests = start(TESTS)
    try:
        for check in CHECKS:
            done = start(check, output=subprocess.PIPE)
            printed, _ = done.communicate()
            print(f"$ {check}\n{printed}", end="", flush=True)
            if done.returncode:
                return done.returncode
        return tests.wait()
    finally:
        tests.terminate()
        tests.wait()


def start(check: str, *, output: int | None = None) -> "subprocess.Popen[str]":
    """Starts a check."""
    scripts = sysconfig.get_path("scripts")
    # pytest starts a process for each core. With more than one thread each, they would wait for each other.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    # The tests start many processes, each of which would compile all that it imports.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", "")])
    name, *options = check.split()
    both = subprocess.STDOUT if output == subprocess.PIPE else None
    return subprocess.Popen(
        [Path(scripts, name), *options], env=environment, stdout=output, stderr=both, encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
