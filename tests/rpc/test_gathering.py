"""What comes at one time is handled together, and nobody waits for long for others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.rpc.edge.gathering import LOOKING_SECONDS, MOST, Gathering


class Queue:
    """What a polling thread has before it: arrivals, and what it was asked to come back to."""

    def __init__(self) -> None:
        self.handled: list[list[int]] = []
        self._events: deque[Callable[[], None]] = deque()
        self._gathering = Gathering(self.handled.append)
        self._number = 0

    def arrive(self, count: int) -> None:
        """So many more are there."""
        for _ in range(count):
            self._number += 1
            self._events.append(lambda item=self._number: self._gathering.add(item, self._events.append))  # type: ignore[misc]  # of a default

    def run(self) -> None:
        """Until nothing is left to be done."""
        while self._events:
            self._events.popleft()()


def test_one_that_comes_alone_is_handled_at_once() -> None:
    queue = Queue()
    for _ in range(3):
        queue.arrive(1)
        queue.run()
    assert queue.handled == [[1], [2], [3]]


def test_those_that_are_there_are_handled_together_in_their_order() -> None:
    queue = Queue()
    queue.arrive(5)
    queue.run()
    assert queue.handled == [[1, 2, 3, 4, 5]]


def test_one_that_comes_while_others_are_looked_for_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear_wasm.rpc.edge.gathering.time", SimpleNamespace(monotonic=lambda: 0.0))
    queue = Queue()
    queue.arrive(1)
    queue._events.popleft()()
    queue.arrive(1)
    queue.run()
    assert queue.handled == [[1], [2]]
    queue.arrive(2)
    queue._events.popleft()()
    queue.arrive(1)
    queue.run()
    assert queue.handled == [[1], [2], [3, 4, 5]]


def test_the_first_waits_for_others_no_longer_than_so_long_though_each_look_finds_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("spear_wasm.rpc.edge.gathering.time", SimpleNamespace(monotonic=lambda: now[0]))
    handled: list[list[int]] = []
    looks: list[Callable[[], None]] = []
    gathering = Gathering(handled.append)
    gathering.add(0, looks.append)
    for number in range(1, 4):
        gathering.add(number, looks.append)
        now[0] += LOOKING_SECONDS / 3
        looks.pop()()
    assert (handled, looks) == ([[0, 1, 2, 3]], [])


@given(st.lists(st.integers(1, 3 * MOST), max_size=20))
def test_all_are_handled_once_and_in_order_and_never_more_than_the_bound_together(counts: list[int]) -> None:
    queue = Queue()
    for count in counts:
        queue.arrive(count)
        queue.run()
    assert all(0 < len(items) <= MOST for items in queue.handled)
    together = [item for items in queue.handled for item in items]
    assert together == list(range(1, sum(counts) + 1))
