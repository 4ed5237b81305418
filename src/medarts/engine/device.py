"""Device and precision, through Lightning Fabric."""

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from medarts.config import ComputeSettings
from medarts.engine.events import require_tensorboard
from medarts.errors import RecipeError

# Parameters of mallopt, from malloc.h, and their values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**30
_LARGEST_OF_OLD = 32 * 2**20
_STEP = 64 * 2**20

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(settings: ComputeSettings) -> Fabric:
    """Returns a Fabric on the recipe's device and precision; sets the number of CPU threads.

    Raises:
        RecipeError: the device is not there, cannot do the precision, or TensorBoard is missing.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = settings.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        raise RecipeError(f"compute.device '{device}' is not found here.", fix="Use compute.device=auto.")
    if settings.precision == "fp16" and device != "cuda":
        raise RecipeError(f"compute.precision fp16 needs a CUDA device, not {device}.", fix="Use bf16 or fp32 there.")
    if settings.tensorboard:
        require_tensorboard()
    if device == "cuda":
        # Runs are to resume to the bit. What has no deterministic kernel is warned of, not refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # By default convolutions of fp32 would run with the 10 bits of TF32.
        torch.backends.cudnn.allow_tf32 = settings.precision != "fp32"
    if device == "cpu":
        keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return Fabric(accelerator=device, devices=1, precision=PRECISIONS[settings.precision])


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, where the C library is glibc; elsewhere nothing is done.

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


def environment(fabric: Fabric, settings: ComputeSettings) -> dict[str, str | int]:
    """Returns what a reader of a run must know of the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(fabric.device),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(fabric.device),
        "precision": settings.precision,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory of this process in MB: of the GPU where one is used, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "linux":
        # What ``resource`` knows is also the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.cpu.get_capabilities().get("cpu_name", "") or platform.processor() or platform.machine()
