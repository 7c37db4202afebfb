"""Tasks: what their runtime_config may ask for, and which functions they have."""

from __future__ import annotations

import math

import pytest

from runtimes.core.host import RUNTIME
from spear_wasm.errors import FunctionNotFound, InvalidRequest
from spear_wasm.execution.task import QUICK_STREAK, ArtifactSpec, Task, TaskPolicy, TaskRecord
from spear_wasm.model import FunctionExport, FunctionType, ModuleInfo, ValueType
from tests.workshop import LIMITS


def task_with(*functions: FunctionExport) -> Task:
    record = TaskRecord("task-1", "calc", "", "ab" * 32, "core", ArtifactSpec(), created_at=0)
    task = Task(record, LIMITS, TaskPolicy(), RUNTIME)
    task.module = ModuleInfo(functions=functions)
    return task


ADD = FunctionExport("add", FunctionType((ValueType.I32, ValueType.I32), (ValueType.I32,)))


def test_a_runtime_config_may_be_empty() -> None:
    assert TaskPolicy.parse({}, most_ready=4) == TaskPolicy(ready_sandboxes=0)


@pytest.mark.parametrize("asked", [0, 4, 4.0])
def test_a_task_may_have_ready_sandboxes_up_to_the_servers_bound(asked: float) -> None:
    assert TaskPolicy.parse({"ready_sandboxes": asked}, most_ready=4).ready_sandboxes == asked


@pytest.mark.parametrize("asked", [-1, 5, 1e300])
def test_more_ready_sandboxes_than_that_are_refused(asked: float) -> None:
    with pytest.raises(InvalidRequest, match=r"runtime_config.ready_sandboxes is .*; it must be 0 to 4"):
        TaskPolicy.parse({"ready_sandboxes": asked}, most_ready=4)


@pytest.mark.parametrize("asked", [1.5, math.inf, math.nan, True, None, "2", [2]])
def test_what_is_no_number_of_sandboxes_is_refused(asked: object) -> None:
    with pytest.raises(InvalidRequest, match="it must be a whole number"):
        TaskPolicy.parse({"ready_sandboxes": asked}, most_ready=4)


def test_an_unknown_key_is_refused_by_its_name() -> None:
    with pytest.raises(
        InvalidRequest, match="runtime_config has no key 'reuse'; it has: ready_sandboxes, retry_traps"
    ):
        TaskPolicy.parse({"ready_sandboxes": 1, "reuse": True}, most_ready=4)


def test_a_task_may_have_its_traps_retried() -> None:
    assert TaskPolicy.parse({"retry_traps": True}, most_ready=4).retry_traps


@pytest.mark.parametrize("asked", [1, 0.0, None, "true", [True]])
def test_whether_traps_are_retried_is_true_or_false(asked: object) -> None:
    with pytest.raises(InvalidRequest, match=r"runtime_config.retry_traps is .*; it must be true or false"):
        TaskPolicy.parse({"retry_traps": asked}, most_ready=4)


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
