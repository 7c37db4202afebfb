"""A bound that the workers of a server share: never exceeded, nearly all of it for one, a part for each that waits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spear_wasm.board import Board, Claim
from spear_wasm.execution.shared_allowance import KEPT_OF_A_PART, SharedAllowance
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key

MOST_WORKERS = 4


class Worker:
    """One of those that share `whole`."""

    def __init__(self, board: Board, place: int, whole: int, locks: FileLocks) -> None:
        self.seat = board.seat(place + 1)
        self.seat.place = place
        self.part = self.seat.share_of(whole)
        self.allowance = SharedAllowance(whole, Claim.PLACES, self.seat, locks)
        self.used = 0

    def take(self, amount: int = 1) -> bool:
        if not self.allowance.covers(self.used + amount):
            return False
        self.used += amount
        return True

    def fill(self) -> int:
        while self.take():
            pass
        return self.used

    def give_back(self, amount: int) -> None:
        self.used -= amount
        self.allowance.settle(self.used)


def workers_of(directory: Path, count: int, whole: int) -> list[Worker]:
    board, locks = Board(count + 1, places=count), FileLocks(directory)
    return [Worker(board, place, whole, locks) for place in range(count)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@given(st.integers(1, MOST_WORKERS), st.integers(0, 200))
def test_one_that_is_busy_has_all_but_what_the_idle_keep_at_hand(
    directory: Path, count: int, more: int
) -> None:
    busy, *idle = workers_of(directory, count, count + more)
    for worker in idle:
        worker.fill()
        worker.give_back(worker.used)
    assert busy.fill() >= count + more - sum(worker.part // KEPT_OF_A_PART for worker in idle)


@given(st.integers(2, MOST_WORKERS), st.integers(0, 200))
def test_who_waits_has_its_part_once_as_much_has_ended_elsewhere(
    directory: Path, count: int, more: int
) -> None:
    greedy, *others = workers_of(directory, count, count + more)
    greedy.fill()
    for worker in others:
        worker.seat.wait(whether=True)
    while greedy.used > greedy.part:
        greedy.give_back(1)
        assert not greedy.take()
    for worker in others:
        assert worker.fill() >= worker.part


def test_what_a_worker_has_that_dies_is_there_for_the_others(tmp_path: Path) -> None:
    board, locks = Board(3, places=2), FileLocks(tmp_path)
    dying, other = (Worker(board, place, 10, locks) for place in range(2))
    assert dying.fill() == 10
    assert not other.take()
    board.seat(0).inherit(dying.seat)
    assert other.fill() == 10


def test_nobody_waits_for_one_that_was_stopped_while_it_claimed(tmp_path: Path) -> None:
    (worker,) = workers_of(tmp_path, 1, 10)
    with FileLocks(tmp_path).held(Key.CLAIMING):
        assert not worker.take()
    assert worker.take()


class Sharing(RuleBasedStateMachine):
    """Workers that take, give back and wait as they like."""

    @initialize(count=st.integers(1, MOST_WORKERS), more=st.integers(0, 100))
    def begin(self, count: int, more: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.whole = count + more
        self.workers = workers_of(Path(self.folder.name), count, self.whole)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(data=st.data(), amount=st.integers(1, 40))
    def take(self, data: st.DataObject, amount: int) -> None:
        data.draw(st.sampled_from(self.workers)).take(amount)

    @precondition(lambda self: any(worker.used for worker in self.workers))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.used]))
        worker.give_back(data.draw(st.integers(1, worker.used)))

    @rule(data=st.data(), whether=st.booleans())
    def wait(self, data: st.DataObject, whether: bool) -> None:
        data.draw(st.sampled_from(self.workers)).seat.wait(whether=whether)

    @invariant()
    def nobody_uses_more_than_is_its_own(self) -> None:
        for worker in getattr(self, "workers", ()):
            assert worker.used <= worker.allowance.granted

    @invariant()
    def together_they_never_have_more_than_there_is(self) -> None:
        workers = getattr(self, "workers", ())
        granted = sum(worker.allowance.granted for worker in workers)
        assert granted <= getattr(self, "whole", 0)
        for worker in workers:
            assert worker.seat.claimed_by_others(Claim.PLACES) == granted - worker.allowance.granted
            assert worker.allowance.free(worker.used) == self.whole - granted + (
                worker.allowance.granted - worker.used
            )


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
