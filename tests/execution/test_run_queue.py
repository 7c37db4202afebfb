"""Turns are shared by time used, and not by slices begun."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.fiber import FiberState
from spear_wasm.execution.run_queue import CREDIT_NS, RunQueue
from spear_wasm.execution.share import Share
from tests.execution.fake_fibers import FakeFiber, Guest

MS = 1_000_000


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


def test_a_new_guest_of_a_task_is_not_paid_for_the_time_before_it_came() -> None:
    queue = RunQueue()
    share = Share()
    old = runnable(share)
    queue.push(old)
    for _ in range(100):
        take_turn(queue, MS)
    newcomer = runnable(share)
    queue.push(newcomer)
    turns = [take_turn(queue, MS) for _ in range(20)]
    assert turns.count(old) == turns.count(newcomer) == 10


def test_however_many_guests_a_task_runs_another_task_has_its_credit_and_then_every_other_turn() -> None:
    queue = RunQueue()
    crowd = Share()
    for _ in range(40):
        queue.push(runnable(crowd))
    for _ in range(100):
        take_turn(queue, MS)
    newcomer = runnable()
    queue.push(newcomer)
    credit = CREDIT_NS // MS
    assert [take_turn(queue, MS) for _ in range(credit - 1)] == [newcomer] * (credit - 1)
    turns = [take_turn(queue, MS) for _ in range(22)]
    assert turns.count(newcomer) in {11, 12}


def test_a_task_that_comes_back_again_and_again_gets_no_more_than_others() -> None:
    queue = RunQueue()
    steady, returning = runnable(), Share()
    queue.push(steady)
    used = {steady.share: 0, returning: 0}
    for _ in range(50):
        queue.push(runnable(returning))
        while len(queue) > 1:
            fiber = queue.pop()
            assert fiber is not None
            fiber.charge(MS)
            used[fiber.share] += MS
            if fiber is steady:
                queue.push(fiber)
    assert used[returning] <= used[steady.share] + CREDIT_NS + MS


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
