"""Steps of searches and trainings in one process or in several, and what they come to."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medarts.config import Recipe, parse
from medarts.engine import device
from medarts.engine.device import joined_for, preserved_process_state
from medarts.engine.engine import Job
from medarts.errors import MedartsError
from medarts.nas.search import Search, prepare_search, start_search
from medarts.spaces.genotype import load_genotype
from medarts.system.joining import joined
from medarts.system.process import Interruption
from medarts.system.ranks import current
from medarts.system.watch import Watch
from medarts.tasks import SegmentationTask
from medarts.training.trainer import Training, prepare_training, start_training, that_trains

STEPS = 20


def job_of(kind: str, recipe: Recipe, folder: Path) -> Job[Any]:
    """Returns a search, or the training of a baseline or a genotype."""
    if kind == "search":
        return prepare_search(recipe)
    architecture = recipe.train.model if kind == "baseline" else load_genotype(folder / f"{kind}.json")
    return prepare_training(that_trains(recipe, architecture), architecture)


@preserved_process_state()
def steps(kind: str, dtype: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Returns the tensors, losses and validation after some steps."""
    precision, default = device.PRECISIONS["fp32"], torch.get_default_dtype()
    try:
        if dtype == "float64":
            device.PRECISIONS["fp32"] = "64-true"
            torch.set_default_dtype(torch.float64)  # or Fabric makes float32 of the outputs
        with joined_for(recipe.compute):
            job = current().in_turn(lambda: job_of(kind, recipe, folder))
            job.set_up()
            job.state.epoch = 1  # drop-path drops nothing before
            job.begin_epoch()
            for _ in range(STEPS):
                job._step()
            values = job.validate()
    finally:
        device.PRECISIONS["fp32"] = precision
        torch.set_default_dtype(default)
    tensors = {name: tensor.detach().clone() for name, tensor in job.module.state_dict().items()}
    return {"tensors": tensors, "losses": {**vars(job.state)}, "values": values}


Case = tuple[str, str, str, dict[str, Any]]
"""Name, kind, dtype and recipe."""


def do_all(folder: Path, cases: Sequence[Case], size: int, rank: int) -> None:
    """Does cases, and leaves what they come to in files of the name, the rank and the number of processes."""
    for name, kind, dtype, recipe in cases:
        torch.save(steps(kind, dtype, parse(recipe), folder), folder / f"{name}.{rank}-of-{size}.pt")


def do_faulty(recipe: dict[str, Any], out: Path, fault: str, rank: int) -> None:
    """Trains a baseline, or searches where there is none; process 1 has a fault before step 1 of epoch 1 (of stage 0).

    After a SIGTERM process 0 takes long to save what is done. With memory, process 1 has room for one image at a time.
    """
    parsed = parse(recipe)
    kind: type[Job[Any]] = Search if parsed.train.model is None else Training
    step, save, loss = kind._step, kind.save, SegmentationTask.loss
    stage = (0,) if kind is Search else ()

    def lossy(task: SegmentationTask, outputs: Any, mixture: Any) -> Any:
        if rank == 1 and torch.is_grad_enabled() and len(mixture.images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(task, outputs, mixture)

    def faulty(job: Job[Any]) -> None:
        if rank == 1 and job.position == (*stage, 1, 1):
            if fault == "error":
                raise MedartsError("It is broken.", fix="Repair it.")
            os.kill(os.getpid(), getattr(signal, fault))
        step(job)

    def slow(job: Job[Any], *arguments: Any, **others: Any) -> None:
        if rank == 0 and job.position == (*stage, 1, 2):
            time.sleep(7)  # longer than processes wait for the error of the first
        save(job, *arguments, **others)

    if fault == "memory":
        SegmentationTask.loss = lossy  # type: ignore[assignment, method-assign]
    else:
        kind._step = faulty  # type: ignore[assignment, method-assign]
    if fault == "SIGTERM":
        kind.save = slow  # type: ignore[assignment, method-assign]
    if parsed.train.model is None:
        start_search(parsed, out)
    else:
        start_training(parsed, parsed.train.model, out)


def do_stuck(rank: int) -> None:
    """Process 1 is stuck before what the first process does for all; process 2 waits for that, process 0 for a sum."""
    with joined("cpu", patience=3) as ranks:
        ranks.add(torch.ones(2))
        ranks.note("the sum" if rank != 1 else "before the sum", fix="Start again.", request=Interruption())
        if rank == 1:
            time.sleep(60)
        ranks.first(lambda: rank)
        if rank == 0:
            ranks.add(torch.ones(2))
        ranks.first(lambda: time.sleep(60))


def do_apart(rank: int) -> None:
    """Process 0 is to use a network interface that is not there, so that none comes to process 1, which waits."""
    if rank == 0:
        os.environ["GLOO_SOCKET_IFNAME"] = "none"
    with joined("cpu", patience=60):
        pass


def train_again(recipe: dict[str, Any], out: Path, rank: int) -> None:
    """Begins a training that is another one in process 1, and does that of process 0 when it was refused."""
    fail = Watch.fail

    def late(watch: Watch, error: BaseException) -> bool:
        if rank == 0:
            time.sleep(1)  # until the watch of process 1 has ended, which would end it, too
        return fail(watch, error)

    Watch.fail = late  # type: ignore[assignment, method-assign]
    parsed = parse(recipe)
    own = parsed.model_copy(update={"seed": parsed.seed + rank})
    try:
        start_training(own, own.train.model, out)
    except (MedartsError, SystemExit) as error:
        print(error, file=sys.stderr)
    assert not out.exists()
    start_training(parsed, parsed.train.model, out)


def in_processes(size: int, work: Callable[..., None], *arguments: Any, errors: Path | None = None) -> list[Any]:
    """Starts processes that are one group, each with its number as last argument, and returns them.

    They are forked from a process that has imported all: to import takes longer than what they do.

    Args:
        size: how many.
        work: what each does.
        *arguments: of it.
        errors: folder in which standard error of each is kept, by its number.
    """
    context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload([__name__])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = int(server.getsockname()[1])
    processes = [context.Process(target=_at, args=(rank, size, port, errors, work, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def _at(rank: int, size: int, port: int, errors: Path | None, work: Callable[..., None], *arguments: Any) -> None:
    if errors is not None:
        os.dup2(os.open(errors / f"{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    given = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({**{name: str(value) for name, value in given.items()}, "MASTER_ADDR": "127.0.0.1"})
    work(*arguments, rank)
