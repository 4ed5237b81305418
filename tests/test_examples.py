"""Runs the scripts of examples/ as a user would, each in a process of its own, with --quick: some seconds each."""

from pathlib import Path

import pytest
from tests.processes_of_tests import run_script

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    status, output, errors = run_script(script, "--quick", folder=tmp_path)
    assert status == 0, errors
    assert output.strip(), "an example prints what it found"
