"""Tasks: which functions they have."""

from __future__ import annotations

import pytest

from runtimes.core.host import RUNTIME
from spear_wasm.errors import FunctionNotFound
from spear_wasm.execution.task import (
    FORGIVEN_AFTER,
    LONGEST_STREAK,
    QUICK_STREAK,
    ArtifactSpec,
    Task,
    TaskFunction,
    TaskRecord,
)
from spear_wasm.execution.task_policy import TaskPolicy
from spear_wasm.model import FunctionExport, FunctionType, ModuleInfo, ValueType
from tests.workshop import LIMITS


def task_with(*functions: FunctionExport) -> Task:
    record = TaskRecord("task-1", "calc", "", "ab" * 32, "core", ArtifactSpec(), created_at=0)
    task = Task(record, LIMITS, TaskPolicy(), RUNTIME)
    task.module = ModuleInfo(functions=functions)
    return task


ADD = FunctionExport("add", FunctionType((ValueType.I32, ValueType.I32), (ValueType.I32,)))


def test_a_function_is_bound_once() -> None:
    task = task_with(ADD)
    assert task.function("add") is task.function("add")
    assert [parameter.type for parameter in task.function("add").binding.signature.params] == ["i32", "i32"]


def test_an_unknown_function_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(FunctionNotFound, match="task 'calc' has no function 'sub'; it has 'add'"):
        task_with(ADD).function("sub")
    with pytest.raises(FunctionNotFound, match="it has none that can be called"):
        task_with().function("sub")


def test_functions_that_are_not_there_leave_nothing_behind() -> None:
    task = task_with(ADD)
    for number in range(100):
        with pytest.raises(FunctionNotFound):
            task.function(f"missing {number}")
    assert task.functions == {}


def test_a_function_is_quick_after_so_many_quick_runs_in_a_row() -> None:
    function = task_with(ADD).function("add")
    for streak in range(QUICK_STREAK):
        function.quick_streak = streak
        assert not function.is_quick
    function.quick_streak = QUICK_STREAK
    assert function.is_quick


def run_until_quick(function: TaskFunction) -> int:
    """Quick runs until it is taken for one that is; how many that took."""
    count = 0
    while not function.is_quick:
        function.ran(quick=True)
        count += 1
    return count


def test_each_time_that_trust_was_wrong_it_takes_twice_as_long_to_come_back() -> None:
    function = task_with(ADD).function("add")
    streaks = [run_until_quick(function)]
    for _ in range(12):
        function.ran(quick=False)
        streaks.append(run_until_quick(function))
    assert streaks[:4] == [QUICK_STREAK, 2 * QUICK_STREAK, 4 * QUICK_STREAK, 8 * QUICK_STREAK]
    assert streaks[-1] == LONGEST_STREAK


def test_slow_runs_in_a_row_are_one_disappointment() -> None:
    function = task_with(ADD).function("add")
    run_until_quick(function)
    for _ in range(5):
        function.ran(quick=False)
    assert run_until_quick(function) == 2 * QUICK_STREAK


def test_a_function_that_has_been_quick_for_long_is_trusted_as_at_first() -> None:
    function = task_with(ADD).function("add")
    run_until_quick(function)
    function.ran(quick=False)
    for _ in range(FORGIVEN_AFTER * 2 * QUICK_STREAK):
        function.ran(quick=True)
    assert function.needed_streak == QUICK_STREAK
