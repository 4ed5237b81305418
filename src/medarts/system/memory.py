"""Memory: how much this process takes, and one clear error when it runs out, with the setting that takes less."""

import ctypes
import errno
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medarts.errors import MedartsError

# Parameters of mallopt, from malloc.h, and their values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**30
_LARGEST_OF_OLD = 32 * 2**20
_STEP = 64 * 2**20

_MESSAGES = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "could not create a memory object", "bad_alloc")
"""How PyTorch says it on the CPU, cuBLAS and cuDNN, oneDNN, and C++."""


FEWER_AT_ONCE = "Begin again with fewer images at once: evaluation.batch."
"""The fix of a validation that takes too much memory."""


class OutOfMemoryError(MedartsError):
    """Memory ran out, of the machine or of the GPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(message in str(error) for message in _MESSAGES)
    return isinstance(error, MemoryError)


@contextmanager
def memory_named(work: str, *, fix: str) -> Iterator[None]:
    """Names the work and what helps where memory runs out.

    Args:
        work: what is done, such as "training".
        fix: settings that take less memory.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"Memory ran out during {work}.", fix=fix) from error


def smaller_parts(field: str, *, accumulate: int, batch: int) -> str:
    """Returns the fix of a step that takes too much memory.

    Args:
        field: the setting, such as "train.accumulate".
        accumulate: its value.
        batch: images of a step.
    """
    if accumulate >= batch:
        return "Use smaller images (data.size) or a narrower network (space.init_channel)."
    return (
        f"Use smaller parts of a batch, such as {field}={min(batch, 2 * accumulate)}; "
        "`medarts plan RECIPE --memory-mb MB` finds how many fit."
    )


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, if its C library is glibc.

    It cannot be undone, so it is for processes that belong to medarts: the command line and those it starts.

    A step frees hundreds of large tensors and the next step wants them back. By default glibc returns each to the
    kernel, which hands it out again page by page, zeroed; that takes longer than many a convolution.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # Older versions take no larger threshold than 32 MiB. Where none is taken, the others alone would do harm.
    if library.mallopt(_MMAP_THRESHOLD, _LARGEST) or library.mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD):
        library.mallopt(_TRIM_THRESHOLD, _LARGEST)
        library.mallopt(_TOP_PAD, _STEP)


def peak_resident_mb() -> float:
    """Returns the peak of this process's resident memory in MB (10^6 bytes)."""
    if sys.platform == "linux":
        # What ``resource`` reports is also the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.partition("VmHWM:")[2].split()[0]) / 1e3
    if sys.platform == "win32":
        return _peak_of_windows() / 1e6
    import resource  # Windows has no such module

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _peak_of_windows() -> int:
    counters = _Counters(size=ctypes.sizeof(_Counters))
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return int(counters.peak_working_set)
