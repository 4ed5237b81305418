"""Notices a process of a job that is gone, stopped or stuck, and ends all the others with one message that names it.

Every process has a thread that leaves a sign of life in a store, under one key, with what it does and how far it is.
The first process reads the signs of all, the others that of the first alone. A process whose sign is old is lost; one
that was killed is noticed sooner, as its connections end; one for which others wait is behind them. Whoever notices
writes down the fault, once for all; the first process that is not at fault tells it, and every process ends. It ends
from this thread: its main thread may be waiting for the lost one where nothing can interrupt it.

A process that is at work for long, as with measuring, gives its signs of life all the same.
"""

import json
import os
import platform
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import torch

from medarts.errors import MedartsError
from medarts.system.console import console, say
from medarts.system.place import Place, launcher_fault, launcher_is_gone

INTERVAL = 0.5
"""Seconds between two signs of life."""

_LATE = 4 * INTERVAL
"""Seconds without a sign of life after which a process may have been stopped."""

_ROLL_CALL = 10.0
"""Seconds within which every process that is there answers; many times the interval, as machines may be busy."""

FAULT, TOLD, _ROLL = "fault", "told", "roll"

ALL = -1
"""Stands for all processes, where the rank of one could be."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a process does together with the others, or has done last.

    Attributes:
        group: how often the processes have formed their group again.
        at: orders what they do together in a group: 2 n - 1 within the n-th thing, 2 n behind it.
        what: it is, as "a sum".
        where: how far the process is in its job.
        waits: the rank for which it waits, or `ALL`; None while it works itself.
    """

    group: int = 0
    at: int = 0
    what: str = "its start"
    where: str = "its start"
    waits: int | None = None

    @property
    def position(self) -> tuple[int, int]:
        """How far the process is; in order."""
        return self.group, self.at


class Mark(Protocol):
    """A point in the work of a GPU, as an event of CUDA is."""

    def query(self) -> bool:
        """Whether the GPU has come to it."""


def behind(steps: Mapping[int, Step]) -> list[int]:
    """Returns the processes for which others wait, directly or not, and which wait for none; of equal ones all.

    Args:
        steps: of processes, by rank.
    """
    waited: dict[int, tuple[int, int]] = {}  # for whom -> the furthest position at which one waits
    for step in steps.values():
        if step.waits is not None:
            waited[step.waits] = max(step.position, waited.get(step.waits, step.position))
    start = (0, 0)
    missed = {
        rank: step.position
        for rank, step in steps.items()
        if step.position < max(waited.get(ALL, start), waited.get(rank, start))
    }
    last = min(missed.values(), default=start)
    return sorted(rank for rank, position in missed.items() if position == last)


def astray(steps: Mapping[int, Step]) -> list[int]:
    """Returns the processes that do something else than most; of as many against as many the first process is right.

    Args:
        steps: of all processes, by rank.
    """
    doings = Counter((step.what, step.where) for _, step in sorted(steps.items()))
    ((usual, _),) = doings.most_common(1)  # of equal counts the one that was met first
    return sorted(rank for rank, step in steps.items() if (step.what, step.where) != usual)


class Watch(threading.Thread):
    """The thread of a process that watches the others.

    Args:
        place: this process.
        store: a connection of this thread's own.
        patience: seconds without a sign of life after which a process is lost.

    Attributes:
        where: how far this process is.
        fix: what to do if one is lost.
    """

    def __init__(self, place: Place, store: Any, *, patience: float) -> None:
        super().__init__(daemon=True, name="medarts watch")
        self.place, self.store, self.patience = place, store, patience
        self.where, self.fix = "its start", "Start it again."
        self._ended, self._leaving = threading.Event(), threading.Lock()
        self._step, self._marks, self._marking = Step(), deque[tuple[Step, Mark]](), threading.Lock()
        self._count = self._beats = 0
        self._answered = time.monotonic()
        self._seen: dict[int, _Sign] = {}
        store.set(f"host/{place.rank}", platform.node())

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Notes that this process does something that all do, in the same order."""
        self._count += 1
        self._step = Step(self._step.group, 2 * self._count - 1, what, self.where)
        try:
            yield
        finally:
            self._step = replace(self._step, at=2 * self._count, waits=None)

    @contextmanager
    def waiting(self, waits: int) -> Iterator[None]:
        """Notes that it waits for a rank, or for `ALL`, within that."""
        before, self._step = self._step, replace(self._step, waits=waits)
        try:
            yield
        finally:
            self._step = before

    def follow(self, before: Mark, after: Mark) -> None:
        """Notes what its GPU still has to do where this process itself does not wait.

        Args:
            before: the point at which the GPU begins with what all do.
            after: and at which it has done that.
        """
        self._marks.append((replace(self._step, at=self._step.at - 1, waits=None), before))
        self._marks.append((self._step, after))

    def regroup(self) -> None:
        """Notes that all form their group again, whatever each has done in the old one."""
        self._count = 0
        self._step = Step(self._step.group + 1, 0, self._step.what, self.where)

    def _now(self) -> Step:
        """Returns what this process does, or its GPU, if that is not as far."""
        with self._marking:  # the process asks too, where it has lost the others
            while self._marks and _is_reached(self._marks[0][1]):
                self._marks.popleft()
            return self._marks[0][0] if self._marks else replace(self._step, where=self.where)

    def run(self) -> None:
        """Gives and looks for signs of life until it is ended."""
        threading.Thread(target=self._guard, daemon=True, name="medarts watch of the store").start()
        while not self._ended.wait(INTERVAL):
            try:
                self._look()
            except RuntimeError:  # the store has gone, with the process that has it
                if not self._ended.is_set():
                    self._leave(None)
            self._answered = time.monotonic()

    def _guard(self) -> None:
        """Ends this process if the store no longer answers; where its machine is lost not even an error comes."""
        while not self._ended.wait(INTERVAL):
            if time.monotonic() - self._answered > self.patience:
                self._leave(None)

    def end(self) -> None:
        """Ends the watch; what happens to other processes from now on is no fault."""
        self._ended.set()
        if self.is_alive():
            self.join(self.patience)
            if self.is_alive():  # it waits for the store
                self._leave(None)

    def part(self) -> None:
        """Ends the watch of a job that is done; the process that may have the store waits for the others before."""
        self.end()
        with suppress(RuntimeError):  # of a store that is no longer there
            self.store.set(_done(self.place.rank), b"")
            if self.place.rank == 0:
                self._let_others_leave()

    def lost(self, error: RuntimeError) -> NoReturn:
        """Finds out who is missing when processes could not go on together, and ends this one.

        All run into the error; the first that does calls the roll.
        """
        try:
            own = str(self.place.rank)
            if self.store.compare_set(_ROLL, "", own).decode() == own and not self.store.check([FAULT]):
                self._note(self._missing(error))
            while not self.store.check([FAULT]):  # should who calls it be lost, the watch ends this wait
                time.sleep(INTERVAL)
            fault = json.loads(self.store.get(FAULT))
        except RuntimeError:
            fault = None
        self._leave(fault)

    def fail(self, error: BaseException) -> bool:
        """Lets the others end because of an error of this process; returns whether it is to be told here.

        An error that all processes run into, such as that of a recipe, is that of the first one. The watch has to be
        ended by then.
        """
        if isinstance(error, torch.distributed.DistNetworkError):  # of the store, before the watch has missed it
            self._leave(None)
        words = str(error) or type(error).__name__
        problem, fix = (error.problem, error.fix) if isinstance(error, MedartsError) else (words, self.fix)
        try:
            if self.place.rank and self._of_first():
                self.store.set(_done(self.place.rank), b"")
                return False
            if self.place.rank == 0:
                self.store.set(TOLD, b"")
            text = self._named(self.place.rank, f"has ended: {problem}")
            self._note({"text": text, "fix": fix, "gone": [self.place.rank]})
            if self.place.rank == 0:
                self._let_others_leave()
        except RuntimeError:  # without the store the others end by themselves
            return True
        return self.place.rank == 0

    def _of_first(self) -> bool:
        """Whether a fault is known within a short time, as that of the first process is, which has the same error."""
        until = time.monotonic() + _ROLL_CALL / 2
        while time.monotonic() < until:
            if self.store.check([FAULT]):
                return True
            time.sleep(INTERVAL / 5)
        return False

    def _let_others_leave(self) -> None:
        """Waits a while for the others, as the store may end with this process: they would miss that instead."""
        until, others = time.monotonic() + _ROLL_CALL, [_done(rank) for rank in range(1, self.place.size)]
        while time.monotonic() < until and not self.store.check(others):
            time.sleep(INTERVAL / 5)

    def _look(self) -> None:
        rank, now = self.place.rank, time.monotonic()
        self._beats += 1
        step = self._now()
        self.store.set(_beat_of(rank), json.dumps({"beat": self._beats, **asdict(step)}))
        if launcher_is_gone():
            gone = [*range(self.place.leader, self.place.leader + self.place.local_size)]
            self._note({"text": launcher_fault(), "fix": self.fix, "gone": gone})
        if self.store.check([FAULT]):
            self._leave(json.loads(self.store.get(FAULT)))
        # Each looking at all would be as many questions to the store as there are processes, squared.
        watched = [other for other in range(self.place.size) if other != rank] if rank == 0 else [0]
        for other, (beat, its) in self._signs(watched).items():
            seen = self._seen.get(other)
            alive = now if seen is None or seen.beat != beat else seen.alive
            self._seen[other] = _Sign(beat, its, alive, now if seen is None or seen.step != its else seen.still)
            if now - alive > self.patience:
                text = self._named(other, f"has not answered for {self.patience:.0f} s, since {its.where}")
                self._note({"text": text, "fix": self.fix, "gone": [other]})
        if rank == 0:
            seen = self._seen.get(0)
            self._seen[0] = _Sign(self._beats, step, now, now if seen is None or seen.step != step else seen.still)
            still = {other: sign.step for other, sign in self._seen.items() if now - sign.still > self.patience}
            # One that was stopped goes on with nothing either; it is soon lost, which says more.
            answer = all(now - sign.alive < _LATE for sign in self._seen.values())
            if answer and (behind(still) or self._all_wait(still)):
                self._note(self._stuck(still) or self._nobody("none of them goes on"))

    def _signs(self, ranks: Collection[int]) -> dict[int, tuple[int, Step]]:
        """Returns the last sign of life of processes: its number, 0 for none yet, and their step."""
        keys = {rank: _beat_of(rank) for rank in ranks}
        if not self.store.check([*keys.values()]):  # to get one that is not there would wait for it
            keys = {rank: key for rank, key in keys.items() if self.store.check([key])}
        read = dict(zip(keys, self.store.multi_get([*keys.values()]) if keys else [], strict=True))
        signs = {}
        for rank in ranks:
            fields = json.loads(read[rank]) if rank in read else {"beat": 0}
            signs[rank] = fields.pop("beat"), Step(**fields)
        return signs

    def _missing(self, error: RuntimeError) -> dict[str, Any]:
        """Returns the fault, once every process has had the time to give another sign of life."""
        until, others = time.monotonic() + _ROLL_CALL, set(range(self.place.size)) - {self.place.rank}
        before = self._signs(others)
        steps, gone = {self.place.rank: self._now()}, set(others)
        while gone and time.monotonic() < until and not self.store.check([FAULT]):
            time.sleep(INTERVAL / 2)
            for rank, (beat, step) in self._signs(gone).items():
                if beat != before[rank][0]:
                    steps[rank] = step
                    gone.discard(rank)
        if gone:
            where = before[min(gone)][1].where
            return self._fault(gone, f"has ended or stopped, at {where}")
        return self._stuck(steps) or self._nobody(reason_of(error))

    def _stuck(self, steps: Mapping[int, Step]) -> dict[str, Any] | None:
        """Returns the fault of one that is behind, or does something else than others; None where none is to be seen.

        Args:
            steps: of those that do not go on.
        """
        ranks = behind(steps)
        if ranks:
            step = steps[ranks[0]]
            waiting = max((each for each in steps.values() if each.waits is not None), key=lambda each: each.position)
            what = f"is stuck at {step.where}, while others wait for it in {waiting.what} at {waiting.where}"
            return self._fault(ranks, what)
        ranks = astray(steps) if self._all_wait(steps) else []
        if ranks:
            step, other = steps[ranks[0]], next(each for rank, each in sorted(steps.items()) if rank not in ranks)
            what = f"waits in {step.what} at {step.where}, while others wait in {other.what} at {other.where}"
            return self._fault(ranks, what)
        return None

    def _all_wait(self, steps: Mapping[int, Step]) -> bool:
        """Whether all processes are among these, and wait for all."""
        return len(steps) == self.place.size and all(step.waits == ALL for step in steps.values())

    def _nobody(self, reason: str) -> dict[str, Any]:
        """Returns the fault where it is not known whose it is."""
        return {"text": f"The processes have lost their connection ({reason})", "fix": self.fix, "gone": []}

    def _fault(self, ranks: Iterable[int], what: str) -> dict[str, Any]:
        first, *more = sorted(ranks)
        texts = [self._named(first, what), *(self._named(rank, "as well") for rank in more)]
        return {"text": "; ".join(texts), "fix": self.fix, "gone": [first, *more]}

    def _named(self, rank: int, what: str) -> str:
        host = self.store.get(f"host/{rank}").decode() if self.store.check([f"host/{rank}"]) else "an unknown host"
        return f"Process {rank} on {host} {what}"

    def _note(self, fault: dict[str, Any]) -> None:
        """Writes a fault down, unless there is one."""
        self.store.compare_set(FAULT, "", json.dumps(fault))

    def _tells(self, fault: dict[str, Any]) -> bool:
        """Whether it is the turn of this process to tell a fault."""
        teller = min(set(range(self.place.size)) - {*fault["gone"]}, default=0)
        tells = teller == self.place.rank
        with suppress(RuntimeError):
            tells = tells and not self.store.check([TOLD])
            if tells:
                self.store.set(TOLD, b"")
            self.store.set(_done(self.place.rank), b"")
        return tells

    def _leave(self, fault: dict[str, Any] | None) -> NoReturn:
        """Ends this process, after the fault was told if it is this one's turn.

        Args:
            fault: what has happened; None where the store is lost. Then the processes cannot agree on who tells it, and
                each machine has one that does: the first of it, and on that of process 0, if this is who had the store,
                the next one.
        """
        self._leaving.acquire()  # for good: of the threads, which may come here together, one tells
        if fault is None and launcher_is_gone(within=1):  # which had the store
            fault, tells = {"text": launcher_fault()}, self.place.local_rank == 0
        elif fault is None:
            fault, tells = {"text": store_fault()}, self.place.rank == (self.place.leader or 1)
        else:
            tells = self._tells(fault)
        if tells:
            if console.is_terminal:
                console.print()  # behind a progress bar
            say(f"medarts: {fault['text'].rstrip('.')}. {fault.get('fix') or self.fix}", to=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(1)


def _done(rank: int) -> str:
    return f"done/{rank}"


def _beat_of(rank: int) -> str:
    return f"beat/{rank}"


@dataclass(frozen=True, slots=True)
class _Sign:
    """What was seen of a process.

    Attributes:
        beat: number of its last sign of life.
        step: that this one told.
        alive: time of the last sign that was new.
        still: time since which the step is the same.
    """

    beat: int
    step: Step
    alive: float
    still: float


def _is_reached(mark: Mark) -> bool:
    try:
        return mark.query()
    except RuntimeError:  # of a GPU that is lost; the main thread gets its error
        return False


def reason_of(error: Exception) -> str:
    """Returns what an error of PyTorch or Gloo says, in up to 200 characters, without the place in their source.

    >>> reason_of(RuntimeError("[/pytorch/third_party/gloo/pair.cc:538] Connection closed by peer [127.0.0.1]:42811"))
    'Connection closed by peer [127.0.0.1]:42811'
    >>> reason_of(RuntimeError("Broken pipe\\nException raised from sendBytes at /pytorch/Utils.hpp:758:\\nframe #0"))
    'Broken pipe'
    """
    words = " ".join(str(error).partition("Exception raised from ")[0].split())
    return re.sub(r"\[[^\[\]]*\.(cc|cpp|h|hpp):\d+\] ", "", words)[:200]


def store_fault() -> str:
    """Returns the first sentence of the error of a process that has lost the store, without its period."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"The first process of the job, or its machine, is gone: the connection to {where} is lost"


def connected(host: str, port: int, *, patience: float) -> Any:
    """Returns a new connection to the store of a job.

    Args:
        host: that has the store.
        port: of it.
        patience: seconds to wait for an answer.
    """
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]  # public, whatever its module exports
        host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=patience)
    )
