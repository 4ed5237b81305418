"""Device and precision, through Lightning Fabric."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric

from medarts.config import ComputeSettings, Recipe
from medarts.data.opening import fingerprint_of_sources
from medarts.engine.tensorboard import require_tensorboard
from medarts.errors import RecipeError
from medarts.system.memory import peak_resident_mb
from medarts.system.place import place
from medarts.system.ranks import Ranks, current
from medarts.system.workers import Needs

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(settings: ComputeSettings) -> Fabric:
    """Returns a Fabric on the recipe's device and precision; sets the number of CPU threads and, on a GPU, determinism.

    These are settings of the whole process, so callers run inside `preserved_process_state`.

    Raises:
        RecipeError: the device is not there, cannot do the precision or be one of several, or TensorBoard is missing.
    """
    device, ranks = device_of(settings), current()
    if device == "mps" and ranks.size > 1:
        raise RecipeError("compute.device mps is for one process.", fix="Use compute.device=cpu, or one process.")
    if settings.precision == "fp16" and device != "cuda":
        raise RecipeError(f"compute.precision fp16 needs a CUDA device, not {device}.", fix="Use bf16 or fp32 there.")
    if settings.tensorboard:
        require_tensorboard()
    if device == "cuda":
        # Runs are to resume to the bit. What has no deterministic kernel is warned of, not refused.
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # By default convolutions of fp32 would run with the 10 bits of TF32.
        torch.backends.cudnn.allow_tf32 = settings.precision != "fp32"
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # Several processes are no strategy of Fabric: gradients are summed by `medarts.network.sharing`, also those of
    # second order and of single paths.
    devices = [ranks.place.local_rank] if device == "cuda" else 1
    return Fabric(accelerator=device, devices=devices, precision=PRECISIONS[settings.precision])


def device_of(settings: ComputeSettings) -> str:
    """Returns the device of a recipe: cpu, cuda or mps.

    Raises:
        RecipeError: it is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = settings.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        raise RecipeError(f"compute.device '{device}' is not found here.", fix="Use compute.device=auto.")
    return device


def needs_of(recipe: Recipe, folder: Path) -> Needs:
    """Returns what a host of a cluster must have for runs by a recipe.

    Args:
        recipe: whose ``compute.threads`` are given, as results depend on them.
        folder: below which all files are written.

    Raises:
        RecipeError: the device is not there.
    """
    compute = recipe.compute
    same = partial(fingerprint_of_sources, recipe.model_dump(mode="json"))
    return Needs(folder, compute.threads, int(device_of(compute) == "cuda"), compute.timeout, same)


def joined_for(settings: ComputeSettings) -> AbstractContextManager[Ranks]:
    """Returns the context of the processes that do a job with a recipe; see `medarts.system.joining.joined`."""
    if place().size == 1:
        return nullcontext(current())
    from medarts.system.joining import joined

    return joined("cuda" if device_of(settings) == "cuda" else "cpu", patience=settings.timeout)


@contextmanager
def preserved_process_state() -> Iterator[None]:
    """Puts back what a job changes for the whole process, however it ends: a library call leaves it as it found it.

    That is the number of threads, determinism, TF32 and the workspace of cuBLAS, and torch's random numbers. Signal
    handlers are put back by `medarts.system.process.interruption`. Also a decorator.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.allow_tf32
    workspace = os.environ.get(_WORKSPACE)
    # Reading the state of a GPU that is not used yet would initialise it.
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # it has no annotations
    gpus = range(torch.cuda.device_count()) if used else ()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            cudnn.benchmark, cudnn.allow_tf32 = flags
            if workspace is None:
                os.environ.pop(_WORKSPACE, None)
            else:
                os.environ[_WORKSPACE] = workspace


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
        "processes": current().size,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory of this process in MB: of the GPU where one is used, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_mb()


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.cpu.get_capabilities().get("cpu_name", "") or platform.processor() or platform.machine()
