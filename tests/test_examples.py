"""Runs the scripts of examples/ as a user would, each in a process of its own, with --quick: some seconds each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, script, "--quick"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "an example prints what it found"


MEDARTS = """#!/bin/bash
echo "medarts $*" >> said
if [ -e out-3/run.json ]; then exit 0; fi
mkdir -p out-3
touch out-3/run.json
trap 'echo saved >> said; exit 75' TERM
touch begun
while true; do sleep 0.05; done
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm has no Windows")
def test_the_script_for_slurm_queues_a_job_again_that_was_stopped_and_goes_on(tmp_path: Path) -> None:
    """With programs of its own in place of medarts and of Slurm's."""
    script = SCRIPTS[0].with_name("slurm.sh")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    for name, text in (("medarts", MEDARTS), ("scontrol", '#!/bin/bash\necho "scontrol $*" >> said\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_GPUS_ON_NODE": "2"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for stopped in (True, False):
        process = subprocess.Popen(["bash", script, "train", "found", "out"], cwd=tmp_path, env=environment)
        until = time.monotonic() + 30
        while stopped and not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.01)
        if stopped:
            process.send_signal(signal.SIGUSR1)
        assert process.wait(30) == 0
    assert (tmp_path / "said").read_text().splitlines() == [
        "medarts train found seed=3 --out out-3 --devices 2 --requeue",
        "saved",
        "scontrol requeue 12",
        "medarts train --resume out-3 --devices 2 --requeue",
    ]
