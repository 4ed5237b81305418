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
from typing import Any, TypeVar

import torch
from torch import Tensor

from medarts.errors import MedartsError
from medarts.system.memory import is_out_of_memory
from medarts.system.place import Place
from medarts.system.process import Interruption
from medarts.system.watch import ALL, Mark, Watch

Answer = TypeVar("Answer")

_LONGEST_PAUSE = 0.2
"""Seconds between two looks at what another process may have left."""


class ShortOfMemoryError(MemoryError):
    """Memory ran out in another process, which does not come to what this one waits for."""


class Ranks:
    """A group of one process, which does the job alone; `Several` has the same methods for more.

    Attributes:
        place: this process.
        can_regroup: whether `regroup` is possible: where GPUs wait for each other it is not.
    """

    place = Place()
    can_regroup = True

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

    def total(self, value: float) -> float:
        """Returns the sum of a number over the processes, with which goes whether one of them was asked to stop."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        return flag

    def is_to_stop(self, request: Interruption) -> bool:
        """Whether some process was asked to stop, by the last `total`; where there is one, by its request."""
        return request.requested

    def regroup(self) -> None:
        """Brings all processes together again when memory ran out in one, while others waited for it in a sum."""

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

    def note(self, where: str, *, fix: str, request: Interruption) -> None:
        """Notes how far this process is, what to do should one of them be lost, and where it is asked to stop."""

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
        form: makes them a group of PyTorch again, by a name that is new; None where that is not possible.
    """

    def __init__(self, place: Place, store: Any, watch: Watch, form: Callable[[str], None] | None = None) -> None:
        self.place = place
        self.can_regroup = form is not None
        self._store = store
        self._watch = watch
        self._form = form
        self._number = self._regrouped = 0
        self._request, self._is_asked = Interruption(), False

    def add(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the processes."""
        with self._watch.together("a sum"), self._waiting(ALL):
            before = _mark(tensor)
            torch.distributed.all_reduce(tensor)
            after = _mark(tensor)
            if before is not None and after is not None:
                self._watch.follow(before, after)

    def total(self, value: float) -> float:
        """Returns the sum of a number, and notes whether some process was asked to stop."""
        both = torch.tensor([value, self._request.requested], dtype=torch.float64)
        self.add(both)
        self._is_asked = float(both[1]) > 0
        return float(both[0])

    def is_to_stop(self, request: Interruption) -> bool:
        """Whether some process was asked to stop before the last `total`."""
        return self._is_asked

    def regroup(self) -> None:
        """Leaves the group, which ends the waits of the others, and forms it again with them."""
        assert self._form is not None
        self._store.set(self._short, b"")
        torch.distributed.destroy_process_group()
        self._regrouped += 1
        self._watch.regroup()
        with self._watch.together("forming the group again"), self._waiting(ALL):
            self._form(f"group/{self._regrouped}")

    @property
    def _short(self) -> str:
        """The key that is there when memory has run out in a process since the group was formed."""
        return f"short/{self._regrouped}"

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        counted = torch.tensor([int(flag)])
        self.add(counted)
        return bool(counted.item())

    def gathered(self, value: Answer) -> list[Answer]:
        """Returns the value of every process."""
        values: list[Any] = [None] * self.size
        with self._watch.together("an exchange"), self._waiting(ALL):
            torch.distributed.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], Answer]) -> Answer:
        """Has the first process do some work, however long it takes."""
        key = self._next("first")
        with self._watch.together("work of the first process"):
            if not self.is_first:
                return pickle.loads(self._awaited(key, of=0))  # type: ignore[no-any-return]
            answer = work()
            self._store.set(key, pickle.dumps(answer))
        return answer

    def in_turn(self, work: Callable[[], Answer]) -> Answer:
        """Does some work, the first process of every host before the others, and waits for all."""
        key = self._next(f"turn/{self.place.leader}")
        with self._watch.together("work in turn"):
            if self.place.local_rank:
                self._awaited(key, of=self.place.leader)
            answer = work()
            if not self.place.local_rank:
                self._store.set(key, b"")
            self._meet()
        return answer

    def note(self, where: str, *, fix: str, request: Interruption) -> None:
        """Notes how far this process is, and where it is asked to stop."""
        self._watch.where, self._watch.fix, self._request = where, fix, request

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
        if self._store.add(f"{key}/come", 1) == self.size:
            self._store.set(key, b"")
        self._awaited(key, of=ALL)

    def _next(self, name: str) -> str:
        self._number += 1
        return f"{name}/{self._number}"

    def _awaited(self, key: str, *, of: int) -> bytes:
        """Returns what a process has left, or all have; that it may never come is the matter of the watch."""
        with self._waiting(of):
            pause = 0.001
            while not self._store.check([key]):
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            value: bytes = self._store.get(key)
        return value

    @contextmanager
    def _waiting(self, rank: int) -> Iterator[None]:
        """Waits for a process, or for all, in what they do together."""
        with self._watch.waiting(rank):
            try:
                yield
            except RuntimeError as error:  # of a connection that has ended, or of a wait that has
                if is_out_of_memory(error):
                    raise
                if self._store.check([self._short]):
                    raise ShortOfMemoryError("memory ran out in another process") from None
                self._watch.lost(error)


def _mark(tensor: Tensor) -> Mark | None:
    """Returns the point that the GPU of a tensor comes to with what it was given so far; None where there is no GPU."""
    if not tensor.is_cuda:
        return None
    mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
    mark.record(torch.cuda.current_stream(tensor.device))
    return mark


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
