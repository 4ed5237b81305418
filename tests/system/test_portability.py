"""Every module can be imported where there is nothing of POSIX but what Python has everywhere."""

import pkgutil
from pathlib import Path

from tests.processes_of_tests import run_script

import medarts

BLOCKED = ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty")

SCRIPT = """
import importlib, os, signal, sys

# What other libraries need of them is imported first, as on Windows they have their own ways.
import filelock, torch, lightning_fabric, kornia, PIL.Image, matplotlib.figure, pandas, scipy.stats, rich, tyro, yaml
import tifffile, nibabel, pydicom, multiprocessing.resource_tracker, multiprocessing.popen_spawn_posix
import tempfile, shutil, psutil

# The process that this one is forked from has imported medarts with POSIX.
for name in [name for name in sys.modules if name.partition(".")[0] == "medarts"]:
    del sys.modules[name]
for name in {blocked!r}:
    sys.modules[name] = None  # importing it fails
for name in ("pthread_sigmask", "SIGHUP", "SIGKILL", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK", "SIGBUS"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fork", "setpgid", "getpgid", "killpg", "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY",
             "getuid", "geteuid", "mkfifo", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)
sys.platform = "win32"
for name in {modules!r}:
    importlib.import_module(name)
print("imported", len({modules!r}))
"""


def test_every_module_can_be_imported_without_posix(tmp_path: Path) -> None:
    modules = [
        module.name for module in pkgutil.walk_packages(medarts.__path__, "medarts.") if "__main__" not in module.name
    ]
    (tmp_path / "script.py").write_text(SCRIPT.format(blocked=BLOCKED, modules=modules), encoding="utf-8")
    status, output, errors = run_script(tmp_path / "script.py", folder=tmp_path)
    assert status == 0, errors
    assert output.strip() == f"imported {len(modules)}"
    assert len(modules) > 50
