"""What is remembered of executions that ended: the newest, up to a bound, by id and by task."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.execution import Execution
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import MOST_FILED_TOGETHER, ExecutionRecord, ExecutionRecords, record_of
from spear_wasm.model import (
    ErrorCode,
    ExecutionMode,
    ExecutionStatus,
    Outcome,
    TypedValue,
    Usage,
    ValueType,
)

MUCH = 1 << 20


def execution(number: int, task: str = "task", *, written: int = 0, **others: object) -> Execution:
    """One that has ended, as far as records look at it."""
    known: dict[str, object] = {
        "id": f"exec-{number}",
        "task": SimpleNamespace(id=task),
        "function": SimpleNamespace(name="add"),
        "mode": ExecutionMode.SYNC,
        "sequence": number,
        "sandbox_id": "",
        "started_at": float(number),
        "completed_at": float(number),
        "run_seconds": 0,
        "queue_seconds": 0,
        "outcome": Outcome(ExecutionStatus.COMPLETED),
        "usage": Usage(stdout=b"x" * written),
        "attempts": 1,
        "stream": None,
    }
    return cast(Execution, SimpleNamespace(**(known | others)))


def numbers(records: list[ExecutionRecord]) -> list[int]:
    return [int(each.execution_id.removeprefix("exec-")) for each in records]


def test_a_tasks_newest_come_first() -> None:
    records = ExecutionRecords(10, MUCH)
    for number, task in enumerate(["a", "b", "a", "a"]):
        records.remember(execution(number, task))
    assert numbers(records.newest_of("a", 2)) == [3, 2]
    assert numbers(records.newest_of("a", 99)) == [3, 2, 0]
    assert numbers(records.newest_of("b", 99)) == [1]
    assert records.newest_of("a", 0) == records.newest_of("nobody", 9) == []


def test_the_oldest_of_all_tasks_goes_where_there_are_too_many() -> None:
    records = ExecutionRecords(2, MUCH)
    for number, task in enumerate(["a", "b", "b"]):
        records.remember(execution(number, task))
    assert "exec-0" not in records
    assert "exec-1" in records
    assert records.newest_of("a", 9) == []
    assert numbers(records.newest_of("b", 9)) == [2, 1]


def test_what_has_yet_to_be_filed_is_there_for_whoever_asks() -> None:
    records = ExecutionRecords(10_000, MUCH)
    for number in range(200):
        records.remember(execution(number))
        assert f"exec-{number}" in records
    assert records.get("exec-199") == record_of(execution(199))
    records.remember(execution(200))
    assert numbers(records.newest_of("task", 2)) == [200, 199]
    records.remember(execution(201))
    assert numbers(records.page(Wanted(after=199), 9)) == [200, 201]
    records.remember(execution(202))
    assert records.forget_task("task") == 203


def test_what_is_large_does_not_wait_to_be_counted() -> None:
    records = ExecutionRecords(10_000, MUCH)
    for number in range(10):
        records.remember(execution(number, written=MUCH // 2))
    assert "exec-8" not in records


def test_a_record_is_found_as_it_was() -> None:
    whole = execution(
        7,
        mode=ExecutionMode.ASYNC,
        sandbox_id="sandbox",
        run_seconds=0.25,
        queue_seconds=0.5,
        outcome=Outcome(
            ExecutionStatus.FAILED,
            (TypedValue(ValueType.I32, 42), TypedValue(ValueType.BYTES, b"\x00")),
            ErrorCode.GUEST_ERROR,
            "no",
            ("inner+0x1",),
            3,
        ),
        usage=Usage(1, 2, 3, b"out", b"err", output_truncated=True),
        attempts=2,
    )
    records = ExecutionRecords(10, MUCH)
    records.remember(whole)
    assert records.get("exec-7") == record_of(whole)


def test_forgetting_a_task_says_how_many_records_went_and_frees_their_ids() -> None:
    records = ExecutionRecords(10, MUCH)
    for number, task in enumerate(["a", "b", "a"]):
        records.remember(execution(number, task))
    assert records.forget_task("a") == 2
    assert records.forget_task("a") == 0
    assert "exec-0" not in records
    assert numbers(records.newest_of("b", 9)) == [1]


def test_the_oldest_go_where_what_they_wrote_is_too_much_but_the_newest_stays() -> None:
    records = ExecutionRecords(most=10, most_bytes=10_000)
    for number, written in enumerate([5000, 0, 4000]):
        records.remember(execution(number, written=written))
    assert numbers(records.newest_of("task", 9)) == [2, 1, 0]
    records.remember(execution(3, written=2000))
    assert numbers(records.newest_of("task", 9)) == [3, 2, 1]
    records.remember(execution(4, written=100_000))
    assert numbers(records.newest_of("task", 9)) == [4]
    records.forget_task("task")
    records.remember(execution(5, written=9000))
    records.remember(execution(6))
    assert numbers(records.newest_of("task", 9)) == [6, 5]


def test_tasks_that_come_and_go_leave_nothing_behind() -> None:
    records = ExecutionRecords(10, MUCH)
    for number in range(5000):
        records.remember(execution(number, f"task {number}"))
    assert len(records._of_task) == 10
    for number in range(5000, 10_000):
        records.remember(execution(number))
    assert len(records._all._rows) <= MOST_FILED_TOGETHER + 2 * 10
    assert numbers(records.page(Wanted(), 99)) == list(range(9990, 10_000))


def test_long_executions_that_end_now_and_then_do_not_hold_on_to_what_ended_before_them() -> None:
    most, rounds = 100, 200
    records = ExecutionRecords(most, MUCH)
    quick = itertools.count(rounds)
    for long in range(rounds):
        for _ in range(most - 1):
            records.remember(execution(next(quick)))
        records.remember(execution(long))
    for order in (records._all, *records._of_task.values()):
        assert len(order._rows) <= 3 * (most + MOST_FILED_TOGETHER)
    assert len(records.page(Wanted(after=-1), 2 * most)) == most


@given(st.lists(st.sampled_from(["a", "b", "c", "forget a", "forget b"]), max_size=100), st.integers(1, 10))
def test_what_is_remembered_is_the_newest_of_all_that_was_not_forgotten(steps: list[str], most: int) -> None:
    records = ExecutionRecords(most, MUCH)
    kept: list[ExecutionRecord] = []
    for number, step in enumerate(steps):
        if step.startswith("forget "):
            task = step.removeprefix("forget ")
            assert records.forget_task(task) == sum(each.task_id == task for each in kept)
            kept = [each for each in kept if each.task_id != task]
        else:
            records.remember(execution(number, step))
            kept = [*kept, record_of(execution(number, step))][-most:]
        for task in "abc":
            assert records.newest_of(task, 99) == [each for each in kept if each.task_id == task][::-1]
        assert [number for number in range(len(steps)) if f"exec-{number}" in records] == numbers(kept)


def test_nothing_is_remembered_where_nothing_is_to_be() -> None:
    records = ExecutionRecords(0, MUCH)
    records.remember(execution(0))
    assert records.get("exec-0") is None
    assert "exec-0" not in records
    assert records.page(Wanted(), 9) == records.newest_of("task", 9) == []
    assert records.forget_task("task") == 0


@given(st.data())
def test_a_page_holds_the_first_that_are_wanted_whatever_order_they_ended_in(data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 20))
    ends = data.draw(st.permutations(range(data.draw(st.integers(0, 40)))))
    records = ExecutionRecords(most, MUCH)
    kept: list[ExecutionRecord] = []
    for number in ends:
        ended = execution(
            number,
            data.draw(st.sampled_from("ab")),
            outcome=Outcome(data.draw(st.sampled_from([ExecutionStatus.COMPLETED, ExecutionStatus.FAILED]))),
        )
        records.remember(ended)
        kept = [*kept, record_of(ended)][-most:]
        wanted = Wanted(
            data.draw(st.sampled_from(["", "a", "b", "c"])),
            data.draw(
                st.sampled_from(
                    [None, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.TIMEOUT]
                )
            ),
            data.draw(st.integers(-1, 40)),
        )
        limit = data.draw(st.integers(0, 5))
        fitting = sorted(filter(wanted.fits, kept), key=lambda each: each.sequence)
        assert records.page(wanted, limit) == fitting[:limit]
        of_a = sorted((each for each in kept if each.task_id == "a"), key=lambda each: -each.sequence)
        assert records.newest_of("a", limit) == of_a[:limit]
