"""Executions that begin again: the host's faults here are real, sandboxes for which the engine has no room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.errors import ServerBusy
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.stream import MessageStream
from spear_wasm.execution.task import Task
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, Usage
from tests.execution.conftest import OpenGuests
from tests.execution.fake_fibers import Gate
from tests.execution.guests import Guests, ended, until

PENDING, RUNNING = ExecutionStatus.PENDING, ExecutionStatus.RUNNING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
SANDBOXES = 4
SOON = {"first_backoff": "1ms", "longest_backoff": "2ms"}
PATIENTLY = {"first_backoff": "50ms", "longest_backoff": "100ms"}
MUCH_LATER = {"first_backoff": "25s", "longest_backoff": "25s"}
"""Within a call's budget, but by at least half of it beyond the patience of `ended`."""


def small(open_guests: OpenGuests, **execution: object) -> Guests:
    """A host whose engines have few sandboxes."""
    return open_guests(
        execution={"max_running": 2, **execution}, pool={"max_ready": 1}, engine={"sandboxes": SANDBOXES}
    )


@contextmanager
def no_room_in_the_engine(task: Task) -> Iterator[None]:
    """Meanwhile no sandbox with a memory can be made: others have taken them all."""
    linked = task.linkages[False].pool.linked
    sandboxes: list[Sandbox] = []
    try:
        with suppress(GuestFault):
            while True:
                sandboxes.append(Sandbox(linked, task.limits))
                for _ in sandboxes[-1].instantiate():
                    pass
        yield
    finally:
        for sandbox in sandboxes:
            sandbox.close()


@contextmanager
def pausing(guests: Guests) -> Iterator[Execution]:
    """An execution whose first attempt has failed, and whose second one is far away."""
    task = guests.task("initialize")
    with no_room_in_the_engine(task):
        execution = guests.submit(task, "get", max_retries=5)
        until(lambda: execution.failed)
        yield execution


def test_what_the_host_failed_to_do_is_tried_again_until_it_can(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **PATIENTLY)
    task = guests.task("initialize")
    with no_room_in_the_engine(task):
        execution = guests.submit(task, "get", max_retries=100)
        until(lambda: execution.failed)
    assert ended(execution).status is COMPLETED
    assert execution.attempts > 1
    assert execution.lifecycle.story == (*(PENDING, RUNNING) * execution.attempts, COMPLETED)


def test_the_host_fails_for_good_where_the_retries_are_used_up(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **SOON)
    task = guests.task("initialize")
    with no_room_in_the_engine(task):
        execution = guests.run(task, "get", max_retries=3)
        never_again = guests.run(task, "get")
    for each, attempts in ((execution, 4), (never_again, 1)):
        assert each.outcome is not None
        assert each.outcome.error_code is ErrorCode.INSTANCE_FAILED
        assert "maximum concurrent" in each.outcome.error_message
        assert each.attempts == attempts
    assert task.executions == 2


def test_a_pause_holds_neither_room_nor_thread(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **MUCH_LATER)
    threads = threading.active_count()
    with pausing(guests) as execution:
        until(lambda: not guests.manager.stats().running)
        assert execution.status is PENDING
        assert execution.task.holding.places == 0
        assert guests.manager._admission._room.memory_taken == 0
        assert guests.manager.stats().pending == 1
        assert threading.active_count() <= threads
        assert execution.started_at is not None
        assert execution.run_seconds == execution.ran > 0
    spinning = [guests.spinning(guests.task()) for _ in range(2)]
    until(lambda: guests.manager.stats().running == 2)
    guests.cancel(*spinning, execution)


def test_who_cancels_in_a_pause_does_not_wait_for_its_end(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **MUCH_LATER)
    with pausing(guests) as execution:
        guests.cancel(execution)
    assert execution.lifecycle.story == (PENDING, RUNNING, PENDING, ExecutionStatus.CANCELLED)
    assert execution.attempts == 1
    assert execution.usage.cpu_ns > 0


def test_a_server_that_stops_ends_a_pause_with_what_had_failed(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **MUCH_LATER)
    with pausing(guests) as execution:
        guests.manager.stop_accepting()
    assert ended(execution).error_code is ErrorCode.INSTANCE_FAILED


def test_what_fails_while_the_server_stops_does_not_begin_again(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **SOON)
    task = guests.task(retry_traps=True)
    conclude = guests.manager._attempts._conclude

    def stop_first(execution: Execution, outcome: Outcome, usage: Usage) -> None:
        guests.manager.stop_accepting()
        conclude(execution, outcome, usage)

    guests.manager._attempts._conclude = stop_first  # forces the race
    execution = guests.run(task, "unreachable", max_retries=100)
    assert execution.attempts == 1
    assert execution.status is FAILED


def test_a_retry_that_could_not_begin_within_the_budget_is_not_waited_for(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **MUCH_LATER)
    task = guests.task("initialize")
    with no_room_in_the_engine(task):
        execution = guests.run(task, "get", max_retries=5, budget_ms=12_000)
    assert execution.outcome is not None
    assert execution.outcome.error_code is ErrorCode.INSTANCE_FAILED
    assert execution.attempts == 1


def test_a_cancellation_that_comes_when_the_guest_has_failed_already_is_heeded(
    open_guests: OpenGuests,
) -> None:
    guests = small(open_guests, **SOON)
    task = guests.task(retry_traps=True)
    conclude = guests.manager._attempts._conclude

    def cancel_first(execution: Execution, outcome: Outcome, usage: Usage) -> None:
        guests.manager.cancel(execution, "too late for the guest")
        conclude(execution, outcome, usage)

    guests.manager._attempts._conclude = cancel_first  # forces the race
    execution = guests.run(task, "unreachable", max_retries=100)
    assert execution.status is ExecutionStatus.CANCELLED
    assert execution.attempts == 1


def test_a_cancellation_that_comes_while_the_guest_fails_waits_for_no_pause(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **MUCH_LATER)
    task = guests.task(retry_traps=True)
    end_waiting, conclude = guests.manager._end_waiting, guests.manager._attempts._conclude
    gate = Gate()

    def conclude_later(execution: Execution, outcome: Outcome, usage: Usage) -> None:
        gate()
        conclude(execution, outcome, usage)

    def look_before_the_end(execution: Execution, outcome: Outcome) -> bool:
        found = end_waiting(execution, outcome)
        gate.open()
        until(lambda: execution.failed or execution.done)
        return found

    guests.manager._attempts._conclude = conclude_later  # forces the race
    guests.manager._end_waiting = look_before_the_end  # type: ignore[method-assign]
    execution = guests.submit(task, "unreachable", max_retries=100)
    gate.wait_until_reached()
    guests.cancel(execution)
    assert execution.status is ExecutionStatus.CANCELLED


@pytest.mark.parametrize(("asked", "attempts"), [(True, 3), (False, 1)])
def test_a_trap_is_retried_where_the_task_asks_for_it_only(
    open_guests: OpenGuests, asked: bool, attempts: int
) -> None:
    guests = small(open_guests, **SOON)
    task = guests.task(retry_traps=asked)
    execution = guests.run(task, "unreachable", max_retries=2)
    assert execution.outcome is not None
    assert execution.outcome.error_code is ErrorCode.TRAP_UNREACHABLE
    assert execution.attempts == attempts


def test_a_stream_begins_again_as_long_as_nothing_was_emitted(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **PATIENTLY)
    task, stream = guests.task("emitter"), MessageStream(max_messages=10, max_bytes=100)
    with no_room_in_the_engine(task):
        execution = guests.submit(task, "emit_numbers", 2, 4, max_retries=100, stream=stream)
        until(lambda: execution.failed)
    assert ended(execution).status is COMPLETED
    assert [stream.take() for _ in range(3)] == [bytes(4), b"\1\0\0\0", None]


def test_a_stream_of_which_something_was_emitted_does_not_begin_again(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **SOON)
    task, stream = guests.task("emitter", retry_traps=True), MessageStream(max_messages=10, max_bytes=100)
    execution = guests.run(task, "emit_and_trap", 1, max_retries=100, stream=stream)
    assert (execution.status, execution.attempts) == (FAILED, 1)


def test_what_all_attempts_cost_is_told_together(open_guests: OpenGuests) -> None:
    guests = small(open_guests, **SOON)
    task = guests.task(retry_traps=True, limits=ResourceLimits(max_fuel=1 << 40))
    once, thrice = (guests.run(task, "recurse", max_retries=retries) for retries in (0, 2))
    assert once.usage.fuel
    assert thrice.usage.fuel == 3 * once.usage.fuel
    assert thrice.run_seconds + thrice.queue_seconds == pytest.approx((thrice.ended or 0) - thrice.accepted)


@pytest.mark.parametrize(
    ("function", "limits", "code"),
    [
        ("spin", {"max_cpu_time_ms": 5}, ErrorCode.CPU_TIME_EXCEEDED),
        ("spin", {"max_fuel": 10_000}, ErrorCode.OUT_OF_FUEL),
        ("spin", {}, ErrorCode.TIMEOUT),
    ],
)
def test_limits_that_a_guest_runs_into_are_not_retried(
    open_guests: OpenGuests, function: str, limits: dict[str, int], code: ErrorCode
) -> None:
    guests = small(open_guests, **SOON)
    timeout_ms = 200 if code is ErrorCode.TIMEOUT else 0
    task = guests.task(retry_traps=True, timeout_ms=timeout_ms, limits=ResourceLimits(**limits))
    execution = guests.run(task, function, max_retries=100)
    assert execution.outcome is not None
    assert execution.outcome.error_code is code
    assert execution.attempts == 1


def test_those_in_a_pause_take_places_in_the_bounded_line(open_guests: OpenGuests) -> None:
    guests = small(open_guests, max_pending=1, **MUCH_LATER)
    with pausing(guests) as execution:
        with pytest.raises(ServerBusy):
            guests.submit(execution.task, "get")
        guests.cancel(execution)
    assert guests.run(execution.task, "get").status is COMPLETED
