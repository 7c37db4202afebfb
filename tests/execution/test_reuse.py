"""Tasks that ask for reuse, and their neighbours that do not: what calls find, whatever happened to others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spear_wasm.execution.execution import Execution
from spear_wasm.execution.task import Task
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionStatus
from spear_wasm.scheduling.policies import SchedulingPolicy
from tests.execution.conftest import OpenGuests
from tests.execution.guests import Guests, ended, until

COMPLETED = ExecutionStatus.COMPLETED


def kept_by(task: Task) -> int:
    """How many of its sandboxes wait for another call."""
    return sum(linkage.pool.stats().ready for linkage in task.linkages.values())


def code_of(execution: Execution) -> ErrorCode | None:
    return ended(execution).error_code


@pytest.mark.parametrize("on_the_spot", [False, True])
def test_a_task_that_asks_for_it_finds_what_its_last_call_left(guests: Guests, on_the_spot: bool) -> None:
    task = guests.task("canary", reuse=True)
    for number in range(1, 9):
        assert guests.values(task, "leave", number, on_the_spot=on_the_spot) == (number - 1,)


def test_a_sandbox_keeps_its_name_from_call_to_call(guests: Guests) -> None:
    task, other = guests.task("canary", reuse=True, max_uses=3), guests.task("canary")
    names = [guests.run(task, "found").sandbox_id for _ in range(6)]
    assert names[0] == names[1] == names[2] != names[3] == names[4] == names[5]
    assert len({guests.run(other, "found").sandbox_id for _ in range(3)}) == 3


@pytest.mark.parametrize("large", [False, True])
def test_a_sandbox_is_back_before_anybody_hears_of_its_calls_end(guests: Guests, large: bool) -> None:
    task = guests.task("canary", reuse=True)
    for _ in range(40):
        guests.run(task, "grow" if large else "found")
    assert task.linkages[False].pool.stats().served_new == 1


@pytest.mark.parametrize(
    ("function", "values", "limits", "call", "code"),
    [
        ("leave_and_trap", (), {}, {}, ErrorCode.TRAP_UNREACHABLE),
        ("leave_and_spin", (), {}, {"budget_ms": 30}, ErrorCode.TIMEOUT),
        ("leave_and_spin", (), {"max_cpu_time_ms": 20}, {}, ErrorCode.CPU_TIME_EXCEEDED),
        ("leave_and_spin", (), {"max_fuel": 100_000}, {}, ErrorCode.OUT_OF_FUEL),
        ("leave_and_emit", (65536,), {"max_output_bytes": 1000}, {}, ErrorCode.OUTPUT_LIMIT),
    ],
    ids=["a trap", "its time", "its processor time", "its fuel", "its output"],
)
def test_what_failed_leaves_nothing(
    guests: Guests,
    function: str,
    values: tuple[int, ...],
    limits: dict[str, int],
    call: dict[str, Any],
    code: ErrorCode,
) -> None:
    task = guests.task("canary", limits=ResourceLimits(**limits), reuse=True)
    assert guests.values(task, "leave", 1) == (0,)
    before = guests.run(task, "found").sandbox_id
    failed = guests.submit(task, function, 2, *values, **call)
    assert (code_of(failed), failed.sandbox_id) == (code, before)
    assert guests.values(task, "found") == (0,)
    assert kept_by(task) == 1


def test_what_was_cancelled_leaves_nothing(guests: Guests) -> None:
    task = guests.task("canary", reuse=True)
    assert guests.values(task, "leave", 1) == (0,)
    running = guests.submit(task, "leave_and_spin", 2)
    until(lambda: running.fiber is not None and running.fiber.cpu_ns)
    guests.cancel(running)
    assert guests.values(task, "found") == (0,)


def test_budgets_are_whole_for_each_call(guests: Guests) -> None:
    limits = ResourceLimits(max_fuel=200_000, max_cpu_time_ms=5000, max_output_bytes=8, max_log_bytes=8)
    task = guests.task("canary", limits=limits, reuse=True)
    guests.run(task, "found")  # what making it took counts in its first call
    calls = [guests.run(task, "burn", 20_000) for _ in range(12)]
    assert {code_of(each) for each in calls} == {None}
    assert len({each.usage.fuel for each in calls}) == 1
    for number in range(12):
        execution = guests.run(task, "leave", number + 1)
        assert code_of(execution) is None
        assert execution.usage.stderr == (number + 1).to_bytes(4, "little")
        assert not execution.usage.output_truncated
    assert task.linkages[True].pool.stats().served_new == 1


def test_memory_stays_bounded_however_many_calls_grow_it(guests: Guests) -> None:
    limits = ResourceLimits(max_memory_bytes=4 << 16, max_table_elements=7)
    task = guests.task("canary", limits=limits, reuse=True)
    grown = [guests.values(task, "grow") for _ in range(5)]
    assert grown == [(104,), (205,), (306,), (-100 + -1,), (-100 + -1,)]
    assert guests.run(task, "found").usage.peak_memory_bytes == 4 << 16


def test_a_call_with_limits_of_its_own_has_a_sandbox_of_its_own(guests: Guests) -> None:
    task = guests.task("canary", reuse=True)
    guests.run(task, "leave", 1)
    assert guests.values(task, "found", limits=ResourceLimits(max_memory_bytes=1 << 20)) == (0,)
    assert guests.values(task, "found", force_new_instance=True) == (0,)
    assert guests.values(task, "found") == (1,)


def test_calls_at_the_same_time_have_sandboxes_of_their_own(guests: Guests) -> None:
    task = guests.task("canary", reuse=True)
    executions = [guests.submit(task, "leave_and_spin", 1, budget_ms=200) for _ in range(8)]
    until(lambda: all(each.sandbox_id for each in executions))
    assert len({each.sandbox_id for each in executions}) == 8
    for each in executions:
        ended(each)
    assert kept_by(task) == 0


def test_what_is_kept_goes_with_its_task_and_with_its_artifact(guests: Guests) -> None:
    pools = guests.host.pools
    doomed, orphan = guests.task("canary", reuse=True), guests.task("canary", reuse=True)
    for task in (doomed, orphan):
        guests.run(task, "leave", 1)
    assert pools.stats().ready == 2
    guests.delete(doomed.id, force=True, forget_records=True)
    assert pools.stats().ready == 1
    running = guests.submit(orphan, "leave_and_spin", 2, budget_ms=50)
    guests.host.registration.artifact_removed(orphan.record.digest)
    ended(running)
    guests.host.registration.link(orphan, metered=False)
    assert guests.values(orphan, "found") == (0,)
    assert pools.stats().served_new == 3, "the figures of what is gone are kept"


def test_kept_sandboxes_never_starve_running_ones(open_guests: OpenGuests) -> None:
    guests = open_guests(execution={"max_running": 4}, pool={"max_ready": 4}, engine={"sandboxes": 8})
    tasks = [guests.task("canary", reuse=True) for _ in range(6)]
    for task in tasks:
        guests.run(task, "leave", 1)
    assert guests.host.pools.stats().ready == 4
    running = [guests.spinning(guests.task()) for _ in range(4)]
    until(lambda: all(each.status is ExecutionStatus.RUNNING for each in running))
    guests.cancel(*running)
    assert [guests.values(task, "found") for task in tasks] == [(1,)] * 4 + [(0,)] * 2


WAYS = {
    "leave": (None, {}),
    "leave_and_trap": (ErrorCode.TRAP_UNREACHABLE, {}),
    "leave_and_spin": (ErrorCode.TIMEOUT, {"budget_ms": 5}),
}
CALLS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["leave", "leave", "leave", *WAYS]), st.booleans(), st.booleans()
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    uses=st.integers(1, 4),
    ready=st.integers(0, 2),
    scheduling=st.sampled_from(SchedulingPolicy),
    calls=CALLS,
)
def test_no_call_finds_a_mark_that_is_not_its_own_tasks(
    guests: Guests,
    uses: int,
    ready: int,
    scheduling: SchedulingPolicy,
    calls: list[tuple[int, str, bool, bool]],
) -> None:
    """Two tasks that reuse and one that does not, their calls in any order, alone and at the same time."""
    terms: dict[str, Any] = {"max_uses": uses, "scheduling": scheduling.value}
    tasks = [
        guests.task("canary", ready=ready, reuse=True, **terms),
        guests.task("canary", reuse=True, **terms),
        guests.task("canary", ready=ready),
    ]
    good: list[set[int]] = [set(), set(), set()]
    uses_of: dict[str, int] = {}
    begun: list[tuple[int, int, Execution]] = []
    for mark, (whose, function, fresh, waits) in enumerate(calls, 1):
        if function == "leave" and not fresh:
            good[whose].add(mark)
        options: dict[str, Any] = WAYS[function][1]
        execution = guests.submit(tasks[whose], function, mark, force_new_instance=fresh, **options)
        begun.append((whose, mark, execution))
        if waits:
            ended(execution)
    for (whose, mark, execution), (_, function, fresh, _) in zip(begun, calls, strict=True):
        assert code_of(execution) == WAYS[function][0]
        uses_of[execution.sandbox_id] = uses_of.get(execution.sandbox_id, 0) + 1
        if function != "leave":
            continue
        assert execution.outcome is not None
        found = execution.outcome.values[0].value
        assert found == 0 or (whose < 2 and not fresh and found in good[whose] - {mark})
    assert max(uses_of.values()) <= uses
    for task in tasks:
        guests.delete(task.id, force=True, forget_records=True)
