"""Warm-ups that run ahead of demand, under all the limits; pools that grow with it, and what they report."""

from __future__ import annotations

import pytest
from structlog.testing import CapturingLogger

from spear_wasm.errors import InvalidRequest
from spear_wasm.execution import preparations
from spear_wasm.execution.task import Task
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode
from spear_wasm.pool import PoolStats
from tests.execution.conftest import OpenGuests
from tests.execution.guests import Guests, ended, until


def stats_of(task: Task, *, metered: bool = False) -> PoolStats:
    return task.linkages[metered].pool.stats()


def settle(guests: Guests) -> None:
    """Wait until nothing is being prepared."""
    until(lambda: not guests.host.pools.stats().preparing)


# --- warm-ups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [0, 2])
def test_every_sandbox_is_warmed_up_once_before_its_first_call(guests: Guests, ready: int) -> None:
    task = guests.task("canary", ready=ready, warm_up="warm")
    for _ in range(4):
        settle(guests)
        assert guests.values(task, "warmed") == (1,)
    assert stats_of(task).served_ready == (4 if ready else 0)


def test_a_reused_sandbox_is_not_warmed_up_again(guests: Guests) -> None:
    task = guests.task("canary", warm_up="warm", reuse=True)
    assert [guests.values(task, "warmed") for _ in range(4)] == [(1,)] * 4


def test_what_a_warm_up_took_ahead_is_not_counted_in_a_call(guests: Guests) -> None:
    limits = ResourceLimits(max_fuel=100_000)
    cold = guests.task("canary", limits=limits, warm_up="warm")
    warm = guests.task("canary", limits=limits, warm_up="warm", ready=1)
    settle(guests)
    used = [guests.run(task, "warmed").usage.fuel or 0 for task in (cold, warm)]
    assert stats_of(warm, metered=True).served_ready == 1
    assert used[0] > used[1] > 0


FAILING = pytest.mark.parametrize(
    ("warm_up", "limits", "code", "why"),
    [
        ("warm_and_trap", {}, ErrorCode.TRAP_UNREACHABLE, "the guest executed `unreachable`"),
        ("warm_for_ever", {"max_fuel": 10_000}, ErrorCode.OUT_OF_FUEL, "the guest used up its fuel"),
        (
            "warm_for_ever",
            {"max_cpu_time_ms": 20},
            ErrorCode.CPU_TIME_EXCEEDED,
            "the guest used its 20 ms of CPU time",
        ),
        ("warm_for_ever", {}, ErrorCode.TIMEOUT, "the execution's time budget ended"),
    ],
    ids=["trap", "fuel", "processor time", "time"],
)


def time_for(code: ErrorCode) -> int:
    """A budget in ms that a guest runs into where it is to, though it begins late."""
    return 1000 if code is ErrorCode.TIMEOUT else 0


@FAILING
@pytest.mark.parametrize("on_the_spot", [False, True])
def test_a_failing_warm_up_is_the_guests_fault_and_said_so(
    guests: Guests, warm_up: str, limits: dict[str, int], code: ErrorCode, why: str, on_the_spot: bool
) -> None:
    task = guests.task("canary", limits=ResourceLimits(**limits), timeout_ms=time_for(code), warm_up=warm_up)
    task.function("found").quick_streak = 1000
    outcome = ended(guests.submit(task, "found", on_the_spot=on_the_spot))
    assert outcome.error_code is code
    assert outcome.error_message == f"in the warm-up function '{warm_up}': {why}"


@FAILING
def test_a_warm_up_that_fails_ahead_is_logged_and_not_tried_again_before_the_next_call(
    open_guests: OpenGuests,
    warm_up: str,
    limits: dict[str, int],
    code: ErrorCode,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = CapturingLogger()  # structlog's own capture misses loggers that were used before
    monkeypatch.setattr(preparations, "log", log)
    guests = open_guests(pool={"upkeep": "10ms"})
    asked = ResourceLimits(**limits)
    task = guests.task("canary", limits=asked, timeout_ms=time_for(code), warm_up=warm_up, ready=2)
    metered = bool(asked.max_fuel)
    until(lambda: stats_of(task, metered=metered).failed_preparations == 2)
    guests.host.pools.upkeep()
    assert stats_of(task, metered=metered).preparing == 0
    until(lambda: [each for each in log.calls if each.args == ("sandbox not prepared",)])
    told = next(each.kwargs for each in log.calls if each.args == ("sandbox not prepared",))
    assert (told["task_id"], told["error_code"]) == (task.id, code)
    assert told["error"] == f"in the warm-up function '{warm_up}': {why}"
    assert guests.host.pools.stats().ready == 0


def test_a_warm_up_has_no_more_memory_than_a_call(guests: Guests) -> None:
    limits = ResourceLimits(max_memory_bytes=4 << 16)
    task = guests.task("canary", limits=limits, warm_up="warm_and_grow", ready=1)
    settle(guests)
    assert guests.run(task, "found").usage.peak_memory_bytes == 1 << 16


def test_a_kill_during_a_warm_up_is_told_as_such(guests: Guests) -> None:
    task = guests.task("canary", warm_up="warm_for_ever")
    running = guests.submit(task, "found")
    until(lambda: running.fiber is not None and running.fiber.sandbox.doing)
    guests.manager.cancel(running, "never mind")
    assert ended(running).error_code is ErrorCode.CANCELLED


@pytest.mark.parametrize(
    ("warm_up", "why"),
    [
        ("missing", "has no function 'missing'"),
        ("leave", "'leave' takes 1 parameters"),
        ("memory", "has no function 'memory'"),
    ],
)
def test_a_warm_up_that_cannot_be_called_is_refused_by_its_key(
    guests: Guests, warm_up: str, why: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        guests.task("canary", warm_up=warm_up)
    assert refused.value.message.startswith("runtime_config.warm_up: ")
    assert why in refused.value.message
    assert refused.value.metadata["key"] == "warm_up"


def test_nothing_is_prepared_any_more_when_the_server_stops(guests: Guests) -> None:
    task = guests.task("initialize", ready=1)
    settle(guests)
    guests.manager.drain(0)
    (pool,) = guests.host.pools._pools()
    (idle,) = pool._idle.values()
    idle.dies = 0  # so that it is to be replaced by one that nobody would wait for
    pool.upkeep()
    settle(guests)
    assert not len(guests.manager.preparations)
    assert stats_of(task).ready == 0


# --- pools that grow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["reactive", "predictive"])
def test_a_pool_that_is_empty_until_it_is_needed_has_sandboxes_when_they_are(
    open_guests: OpenGuests, scaling: str
) -> None:
    guests = open_guests(pool={"upkeep": "10ms"})
    task = guests.task("initialize", max_ready_sandboxes=4, scaling=scaling)
    assert stats_of(task).ready == stats_of(task).preparing == 0
    assert guests.values(task, "bump") == (8,)
    until(lambda: stats_of(task).ready)
    assert guests.values(task, "bump") == (8,)
    stats = stats_of(task)
    assert (stats.served_new, stats.served_ready) == (1, 1)
    until(lambda: stats_of(task).held_seconds > 0)


def test_a_pool_is_empty_again_when_nobody_has_called_for_a_while(open_guests: OpenGuests) -> None:
    guests = open_guests(pool={"upkeep": "10ms", "max_idle": "100ms", "scaling": "reactive"})
    task = guests.task("initialize", max_ready_sandboxes=4)
    guests.run(task, "bump")
    until(lambda: stats_of(task).held_seconds > 0)
    until(lambda: not stats_of(task).ready and not stats_of(task).preparing)
    assert guests.host.pools.stats().ready == 0


def test_old_sandboxes_are_replaced_while_nobody_calls(open_guests: OpenGuests) -> None:
    guests = open_guests(pool={"upkeep": "10ms", "max_lifetime": "50ms"})
    task = guests.task("initialize", ready=1)
    pool = guests.host.registration._pools._pools()[0]
    until(lambda: stats_of(task).ready)
    first = max(pool._idle, default=0)
    until(lambda: max(pool._idle, default=0) > first + 3)


def test_upkeep_goes_on_after_a_pool_that_fails(
    open_guests: OpenGuests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = open_guests(pool={"upkeep": "10ms"})
    failed = []

    def fail() -> None:
        failed.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(guests.host.pools, "_pools", fail)
    until(lambda: failed)
    monkeypatch.undo()
    task = guests.task("initialize", max_ready_sandboxes=1, scaling="reactive")
    guests.run(task, "bump")
    until(lambda: stats_of(task).ready)
