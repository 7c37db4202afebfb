"""A bound that the workers of a server share: never exceeded, nearly all of it for one, a part for each that waits."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spear_wasm.board import Board, Claim, Wait
from spear_wasm.execution.shared_allowance import KEPT, SharedAllowance
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key

MOST_WORKERS = 4


class Worker:
    """One of those that share `whole`."""

    def __init__(self, board: Board, place: int, whole: int, locks: FileLocks) -> None:
        self.seat = board.seat(place + 1)
        self.seat.worker, self.seat.place = place + 1, place
        self.allowance = SharedAllowance(whole, Claim.RUNNING, self.seat, locks)
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

    def waits(self) -> bool:
        """As any other sees it."""
        return self.seat.board.seat(0).others_wait(Wait.RUNNING)


class Interrupted(FileLocks):
    """What is in `before` is done before the next try for a lock, what is in `within` while it is held."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.before: list[Callable[[], object]] = []
        self.within: list[Callable[[], object]] = []

    def try_to_hold(self, key: int) -> int | None:
        if self.before:
            self.before.pop()()
        turn = super().try_to_hold(key)
        if turn is not None and self.within:
            self.within.pop()()
        return turn


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
    assert busy.fill() >= count + more - sum(
        int(worker.seat.share_of(count + more) * KEPT) for worker in idle
    )


@given(st.integers(2, MOST_WORKERS), st.integers(0, 200))
def test_who_waits_has_its_part_once_as_much_has_ended_elsewhere(
    directory: Path, count: int, more: int
) -> None:
    greedy, *others = workers_of(directory, count, count + more)
    part = (count + more) // count
    greedy.fill()
    for worker in others:
        worker.fill()
    for _ in range((count - 1) * part):
        greedy.give_back(1)
        assert not greedy.take()
    assert greedy.used >= part
    for worker in others:
        assert worker.fill() >= part


@given(st.integers(2, MOST_WORKERS), st.integers(1, 200))
def test_who_uses_its_part_leaves_all_of_the_others(directory: Path, count: int, part: int) -> None:
    content, other, *_ = workers_of(directory, count, count * part)
    for _ in range(part):
        assert content.take()
    assert other.take(part)


def test_what_the_idle_do_not_use_is_there_for_the_busy_though_they_wait(tmp_path: Path) -> None:
    one, another, _, _ = workers_of(tmp_path, 4, 400)
    while one.take() + another.take():
        pass
    assert one.used + another.used == 400
    assert one.used == another.used


def test_who_wants_more_than_its_part_is_owed_nothing(tmp_path: Path) -> None:
    one, another = workers_of(tmp_path, 2, 1024)
    for worker in (one, another):
        assert worker.take(64)
    assert not one.take(960)
    assert one.waits()
    assert another.take(512)
    assert not one.take(512)


def test_who_is_idle_lets_go_of_all_when_it_settles_while_another_waits(tmp_path: Path) -> None:
    idle, busy = workers_of(tmp_path, 2, 1024)
    assert idle.take(64)
    idle.give_back(64)
    assert idle.allowance.granted
    busy.fill()
    assert not busy.take()
    idle.give_back(0)
    assert busy.fill() == 1024


def test_who_waits_for_a_turn_or_for_memory_keeps_nobody_from_running(tmp_path: Path) -> None:
    busy, other = workers_of(tmp_path, 2, 100)
    other.seat.wait(Wait.TURN)
    other.seat.wait(Wait.MEMORY)
    assert busy.fill() == 100


def test_who_waits_says_so_until_it_does_not_any_more(tmp_path: Path) -> None:
    busy, other = workers_of(tmp_path, 2, 10)
    busy.fill()
    assert not other.take()
    busy.seat.stop_waiting()
    assert other.waits()
    other.seat.stop_waiting()
    assert not other.waits()


def test_one_more_worker_has_its_part_while_it_follows_another(tmp_path: Path) -> None:
    board, locks = Board(4, places=2), FileLocks(tmp_path)
    retiring, other = (Worker(board, place, 90, locks) for place in range(2))
    for worker in (retiring, other):
        for _ in range(40):
            assert worker.take()
    follower = Worker(board, 2, 90, locks)
    while follower.take():
        pass
    for worker in (retiring, other):
        while worker.used > 30:
            worker.give_back(1)
            assert worker.used < 30 or not worker.take()
    assert follower.fill() == 30


def test_what_is_given_back_is_no_way_to_claim_more(tmp_path: Path) -> None:
    board, locks = Board(3, places=2), FileLocks(tmp_path)
    left, gone = (Worker(board, place, 100, locks) for place in range(2))
    for _ in range(52):
        assert left.take()
    board.seat(0).inherit(gone.seat)
    left.give_back(1)
    assert left.allowance.granted <= 52


def test_two_that_claim_at_one_moment_do_not_both_have_the_last(tmp_path: Path) -> None:
    board, locks = Board(3, places=2), Interrupted(tmp_path)
    first, second = Worker(board, 0, 2, locks), Worker(board, 1, 2, FileLocks(tmp_path))
    assert first.take()
    locks.before.append(second.take)
    assert not first.take()
    assert (first.used, second.used) == (1, 1)


def test_nobody_claims_while_another_one_does(tmp_path: Path) -> None:
    board, locks = Board(3, places=2), Interrupted(tmp_path)
    first, second = Worker(board, 0, 4, locks), Worker(board, 1, 4, FileLocks(tmp_path))
    assert first.take()
    locks.within.append(second.take)
    assert first.take()
    assert not locks.within
    assert (first.used, second.used) == (2, 0)


def test_who_has_no_descriptor_left_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = workers_of(tmp_path, 1, 10)
    with monkeypatch.context() as patched:
        patched.setattr(FileLocks, "_opened", no_descriptors)
        assert not worker.take()
    assert worker.take()


def test_a_lock_that_cannot_be_tried_for_another_reason_is_an_error(tmp_path: Path) -> None:
    (worker,) = workers_of(tmp_path / "gone", 1, 10)
    with pytest.raises(FileNotFoundError):
        worker.take()


def no_descriptors(_locks: FileLocks) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


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

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.whole = 0
        self.workers: list[Worker] = []

    @initialize(count=st.integers(1, MOST_WORKERS), more=st.integers(0, 100))
    def begin(self, count: int, more: int) -> None:
        self.whole = count + more
        self.workers = workers_of(Path(self.folder.name), count, self.whole)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(data=st.data(), amount=st.integers(1, 40))
    def take(self, data: st.DataObject, amount: int) -> None:
        data.draw(st.sampled_from(self.workers)).take(amount)

    @precondition(lambda self: any(worker.used for worker in self.workers))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.used]))
        worker.give_back(data.draw(st.integers(1, worker.used)))

    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.workers)).seat.stop_waiting()

    @rule(data=st.data(), amount=st.integers(1, 40))
    def take_within_the_part_while_nobody_has_more(self, data: st.DataObject, amount: int) -> None:
        part = self.whole // len(self.workers)
        worker = data.draw(st.sampled_from(self.workers))
        if worker.used + amount <= part and all(
            each.allowance.granted <= part for each in self.workers if each is not worker
        ):
            assert worker.take(amount)

    @invariant()
    def nobody_uses_more_than_is_its_own(self) -> None:
        for worker in self.workers:
            assert worker.used <= worker.allowance.granted

    @invariant()
    def together_they_never_have_more_than_there_is(self) -> None:
        granted = sum(worker.allowance.granted for worker in self.workers)
        assert granted <= self.whole
        for worker in self.workers:
            assert sum(worker.seat.claims_of_others(Claim.RUNNING)) == granted - worker.allowance.granted


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
