"""Starts the processes of a job on this machine, and ends all of them when one has failed.

They find each other as those of torchrun do, by the same variables of the environment. The store through which they do
is that of this process, which has no part in the job itself.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from medarts.errors import MedartsError
from medarts.system.console import say
from medarts.system.place import quiet_library
from medarts.system.process import signal_name, stopping_signals

MOST_DEVICES, MOST_NODES = 256, 4096

_GRACE = 30.0
"""Seconds that the other processes have to end by themselves when one has."""

_POLL = 0.1

_LONGEST_START = 3600.0
"""Seconds in which the first machine has to come."""


def launch(words: Sequence[str], *, devices: int, nodes: int, node_rank: int, address: str | None) -> int:
    """Runs a command of medarts in several processes, and returns their exit status.

    Args:
        words: of the command line, without "medarts".
        devices: processes on this machine.
        nodes: machines that run the same command.
        node_rank: number of this one, from 0.
        address: HOST:PORT of the first one, which all can reach; None for a single machine.

    Raises:
        MedartsError: the numbers do not fit, or the address is none.
    """
    host, port = _address(devices, nodes, node_rank, address)
    quiet_library()
    store: Any = None
    if node_rank == 0:
        store = _store_at(host, port)
        port = store.port
    faults = _Faults(host, port, store)
    faults.start()
    threads = max(1, (os.cpu_count() or 1) // devices)
    processes = []
    for local_rank in range(devices):
        environment = {
            "OMP_NUM_THREADS": str(threads),  # unless the user has chosen
            **os.environ,
            "RANK": str(node_rank * devices + local_rank),
            "WORLD_SIZE": str(nodes * devices),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(devices),
            "GROUP_RANK": str(node_rank),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        # A session of their own: Ctrl-C on a terminal would reach them, too, and then once more from here.
        command = [sys.executable, "-m", "medarts", *words]
        processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
    with _signals_to(processes):
        _wait_for(processes, store, faults, first=node_rank * devices)
    faults.end()
    return _status_of(processes)


def _address(devices: int, nodes: int, node_rank: int, address: str | None) -> tuple[str, int]:
    """Returns where the store is; port 0 is any that is free.

    Raises:
        MedartsError: the numbers do not fit, or the address is none.
    """
    for name, value, low, high in (
        ("--devices", devices, 1, MOST_DEVICES),
        ("--nodes", nodes, 1, MOST_NODES),
        ("--node-rank", node_rank, 0, nodes - 1),
    ):
        if not low <= value <= high:
            raise MedartsError(f"{name} is {value}.", fix=f"Use {low} to {high}.")
    if address is None:
        if nodes > 1:
            raise MedartsError(
                f"--nodes is {nodes}, but no address says where they meet.",
                fix="Give --address HOST:PORT, the same on all of them: the first machine, and a free port of it.",
            )
        return "127.0.0.1", 0
    found = re.fullmatch(r"\[?([^\[\]]+?)\]?:(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 65_536:
        raise MedartsError(f"--address {address} is no HOST:PORT.", fix="Give it like --address 10.0.0.1:29500.")
    return found[1], int(found[2])


def _store_at(host: str, port: int) -> Any:
    """Returns the store, which this process has.

    Raises:
        MedartsError: the port is taken.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, whatever its module exports

    try:
        return TCPStore(host, port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise MedartsError(f"{host}:{port} cannot be listened at ({reason}).", fix="Use another port.") from error


class _Faults(threading.Thread):
    """Looks whether the processes of a job have noticed a fault; a process that is stopped does not end by itself.

    Args:
        host: that has the store.
        port: of it.
        store: the store, where this process has it.

    Attributes:
        is_known: whether there is one, or the store has gone, as it does when the first machine has ended.
    """

    def __init__(self, host: str, port: int, store: Any = None) -> None:
        super().__init__(daemon=True, name="medarts faults")
        self._address, self._store = (host, port), store
        self._ended = threading.Event()
        self.is_known = False

    def run(self) -> None:
        """Looks until there is one."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        from medarts.system.joining import prefix_of
        from medarts.system.watch import FAULT, connected

        try:
            store = self._store or connected(*self._address, patience=_LONGEST_START)
        except RuntimeError:  # the processes themselves say that they have not met
            return
        with suppress(RuntimeError):
            while not PrefixStore(prefix_of(1), store).check([FAULT]):
                if self._ended.wait(_POLL):
                    return
        self.is_known = True

    def end(self) -> None:
        """Ends it: a thread that is within the library for longer than Python lives ends the process with a signal."""
        self._ended.set()
        self.join(_POLL + 2)


def _wait_for(processes: Sequence["subprocess.Popen[bytes]"], store: Any, faults: _Faults, *, first: int) -> None:
    """Waits for all processes; when one has failed the others have some time to end, and are then killed.

    Args:
        processes: of this machine.
        store: through which the others learn of one that a signal has ended; None on other machines than the first.
        faults: what the processes of all machines have noticed.
        first: rank of the first process.
    """
    failed: float | None = None
    killed = False
    while None in [process.poll() for process in processes]:  # every one of them, also behind one that lives
        codes = [process.returncode for process in processes]
        if failed is None and (any(codes) or faults.is_known):
            failed = time.monotonic()
            rank = next((number for number, code in enumerate(codes) if code), None)
            if rank is not None and codes[rank] < 0:
                _tell(first + rank, -codes[rank], store)
        if failed is not None and time.monotonic() - failed > _GRACE:
            killed = killed or processes[0].poll() is None
            for process in processes:
                process.kill()
        time.sleep(_POLL)
    codes = [process.returncode for process in processes]
    if all(code < 0 for code in codes):  # nobody was left to tell
        how = "did not end, and was killed" if killed else f"was ended by {signal_name(-codes[0])}"
        say(f"medarts: Process {first} on {platform.node()} {how}.", to=sys.stderr)
    elif codes[0] < 0 and store is not None and not _is_told(store):  # the others had not come as far as to tell
        say(f"medarts: Process {first} on {platform.node()} was ended by {signal_name(-codes[0])}.", to=sys.stderr)
    elif (killed or not codes[0]) and any(code > 0 for code in codes) and not _is_told(store):
        # The first one, which tells errors, had none: the other has not come as far as to join it.
        rank = next(number for number, code in enumerate(codes) if code > 0)
        text = f"Process {first + rank} on {platform.node()} has ended with status {codes[rank]}"
        say(f"medarts: {text}. With --verbose it tells its own error.", to=sys.stderr)


def _is_told(store: Any) -> bool:
    """Whether the processes have told a fault; not known on other machines than the first, where none has one then."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from medarts.system.joining import prefix_of
    from medarts.system.watch import TOLD

    return store is not None and bool(PrefixStore(prefix_of(1), store).check([TOLD]))


def _tell(rank: int, number: int, store: Any) -> None:
    """Tells the other processes of one that a signal has ended, of which they name the reason and end."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from medarts.system.joining import prefix_of
    from medarts.system.watch import FAULT

    if store is not None:
        text = f"Process {rank} on {platform.node()} was ended by {signal_name(number)}"
        with suppress(RuntimeError):
            PrefixStore(prefix_of(1), store).compare_set(FAULT, "", json.dumps({"text": text, "gone": [rank]}))


def _status_of(processes: Sequence["subprocess.Popen[bytes]"]) -> int:
    """Returns the exit status of the first process, or 1 where it was ended or another one has failed."""
    codes = [process.returncode for process in processes]
    return codes[0] if codes[0] > 0 else int(any(codes))


@contextmanager
def _signals_to(processes: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Hands signals on to the processes: they save what they do and end, and with them this one."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
