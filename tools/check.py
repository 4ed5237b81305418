"""Runs every check of the project, on any system: `python tools/check.py` in an environment with the dev extra.

`make test` calls it after setting up an environment, and so does the workflow; the commands are listed here alone.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

CHECKS = (
    "ruff check .",
    "ruff format --check .",
    "mypy",
    "lint-imports",
    "pytest -n auto --dist loadfile --no-loadscope-reorder",  # tests/conftest.py has an order
)


def main() -> int:
    """Runs the checks in turn and stops at the first that fails; returns its exit status."""
    scripts = sysconfig.get_path("scripts")
    # pytest starts a process for each core. With more than one thread each, they would wait for each other.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", "")])
    for check in CHECKS:
        print(f"$ {check}", flush=True)
        name, *options = check.split()
        status = subprocess.run([Path(scripts, name), *options], env=environment, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
