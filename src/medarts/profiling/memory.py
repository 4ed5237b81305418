"""How much memory inference takes on the CPU: the peak of a process that does nothing else.

The peak counts what is in use at once: weights in the form that runs, the batch, feature maps, and what the libraries
need beside them. Not counted are Python and its libraries, the form of training where another one runs, and memory
that the C library keeps after it was freed, which tells of what ran before rather than of the network.
"""

import ctypes
import gc
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medarts.system.process import in_new_process

Form = Callable[[Tensor], object]
"""A network as it runs, which takes images BCHW."""

PASSES = 3

# Parameters of mallopt, from malloc.h: from which size on freed memory goes back to the kernel, in bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 64 * 2**10

_CLEAR = Path("/proc/self/clear_refs")
"""Takes the 5 that sets the peak of the resident memory back to what it is now (proc(5)); some containers forbid it."""


def peak_of_inference_mb(build: Callable[[], Form], *, shape: tuple[int, int, int, int], threads: int) -> float:
    """Returns the peak memory in MB (10^6 bytes) of passes in a new process, above what it held before the network.

    On Linux that is the peak of the resident memory while the passes run, after a first network and pass that load what
    is loaded once. Elsewhere, and where the system does not let a process set its peak back, it is how far the peak
    rises from before the network: loading and building then count too, as far as they rise above the imports.

    Args:
        build: makes the network, on the CPU; can be pickled.
        shape: of the images, BCHW, in float32.
        threads: threads of the CPU.

    Raises:
        MemoryError: there is not enough.
        MedartsError: of ``build``.
    """
    return in_new_process(_Passes(build, shape, threads))


@dataclass(frozen=True, slots=True)
class _Passes:
    """What the process does."""

    build: Callable[[], Form]
    shape: tuple[int, int, int, int]
    threads: int

    def __call__(self) -> float:
        torch.set_num_threads(self.threads)
        _return_freed_memory()
        if _begin_new_peak():
            self._run(self.build(), passes=1)  # loads what is loaded with the first pass of such a network
            _begin_new_peak()
        before = _memory_mb("VmRSS")
        network = self.build()
        _begin_new_peak()  # what building took beside the network does not count
        self._run(network, passes=PASSES)
        return _memory_mb("VmHWM") - before

    def _run(self, form: Form, *, passes: int) -> None:
        images = torch.rand(self.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            for _ in range(passes):
                form(images)


def _return_freed_memory() -> None:
    """Has glibc give freed memory back to the kernel at once; by default it keeps what it thinks it will need again."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _LARGE)


def _begin_new_peak() -> bool:
    """Drops what nobody needs any more, and has the peak begin anew; returns whether the system allows that."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if not _CLEAR.exists():
        return False
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except PermissionError:
        return False
    return True


def _memory_mb(field: str) -> float:
    """Returns a field of the process's status, VmHWM for the peak, VmRSS for now; off Linux its peak for either."""
    status = Path("/proc/self/status")
    if not status.exists():
        from medarts.engine.device import peak_memory_mb

        return peak_memory_mb(torch.device("cpu"))
    kibibytes = status.read_text(encoding="ascii").partition(f"{field}:")[2].split()[0]
    return int(kibibytes) * 1024 / 1e6
