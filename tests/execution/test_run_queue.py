"""Turns are shared by time used, and not by slices begun."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.fiber import FiberState
from spear_wasm.execution.run_queue import RunQueue
from spear_wasm.execution.share import Share
from tests.execution.fake_fibers import FakeFiber, Guest


def runnable(share: Share | None = None) -> FakeFiber:
    fiber = FakeFiber(Guest().run())
    fiber.share = share or fiber.share
    fiber.state = FiberState.RUNNABLE
    return fiber


def take_turn(queue: RunQueue, used: int) -> FakeFiber:
    """The fiber whose turn it is uses some time and comes back."""
    fiber = queue.pop()
    assert isinstance(fiber, FakeFiber)
    fiber.charge(used)
    queue.push(fiber)
    return fiber


def test_fibers_that_used_the_same_go_in_the_order_in_which_they_came() -> None:
    queue = RunQueue()
    fibers = [runnable() for _ in range(5)]
    for fiber in fibers:
        queue.push(fiber)
    assert [queue.pop() for _ in fibers] == fibers
    assert queue.pop() is None


def test_after_a_long_slice_the_others_get_as_much_first() -> None:
    queue = RunQueue()
    greedy, modest = runnable(), runnable()
    queue.push(greedy)
    queue.push(modest)
    assert take_turn(queue, 30) is greedy
    assert [take_turn(queue, 1) for _ in range(30)] == [modest] * 30
    assert take_turn(queue, 1) is greedy


def test_a_newcomer_is_not_paid_for_the_time_before_it_came() -> None:
    queue = RunQueue()
    old = runnable()
    queue.push(old)
    for _ in range(100):
        take_turn(queue, 10)
    newcomer = runnable()
    queue.push(newcomer)
    turns = [take_turn(queue, 10) for _ in range(20)]
    assert turns.count(old) == turns.count(newcomer) == 10


def test_however_many_guests_a_task_runs_another_task_gets_every_other_turn() -> None:
    queue = RunQueue()
    crowd = Share()
    for _ in range(40):
        queue.push(runnable(crowd))
    for _ in range(100):
        take_turn(queue, 10)
    newcomer = runnable()
    queue.push(newcomer)
    turns = [take_turn(queue, 10) for _ in range(20)]
    assert turns.count(newcomer) in {10, 11}
    assert turns[0] is newcomer or turns[1] is newcomer


def test_a_task_is_not_paid_for_the_time_in_which_it_had_no_guests() -> None:
    queue = RunQueue()
    steady, resting = Share(), Share()
    queue.push(runnable(resting))
    assert queue.pop() is not None
    first = runnable(steady)
    queue.push(first)
    for _ in range(100):
        take_turn(queue, 10)
    back = runnable(resting)
    queue.push(back)
    turns = [take_turn(queue, 10) for _ in range(20)]
    assert turns.count(first) == turns.count(back) == 10


def test_the_guests_of_one_task_share_its_turns() -> None:
    queue = RunQueue()
    share = Share()
    guests = [runnable(share) for _ in range(4)]
    for guest in (*guests, runnable()):
        queue.push(guest)
    turns = [take_turn(queue, 10) for _ in range(80)]
    assert [turns.count(guest) for guest in guests] == [10] * 4


def test_those_that_ended_while_they_waited_are_passed_over() -> None:
    queue = RunQueue()
    ended, alive = runnable(), runnable()
    queue.push(ended)
    queue.push(alive)
    ended.state = FiberState.ENDED
    assert queue.pop() is alive
    assert queue.pop() is None
    assert len(queue) == 0


@given(st.lists(st.lists(st.integers(1, 50), min_size=1), min_size=2, max_size=6), st.integers(1, 300))
def test_no_fiber_gets_ahead_of_another_by_more_than_its_longest_slice(
    slices: list[list[int]], turns: int
) -> None:
    queue = RunQueue()
    guests = {runnable(): itertools.cycle(each) for each in slices}
    used = dict.fromkeys(guests, 0)
    longest = dict(zip(guests, map(max, slices), strict=True))
    for fiber in guests:
        queue.push(fiber)
    for _ in range(turns):
        running = queue.pop()
        assert isinstance(running, FakeFiber)
        step = next(guests[running])
        running.charge(step)
        used[running] += step
        queue.push(running)
        for ahead, behind in itertools.permutations(guests, 2):
            assert used[ahead] - used[behind] <= longest[ahead]
