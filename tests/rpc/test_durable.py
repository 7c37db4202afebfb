"""Calls that are kept on disk: asynchronous ones, and those with a key."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client, GuestFailure
from spear_wasm.client.values import Argument, decode
from spear_wasm.errors import (
    ExecutionExists,
    ExecutionNotFound,
    FunctionNotFound,
    JournalFailed,
    ServerBusy,
)
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Pending,
    Server,
    busy_disk,
    code_of,
    context,
    fixture,
    fresh,
    no_disk,
    no_outcomes,
    parameters,
    refused,
    repair_disk,
    until,
    value_of,
)
from tests.rpc.test_executions import cancel, ids, listed, status_of, wait_for
from tests.rpc.test_streams import Stream

ASYNC = pb.EXECUTION_MODE_ASYNC
PENDING, RUNNING = pb.EXECUTION_STATUS_PENDING, pb.EXECUTION_STATUS_RUNNING
COMPLETED, CANCELLED = pb.EXECUTION_STATUS_COMPLETED, pb.EXECUTION_STATUS_CANCELLED
ONE_AT_A_TIME = "[execution]\nmax_running = 1"


def submit(
    server: Server, artifact: str, function: str, *arguments: Argument, **fields: Any
) -> pb.InvokeFunctionResponse:
    return server.call(artifact, function, *arguments, execution_mode=ASYNC, **fields)


def outcome(server: Server, execution_id: str) -> pb.ExecutionResult:
    """How an execution ended; waits for that."""

    def has_ended() -> bool:
        answer = status_of(server, execution_id)
        assert answer.found, "what was accepted is never lost"
        return answer.result.status not in {PENDING, RUNNING}

    until(has_ended)
    return status_of(server, execution_id, include_result=True).result


# --- asynchronous calls -----------------------------------------------------------------------------------


def test_an_asynchronous_call_is_answered_at_once_and_its_result_can_be_fetched(server: Server) -> None:
    spec = {"max_execution_timeout_ms": 19_000}  # a task of its own, which has no other executions
    answer = submit(server, "calc", "divide", 84, 2, spec=spec)
    assert answer.success
    assert answer.result.status == PENDING
    assert answer.status_endpoint == f"executions/{answer.execution_id}"
    assert answer.estimated_completion_ms == 0
    result = outcome(server, answer.execution_id)
    assert (result.status, decode(result.result)) == (COMPLETED, 42)
    (info,) = listed(server, task_id=answer.task_id).executions
    assert (info.execution_id, info.execution_mode) == (answer.execution_id, ASYNC)


def test_an_asynchronous_call_that_waits_is_answered_when_it_has_ended(server: Server) -> None:
    answer = submit(server, "calc", "divide", 84, 2, wait=True)
    assert value_of(answer) == 42
    assert status_of(server, answer.execution_id, include_result=True).result == answer.result
    assert code_of(submit(server, "calc", "divide", 1, 0, wait=True)) == "TRAP_DIVIDE_BY_ZERO"


def test_hanging_up_does_not_end_an_asynchronous_call(server: Server) -> None:
    name = fresh("running")
    with pytest.raises(grpc.RpcError) as gone:
        submit(server, "hostile", "spin", wait=True, deadline=3, context=context(execution_id=name))
    assert gone.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(server, name, RUNNING)
    assert cancel(server, name).final_status == CANCELLED


def test_the_budget_of_an_asynchronous_call_is_its_own(server: Server) -> None:
    answer = submit(server, "hostile", "spin", wait=True, context=context(timeout_ms=100))
    assert code_of(answer) == "TIMEOUT"


def test_what_waits_in_the_line_can_be_cancelled(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    first, second = (submit(server, "hostile", "spin").execution_id for _ in range(2))
    wait_for(server, first, RUNNING)
    assert status_of(server, second).result.status == PENDING
    assert cancel(server, second).final_status == CANCELLED
    assert cancel(server, first).final_status == CANCELLED


def test_the_line_is_as_long_for_asynchronous_calls_as_for_others(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_running = 1\nmax_pending = 2")
    server.upload(fixture("hostile"), "hostile")
    first = submit(server, "hostile", "spin").execution_id
    wait_for(server, first, RUNNING)
    waiting = [submit(server, "hostile", "spin").execution_id for _ in range(2)]
    refused(ServerBusy, lambda: submit(server, "hostile", "spin"))
    for execution_id in (*waiting, first):
        cancel(server, execution_id)


def test_what_the_memory_has_forgotten_the_disk_tells(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 1")
    server.upload(fixture("calc"), "calc")
    answers = [submit(server, "calc", "divide", 84, divisor, wait=True) for divisor in (2, 0, 1)]
    for answer in answers:
        assert status_of(server, answer.execution_id, include_result=True).result == answer.result
        assert not cancel(server, answer.execution_id).success
    made = [answer.execution_id for answer in answers]
    assert ids(listed(server)) == made
    assert ids(listed(server, start_after=made[0], limit=1)) == made[1:2]
    assert ids(listed(server, status_filter=pb.EXECUTION_STATUS_FAILED)) == made[1:2]


def test_a_suggested_id_that_the_disk_alone_knows_is_only_noted(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 1")
    server.upload(fixture("calc"), "calc")
    wish = context(execution_id="wish")
    first, _, second = (
        submit(server, "calc", "answer", wait=True, context=each) for each in (wish, None, wish)
    )
    assert first.execution_id == "wish"
    assert second.execution_id.startswith("exec-")


def test_deleting_a_task_forgets_its_executions_on_disk_too(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 2")
    server.upload(fixture("calc"), "calc")
    answers = [submit(server, "calc", "answer", wait=True) for _ in range(4)]
    server.call("calc", "answer")
    deleted = server.delete_task(answers[0].task_id, cleanup_executions=True)
    assert deleted.cleaned_executions == 5
    assert not any(status_of(server, answer.execution_id).found for answer in answers)
    assert not listed(server).executions


def test_deleting_a_task_by_force_forgets_what_it_was_doing_too(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    running, waiting = (submit(server, "hostile", "spin") for _ in range(2))
    wait_for(server, running.execution_id, RUNNING)
    server.delete_task(running.task_id, cleanup_executions=True, force=True)
    assert not any(status_of(server, each.execution_id).found for each in (running, waiting))


def test_outcomes_on_disk_are_bounded_in_number(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 1\nmax_stored = 2")
    server.upload(fixture("calc"), "calc")
    made = [submit(server, "calc", "answer", wait=True).execution_id for _ in range(4)]
    until(lambda: ids(listed(server)) == made[-2:])


def test_the_client_hands_in_and_waits(server: Server) -> None:
    with Client(server.address) as client:
        key = fresh("key")
        assert client.submit("calc", "divide", 84, 2, key=key) == key
        assert client.wait(key).value == 42
        assert client.submit("calc", "divide", 84, 2, key=key) == key
        failing = client.submit("calc", "divide", 84, 0)
        with pytest.raises(GuestFailure, match="TRAP_DIVIDE_BY_ZERO"):
            client.wait(failing)
        assert [each.execution_id for each in client.executions("calc:1")][-2:] == [key, failing]
        assert not client.cancel(key).success


# --- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [pb.EXECUTION_MODE_SYNC, ASYNC])
def test_the_same_request_with_the_same_key_is_answered_with_the_first_execution(
    mode: pb.ExecutionMode.ValueType, server: Server
) -> None:
    key = fresh("key")
    first, second = (
        server.call("calc", "divide", 84, 2, execution_id=key, execution_mode=mode, wait=True)
        for _ in range(2)
    )
    assert value_of(first) == 42
    assert second == first
    assert first.execution_id == key


def test_who_asks_and_how_long_they_wait_is_not_part_of_a_request(server: Server) -> None:
    key = fresh("key")
    first = server.call("calc", "answer", execution_id=key)
    other = context(
        timeout_ms=5000, execution_id="a wish", user_id="me", session_id="mine", headers={"via": "a proxy"}
    )
    assert (
        server.call("calc", "answer", execution_id=key, execution_mode=pb.EXECUTION_MODE_SYNC, context=other)
        == first
    )


def test_a_failure_is_the_outcome_of_its_key_too(server: Server) -> None:
    key = fresh("key")
    first, second = (server.call("calc", "divide", 1, 0, execution_id=key) for _ in range(2))
    assert code_of(first) == "TRAP_DIVIDE_BY_ZERO"
    assert second == first


@pytest.mark.parametrize(
    "other", [{"function_name": "divide"}, {"parameters": parameters(1)}, {"execution_mode": ASYNC}]
)
def test_another_request_with_the_same_key_is_refused(other: dict[str, Any], server: Server) -> None:
    key = fresh("key")
    asked: dict[str, Any] = {"task_id": server.task("calc"), "function_name": "answer", "execution_id": key}
    server.invoke(**asked)
    refused(ExecutionExists, lambda: server.invoke(**{**asked, **other}))


def test_who_comes_while_the_first_runs_waits_for_it(server: Server) -> None:
    key = fresh("key")
    calls = [
        server.call_later("hostile", "spin", execution_id=key, context=context(timeout_ms=1000))
        for _ in range(3)
    ]
    answers = [call.answer() for call in calls]
    assert {answer.instance_id for answer in answers} == {answers[0].instance_id}
    assert {code_of(answer) for answer in answers} == {"TIMEOUT"}


def test_a_guest_ends_when_the_last_of_those_who_called_it_with_a_key_goes_away(server: Server) -> None:
    key, task = fresh("key"), server.task("hostile")
    asked: dict[str, Any] = {"task_id": task, "function_name": "spin", "execution_id": key}
    staying = server.functions.InvokeFunction.future(pb.InvokeFunctionRequest(**asked))
    wait_for(server, key, RUNNING)
    with pytest.raises(grpc.RpcError):
        server.invoke(**asked, deadline=0.2)
    assert status_of(server, key).result.status == RUNNING
    staying.cancel()
    assert outcome(server, key).error_code == "CANCELLED"


def test_a_key_is_not_free_where_an_execution_without_one_has_the_id(server: Server) -> None:
    wish = fresh("wish")
    server.call("calc", "answer", context=context(execution_id=wish))
    refused(ExecutionExists, lambda: server.call("calc", "answer", execution_id=wish))


def test_a_call_that_was_refused_leaves_its_key_free(server: Server) -> None:
    key = fresh("key")
    refused(FunctionNotFound, lambda: server.call("calc", "no such", execution_id=key))
    assert value_of(server.call("calc", "answer", execution_id=key)) == 42


def test_what_unfinished_calls_hold_together_is_bounded(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_running = 1\nmax_unfinished_bytes = "100KiB"')
    for name in ("hostile", "text"):
        server.upload(fixture(name), name)
    spinning = submit(server, "hostile", "spin").execution_id
    wait_for(server, spinning, RUNNING)

    def large() -> pb.InvokeFunctionResponse:
        return submit(server, "text", "log_and_fail", b"x" * 60_000)

    waiting = large().execution_id
    refusal = refused(ServerBusy, large)
    assert refusal.retry_after
    assert "102400" in refusal.message
    cancel(server, waiting)
    waiting = large().execution_id
    cancel(server, spinning)
    assert outcome(server, waiting).error_code == "GUEST_ERROR"
    assert outcome(server, large().execution_id).error_code == "GUEST_ERROR"


def test_a_task_leaves_others_room_for_unfinished_calls(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_running = 1\nmax_unfinished_bytes = "100KiB"')
    for name in ("hostile", "text"):
        server.upload(fixture(name), name)
    spinning = submit(server, "hostile", "spin").execution_id
    wait_for(server, spinning, RUNNING)

    def large(task: str) -> pb.InvokeFunctionResponse:
        return submit(server, "text", "log_and_fail", b"x" * 20_000, task_name=task)

    waiting = [large("flood").execution_id for _ in range(4)]
    refusal = refused(ServerBusy, lambda: large("flood"))
    assert refusal.retry_after
    assert "its share of 102400" in refusal.message
    waiting.append(large("trickle").execution_id)
    cancel(server, spinning)
    assert {outcome(server, each).error_code for each in waiting} == {"GUEST_ERROR"}
    assert outcome(server, large("flood").execution_id).error_code == "GUEST_ERROR"


def test_a_key_is_free_again_when_nothing_is_remembered_of_it(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_records = 1\nmax_stored = 1")
    server.upload(fixture("calc"), "calc")
    first = server.call("calc", "divide", 84, 2, execution_id="key")
    refused(ExecutionExists, lambda: server.call("calc", "divide", 84, 4, execution_id="key"))
    server.call("calc", "divide", 84, 1, execution_id="another key")
    until(lambda: not status_of(server, "key").found)
    again = server.call("calc", "divide", 84, 4, execution_id="key")
    assert (value_of(first), value_of(again)) == (42, 21)


# --- when the disk is busy, or fails ----------------------------------------------------------------------------------


def test_who_brings_no_key_does_not_wait_for_the_disk(start_server: StartServer) -> None:
    server = start_server()
    for name in ("calc", "emitter"):
        server.upload(fixture(name), name)
    server.call("calc", "answer")
    Stream(server.functions, "emit_numbers", 2, 4).rest()
    with busy_disk(server):
        waiting = server.call_later("calc", "answer", execution_id="key")
        answer = server.call("calc", "answer")
        assert status_of(server, answer.execution_id, include_result=True).result == answer.result
        messages, final = Stream(server.functions, "emit_numbers", 2, 4).rest()
        assert (len(messages), final.status) == (2, COMPLETED)
        assert not waiting.is_answered()
    assert value_of(waiting.answer()) == 42


def test_what_waits_for_the_disk_can_be_cancelled_and_never_runs(start_server: StartServer) -> None:
    server = start_server()
    server.upload(fixture("calc"), "calc")
    server.call("calc", "answer")
    with busy_disk(server):
        calling = server.call_later("calc", "answer", execution_id="key")
        until(lambda: status_of(server, "key").found)
        request = pb.CancelExecutionRequest(execution_id="key", force=True)
        assert server.functions.CancelExecution(request).final_status == PENDING
        assert not calling.is_answered()
    answer = calling.answer()
    assert code_of(answer) == "CANCELLED"
    assert not answer.result.HasField("started_at")
    assert outcome(server, "key") == answer.result


def test_cancelling_what_the_disk_then_refuses_finds_nothing(start_server: StartServer) -> None:
    server = start_server()
    server.upload(fixture("calc"), "calc")
    server.call("calc", "answer")
    with busy_disk(server, breaks=True):
        calling = server.call_later("calc", "answer", execution_id="key")
        until(lambda: status_of(server, "key").found)
        cancelling = server.functions.CancelExecution.future(pb.CancelExecutionRequest(execution_id="key"))
        for _ in range(10):  # it has come to the server before the disk breaks
            assert status_of(server, "key").result.status == PENDING
    refused(ExecutionNotFound, lambda: cancelling.result(PATIENCE))
    refused(JournalFailed, calling.answer)
    repair_disk(server)


def running_with_key(server: Server) -> Pending:
    """A call with a key that runs until it is cancelled."""
    calling = server.call_later("hostile", "spin", execution_id="key", context=context(timeout_ms=25_000))
    wait_for(server, "key", RUNNING)
    # The disk hears before its guest begins; what it hears later comes after that.
    server.call("hostile", "unreachable", execution_id="another key")
    return calling


def test_nobody_hears_of_an_outcome_that_the_disk_has_not_taken_yet(
    start_server: StartServer, tmp_path: Path
) -> None:
    directory = tmp_path / "server"
    server = start_server("", directory)
    server.upload(fixture("hostile"), "hostile")
    calling = running_with_key(server)
    with no_disk(server):
        cancel(server, "key", force=True)
        server.wait_for_load(0)
        until(lambda: "executions not written" in server.log())
        assert not calling.is_answered()
    answer = calling.answer()
    assert code_of(answer) == "CANCELLED"
    server.signal(signal.SIGKILL)
    server.exit_code()
    again = start_server("", directory)
    assert status_of(again, "key", include_result=True).result == answer.result


@contextlib.contextmanager
def withheld(server: Server) -> Iterator[None]:
    """Meanwhile an execution has an outcome that the disk has not taken for seconds."""
    calling = running_with_key(server)
    with no_outcomes(server):
        cancel(server, "key", force=True)
        refusal = refused(JournalFailed, calling.answer)
        assert refusal.retry_after
        assert refusal.metadata["execution_id"] == "key"
        yield


def test_nobody_is_told_an_outcome_that_the_disk_has_not_taken_for_seconds(
    start_server: StartServer, tmp_path: Path
) -> None:
    directory = tmp_path / "server"
    server = start_server("", directory)
    server.upload(fixture("hostile"), "hostile")
    with withheld(server):
        refused(JournalFailed, lambda: status_of(server, "key"))
        refused(JournalFailed, lambda: cancel(server, "key"))
        refused(JournalFailed, lambda: server.call("hostile", "spin", execution_id="key"))
        info = listed(server).executions[0]
        assert (info.execution_id, info.status) == ("key", RUNNING)
        assert ids(listed(server, status_filter=RUNNING)) == ["key"]
        assert not listed(server, status_filter=CANCELLED).executions
        executions = server.get_task(info.task_id, include_executions=True).executions
        assert [each.status for each in executions] == [pb.EXECUTION_STATUS_FAILED, RUNNING]
        # Before the disk takes it after all.
        server.signal(signal.SIGKILL)
        server.exit_code()
    again = start_server("", directory)
    assert outcome(again, "key").error_code == "WORKER_LOST"


def test_an_outcome_that_was_withheld_is_told_when_the_disk_has_taken_it(
    start_server: StartServer, tmp_path: Path
) -> None:
    directory = tmp_path / "server"
    server = start_server("", directory)
    server.upload(fixture("hostile"), "hostile")
    with withheld(server):
        pass
    until(lambda: told(server))
    result = outcome(server, "key")
    assert result.error_code == "CANCELLED"
    assert server.call("hostile", "spin", execution_id="key", context=context(timeout_ms=1)).result == result
    server.signal(signal.SIGKILL)
    server.exit_code()
    again = start_server("", directory)
    assert outcome(again, "key") == result


def told(server: Server) -> bool:
    """Whether the outcome is told that was withheld."""
    try:
        return status_of(server, "key").found
    except grpc.RpcError:
        return False
