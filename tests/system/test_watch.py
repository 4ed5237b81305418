"""The process that is at fault is named, by what each says of itself in a store; none is started."""

import json
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from medarts.system import watch
from medarts.system.place import Place
from medarts.system.watch import ALL, FAULT, INTERVAL, Watch

PATIENCE = 20.0


class Store:
    """A store in memory that counts the values that are read of it."""

    def __init__(self) -> None:
        self._store: Any = torch.distributed.HashStore()  # type: ignore[attr-defined]  # public, whatever its module exports
        self.read = 0

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.read += len(keys)
        return self._store.multi_get(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class LeftError(Exception):
    """A process has ended."""


class Job:
    """Processes of a job, each of which is but its watch, by a clock that goes when it is asked to."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now, self._stack = Store(), 0.0, ExitStack()
        self.silent: set[int] = set()
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.round))
        monkeypatch.setattr(Watch, "_leave", self.leave)
        self.watches = [Watch(Place(rank, size, rank, size), self.store, patience=PATIENCE) for rank in range(size)]
        self.round()

    def leave(self, fault: dict[str, Any] | None) -> NoReturn:
        raise LeftError

    def did(self, rank: int, *what: str, where: str = "epoch 1, step 1") -> None:
        self.watches[rank].where = where
        for each in what:
            with self.watches[rank].together(each):
                pass

    def begins(self, rank: int, what: str, *, waits: int | None = ALL, where: str = "epoch 1, step 1") -> None:
        self.watches[rank].where = where
        self._stack.enter_context(self.watches[rank].together(what))
        if waits is not None:
            self._stack.enter_context(self.watches[rank].waiting(waits))

    def round(self, seconds: float = INTERVAL) -> None:
        """Lets all that are not silent give a sign of life."""
        self.now += seconds
        for each in self.watches:
            if each.place.rank not in self.silent and not self.store.check([FAULT]):
                each._look()

    def fault(self, *, most: float) -> str:
        """Returns the fault that is noted within some seconds, or an empty text."""
        until = self.now + most
        while self.now < until and not self.store.check([FAULT]):
            self.round()
        return json.loads(self.store.get(FAULT))["text"] if self.store.check([FAULT]) else ""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(4, monkeypatch)


def test_of_those_that_wait_in_different_places_the_one_behind_is_named(job):
    """Rank 3 waits, too, and is behind ranks 0 and 1, but it waits for rank 2, which works and works."""
    for rank in (0, 1):
        job.did(rank, "a sum", "a sum", "work of the first process", where="epoch 1, step 7")
        job.begins(rank, "an exchange", where="epoch 1, step 7")
    job.did(3, "a sum", "a sum", where="epoch 1, step 6")
    job.begins(3, "a sum", where="epoch 1, step 7")
    job.did(2, "a sum", where="epoch 1, step 5")
    said = job.fault(most=2 * PATIENCE)
    assert said.startswith("Process 2 on "), said
    assert said.endswith("is stuck at epoch 1, step 5, while others wait for it in an exchange at epoch 1, step 7"), (
        said
    )
    assert PATIENCE < job.now < PATIENCE + 5


def test_two_that_are_behind_alike_are_both_named(job):
    for rank in (0, 3):
        job.did(rank, "a sum")
        job.begins(rank, "a sum")
    for rank in (1, 2):
        job.did(rank, "a sum")
    said = job.fault(most=2 * PATIENCE)
    assert "Process 1 on" in said
    assert "; Process 2 on" in said
    assert "Process 0" not in said


def test_the_first_process_can_be_the_one_behind(job):
    """For whose work the others wait; it has not come to it."""
    for rank in (1, 2, 3):
        job.begins(rank, "work of the first process", waits=0)
    assert job.fault(most=2 * PATIENCE).startswith("Process 0 on ")


def test_long_work_of_one_is_no_fault(job):
    """Of the first, for which the others wait; of one while none is behind; and of all."""
    job.begins(0, "work of the first process", waits=None)
    for rank in (1, 2, 3):
        job.begins(rank, "work of the first process", waits=0)
    assert job.fault(most=3 * PATIENCE) == ""


def test_one_that_goes_on_slowly_is_no_fault(job):
    for rank in (0, 1, 3):
        job.begins(rank, "a sum")
    for step in range(6):
        job.did(2, where=f"epoch 1, step {step}")
        assert job.fault(most=PATIENCE / 2) == ""


def test_one_that_is_stopped_is_said_to_have_stopped(job):
    """Others wait for it as long, but that it gives no sign of life says more."""
    for rank in (0, 1, 3):
        job.begins(rank, "a sum")
    job.did(2, where="epoch 3, step 1")
    job.round()
    job.silent.add(2)
    said = job.fault(most=2 * PATIENCE)
    assert f"has not answered for {PATIENCE:.0f} s, since epoch 3, step 1" in said
    assert said.startswith("Process 2 on ")


def test_the_others_notice_that_the_first_is_stopped(job):
    job.round()
    job.silent.add(0)
    assert job.fault(most=2 * PATIENCE).startswith("Process 0 on ")


def test_one_that_went_another_way_is_named(job):
    for rank in (0, 1, 3):
        job.begins(rank, "a sum", where="epoch 1, step 4")
    job.begins(2, "an exchange", where="epoch 1, step 3")
    said = job.fault(most=2 * PATIENCE)
    assert said.startswith("Process 2 on ")
    assert "waits in an exchange at epoch 1, step 3, while others wait in a sum at epoch 1, step 4" in said


def test_none_is_named_where_all_wait_alike(job):
    for rank in range(4):
        job.begins(rank, "a sum")
    assert job.fault(most=2 * PATIENCE) == "The processes have lost their connection (none of them goes on)"


class Event:
    """An event of CUDA, of a GPU that comes to it or not."""

    def __init__(self, reached: bool) -> None:
        self.reached = reached

    def query(self) -> bool:
        return self.reached


def test_where_gpus_wait_the_process_whose_gpu_hangs_is_named(job):
    """All processes have given their GPUs the same: by what they began themselves they would be alike."""
    for rank, each in enumerate(job.watches):
        for step in range(1, 4):
            each.where = f"epoch 1, step {step}"
            with each.together("a sum"), each.waiting(ALL):
                each.follow(Event(step < 2 or (step == 2 and rank != 1)), Event(step < 2))
    said = job.fault(most=2 * PATIENCE)
    assert said.startswith("Process 1 on "), said
    assert "is stuck at epoch 1, step 2" in said


def test_marks_of_a_gpu_are_forgotten_once_it_has_come_to_them(job):
    first = job.watches[0]
    events = [Event(True), Event(False)]
    with first.together("a sum"), first.waiting(ALL):
        first.follow(*events)
    job.round()
    assert [mark for _, mark in first._marks] == events[1:]
    events[1].reached = True
    job.round()
    assert not first._marks


def test_what_was_done_before_the_group_was_formed_again_does_not_count(job):
    """Memory ran out in process 1, which was behind, and has it form the group with the others."""
    for rank in (0, 2, 3):
        job.did(rank, "a sum", "a sum", "a sum")
    job.did(1, "a sum")
    for rank in range(4):
        job.watches[rank].regroup()
    for rank in (0, 1, 2):
        job.begins(rank, "forming the group again")
    assert job.fault(most=2 * PATIENCE).startswith("Process 3 on ")


@pytest.mark.parametrize("caller", [0, 3])
def test_who_loses_the_connection_names_the_one_behind(caller, job):
    """Whoever it is that calls the roll; who is late does not call it again."""
    for rank in (0, 1):
        job.did(rank, "a sum", "a sum")
        job.begins(rank, "a sum")
    job.did(3, "a sum")
    job.begins(3, "a sum")
    job.did(2, where="epoch 9")
    for rank in (caller, 1):
        with pytest.raises(LeftError):
            job.watches[rank].lost(RuntimeError("Timed out"))
    said = json.loads(job.store.get(FAULT))["text"]
    assert said.startswith("Process 2 on "), said
    assert "is stuck at epoch 9" in said


def test_who_does_not_answer_the_roll_is_named(job):
    job.silent.update({1, 2})
    with pytest.raises(LeftError):
        job.watches[3].lost(RuntimeError("Connection reset by peer"))
    said = json.loads(job.store.get(FAULT))["text"]
    assert "Process 1 on" in said
    assert "has ended or stopped, at its start; Process 2 on" in said
    assert job.now < PATIENCE


def test_where_all_answer_and_none_is_behind_the_reason_is_told(job):
    for rank in range(4):
        job.begins(rank, "a sum")
    with pytest.raises(LeftError):
        job.watches[1].lost(RuntimeError("Connection reset by peer"))
    said = json.loads(job.store.get(FAULT))["text"]
    assert said == "The processes have lost their connection (Connection reset by peer)"


def test_signs_that_are_read_grow_as_the_processes_do(monkeypatch):
    read = {}
    for size in (4, 32):
        job = Job(size, monkeypatch)
        before = job.store.read
        job.round()
        read[size] = job.store.read - before
    assert read == {4: 6, 32: 62}
