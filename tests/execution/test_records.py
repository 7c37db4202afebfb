"""What is remembered of executions that ended: the newest, up to a bound, by id and by task."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.records import ExecutionRecord, ExecutionRecords
from spear_wasm.model import ExecutionStatus


def record(number: int, task: str = "task") -> ExecutionRecord:
    return ExecutionRecord(
        execution_id=f"exec-{number}",
        task_id=task,
        function="add",
        status=ExecutionStatus.COMPLETED,
        started_at=float(number),
        completed_at=float(number),
        execution_time_ms=0,
        memory_used_bytes=0,
        error_message="",
    )


def numbers(records: list[ExecutionRecord]) -> list[int]:
    return [int(each.execution_id.removeprefix("exec-")) for each in records]


def test_a_tasks_newest_come_first() -> None:
    records = ExecutionRecords(most=10)
    for number, task in enumerate(["a", "b", "a", "a"]):
        records.add(record(number, task))
    assert numbers(records.newest_of("a", 2)) == [3, 2]
    assert numbers(records.newest_of("a", 99)) == [3, 2, 0]
    assert numbers(records.newest_of("b", 99)) == [1]
    assert records.newest_of("a", 0) == records.newest_of("nobody", 9) == []


def test_the_oldest_of_all_tasks_goes_where_there_are_too_many() -> None:
    records = ExecutionRecords(most=2)
    for number, task in enumerate(["a", "b", "b"]):
        records.add(record(number, task))
    assert "exec-0" not in records
    assert "exec-1" in records
    assert records.newest_of("a", 9) == []
    assert numbers(records.newest_of("b", 9)) == [2, 1]


def test_forgetting_a_task_says_how_many_records_went_and_frees_their_ids() -> None:
    records = ExecutionRecords(most=10)
    for number, task in enumerate(["a", "b", "a"]):
        records.add(record(number, task))
    assert records.forget_task("a") == 2
    assert records.forget_task("a") == 0
    assert "exec-0" not in records
    assert numbers(records.newest_of("b", 9)) == [1]


@given(st.lists(st.sampled_from(["a", "b", "c", "forget a", "forget b"]), max_size=100), st.integers(1, 10))
def test_what_is_remembered_is_the_newest_of_all_that_was_not_forgotten(steps: list[str], most: int) -> None:
    records = ExecutionRecords(most)
    kept: list[ExecutionRecord] = []
    for number, step in enumerate(steps):
        if step.startswith("forget "):
            task = step.removeprefix("forget ")
            assert records.forget_task(task) == sum(each.task_id == task for each in kept)
            kept = [each for each in kept if each.task_id != task]
        else:
            records.add(record(number, step))
            kept = [*kept, record(number, step)][-most:]
        for task in "abc":
            assert records.newest_of(task, 99) == [each for each in kept if each.task_id == task][::-1]
        assert [number for number in range(len(steps)) if f"exec-{number}" in records] == numbers(kept)
