"""Executions by their ids: how they are, how they ended, lists of them, and ending them."""

from __future__ import annotations

from functools import partial

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionNotFound, InvalidRequest, TaskNotFound
from tests.rpc.conftest import StartServer
from tests.rpc.modules import long_export
from tests.rpc.serving import PATIENCE, Pending, Server, code_of, context, fixture, fresh, refused, until

PAGE_BYTES = 1 << 20
ONE_AT_A_TIME = "[execution]\nmax_running = 1"


def status_of(server: Server, execution_id: str, **fields: bool) -> pb.GetExecutionStatusResponse:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id, **fields)
    return server.functions.GetExecutionStatus(request, timeout=PATIENCE)


def cancel(server: Server, execution_id: str, **fields: object) -> pb.CancelExecutionResponse:
    request = pb.CancelExecutionRequest(execution_id=execution_id, **fields)  # type: ignore[arg-type]  # as the test has it
    return server.functions.CancelExecution(request, timeout=PATIENCE)


def listed(server: Server, **fields: object) -> pb.ListExecutionsResponse:
    request = pb.ListExecutionsRequest(**fields)  # type: ignore[arg-type]  # as the test has it
    page = server.functions.ListExecutions(request, timeout=PATIENCE)
    assert page.ByteSize() < PAGE_BYTES
    assert page.has_more == bool(page.next_start_after)
    return page


def ids(page: pb.ListExecutionsResponse) -> list[str]:
    return [each.execution_id for each in page.executions]


def wait_for(server: Server, execution_id: str, status: pb.ExecutionStatus.ValueType) -> None:
    until(lambda: status_of(server, execution_id).result.status == status)


# --- how one is -------------------------------------------------------------------------------------------


def test_what_ended_is_told_again_as_it_was_told_first(server: Server) -> None:
    answer = server.call("calc", "divide", 84, 2)
    again = status_of(server, answer.execution_id, include_result=True)
    assert again.found
    assert again.result == answer.result


def test_without_include_result_payload_and_output_alone_are_missing(server: Server) -> None:
    answer = server.call("text", "log_and_fail", b"to the log")
    brief = status_of(server, answer.execution_id).result
    for field in ("result", "stdout", "stderr"):
        answer.result.ClearField(field)
    assert brief == answer.result
    assert brief.error_code == code_of(answer)


def test_the_guests_log_comes_line_by_line_where_asked_for(server: Server) -> None:
    answer = server.call("text", "log_and_fail", b"to the log")
    assert list(status_of(server, answer.execution_id, include_logs=True).logs) == (
        answer.result.stderr.decode().splitlines()
    )
    assert not status_of(server, answer.execution_id).logs


@pytest.mark.parametrize("execution_id", ["nobody's", "", "x" * 1_000_000])
def test_an_unknown_execution_is_not_found_which_is_no_error(execution_id: str, server: Server) -> None:
    answer = status_of(server, execution_id)
    assert not answer.found
    assert 0 < len(answer.message) < 200


def test_what_waits_and_what_runs_say_so(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    for name in ("first", "second"):
        server.call_later("hostile", "spin", context=context(execution_id=name))
        until(lambda name=name: status_of(server, name).found)  # type: ignore[misc]  # a default that mypy cannot infer
    assert status_of(server, "first").result.status == pb.EXECUTION_STATUS_RUNNING
    assert status_of(server, "second").result.status == pb.EXECUTION_STATUS_PENDING
    assert not status_of(server, "second").result.HasField("started_at")
    for name in ("second", "first"):
        cancel(server, name)


# --- ending one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_who_cancels_a_running_guest_and_who_called_it_hear_that_it_was_cancelled(
    force: bool, server: Server
) -> None:
    name = fresh("running")
    calling = server.call_later("hostile", "spin", context=context(execution_id=name))
    wait_for(server, name, pb.EXECUTION_STATUS_RUNNING)
    answer = cancel(server, name, reason="too slow\x1b", force=force)
    assert answer.success
    expected = {pb.EXECUTION_STATUS_CANCELLED}
    assert answer.final_status in (expected | {pb.EXECUTION_STATUS_RUNNING} if force else expected)
    called = calling.answer()
    assert code_of(called) == "CANCELLED"
    assert called.result.error_message == "cancelled: 'too slow\\x1b'"
    assert status_of(server, name).result.status == pb.EXECUTION_STATUS_CANCELLED


def test_what_waits_can_be_cancelled_and_never_runs(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    running = server.call_later("hostile", "spin", context=context(execution_id="running"))
    wait_for(server, "running", pb.EXECUTION_STATUS_RUNNING)
    waiting = server.call_later("hostile", "spin", context=context(execution_id="waiting"))
    until(lambda: status_of(server, "waiting").found)
    assert cancel(server, "waiting").final_status == pb.EXECUTION_STATUS_CANCELLED
    assert not waiting.answer().result.HasField("started_at")
    assert cancel(server, "running").success
    assert code_of(running.answer()) == "CANCELLED"


@pytest.mark.parametrize(("artifact", "function"), [("hostile", "spin"), ("host_calls", "sleep_forever")])
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("mode", [pb.EXECUTION_MODE_SYNC, pb.EXECUTION_MODE_ASYNC, pb.EXECUTION_MODE_STREAM])
def test_a_cancel_ends_whatever_runs_and_tells_everybody_the_same(
    server: Server,
    artifact: str,
    function: str,
    keyed: bool,
    mode: pb.ExecutionMode.ValueType,
) -> None:
    name = fresh("doomed")
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id=artifact),
        function_name=function,
        context=context(execution_id=name),
        execution_id=name if keyed else None,
        execution_mode=mode,
        wait=True,
    )

    def call() -> pb.InvokeFunctionResponse:
        if mode != pb.EXECUTION_MODE_STREAM:
            return server.functions.InvokeFunction(request, timeout=PATIENCE)
        (final,) = server.functions.StreamFunction(request, timeout=PATIENCE)
        return pb.InvokeFunctionResponse(result=final.result)

    sibling = server.call_later(artifact, function, context=context(timeout_ms=1000))
    calling = Pending(call)
    wait_for(server, name, pb.EXECUTION_STATUS_RUNNING)
    answer = cancel(server, name)
    assert (answer.success, answer.final_status) == (True, pb.EXECUTION_STATUS_CANCELLED)
    assert code_of(calling.answer()) == "CANCELLED"
    assert status_of(server, name).result.status == pb.EXECUTION_STATUS_CANCELLED
    assert code_of(sibling.answer()) == "TIMEOUT"


def test_what_has_ended_stays_as_it_ended(server: Server) -> None:
    answer = server.call("calc", "answer")
    cancelled = cancel(server, answer.execution_id)
    assert not cancelled.success
    assert cancelled.final_status == pb.EXECUTION_STATUS_COMPLETED
    assert "had ended" in cancelled.message


@pytest.mark.parametrize("execution_id", ["nobody's", ""])
def test_an_unknown_execution_cannot_be_cancelled(execution_id: str, server: Server) -> None:
    refused(ExecutionNotFound, lambda: cancel(server, execution_id))


# --- lists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 0])
def test_pages_follow_each_other_in_the_order_of_creation(limit: int, server: Server) -> None:
    name = fresh("listed")
    made = [server.call("calc", "answer", task_name=name).execution_id for _ in range(3)]
    page = listed(server, task_id=name, limit=limit)
    seen = ids(page)
    while page.has_more:
        assert len(page.executions) == limit
        page = listed(server, task_id=name, limit=limit, start_after=page.next_start_after)
        seen += ids(page)
    assert seen == made
    assert ids(listed(server, task_id=name, start_after=made[0])) == made[1:]


def test_pages_go_on_while_executions_come_and_are_forgotten(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 4")
    server.upload(fixture("calc"), "calc")

    def made(number: int) -> list[str]:
        return [server.call("calc", "answer").execution_id for _ in range(number)]

    first = made(4)
    page = listed(server, limit=2)
    assert ids(page) == first[:2]
    later = made(3)  # for which the first three are forgotten
    page = listed(server, limit=2, start_after=page.next_start_after)
    assert ids(page) == [first[3], later[0]]
    assert ids(listed(server, start_after=page.next_start_after)) == later[1:]


def test_a_page_has_a_hundred_entries_unless_asked_for_more_and_a_thousand_at_most(server: Server) -> None:
    name = fresh("listed")
    server.call("calc", "answer", task_name=name)
    request = pb.InvokeFunctionRequest(task_id=name, function_name="answer")
    for batch in (15, *[15] * 66):  # one fewer at once than the server lets wait
        calls = [server.functions.InvokeFunction.future(request) for _ in range(batch)]
        assert all(call.result(PATIENCE).success for call in calls)
    assert [len(ids(listed(server, task_id=name, limit=limit))) for limit in (0, 1000, 5000)] == [
        100,
        1000,
        1000,
    ]
    assert [
        len(server.get_task(name, include_executions=True, execution_limit=limit).executions)
        for limit in (0, 5000)
    ] == [100, 1000]


def test_a_list_can_be_of_one_status(server: Server) -> None:
    name = fresh("listed")
    fine, broken = (
        server.call("calc", "divide", 1, divisor, task_name=name).execution_id for divisor in (1, 0)
    )
    assert ids(listed(server, task_id=name, status_filter=pb.EXECUTION_STATUS_COMPLETED)) == [fine]
    (failed,) = listed(server, task_id=name, status_filter=pb.EXECUTION_STATUS_FAILED).executions
    assert (failed.execution_id, failed.function_name) == (broken, "divide")
    assert failed.execution_mode == pb.EXECUTION_MODE_SYNC
    assert failed.error_message
    assert ids(listed(server, start_after=fine))[0] == broken


def test_what_runs_is_listed_where_it_was_created(server: Server) -> None:
    name, running = fresh("listed"), fresh("running")
    calling = server.call_later("hostile", "spin", context=context(execution_id=running), task_name=name)
    wait_for(server, running, pb.EXECUTION_STATUS_RUNNING)
    later = server.invoke(task_id=name, function_name="unreachable").execution_id
    assert ids(listed(server, task_id=name)) == [running, later]
    cancel(server, running)
    calling.answer()
    assert ids(listed(server, task_id=name)) == [running, later]


def test_a_page_ends_before_it_is_too_large(server: Server) -> None:
    server.upload(long_export(100_000), "long")
    name = fresh("listed")
    wish = "i" * 190
    for number in range(40):
        server.call("long", "e" * 100_000, task_name=name, context=context(execution_id=f"{wish}{number}"))
    assert len(listed(server, task_id=name, limit=1000).executions) == 40


@pytest.mark.parametrize(
    "fields", [{"limit": -1}, {"start_after": "nobody"}, {"start_after": "@x"}, {"status_filter": 99}]
)
def test_a_list_that_makes_no_sense_is_refused(fields: dict[str, object], server: Server) -> None:
    refused(InvalidRequest, partial(listed, server, **fields))


def test_a_list_of_an_unknown_task_is_not_found(server: Server) -> None:
    refused(TaskNotFound, lambda: listed(server, task_id="nobody's"))
