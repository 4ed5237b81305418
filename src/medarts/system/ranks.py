"""One job in several processes: which of them this one is, and what they tell each other.

Every process runs the same program on the same files. `current` is the group that this one has joined, see
`medarts.system.joining`, and a group of one otherwise, whose methods do nothing: so a job is written once.
"""

import hashlib
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from medarts.errors import MedartsError
from medarts.system.place import Place

if TYPE_CHECKING:
    from medarts.system.watch import Watch

Answer = TypeVar("Answer")

_LONGEST_PAUSE = 0.2
"""Seconds between two looks at what another process may have left."""


class Ranks:
    """A group of one process, which does the job alone; `Several` has the same methods for more."""

    place = Place()

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.place.rank

    @property
    def size(self) -> int:
        """Processes of the group."""
        return self.place.size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.place.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Replaces a tensor, dense in memory, by its sum over the processes; the same bits on all of them."""

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        return flag

    def gathered(self, value: Answer) -> list[Answer]:
        """Returns the value that every process has, in the order of the processes."""
        return [value]

    def first(self, work: Callable[[], Answer]) -> Answer:
        """Has the first process do some work, and returns what it returns, in all of them."""
        return work()

    def in_turn(self, work: Callable[[], Answer]) -> Answer:
        """Does some work, on every host in one process first: what that leaves on the disk serves the others.

        No process goes on before all have done it.
        """
        return work()

    def note(self, where: str, *, fix: str) -> None:
        """Notes how far this process is, and what to do should one of them be lost, for the message then."""

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Refuses processes that are not at the same job.

        Args:
            facts: of it, by name, which every process has.

        Raises:
            MedartsError: one of them differs; names the host.
        """

    def check_alike(self, tensors: Sequence[Tensor], *, what: str) -> None:
        """Refuses tensors that are not the same bits in all processes.

        Raises:
            MedartsError: they differ.
        """


ALONE = Ranks()


class Several(Ranks):
    """A group of several processes. What they do together they all have to do, in the same order.

    A process that is lost ends all the others with a message that names it, see `medarts.system.watch`.

    Args:
        place: this process.
        store: where they leave values for each other.
        watch: notices lost processes.
    """

    def __init__(self, place: Place, store: Any, watch: "Watch") -> None:
        self.place = place
        self._store = store
        self._watch = watch
        self._number = 0

    def add(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the processes."""
        self._watch.count += 1
        with self._watched():
            torch.distributed.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        counted = torch.tensor([int(flag)])
        self.add(counted)
        return bool(counted.item())

    def gathered(self, value: Answer) -> list[Answer]:
        """Returns the value of every process."""
        values: list[Any] = [None] * self.size
        self._watch.count += 1
        with self._watched():
            torch.distributed.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], Answer]) -> Answer:
        """Has the first process do some work, however long it takes."""
        self._watch.count += 1
        key = self._next("first")
        if not self.is_first:
            return pickle.loads(self._awaited(key))  # type: ignore[no-any-return]
        answer = work()
        self._store.set(key, pickle.dumps(answer))
        return answer

    def in_turn(self, work: Callable[[], Answer]) -> Answer:
        """Does some work, the first process of every host before the others, and waits for all."""
        self._watch.count += 1
        key = self._next(f"turn/{self.place.leader}")
        if self.place.local_rank:
            self._awaited(key)
        answer = work()
        if not self.place.local_rank:
            self._store.set(key, b"")
        self._meet()
        return answer

    def note(self, where: str, *, fix: str) -> None:
        """Notes how far this process is."""
        self._watch.where, self._watch.fix = where, fix

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Refuses facts that differ, and names the first process whose do."""
        found = self.gathered((platform.node(), dict(facts)))
        host, expected = found[0]
        for rank, (other, its) in enumerate(found):
            for name, value in expected.items():
                if its[name] != value:
                    raise MedartsError(
                        f"Process {rank} on {other} has {name} {its[name]}, and process 0 on {host} {value}.",
                        fix="Give all of them the same command, files, and versions of medarts and PyTorch.",
                    )

    def check_alike(self, tensors: Sequence[Tensor], *, what: str) -> None:
        """Refuses tensors that differ, by their digests."""
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
        digests = self.gathered(digest.hexdigest())
        others = [rank for rank, other in enumerate(digests) if other != digests[0]]
        if others:
            raise MedartsError(
                f"The {what} of process {others[0]} are not those of process 0.",
                fix="Use processors and PyTorch of one kind for all processes. A gradient of your own has to take "
                "gradients by first_order alone.",
            )

    def _meet(self) -> None:
        """Waits until all processes have come here, however long that takes."""
        key = self._next("meeting")
        self._store.set(f"{key}/{self.rank}", b"")
        for rank in range(self.size):
            self._awaited(f"{key}/{rank}")

    def _next(self, name: str) -> str:
        self._number += 1
        return f"{name}/{self._number}"

    def _awaited(self, key: str) -> bytes:
        """Returns what another process has left; that it may never come is the matter of the watch."""
        with self._watched():
            pause = 0.001
            while not self._store.check([key]):
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            value: bytes = self._store.get(key)
        return value

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of a connection that has ended, or of a wait that has
            self._watch.lost(error)


class _Process:
    """This process, which is in one group, whichever thread asks."""

    ranks: Ranks = ALONE


def current() -> Ranks:
    """Returns the group that this process has joined."""
    return _Process.ranks


@contextmanager
def as_current(ranks: Ranks) -> Iterator[Ranks]:
    """Makes a group that of this process for a while."""
    before, _Process.ranks = _Process.ranks, ranks
    try:
        yield ranks
    finally:
        _Process.ranks = before
