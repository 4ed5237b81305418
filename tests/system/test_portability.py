"""Every module can be imported where there is nothing of POSIX but what Python has everywhere."""

import pkgutil
import subprocess
import sys

import medarts

BLOCKED = ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty")

SCRIPT = """
import importlib, os, signal, sys

# What other libraries need of them is imported first, as on Windows they have their own ways.
import filelock, torch, lightning_fabric, kornia, PIL.Image, matplotlib.figure, pandas, scipy.stats, rich, tyro, yaml
import tifffile, nibabel, pydicom, multiprocessing.resource_tracker, multiprocessing.popen_spawn_posix, tempfile, shutil

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


def test_every_module_can_be_imported_without_posix() -> None:
    modules = [
        module.name for module in pkgutil.walk_packages(medarts.__path__, "medarts.") if "__main__" not in module.name
    ]
    script = SCRIPT.format(blocked=BLOCKED, modules=modules)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"imported {len(modules)}"
    assert len(modules) > 50
