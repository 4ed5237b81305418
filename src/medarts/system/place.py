"""Which process of a job this one is; known without PyTorch."""

import os
import platform
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from medarts.errors import MedartsError

_PAUSE = 0.05
"""Seconds between two looks at who is the parent."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which process of a job this is, as torchrun and ``medarts --devices`` say it in the environment.

    Attributes:
        rank: number of the process, from 0.
        size: processes in all.
        local_rank: number among those of its host, from 0.
        local_size: processes of its host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leader(self) -> int:
        """The first process of the host."""
        return self.rank - self.local_rank


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Returns the place that the environment gives this process; the only one where it gives none.

    >>> place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    Place(rank=3, size=4, local_rank=1, local_size=2)

    Raises:
        MedartsError: it says half of it, or what cannot be.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [environment.get(names[0]), environment["WORLD_SIZE"]]
    # Where nothing is said of hosts there is one.
    given += [environment.get(names[2], given[0]), environment.get(names[3], given[1])]
    try:
        rank, size, local_rank, local_size = (int(value) for value in given if value is not None)
    except ValueError:
        rank = size = local_rank = local_size = -1
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size and local_rank <= rank):
        said = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
        raise MedartsError(
            f"The environment names no process of a job: {said}.",
            fix="Start with torchrun or --devices, or unset WORLD_SIZE.",
        )
    return Place(rank, size, local_rank, local_size)


def launched_by(place: Place, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the options that start a command in as many processes again, on the machine of this one.

    >>> address = {"MASTER_ADDR": "fe80::1", "MASTER_PORT": "29500"}
    >>> launched_by(Place(rank=3, size=4, local_rank=1, local_size=2), address)
    "--devices 2 --nodes 2 --node-rank 1 --address '[fe80::1]:29500'"
    >>> launched_by(Place())
    ''
    """
    if place.size == 1:
        return ""
    options = f"--devices {place.local_size}"
    if place.size == place.local_size:
        return options
    host, port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
    address = shlex.quote(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    nodes, node_rank = place.size // place.local_size, place.rank // place.local_size
    return f"{options} --nodes {nodes} --node-rank {node_rank} --address {address}"


def quiet_library() -> None:
    """Lets PyTorch print no warnings of its C++ part, unless the user chose; it asks for that when it is imported.

    They are of lost connections, each with a list of addresses in the library. What is lost the watch says.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@cache
def _parent(process: int) -> int:
    """Returns what had started this process when it was first asked for; one that is forked asks anew."""
    return os.getppid()


_parent(os.getpid())  # now, as what comes before the processes meet takes seconds


def launcher_is_gone(*, within: float = 0.0) -> bool:
    """Whether torchrun, or ``medarts --devices``, has started this process and has ended, as where it was killed.

    A process whose parent ends gets another one at once. To ask for it is all that works with torchrun as well, which
    hands no pipe to its processes, and on macOS, which has no signal for the end of a parent. On Windows the number
    stays; there, and where a launcher ends before this module is imported, the loss of its store is what is noticed.

    Args:
        within: seconds to wait for that: the connections of a launcher end before its processes get another parent.
    """
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:  # started by hand, or by what ends them itself
        return False
    process, until = os.getpid(), time.monotonic() + within
    while os.getppid() == _parent(process):
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE)
    return True


def launcher_fault() -> str:
    """Returns the first sentence of the error of a process whose launcher is gone, without its period."""
    return f"The launcher on {platform.node()} is gone"


def refuse_several(what: str) -> None:
    """Refuses work that several processes cannot share.

    Args:
        what: it is, as the beginning of a sentence.

    Raises:
        MedartsError: this process is one of several.
    """
    if place().size > 1:
        raise MedartsError(f"{what} is not shared by several processes.", fix="Start it without torchrun or --devices.")
