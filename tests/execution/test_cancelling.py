"""Cancelling: wherever an execution is when it comes, and whatever else happens at that moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.errors import ServerBusy
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.task import Linkage, Task
from spear_wasm.limits import Limits, ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionStatus
from spear_wasm.pool import Pool, PoolStats, Use
from tests.execution.conftest import OpenGuests
from tests.execution.fake_fibers import PATIENCE, Gate
from tests.execution.guests import Guests, ended, until
from tests.workshop import at_once

PENDING, RUNNING = ExecutionStatus.PENDING, ExecutionStatus.RUNNING
COMPLETED, CANCELLED = ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED
ONE_AT_A_TIME = ResourceLimits(max_concurrency=1)


class PoolThatTellsFirst:
    """A task's pool, which does something first whenever a sandbox is taken."""

    def __init__(self, task: Task, before_taking: Callable[[], object]) -> None:
        linkage = task.linkages[False]
        self._pool: Pool = linkage.pool
        self._before_taking = before_taking
        self.linked = linkage.pool.linked
        task.linkages[False] = Linkage(self, linkage.prepare)

    def take(self, limits: Limits, *, fresh: bool) -> GuestSandbox:
        self._before_taking()
        return self._pool.take(limits, fresh=fresh)

    def give_back(self, sandbox: GuestSandbox, use: Use | None) -> bool:
        return self._pool.give_back(sandbox, use)

    def stats(self) -> PoolStats:
        return self._pool.stats()

    def close(self) -> None:
        self._pool.close()


def cancel_all_of(guests: Guests, task: Task) -> None:
    for execution in list(task.active.values()):
        guests.manager.cancel(execution, "on second thoughts")


# --- where it is ------------------------------------------------------------------------------------------


def test_a_running_execution_is_cancelled_with_its_reason(guests: Guests) -> None:
    execution = guests.spinning(guests.task())
    guests.manager.cancel(execution, "on second thoughts")
    outcome = ended(execution)
    assert (outcome.status, outcome.error_code) == (CANCELLED, ErrorCode.CANCELLED)
    assert outcome.error_message == "on second thoughts"
    assert execution.lifecycle.story == (PENDING, RUNNING, CANCELLED)


def test_a_waiting_execution_is_cancelled_before_cancel_returns(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting, last = (guests.spinning(task) for _ in range(3))
    guests.manager.cancel(waiting, "on second thoughts")
    assert waiting.done
    assert waiting.lifecycle.story == (PENDING, CANCELLED)
    assert guests.manager.stats().pending == 1
    guests.cancel(running, last)


def test_nothing_happens_to_an_execution_that_has_ended(guests: Guests) -> None:
    execution = guests.run(guests.task("calc"), "answer")
    guests.manager.cancel(execution, "on second thoughts")
    assert execution.status is COMPLETED
    assert guests.manager.stats().tally.ended == 1


def test_cancelling_again_changes_nothing(guests: Guests) -> None:
    execution = guests.spinning(guests.task())
    for reason in ("first", "second"):
        guests.manager.cancel(execution, reason)
    assert ended(execution).error_message == "first"


def test_a_cancelled_execution_gives_its_place_to_the_next(open_guests: OpenGuests) -> None:
    guests = open_guests(execution={"max_running": 1})
    first, second = (guests.spinning(guests.task()) for _ in range(2))
    guests.manager.cancel(first, "on second thoughts")
    until(lambda: second.status is RUNNING)
    guests.cancel(second)


# --- at the worst moment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_the_spot", [False, True])
def test_a_cancel_between_admission_and_the_making_of_the_sandbox_is_not_lost(
    guests: Guests, on_the_spot: bool
) -> None:
    task = guests.task()
    PoolThatTellsFirst(task, lambda: cancel_all_of(guests, task))
    task.function("spin").quick_streak = 1000
    assert ended(guests.spinning(task, on_the_spot=on_the_spot)).status is CANCELLED


@pytest.mark.parametrize("on_the_spot", [False, True])
def test_a_cancel_between_the_making_of_the_sandbox_and_its_first_slice_is_not_lost(
    guests: Guests, on_the_spot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = guests.task()
    start = guests.manager._executor.start

    def cancel_and_start(*args: Any, **options: Any) -> None:
        cancel_all_of(guests, task)
        start(*args, **options)

    monkeypatch.setattr(guests.manager._executor, "start", cancel_and_start)
    task.function("spin").quick_streak = 1000
    assert ended(guests.spinning(task, on_the_spot=on_the_spot)).status is CANCELLED


def test_a_cancel_of_one_that_left_the_line_a_moment_ago_is_not_lost(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.spinning(task)
    PoolThatTellsFirst(task, lambda: cancel_all_of(guests, task))
    guests.manager.cancel(running, "make room")
    assert ended(waiting).status is CANCELLED
    assert waiting.lifecycle.story == (PENDING, RUNNING, CANCELLED)


def test_a_budget_that_ends_when_its_execution_is_about_to_start_ends_it_once(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.spinning(task)

    def expire() -> None:
        guests.manager._expire(waiting)
        waiting.deadline = time.monotonic() + 0.05

    PoolThatTellsFirst(task, expire)
    guests.manager.cancel(running, "make room")
    assert ended(waiting).status is ExecutionStatus.TIMEOUT
    assert waiting.lifecycle.story == (PENDING, RUNNING, ExecutionStatus.TIMEOUT)


def test_of_a_cancel_a_deadline_and_a_drain_at_once_one_ends_the_execution(guests: Guests) -> None:
    task = guests.task(limits=ResourceLimits(max_concurrency=2))
    for _ in range(20):
        executions = [guests.spinning(task, budget_ms=2) for _ in range(4)]
        at_once([partial(guests.manager.cancel, each, "on second thoughts") for each in executions])
        for each in executions:
            assert ended(each).status in {CANCELLED, ExecutionStatus.TIMEOUT}


def test_whoever_submits_and_cancels_whatever_everything_ends_once(open_guests: OpenGuests) -> None:
    guests = open_guests(execution={"max_running": 4, "max_pending": 30, "max_total_memory": "160MiB"})
    tasks = [
        guests.task(limits=ResourceLimits(max_concurrency=2, max_memory_bytes=64 << 20)),
        guests.task(limits=ResourceLimits(max_memory_bytes=1 << 20)),
        guests.task(ready=2),
    ]
    ends: list[str] = []

    def play(seed: int) -> list[Execution]:
        random, mine = Random(seed), []
        for _ in range(60):
            task, function = random.choice(tasks), random.choice(["spin", "spin_for", "unreachable"])
            values = (random.choice([1, 10**5]),) if function == "spin_for" else ()
            try:
                execution = guests.submit(
                    task,
                    function,
                    *values,
                    budget_ms=random.choice([1, 5, 20]),
                    on_the_spot=random.random() < 0.5,
                )
            except ServerBusy:
                continue
            execution.add_done_callback(lambda over: ends.append(over.id))
            mine.append(execution)
            if random.random() < 0.5:
                guests.manager.cancel(random.choice(mine), "on second thoughts")
        return mine

    executions = [each for played in at_once([partial(play, seed) for seed in range(4)]) for each in played]
    for each in executions:
        ended(each)
        assert each.lifecycle.is_final
    until(lambda: len(ends) >= len(executions))
    assert sorted(ends) == sorted(each.id for each in executions)
    assert guests.manager.stats().tally.ended == len(executions)


def test_a_drain_that_looks_while_the_last_one_leaves_the_line_does_not_sleep_through_it(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = guests.manager
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.spinning(task)
    drained = threading.Event()

    def drain() -> None:
        manager.drain(10 * PATIENCE)
        drained.set()

    draining = threading.Thread(target=drain)
    draining.start()
    until(lambda: manager._all_ended._waiters)  # type: ignore[attr-defined]  # who sleeps on the condition

    # Nothing runs any more, and the thread that would start what waits is held back.
    gate, begin_waiting = Gate(), manager._begin_waiting
    monkeypatch.setattr(manager, "_begin_waiting", gate)
    ending = threading.Thread(target=lambda: guests.cancel(running))
    ending.start()
    gate.wait_until_reached()
    monkeypatch.setattr(manager, "_begin_waiting", begin_waiting)
    until(lambda: manager._all_ended._waiters)  # type: ignore[attr-defined]  # it has looked, and sleeps again

    guests.cancel(waiting)
    gate.open()
    assert drained.wait(PATIENCE)
    draining.join()
    ending.join()


# --- what the end sets off --------------------------------------------------------------------------------


def broken(_: Execution) -> None:
    raise RuntimeError("the loop is closed")


def test_one_who_waits_and_fails_keeps_neither_the_room_nor_others_from_hearing(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.submit(task, "spin_for", 1)
    heard = threading.Event()
    running.add_done_callback(broken)
    running.add_done_callback(lambda _: heard.set())
    guests.manager.cancel(running, "on second thoughts")
    assert heard.wait(PATIENCE)
    assert ended(waiting).status is COMPLETED


def test_who_asks_after_the_end_hears_at_once(guests: Guests) -> None:
    execution = guests.run(guests.task("calc"), "answer")
    heard: list[Execution] = []
    execution.add_done_callback(heard.append)
    assert heard == [execution]
    assert execution.wait() is execution.outcome
