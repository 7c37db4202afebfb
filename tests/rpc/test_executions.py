"""CancelExecution and ListExecutions over the socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionNotFound, InvalidRequest, TaskNotFound
from tests.rpc.serving import Pending, Server, code_of, context, fresh, limits, refused, value_of

CANCELLED, COMPLETED = pb.EXECUTION_STATUS_CANCELLED, pb.EXECUTION_STATUS_COMPLETED
FAILED, PENDING, RUNNING = (
    pb.EXECUTION_STATUS_FAILED,
    pb.EXECUTION_STATUS_PENDING,
    pb.EXECUTION_STATUS_RUNNING,
)
ONE_AT_A_TIME = {"resource_limits": limits(max_concurrency=1)}


def cancel(server: Server, execution_id: str, **fields: object) -> pb.CancelExecutionResponse:
    request = pb.CancelExecutionRequest(execution_id=execution_id, **fields)  # type: ignore[arg-type]  # reason, force
    return server.functions.CancelExecution(request)


def page(server: Server, task: str = "", **fields: object) -> pb.ListExecutionsResponse:
    request = pb.ListExecutionsRequest(task_id=task, **fields)  # type: ignore[arg-type]  # the request's own fields
    return server.functions.ListExecutions(request)


def ids(response: pb.ListExecutionsResponse) -> list[str]:
    return [each.execution_id for each in response.executions]


@contextmanager
def spinning(server: Server, task: str, *execution_ids: str) -> Iterator[list[Pending]]:
    """Calls that run or wait, one after the other, until they are cancelled."""
    calls = []
    running, pending = server.load()
    for number, execution_id in enumerate(execution_ids, 1):
        calls.append(
            server.call_later(
                "hostile",
                "spin",
                spec=ONE_AT_A_TIME,
                task_name=task,
                context=context(execution_id=execution_id),
            )
        )
        server.wait_for_load(running + 1, pending + number - 1)
    yield calls


# --- cancelling -------------------------------------------------------------------------------------------


def test_a_running_execution_is_cancelled_and_its_caller_is_told_why(server: Server) -> None:
    running = fresh("exec")
    with spinning(server, fresh("task"), running) as (call,):
        answer = cancel(server, running, reason="enough \x1b[2J")
    assert (answer.success, answer.final_status) == (True, CANCELLED)
    told = call.answer()
    assert code_of(told) == "CANCELLED"
    assert told.result.status == CANCELLED
    assert told.result.error_message == "cancelled on request: 'enough \\x1b[2J'"


def test_a_waiting_execution_is_cancelled_and_the_one_that_runs_is_not(server: Server) -> None:
    running, waiting = fresh("exec"), fresh("exec")
    with spinning(server, fresh("task"), running, waiting) as (first, second):
        assert cancel(server, waiting).final_status == CANCELLED
        assert code_of(second.answer()) == "CANCELLED"
        (left,) = [
            each for each in page(server, status_filter=RUNNING).executions if each.execution_id == running
        ]
        assert left.status == RUNNING
        cancel(server, running)
        first.answer()


def test_by_force_the_answer_does_not_wait_and_the_guest_ends_all_the_same(server: Server) -> None:
    running = fresh("exec")
    with spinning(server, fresh("task"), running) as (call,):
        answer = cancel(server, running, force=True)
        assert answer.success
        assert answer.final_status in {RUNNING, CANCELLED}
        assert code_of(call.answer()) == "CANCELLED"


def test_what_has_ended_cannot_be_cancelled_and_keeps_its_outcome(server: Server) -> None:
    answer = server.call("calc", "add", 1, 2)
    assert value_of(answer) == 3
    for _ in range(2):
        late = cancel(server, answer.execution_id)
        assert (late.success, late.final_status) == (False, COMPLETED)
        assert "COMPLETED" in late.message


@pytest.mark.parametrize("execution_id", ["", "exec-unknown", "\x00"])
def test_an_unknown_execution_cannot_be_cancelled(execution_id: str, server: Server) -> None:
    refused(ExecutionNotFound, lambda: cancel(server, execution_id))


# --- lists ------------------------------------------------------------------------------------------------


def test_a_tasks_executions_are_listed_in_order_of_admission_whatever_became_of_them(server: Server) -> None:
    task = fresh("task")
    running, waiting = fresh("exec"), fresh("exec")
    spec = {"resource_limits": limits(max_concurrency=1)}
    done = server.call("hostile", "unreachable", spec=spec, task_name=task)
    with spinning(server, task, running, waiting) as calls:
        listed = page(server, task)
        assert ids(listed) == [done.execution_id, running, waiting]
        assert [each.status for each in listed.executions] == [FAILED, RUNNING, PENDING]
        assert {each.task_id for each in listed.executions} == {done.task_id}
        assert ids(page(server, done.task_id, status_filter=RUNNING)) == [running]
        cancel(server, waiting)
        cancel(server, running)
        for call in calls:
            call.answer()
    assert ids(page(server, task)) == [done.execution_id, running, waiting]
    assert ids(page(server, task, status_filter=CANCELLED)) == [running, waiting]


def test_pages_follow_each_other_while_executions_come(server: Server) -> None:
    task = server.task("calc", resource_limits=limits(max_concurrency=7))
    called = ids(page(server, task))
    called += [
        server.invoke(task_id=task, function_name="answer").execution_id for _ in range(5 - len(called))
    ]
    first = page(server, task, limit=2)
    assert (ids(first), first.has_more) == (called[:2], True)
    called.append(server.invoke(task_id=task, function_name="answer").execution_id)
    second = page(server, task, limit=2, start_after=first.next_start_after)
    assert ids(second) == called[2:4]
    last = page(server, task, limit=2, start_after=ids(second)[-1])  # an id does as well as a cursor
    assert (ids(last), last.has_more, last.next_start_after) == (called[4:], False, "")


def test_executions_of_all_tasks_are_listed_where_none_is_named(server: Server) -> None:
    newest = [server.call("calc", "answer").execution_id, server.call("text", "upper", b"a").execution_id]
    before = page(server, limit=1000, start_after="@0")
    while before.has_more:
        before = page(server, limit=1000, start_after=before.next_start_after)
    assert ids(before)[-2:] == newest


def test_a_list_that_makes_no_sense_is_refused(server: Server) -> None:
    refused(TaskNotFound, lambda: page(server, "nobody made this"))
    refused(InvalidRequest, lambda: page(server, limit=-1))
    refused(InvalidRequest, lambda: page(server, start_after="@x"))
    refused(InvalidRequest, lambda: page(server, start_after="nobody"))
    refused(InvalidRequest, lambda: page(server, status_filter=99))
