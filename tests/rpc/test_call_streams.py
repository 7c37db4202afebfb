"""InvokeStream: many calls on one stream, answered as they end, each of which fails alone."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client.values import Argument
from spear_wasm.errors import (
    ExecutionExists,
    FunctionNotFound,
    InvalidRequest,
    ReaderStalled,
    ServerBusy,
    ServerDraining,
    TaskNotFound,
)
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    context,
    fixture,
    fresh,
    parameters,
    reason_of,
    refused,
    until,
    value_of,
)

NARROW_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # Else the client takes in megabytes of each stream ahead of who reads it.
    ("grpc.http2.bdp_probe", 0),
]


class CallStream:
    """A stream of calls; requests are sent when a test says so, and answers read when it asks for them."""

    def __init__(
        self, functions: function_pb2_grpc.FunctionServiceStub, *, timeout: float | None = PATIENCE
    ) -> None:
        self._requests: queue.SimpleQueue[pb.InvokeFunctionRequest | None] = queue.SimpleQueue()
        self.call = functions.InvokeStream(iter(self._requests.get, None), timeout=timeout)
        self._answers: Iterator[pb.InvokeFunctionResponse] = iter(self.call)

    def send(self, function: str, *arguments: Argument, **fields: Any) -> None:
        request = pb.InvokeFunctionRequest(
            function_name=function, parameters=parameters(*arguments), **fields
        )
        self._requests.put(request)

    def done(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def next(self) -> pb.InvokeFunctionResponse:
        return next(self._answers)

    def rest(self) -> dict[int, pb.InvokeFunctionResponse]:
        """All answers that are left, by the number of their request."""
        self.done()
        return {answer.request_number: answer for answer in self._answers}

    def hang_up(self) -> None:
        self.call.cancel()
        self.done()


@pytest.fixture
def calls(server: Server) -> Iterator[CallStream]:
    stream = CallStream(server.functions)
    yield stream
    stream.hang_up()
    server.wait_for_load(0)


@pytest.fixture
def task(server: Server) -> str:
    return server.task("calc")


def spin_on(stream: CallStream, task: str, count: int, **fields: Any) -> None:
    for _ in range(count):
        stream.send("spin", task_id=task, **fields)


def cancel(server: Server, execution_id: str) -> None:
    server.functions.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))


def running_ids(server: Server, task: str) -> list[str]:
    request = pb.ListExecutionsRequest(task_id=task, status_filter=pb.EXECUTION_STATUS_RUNNING)
    return [each.execution_id for each in server.functions.ListExecutions(request).executions]


# --- many calls, many answers -----------------------------------------------------------------------------


def test_every_request_is_answered_and_says_which_it_was(start_server: StartServer) -> None:
    server = start_server()  # which has room for all of them to wait
    server.upload(fixture("calc"), "calc")
    calls, task = CallStream(server.functions), server.task("calc")
    for number in range(1, 501):
        calls.send("add", number, 1, task_id=task)
    answers = calls.rest()
    assert sorted(answers) == list(range(1, 501))
    assert all(value_of(answer) == number + 1 for number, answer in answers.items())
    assert len({answer.execution_id for answer in answers.values()}) == 500


def test_what_ends_first_is_answered_first(calls: CallStream, server: Server, task: str) -> None:
    calls.send("sleep_forever", artifact_spec=pb.ArtifactSpec(artifact_id="host_calls"))
    calls.send("add", 1, 2, task_id=task)
    answer = calls.next()
    assert (answer.request_number, value_of(answer)) == (2, 3)
    server.wait_for_load(1)


def test_an_answer_has_the_execution_id_that_its_request_suggested_or_demanded(
    calls: CallStream, task: str
) -> None:
    suggested, key = fresh("suggested"), fresh("key")
    calls.send("add", 1, 2, task_id=task, context=context(execution_id=suggested))
    calls.send("add", 1, 3, task_id=task, execution_id=key)
    answers = calls.rest()
    assert [answers[number].execution_id for number in (1, 2)] == [suggested, key]


def test_a_key_runs_once_and_means_one_request(calls: CallStream, server: Server, task: str) -> None:
    key = fresh("key")
    first = server.invoke(task_id=task, function_name="add", parameters=parameters(1, 2), execution_id=key)
    calls.send("add", 1, 2, task_id=task, execution_id=key)
    calls.send("add", 2, 2, task_id=task, execution_id=key)
    answers = calls.rest()
    assert answers[1].result == first.result
    assert reason_of(answers[2]) == ExecutionExists.reason


def test_an_asynchronous_call_is_answered_when_it_is_accepted_and_outlives_the_stream(
    server: Server,
) -> None:
    stream = CallStream(server.functions)
    task = server.task("hostile")
    stream.send("spin", task_id=task, execution_mode=pb.EXECUTION_MODE_ASYNC)
    answer = stream.next()
    assert answer.success
    assert answer.result.status in {pb.EXECUTION_STATUS_PENDING, pb.EXECUTION_STATUS_RUNNING}
    stream.hang_up()
    server.wait_for_load(1)
    cancel(server, answer.execution_id)
    server.wait_for_load(0)


def test_tasks_are_made_on_the_way_and_calls_of_others_do_not_wait_for_them(
    start_server: StartServer,
) -> None:
    # With room for all in the line: until they are known as quick they wait there.
    server = start_server("[execution]\nmax_running = 8\nmax_pending = 100")
    server.upload(fixture("calc"), "calc")
    task = server.task("calc")
    calls = CallStream(server.functions)
    for number in range(20):
        spec = pb.ArtifactSpec(artifact_id="calc")
        calls.send("add", number, 1, artifact_spec=spec, task_name=fresh("task"))
        calls.send("add", number, 2, task_id=task)
    answers = calls.rest()
    assert [value_of(answers[number]) for number in range(1, 41)] == [
        number + plus for number in range(20) for plus in (1, 2)
    ]


# --- one failure ------------------------------------------------------------------------------------------


def test_a_guest_that_fails_and_a_call_that_is_refused_end_nothing_else(calls: CallStream, task: str) -> None:
    calls.send("divide", 1, 0, task_id=task)
    calls.send("subtract", 1, 0, task_id=task)
    calls.send("add", 1, 0, task_id="nowhere")
    calls.send("add", "one", 0, task_id=task)
    calls.send("add", 1, 0, task_id=task, execution_mode=pb.EXECUTION_MODE_STREAM)
    calls.send("add", 1, 0, task_id=task)
    answers = calls.rest()
    assert code_of(answers[1]) == "TRAP_DIVIDE_BY_ZERO"
    assert [reason_of(answers[number]) for number in (2, 3, 4, 5)] == [
        FunctionNotFound.reason, TaskNotFound.reason, InvalidRequest.reason, InvalidRequest.reason,
    ]  # fmt: skip
    assert answers[3].result.metrics["task"] == "nowhere"
    assert answers[3].result.metrics["grpc_status"] == str(grpc.StatusCode.NOT_FOUND.value[0])
    assert value_of(answers[6]) == 1


def test_calls_that_a_full_line_refuses_say_when_to_come_again(server: Server) -> None:
    stream = CallStream(server.functions)
    spin_on(stream, server.task("hostile"), 30)
    answer = stream.next()
    assert reason_of(answer) == ServerBusy.reason
    assert 0 < int(answer.result.metrics["retry_after_ms"]) <= 10_000
    stream.hang_up()
    server.wait_for_load(0)


# --- time and ends ----------------------------------------------------------------------------------------


def test_hanging_up_ends_what_runs_and_what_waits(server: Server) -> None:
    stream = CallStream(server.functions)
    spin_on(stream, server.task("hostile"), 10)
    server.wait_for_load(6, 4)
    stream.hang_up()
    server.wait_for_load(0)


def test_a_call_with_a_key_ends_with_the_last_who_waits_for_it(server: Server) -> None:
    stream, other = CallStream(server.functions), CallStream(server.functions)
    task, key = server.task("hostile"), fresh("key")
    for each in (stream, other):
        each.send("spin", task_id=task, execution_id=key)
        each.send("unreachable", task_id=task)
        assert code_of(each.next()) == "TRAP_UNREACHABLE"  # so the one before has been read
    server.wait_for_load(1)
    stream.hang_up()
    server.call("calc", "add", 1, 2)
    server.wait_for_load(1)
    other.hang_up()
    server.wait_for_load(0)


def test_a_caller_who_has_sent_all_gets_what_is_left(server: Server) -> None:
    stream = CallStream(server.functions)
    spec = pb.ArtifactSpec(artifact_id="host_calls")
    for duration in (1500, 1000, 500):
        stream.send("sleep", duration, artifact_spec=spec)
    assert [number for number, answer in stream.rest().items() if answer.success] == [3, 2, 1]
    assert stream.call.code() is grpc.StatusCode.OK


def test_the_deadline_of_the_stream_counts_for_its_calls(server: Server) -> None:
    task = server.task("hostile")
    stream = CallStream(server.functions, timeout=3)
    spin_on(stream, task, 1)
    until(lambda: server.get_task(task).task.execution_count == 2)
    # Both come at the same time: the end of its budget, and of the stream.
    assert server.get_task(task).task.last_status in {
        pb.EXECUTION_STATUS_TIMEOUT,
        pb.EXECUTION_STATUS_CANCELLED,
    }


def test_a_shutdown_ends_an_idle_stream_and_one_that_has_answers_left(start_server: StartServer) -> None:
    server = start_server('[server]\nshutdown_grace = "200ms"')
    server.upload(fixture("hostile"), "hostile")
    idle, busy = CallStream(server.functions), CallStream(server.functions)
    task = server.task("hostile")
    for stream in (idle, busy):
        stream.send("unreachable", task_id=task)
        assert code_of(stream.next()) == "TRAP_UNREACHABLE"
    spin_on(busy, task, 1)
    server.wait_for_load(1)
    server.signal(signal.SIGTERM)
    assert code_of(busy.next()) == "CANCELLED"
    for stream in (idle, busy):
        refused(ServerDraining, stream.next)
    assert server.exit_code() == 0


# --- flow control -----------------------------------------------------------------------------------------


def test_so_many_calls_of_a_stream_are_under_way_and_the_next_is_read_when_one_ends(
    start_server: StartServer,
) -> None:
    server = start_server("[call_streams]\nmax_calls = 2")
    server.upload(fixture("hostile"), "hostile")
    task = server.task("hostile")
    stream, other = CallStream(server.functions), CallStream(server.functions)
    spin_on(stream, task, 3)
    server.wait_for_load(2)
    spin_on(other, task, 1)  # which was sent later, and is read: the third is not in the server
    server.wait_for_load(3)
    before = running_ids(server, task)
    cancel(server, before[0])
    assert code_of(stream.next()) == "CANCELLED"
    server.wait_for_load(3)
    assert set(running_ids(server, task)) - set(before)
    stream.hang_up()
    other.hang_up()
    server.wait_for_load(0)


def test_so_many_bytes_of_requests_are_under_way(start_server: StartServer) -> None:
    server = start_server('[call_streams]\nmax_bytes = "64KiB"')
    server.upload(fixture("hostile"), "hostile")
    task = server.task("hostile")
    stream, other = CallStream(server.functions), CallStream(server.functions)
    spin_on(stream, task, 3, task_description="x" * 40_000)
    server.wait_for_load(2)
    spin_on(other, task, 1)
    server.wait_for_load(3)
    stream.hang_up()
    other.hang_up()
    server.wait_for_load(0)


def test_a_reader_who_does_not_read_is_read_no_further_and_holds_up_nobody_else(
    start_server: StartServer,
) -> None:
    server = start_server()  # which has room for all of them to wait
    server.upload(fixture("text"), "text")
    with grpc.insecure_channel(server.address, options=NARROW_CHANNEL) as channel:
        stream = CallStream(function_pb2_grpc.FunctionServiceStub(channel))
        content, many = b"a" * 200_000, 400
        before = server.stats().execution_stats.completed_executions
        spec = pb.ArtifactSpec(artifact_id="text")
        for _ in range(many):
            stream.send("echo", content, artifact_spec=spec)
        began = at_rest(server)
        assert 0 < began - before < many
        other = CallStream(server.functions)
        other.send("echo", b"b", artifact_spec=spec)
        assert value_of(other.next()) == b"b"
        other.hang_up()
        answers = stream.rest()
        assert [value_of(answers[number]) for number in range(1, many + 1)] == [content] * many


def at_rest(server: Server) -> int:
    """How many executions have completed once no more do."""
    ended = -1
    while (now := server.stats().execution_stats.completed_executions) != ended or not now:
        ended = now
        time.sleep(0.3)
    return ended


def test_a_reader_who_stays_away_is_hung_up_on(start_server: StartServer) -> None:
    server = start_server('[call_streams]\nunread_for = "200ms"')
    server.upload(fixture("text"), "text")
    with grpc.insecure_channel(server.address, options=NARROW_CHANNEL) as channel:
        stream = CallStream(function_pb2_grpc.FunctionServiceStub(channel))
        for _ in range(200):
            stream.send("echo", b"a" * 200_000, artifact_spec=pb.ArtifactSpec(artifact_id="text"))
        until(lambda: "given up" in server.log())
        refused(ReaderStalled, lambda: [stream.next() for _ in range(201)])
        stream.hang_up()


def test_a_stream_on_which_nothing_happens_stays_open(start_server: StartServer) -> None:
    server = start_server('[call_streams]\nunread_for = "1s"')
    server.upload(fixture("host_calls"), "host_calls")
    stream = CallStream(server.functions)
    spec = pb.ArtifactSpec(artifact_id="host_calls")
    for _ in range(2):
        stream.send("sleep", 1300, artifact_spec=spec)
        assert value_of(stream.next()) >= 1299
    assert stream.rest() == {}
