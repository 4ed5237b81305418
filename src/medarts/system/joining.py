"""How the processes of a job find each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed

from medarts.errors import MedartsError
from medarts.system.console import be_mute
from medarts.system.place import Place, place
from medarts.system.process import InterruptedRunError
from medarts.system.ranks import ALONE, Ranks, Several, as_current, current
from medarts.system.watch import Watch, connected

_rendezvous, _PrefixStore = distributed.rendezvous, distributed.PrefixStore  # type: ignore[attr-defined]

_MARGIN = 15.0
"""Seconds after which a wait ends that the watch should have ended."""


class _Process:
    """What this process keeps from one job to the next.

    Attributes:
        store: that of the first job: where a process has it itself, a second one would find its port taken.
        jobs: how many there were.
    """

    store: Any = None
    jobs = 0


def prefix_of(job: int) -> str:
    """Returns the beginning of the keys of a job in the store; jobs are counted from 1 in every process."""
    return f"medarts/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{job}"


@contextmanager
def joined(device: Literal["cpu", "cuda"], *, patience: float) -> Iterator[Ranks]:
    """Gives the group of processes that the environment names, of which this process is one; may be nested.

    Args:
        device: on which they compute. Over GPUs tensors are summed by NCCL, else by Gloo.
        patience: seconds that they wait for each other, at the start and where one gives no sign of life.

    Raises:
        MedartsError: some of them have not come, or two would share a GPU.
    """
    here = place()
    if here.size == 1 or current() is not ALONE:
        yield current()
        return
    if device == "cuda":
        gpus = torch.cuda.device_count()
        if here.local_size > gpus:  # in all of them: what one alone runs into before they have joined is not told
            raise MedartsError(
                f"The host of process {here.rank} has {here.local_size} processes, but {gpus} GPU{'s' * (gpus != 1)}.",
                fix="Start as many processes on a host as it has GPUs, or use compute.device=cpu.",
            )
        torch.cuda.set_device(here.local_rank)
    if here.rank:
        be_mute()  # for good: the first process reports for all
    several, watch = _join(here, device, patience)
    watch.start()
    try:
        with as_current(several):
            yield several
        several.any(False)  # none ends, and the store with it, while others are at work
    except BaseException as error:
        watch.end()
        is_told = watch.fail(error)
        if is_told or not isinstance(error, MedartsError | KeyboardInterrupt) or isinstance(error, InterruptedRunError):
            raise  # a job that was stopped has one status on all machines
        raise SystemExit(1) from None
    else:
        watch.part()
    finally:  # a process that goes on after an error can do another job
        distributed.destroy_process_group()


def _join(here: Place, device: str, patience: float) -> tuple[Several, Watch]:
    wait = timedelta(seconds=patience)
    try:
        if _Process.store is None:
            _Process.store = next(_rendezvous("env://", here.rank, here.size, timeout=wait))[0]
        _Process.jobs += 1
        prefix = prefix_of(_Process.jobs)
        own, of_watch = (_PrefixStore(prefix, connected(*_address(), patience=patience)) for _ in range(2))

        def form(name: str) -> None:
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
                store=_PrefixStore(f"{prefix}/{name}", _Process.store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=patience + _MARGIN),
            )

        form("group")
    except (RuntimeError, ValueError, KeyError) as error:  # a KeyError or ValueError: of the variables of the address
        reason = " ".join(str(error).split())[:200]
        raise MedartsError(
            f"Process {here.rank} has not met all {here.size} processes within {patience:.0f} s ({reason}).",
            fix="Start the others too, with the same address (MASTER_ADDR and MASTER_PORT), which all hosts can reach.",
        ) from error
    watch = Watch(here, of_watch, patience=patience)
    # A process that waits for another one on its GPU cannot be called back.
    return Several(here, own, watch, form if device == "cpu" else None), watch


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
