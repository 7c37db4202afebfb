"""Several workers are one server: whichever of them is asked, the answer is the same."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.config import Config
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactInUse,
    ArtifactNotFound,
    ExecutionExists,
    ExecutionNotFound,
    TaskBusy,
    TaskExists,
    TaskNotFound,
)
from spear_wasm.workers.shares import worker_count
from tests.engine.modules_by_hand import wat
from tests.rpc.conftest import StartServer
from tests.rpc.many_workers import WorkersServer, WorkerView, running_workers
from tests.rpc.modules import unique_module
from tests.rpc.serving import (
    PATIENCE,
    Pending,
    busy_disk,
    code_of,
    context,
    fixture,
    fresh,
    limits,
    parameters,
    refused,
    until,
    value_of,
)
from tests.rpc.test_durable import ASYNC, CANCELLED, COMPLETED, RUNNING, outcome, submit
from tests.rpc.test_executions import cancel, ids, listed, status_of, wait_for
from tests.rpc.test_following import LOGGER, TICK

ROUNDS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersServer]:
    with running_workers(tmp_path_factory.mktemp("workers")) as server:
        server.upload(wat(LOGGER), "logger")
        yield server
        assert server.stop() == 0


@pytest.fixture
def one(server: WorkersServer) -> WorkerView:
    return server.views()[0]


def test_where_nobody_says_how_many_there_is_one_for_each_core(start_server: StartServer) -> None:
    assert not Config().server.workers
    server = start_server("[server]\nworkers = 0")
    expected = worker_count(Config())
    info = server.health().details.system_info
    assert sum(key.startswith("worker.") for key in info) == (expected if expected > 1 else 0)


@pytest.fixture
def other(server: WorkersServer) -> WorkerView:
    return server.views()[1]


# --- artifacts --------------------------------------------------------------------------------------------


def test_what_is_uploaded_to_one_worker_is_called_through_all(one: WorkerView, other: WorkerView) -> None:
    name = fresh("calc")
    one.upload(fixture("calc"), name, "1")
    assert other.artifact(name).name == name
    answers = [worker.call(name, "divide", 84, 2) for worker in (other, one)]
    assert [value_of(answer) for answer in answers] == [42, 42]
    assert [int(answer.instance_id.split("-")[1]) for answer in answers] == [other.number, one.number]


def test_a_name_means_its_newest_upload_to_all_workers_at_once(one: WorkerView, other: WorkerView) -> None:
    name = fresh("moving")
    for version in ("1", "2", "3"):
        one.upload(unique_module(fresh("module")), name, version)
        assert other.artifact(name).version == version
        other.call(name, "answer")
        newest = listed(other, limit=1000).executions[-1].task_id
        assert other.get_task(newest).task.task_name == f"{name}:{version}"


def test_an_artifact_that_one_worker_deletes_is_gone_for_all(one: WorkerView, other: WorkerView) -> None:
    name = fresh("doomed")
    one.upload(unique_module(fresh("module")), name, "1")
    assert other.delete_artifact(name)
    refused(ArtifactNotFound, lambda: one.artifact(name))


def test_an_artifact_is_in_use_whichever_worker_made_the_task(one: WorkerView, other: WorkerView) -> None:
    name = fresh("used")
    one.upload(unique_module(fresh("module")), name, "1")
    function = "answer"
    task = one.call(name, function).task_id
    refused(ArtifactInUse, lambda: other.delete_artifact(name))
    assert other.invoke(task_id=task, function_name=function).success
    assert other.delete_artifact(name, force=True)
    for worker in (one, other):
        refused(ArtifactDeleted, lambda worker=worker: worker.invoke(task_id=task, function_name=function))  # type: ignore[misc]


# --- tasks ------------------------------------------------------------------------------------------------


def test_a_task_that_one_worker_makes_all_know(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task"), spec={"description": "mine"}).task_id
    assert other.get_task(task).found
    assert value_of(other.invoke(task_id=task, function_name="answer")) == 42
    assert task in [each.task_id for each in other.functions.ListTasks(pb.ListTasksRequest(limit=1000)).tasks]


def test_the_same_spec_at_two_workers_at_once_makes_one_task(one: WorkerView, other: WorkerView) -> None:
    for _ in range(10):
        name = fresh("raced")
        start = threading.Barrier(2)

        def call(worker: WorkerView, name: str = name, start: threading.Barrier = start) -> str:
            start.wait()
            return worker.call("calc", "answer", task_name=name).task_id

        with ThreadPoolExecutor(2) as threads:
            assert len(set(threads.map(call, (one, other)))) == 1


def test_a_name_is_taken_whichever_worker_gave_it(one: WorkerView, other: WorkerView) -> None:
    name = fresh("taken")
    one.call("calc", "answer", task_name=name)
    refused(TaskExists, lambda: other.call("hostile", "unreachable", task_name=name))


def test_a_task_that_one_worker_deletes_is_gone_for_all(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    other.invoke(task_id=task, function_name="answer")
    assert other.delete_task(task).deleted
    refused(TaskNotFound, lambda: one.invoke(task_id=task, function_name="answer"))
    assert not one.get_task(task).found


def test_a_task_is_busy_whichever_worker_runs_it(one: WorkerView, other: WorkerView) -> None:
    task = one.task("hostile")
    spinning = one.call_later(
        "hostile", "spin", invocation_type=pb.INVOCATION_TYPE_EXISTING_TASK, task_id=task
    )
    until(lambda: one.get_task(task).task.running_executions == 1)
    refused(TaskBusy, lambda: other.delete_task(task))
    assert code_of(one.invoke(task_id=task, function_name="unreachable")) == "TRAP_UNREACHABLE"
    assert other.delete_task(task, force=True).deleted
    assert code_of(spinning.answer()) == "CANCELLED"


def test_the_records_of_a_deleted_task_go_on_all_workers(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    answers = [worker.invoke(task_id=task, function_name="answer") for worker in (one, other)]
    answers.append(other.invoke(task_id=task, function_name="answer", execution_id=fresh("key")))
    assert other.delete_task(task, cleanup_executions=True).cleaned_executions == 4
    for answer in answers:
        assert not one.functions.GetExecutionStatus(
            pb.GetExecutionStatusRequest(execution_id=answer.execution_id), timeout=PATIENCE
        ).found


def test_a_task_counts_what_all_workers_did(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    for worker in (one, other, other):
        worker.invoke(task_id=task, function_name="answer")
    submit(other, "calc", "answer", task_id=task, wait=True)
    for worker in (one, other):
        until(lambda worker=worker: worker.get_task(task).task.execution_count == 5)  # type: ignore[misc]
        assert worker.get_task(task).task.last_status == COMPLETED


@pytest.mark.parametrize("most", [1, 3])
def test_together_workers_run_no_more_of_a_task_than_it_may(
    most: int, server: WorkersServer, one: WorkerView, other: WorkerView
) -> None:
    task = one.task("hostile", resource_limits=limits(max_concurrency=most))
    for worker in (one, other):
        for _ in range(3):
            submit(worker, "hostile", "spin", task_id=task)
    server.wait_for_load(most, 6 - most)
    assert len(ids(listed(other, task_id=task, status_filter=RUNNING))) == most
    assert one.delete_task(task, force=True).deleted


def test_the_only_turn_of_a_task_goes_from_worker_to_worker(
    server: WorkersServer, one: WorkerView, other: WorkerView
) -> None:
    task = one.task("hostile", resource_limits=limits(max_concurrency=1))
    submitted = [submit(worker, "hostile", "spin", task_id=task).execution_id for worker in (one, other) * 2]
    for left in range(3, -1, -1):
        server.wait_for_load(1, left)
        (running,) = ids(listed(other, task_id=task, status_filter=RUNNING))
        submitted.remove(running)
        cancel(one, running)
    assert not submitted


def test_workers_that_both_want_a_tasks_only_turn_both_get_it(one: WorkerView, other: WorkerView) -> None:
    task = one.task("hostile", resource_limits=limits(max_concurrency=1))

    def call_on(worker: WorkerView) -> int:
        return sum(
            worker.invoke(task_id=task, function_name="spin_for", parameters=parameters(1000)).success
            for _ in range(100)
        )

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(call_on, (one, one, other, other))) == [100] * 4


# --- executions -------------------------------------------------------------------------------------------


def test_any_worker_tells_how_an_execution_is_and_how_it_ended(one: WorkerView, other: WorkerView) -> None:
    for fields in ({}, {"context": context(execution_id=fresh("named"))}, {"execution_id": fresh("key")}):
        answer = one.call("calc", "divide", 84, 2, **fields)
        there = status_of(other, answer.execution_id, include_result=True)
        assert there.found
        assert there.result == answer.result
    spinning = submit(one, "hostile", "spin").execution_id
    wait_for(other, spinning, RUNNING)
    assert cancel(other, spinning).final_status == CANCELLED
    assert status_of(one, spinning).result.status == CANCELLED


def test_any_worker_cancels(one: WorkerView, other: WorkerView) -> None:
    name = fresh("cancelled")
    waiting = one.call_later("hostile", "spin", context=context(execution_id=name))
    wait_for(other, name, RUNNING)
    answer = cancel(other, name, reason="enough")
    assert (answer.success, answer.final_status) == (True, CANCELLED)
    assert waiting.answer().result.error_message == "cancelled: 'enough'"
    assert not cancel(other, name).success
    refused(ExecutionNotFound, lambda: cancel(other, "nobody's"))


def test_any_worker_waits_for_the_outcome_of_a_key(one: WorkerView, other: WorkerView) -> None:
    key = fresh("key")
    fields = {"execution_id": key, "execution_mode": ASYNC}
    first = one.call_later("hostile", "spin", wait=True, **fields)
    wait_for(other, key, RUNNING)
    second = other.call_later("hostile", "spin", wait=True, **fields)
    until(lambda: status_of(other, key).result.status == RUNNING)
    assert not second.is_answered()
    cancel(one, key)
    assert first.answer() == second.answer()
    assert code_of(first.answer()) == "CANCELLED"


def test_workers_ask_each_other_however_many_calls_of_one_caller_wait(tmp_path: Path) -> None:
    with running_workers(tmp_path, streams=2) as server:
        one, other = server.views()
        keys = [submit(one, "hostile", "spin", execution_id=fresh("key")).execution_id for _ in range(2)]
        waiting = [
            other.call_later("hostile", "spin", wait=True, execution_id=key, execution_mode=ASYNC)
            for key in keys
        ]
        another = server.another_view(other)
        with contextlib.closing(another.channel):
            for key in keys:
                cancel(another, key)
        assert [code_of(each.answer()) for each in waiting] == ["CANCELLED"] * 2


def test_a_key_that_two_workers_are_given_at_once_runs_once(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    for _ in range(20):
        key = fresh("key")
        start = threading.Barrier(2)

        def call(
            worker: WorkerView, key: str = key, start: threading.Barrier = start
        ) -> pb.InvokeFunctionResponse:
            start.wait()
            return worker.invoke(task_id=task, function_name="answer", execution_id=key)

        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(call, (one, other))
        assert value_of(first) == 42
        assert first == second
    until(lambda: one.get_task(task).task.execution_count == 21)


def test_a_key_is_one_requests_at_all_workers(one: WorkerView, other: WorkerView) -> None:
    key = fresh("key")
    one.call("calc", "divide", 84, 2, execution_id=key)
    refused(ExecutionExists, lambda: other.call("calc", "divide", 84, 4, execution_id=key))


def test_no_worker_waits_for_a_disk_that_is_busy_where_a_call_is_not_kept_there(
    server: WorkersServer, one: WorkerView, other: WorkerView
) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    other.invoke(task_id=task, function_name="answer")
    with busy_disk(server):
        kept = one.call_later("calc", "answer", execution_id=fresh("key"))
        for worker in (one, other):
            for name in ("", fresh("suggested")):
                answer = worker.invoke(
                    task_id=task, function_name="answer", context=context(execution_id=name)
                )
                assert value_of(answer) == 42
        assert not kept.is_answered()
    assert value_of(kept.answer()) == 42


def test_hanging_up_on_one_worker_ends_what_another_one_runs_for_nobody_else(
    one: WorkerView, other: WorkerView
) -> None:
    for _ in range(ROUNDS):
        key = fresh("key")
        request = pb.InvokeFunctionRequest(
            artifact_spec=pb.ArtifactSpec(artifact_id="hostile"), function_name="spin", execution_id=key
        )
        first = one.functions.InvokeFunction.future(request)
        wait_for(other, key, RUNNING)
        second = other.functions.InvokeFunction.future(request)
        status_again_and_again(other, key)
        first.cancel()
        if (
            status_again_and_again(other, key) == RUNNING
        ):  # else the second call came too late to be one of two
            second.cancel()
            assert outcome(one, key).status == CANCELLED
            return
    pytest.fail("hanging up on one worker always ended what was called for on two")


def status_again_and_again(worker: WorkerView, key: str) -> pb.ExecutionStatus.ValueType:
    """How an execution is, once what was asked before has most probably come to where it is."""
    return [status_of(worker, key).result.status for _ in range(ROUNDS)][-1]


def test_a_log_is_followed_through_any_worker(one: WorkerView, other: WorkerView) -> None:
    name = fresh("logging")
    waiting = one.call_later("logger", "tick_and_spin", context=context(execution_id=name))
    wait_for(other, name, RUNNING)
    parts = other.functions.FollowLog(pb.FollowLogRequest(execution_id=name), timeout=PATIENCE)
    first = next(iter(parts))
    assert first.content == TICK
    cancel(other, name)
    assert not list(parts)
    assert code_of(waiting.answer()) == "CANCELLED"


def test_lists_hold_the_executions_of_all_workers_in_order(one: WorkerView, other: WorkerView) -> None:
    task = one.call("calc", "answer", task_name=fresh("task")).task_id
    made = listed(one, task_id=task).executions[0].execution_id
    answers = [worker.invoke(task_id=task, function_name="answer") for worker in (one, other) * 3]
    answers.append(submit(other, "calc", "answer", task_id=task, wait=True))
    expected = [made, *(answer.execution_id for answer in answers)]
    for worker in (one, other):
        assert ids(listed(worker, task_id=task)) == expected
        assert [each.execution_id for each in worker.get_task(task, include_executions=True).executions] == (
            expected[::-1]
        )
    paged: list[str] = []
    cursor, more = "", True
    while more:
        page = listed(other if len(paged) % 4 else one, task_id=task, limit=2, start_after=cursor)
        paged += ids(page)
        cursor, more = page.next_start_after, page.has_more
    assert paged == expected


def test_what_waits_and_runs_elsewhere_is_listed(one: WorkerView, other: WorkerView) -> None:
    task = one.task("hostile")
    running = submit(one, "hostile", "spin", task_id=task).execution_id
    wait_for(one, running, RUNNING)
    (info,) = listed(other, task_id=task, status_filter=RUNNING).executions
    assert (info.execution_id, info.function_name, info.execution_mode) == (running, "spin", ASYNC)
    cancel(other, running)


# --- figures ----------------------------------------------------------------------------------------------


def test_health_and_stats_speak_for_all_workers(
    server: WorkersServer, one: WorkerView, other: WorkerView
) -> None:
    before = one.stats().function_service_stats
    for worker in (one, other, other):
        worker.call("calc", "answer")
        assert not worker.call("calc", "divide", 1, 0).success
    for worker in (other, one):
        after = worker.stats().function_service_stats
        assert after.successful_executions == before.successful_executions + 3
        assert after.failed_executions == before.failed_executions + 3
    spinning = [Pending(lambda worker=worker: worker.call("hostile", "spin")) for worker in (one, other)]  # type: ignore[misc]
    server.wait_for_load(2)
    info = one.health().details.system_info
    assert info["workers"] == "2"
    assert info["worker"] == str(one.number)
    assert [f"worker.{each.number}" in info for each in (one, other)] == [True, True]
    assert all(" 1 running, 0 waiting" in info[f"worker.{each.number}"] for each in (one, other))
    for execution in listed(other, status_filter=RUNNING).executions:
        cancel(one, execution.execution_id)
    assert {code_of(each.answer()) for each in spinning} == {"CANCELLED"}
