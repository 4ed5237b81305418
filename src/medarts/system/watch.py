"""Notices a process of a job that is gone, stopped or stuck, and ends all the others with one message that names it.

Every process has a thread that leaves a sign of life in a store and looks for those of the others. A process whose sign
is old is lost; one that was killed is noticed sooner, as its connections end. Whoever notices writes down the fault,
once for all; the first process that is not at fault tells it, and every process ends. It ends from this thread: its
main thread may be waiting for the lost one where nothing can interrupt it.

A process that is at work for long, as with measuring, gives its signs of life all the same.
"""

import json
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch

from medarts.errors import MedartsError
from medarts.system.console import console, say
from medarts.system.place import Place

INTERVAL = 0.5
"""Seconds between two signs of life."""

_ROLL_CALL = 10.0
"""Seconds within which every process that is there answers; many times the interval, as machines may be busy."""

FAULT, TOLD, _ROLL = "fault", "told", "roll"


class Watch(threading.Thread):
    """The thread of a process that watches the others.

    Args:
        place: this process.
        store: a connection of this thread's own.
        patience: seconds without a sign of life after which a process is lost.

    Attributes:
        where: how far this process is.
        fix: what to do if one is lost.
        count: what it has begun together with the others: it is behind where its number is smaller than theirs.
    """

    def __init__(self, place: Place, store: Any, *, patience: float) -> None:
        super().__init__(daemon=True, name="medarts watch")
        self.place, self.store, self.patience = place, store, patience
        self.where, self.fix, self.count = "its start", "Start it again.", 0
        self._ended, self._leaving = threading.Event(), threading.Lock()
        self._signs: dict[int, tuple[bytes, float]] = {}
        self._beats, self._answered = 0, time.monotonic()
        store.set(f"host/{place.rank}", platform.node())

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
        """Finds out who is missing when processes could not go on together, and ends this one."""
        try:
            if not self.store.check([FAULT]):
                self.store.set(_ROLL, b"")
                self._note(self._missing(error))
            fault = json.loads(self.store.get(FAULT))
        except RuntimeError:
            fault = None
        self._leave(fault)

    def fail(self, error: BaseException) -> bool:
        """Lets the others end because of an error of this process; returns whether it is to be told here.

        An error that all processes run into, such as that of a recipe, is that of the first one. The watch has to be
        ended by then.
        """
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
        until, others = time.monotonic() + _ROLL_CALL, range(1, self.place.size)
        while time.monotonic() < until and not all(self.store.check([_done(rank)]) for rank in others):
            time.sleep(INTERVAL / 5)

    def _look(self) -> None:
        rank, now = self.place.rank, time.monotonic()
        self._beats += 1
        self.store.set(_beat_of(rank), f"{self._beats} {self.count} {self.where}")
        if self.store.check([_ROLL]):
            self.store.set(f"here/{rank}", f"{self.count} {self.where}")
        if self.store.check([FAULT]):
            self._leave(json.loads(self.store.get(FAULT)))
        for other in range(self.place.size):
            if other == rank:
                continue
            sign = self.store.get(_beat_of(other)) if self.store.check([_beat_of(other)]) else b""
            seen, since = self._signs.get(other, (None, now))
            if sign != seen:
                self._signs[other] = sign, now
            elif now - since > self.patience:
                text = self._named(other, f"has not answered for {self.patience:.0f} s, since {_where(sign)}")
                self._note({"text": text, "fix": self.fix, "gone": [other]})

    def _missing(self, error: RuntimeError) -> dict[str, Any]:
        """Returns the fault, once every process has had the time to say that it is there."""
        until, others = time.monotonic() + _ROLL_CALL, set(range(self.place.size)) - {self.place.rank}
        while time.monotonic() < until and not all(self.store.check([f"here/{rank}"]) for rank in others):
            if self.store.check([FAULT]):
                break
            time.sleep(INTERVAL / 2)
        gone = [rank for rank in sorted(others) if not self.store.check([f"here/{rank}"])]
        if gone:
            sign = self.store.get(_beat_of(gone[0])) if self.store.check([_beat_of(gone[0])]) else b""
            texts = [self._named(gone[0], f"has ended or stopped, at {_where(sign)}")]
            texts += [self._named(rank, "as well") for rank in gone[1:]]
            return {"text": "; ".join(texts), "fix": self.fix, "gone": gone}
        counts = {rank: self.store.get(f"here/{rank}").decode().split(" ", 1) for rank in others}
        behind = min(others, key=lambda rank: int(counts[rank][0]))
        if int(counts[behind][0]) < self.count:
            text = self._named(behind, f"is stuck at {counts[behind][1]}, while others wait for it at {self.where}")
            return {"text": text, "fix": self.fix, "gone": [behind]}
        reason = " ".join(str(error).split())[:200]
        return {"text": f"The processes have lost their connection ({reason})", "fix": self.fix, "gone": []}

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
                each machine has one that does: the first of it, and on that of process 0 the next one.
        """
        self._leaving.acquire()  # for good: of the threads, which may come here together, one tells
        if fault is None:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            text = f"The first process of the job, or its machine, is gone: the connection to {where} is lost"
            fault, tells = {"text": text}, self.place.rank == (self.place.leader or 1)
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


def _where(sign: bytes) -> str:
    """Returns how far a process was by its last sign of life."""
    return sign.decode().split(" ", 2)[2] if sign else "its start"


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
