"""How the processes of a job find each other."""

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed

from medarts.errors import MedartsError
from medarts.system.console import be_mute
from medarts.system.interfaces import interface_of, is_loopback, own_address
from medarts.system.place import Place, launcher_fault, launcher_is_gone, place
from medarts.system.process import InterruptedRunError
from medarts.system.ranks import ALONE, Ranks, Several, as_current, current
from medarts.system.watch import ALL, FAULT, Watch, connected, reason_of, store_fault

_rendezvous, _PrefixStore = distributed.rendezvous, distributed.PrefixStore  # type: ignore[attr-defined]

_MARGIN = 15.0
"""Seconds after which a wait ends that the watch should have ended."""

_PAUSE = 0.1
"""Seconds between two looks whether all have come."""

_INTERFACE = "GLOO_SOCKET_IFNAME"
"""The variable by which PyTorch lets users choose the network interface of Gloo."""

_AGAIN = "Start it again."

_WAY = (
    "Start them again. If that does not help, open all ports between the hosts, or set "
    f"{_INTERFACE} on each to the network interface by which it reaches the others."
)


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
    watch, several, form = _meet(here, device, patience)
    watch.start()
    try:
        _form_first(form, watch)
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
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _meet(here: Place, device: str, patience: float) -> tuple[Watch, Several, Callable[[str], None]]:
    """Returns what watches the processes, once all have come, their group, and what forms it in PyTorch, by its name.

    Raises:
        MedartsError: some have not come, or one is known to be lost.
    """
    cause: Exception | None = None
    try:
        has_been_there = _Process.store is not None
        is_of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if here.rank or is_of_launcher or has_been_there:  # else it is to open it itself
            # The launcher of the first host opens it before it starts a process; on others they may be earlier.
            _wait_for_answer(patience, has_been_there=has_been_there or (is_of_launcher and here.leader == 0))
        if _Process.store is None:
            _Process.store = next(_rendezvous("env://", here.rank, here.size, timeout=timedelta(seconds=patience)))[0]
        _Process.jobs += 1
        prefix = prefix_of(_Process.jobs)
        own, of_watch = (_PrefixStore(prefix, connected(*_address(), patience=patience)) for _ in range(2))
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # the last two: of the variables of the address
        missing, cause = reason_of(error), error
    else:
        try:
            missing = _missing(here, own, patience)
            interface = None if missing else _interface(here, own)
        except RuntimeError as error:  # it waits for no answer: the connection is lost
            text = launcher_fault() if launcher_is_gone(within=1) else store_fault()
            raise MedartsError(f"{text}.", fix=_AGAIN) from error
    if missing:
        raise MedartsError(
            f"Process {here.rank} on {platform.node()} has not met all {here.size} processes within {patience:.0f} s "
            f"({missing}).",
            fix="Start the others too, with the same address (MASTER_ADDR and MASTER_PORT), which all hosts can reach.",
        ) from cause

    def form(name: str) -> None:
        with _through(interface):
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
                store=_PrefixStore(f"{prefix}/{name}", _Process.store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=patience + _MARGIN),
            )

    watch = Watch(here, of_watch, patience=patience)
    # A process that waits for another one on its GPU cannot be called back.
    return watch, Several(here, own, watch, form if device == "cpu" else None), form


def _wait_for_answer(patience: float, *, has_been_there: bool) -> None:
    """Waits until something listens at the address of the store; PyTorch says much where nothing does.

    Args:
        patience: seconds to wait.
        has_been_there: whether something has listened, and will not again if it does not now.

    Raises:
        MedartsError: nothing will.
        OSError: nothing does.
    """
    host, port = _address()
    until = time.monotonic() + patience
    while True:
        if launcher_is_gone():
            raise MedartsError(f"{launcher_fault()}.", fix=_AGAIN)
        try:
            socket.create_connection((host, port), timeout=max(until - time.monotonic(), _PAUSE)).close()
        except OSError as error:
            if has_been_there and isinstance(error, ConnectionRefusedError):
                text = (
                    f"The launcher or the first process of the job is gone: nothing listens at {host}:{port} any more."
                )
                raise MedartsError(text, fix=_AGAIN) from error
            if time.monotonic() > until:
                reason = error.strerror or error
                raise OSError(f"nothing answers at {host}:{port}: {reason}") from error
            time.sleep(_PAUSE)
        else:
            return


def _missing(here: Place, store: Any, patience: float) -> str:
    """Waits for all processes; returns who of them has not come in time, an empty text if all have.

    Raises:
        MedartsError: one is known to be lost, or this one has lost its launcher, which the others learn.
    """
    store.set(_come(here.rank), own_address(*_address()))
    if store.add("come", 1) == here.size:
        store.set("all have come", b"")
    until = time.monotonic() + patience
    while not store.check(["all have come"]):
        if launcher_is_gone():
            gone = [*range(here.leader, here.leader + here.local_size)]
            store.compare_set(FAULT, "", json.dumps({"text": launcher_fault(), "gone": gone}))
        if store.check([FAULT]):
            raise MedartsError(f"{json.loads(store.get(FAULT))['text'].rstrip('.')}.", fix=_AGAIN)
        if time.monotonic() > until:
            late = [rank for rank in range(here.size) if not store.check([_come(rank)])]
            more = f", and {len(late) - 1} more" if len(late) > 1 else ""
            return f"process {late[0]} has not come{more}" if late else "the last one came too late"
        time.sleep(_PAUSE)
    return ""


def _come(rank: int) -> str:
    return f"come/{rank}"


def _interface(here: Place, store: Any) -> str | None:
    """Returns the network interface by which this process reaches the others; None where Gloo has to choose.

    By itself Gloo takes the address of the host's own name. That is often a loopback address, as Debian writes it into
    /etc/hosts, and never the address that the user gave.
    """
    if os.environ.get(_INTERFACE):
        return None
    address = own_address(*_address())
    if is_loopback(address) and here.local_size < here.size:
        # The first host finds itself there. What comes after its processes is one of another host.
        other = store.get(_come((here.leader + here.local_size) % here.size)).decode()
        address = own_address(other, _address()[1]) if other else ""
    return interface_of(address)


@contextmanager
def _through(interface: str | None) -> Iterator[None]:
    """Has groups of Gloo that are formed in it use a network interface."""
    if interface is not None:
        os.environ[_INTERFACE] = interface
    try:
        yield
    finally:
        if interface is not None:
            del os.environ[_INTERFACE]


def _form_first(form: Callable[[str], None], watch: Watch) -> None:
    """Forms the group of a job; should one of them wait for another one too long, the watch ends them.

    Raises:
        MedartsError: a process does not reach another one.
    """
    usual, watch.fix = watch.fix, _WAY
    try:
        with watch.together("forming the group"), watch.waiting(ALL):
            form("group")
    except RuntimeError as error:
        if isinstance(error, distributed.DistNetworkError):  # the store is lost
            raise
        text = f"The processes do not reach each other ({reason_of(error)})."
        raise MedartsError(text, fix=_WAY) from error
    watch.fix = usual


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
