"""InvokeBatch: one function over many inputs, each an execution of its own, which fails alone."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument
from spear_wasm.config import Config
from spear_wasm.errors import (
    BatchTooLarge,
    FunctionNotFound,
    InvalidRequest,
    ServerBusy,
    ServerDraining,
    TaskNotFound,
)
from spear_wasm.execution.execution import BoundCall, Execution
from spear_wasm.host import open_host
from spear_wasm.model import Parameter
from spear_wasm.rpc.batches import Batches
from spear_wasm.rpc.called_tasks import CalledTasks
from spear_wasm.rpc.edge import Conversation
from spear_wasm.rpc.others import NoOthers
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    context,
    fixture,
    fresh,
    limits,
    parameters,
    reason_of,
    refused,
    until,
    value_of,
)

Inputs = Sequence[tuple[Argument, ...]]

FOREVER = [()] * 50
"""Inputs for a function that has no parameters, and does not end."""


def batch_request(inputs: Inputs, **call: Any) -> pb.InvokeBatchRequest:
    return pb.InvokeBatchRequest(
        call=pb.InvokeFunctionRequest(**call),
        inputs=[pb.BatchInput(parameters=parameters(*values)) for values in inputs],
    )


def run_batch(
    server: Server, artifact: str, function: str, inputs: Inputs, *, spec: Any = None, **call: Any
) -> list[pb.InvokeFunctionResponse]:
    """The answers to a batch in a task of its own."""
    call.setdefault("task_name", fresh("task"))
    request = batch_request(
        inputs,
        artifact_spec=pb.ArtifactSpec(artifact_id=artifact, **(spec or {})),
        function_name=function,
        **call,
    )
    return list(server.functions.InvokeBatch(request, timeout=PATIENCE).answers)


def start_batch(server: Server, task: str, function: str, inputs: Inputs = FOREVER, **call: Any) -> Any:
    """A batch under way, as gRPC has it."""
    request = batch_request(inputs, task_id=task, function_name=function, **call)
    return server.functions.InvokeBatch.future(request, timeout=PATIENCE)


def status_of(server: Server, execution_id: str) -> pb.GetExecutionStatusResponse:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id, include_result=True)
    return server.functions.GetExecutionStatus(request, timeout=PATIENCE)


def running_ids(server: Server, task: str) -> list[str]:
    request = pb.ListExecutionsRequest(task_id=task, status_filter=pb.EXECUTION_STATUS_RUNNING)
    return [each.execution_id for each in server.functions.ListExecutions(request).executions]


# --- each an execution of its own -------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_inputs(server: Server) -> None:
    inputs = [(number, 1000) for number in range(300)]
    assert [value_of(answer) for answer in run_batch(server, "calc", "add", inputs)] == list(
        range(1000, 1300)
    )


def test_they_do_so_where_later_inputs_end_first(server: Server) -> None:
    task = server.task("host_calls")
    begun = server.get_task(task).task.execution_count
    calls = start_batch(server, task, "sleep", [(2**31 - 1,), (0,), (1000,), (0,)])
    until(lambda: server.get_task(task).task.execution_count == begun + 3)  # of those that have ended
    server.wait_for_load(1)
    (execution_id,) = running_ids(server, task)
    server.functions.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    answers = calls.result(PATIENCE).answers
    assert (answers[0].execution_id, code_of(answers[0])) == (execution_id, "CANCELLED")
    assert all(value_of(answer) >= slept for answer, slept in zip(answers[1:], (0, 999, 0), strict=True))
    ended = [answer.result.completed_at.ToMicroseconds() for answer in answers]
    assert ended[1] < ended[2] < ended[0]


def test_each_is_counted_recorded_and_told_of_by_its_id(server: Server) -> None:
    before = server.stats().execution_stats.completed_executions
    answers = run_batch(server, "calc", "add", [(number, 1) for number in range(40)])
    assert server.stats().execution_stats.completed_executions == before + 40
    assert server.get_task(answers[0].task_id).task.execution_count == 40
    assert len({answer.execution_id for answer in answers}) == 40
    for number in (0, 17, 39):
        found = status_of(server, answers[number].execution_id)
        assert found.result.result == answers[number].result.result
        assert answers[number].status_endpoint == f"executions/{answers[number].execution_id}"


def test_each_has_a_sandbox_that_nobody_has_used(server: Server) -> None:
    answers = run_batch(server, "canary", "leave", [(mark,) for mark in range(1, 60)])
    assert [value_of(answer) for answer in answers] == [0] * 59
    assert len({answer.instance_id for answer in answers}) == 59


def test_one_that_traps_fails_alone(server: Server) -> None:
    answers = run_batch(server, "calc", "divide", [(84, divisor) for divisor in (2, 0, 4, 0, 1)])
    assert [code_of(answers[number]) for number in (1, 3)] == ["TRAP_DIVIDE_BY_ZERO"] * 2
    assert [value_of(answers[number]) for number in (0, 2, 4)] == [42, 21, 84]
    assert answers[1].message == answers[1].result.error_message != ""


def test_one_that_does_not_fit_is_refused_alone(server: Server) -> None:
    answers = run_batch(server, "calc", "add", [("one", 2), (1, 2), (1,), (3, 4)])
    assert [value_of(answers[number]) for number in (1, 3)] == [3, 7]
    for number in (0, 2):
        refusal = answers[number]
        assert reason_of(refusal) == InvalidRequest.reason
        assert refusal.result.metrics["grpc_status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
        assert refusal.execution_id == ""
        assert refusal.message == refusal.result.error_message != ""


def test_limits_and_the_input_s_size_hold_for_each(server: Server) -> None:
    answers = run_batch(server, "calc", "count_to", [(10,), (2**30,), (20,)], limits=limits(max_fuel=10_000))
    assert [value_of(answers[number]) for number in (0, 2)] == [10, 20]
    assert code_of(answers[1]) == "OUT_OF_FUEL"
    answers = run_batch(server, "text", "upper", [(b"a",), (b"b" * 101,)], limits=limits(max_input_bytes=100))
    assert value_of(answers[0]) == b"A"
    assert reason_of(answers[1]) == InvalidRequest.reason


def test_the_budget_is_each_one_s_own(server: Server) -> None:
    inputs = [(200,)] * 3 + [(2**31 - 1,)] + [(200,)] * 62
    answers = run_batch(server, "host_calls", "sleep", inputs, context=context(timeout_ms=2500))
    assert code_of(answers[3]) == "TIMEOUT"
    # They take longer together than one may: beside the one that times out five at once, after each other.
    assert all(value_of(answer) >= 199 for answer in answers[:3] + answers[4:])


def test_the_budget_of_one_begins_when_its_turn_comes(server: Server) -> None:
    one_at_a_time = {"resource_limits": limits(max_concurrency=1)}
    inputs = [(100,)] * 27
    answers = run_batch(
        server, "host_calls", "sleep", inputs, spec=one_at_a_time, context=context(timeout_ms=2500)
    )
    assert all(value_of(answer) >= 99 for answer in answers)


class ThreadOfLoop:
    """As much of a conversation as a batch needs; whose polling thread is the event loop's."""

    def __init__(self) -> None:
        self.soon = asyncio.get_running_loop().call_soon_threadsafe

    def time_remaining(self) -> None:
        """There is no end."""


def test_an_input_is_read_once_however_often_its_batch_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def execution(call: BoundCall, parameters: Sequence[Parameter]) -> Execution:
        read.append(parameters)
        return make_execution(call, parameters)

    make_execution = BoundCall.execution
    monkeypatch.setattr(BoundCall, "execution", execution)
    request = batch_request(
        [(number, 1) for number in range(40)],
        artifact_spec=pb.ArtifactSpec(artifact_id="calc"),
        function_name="add",
    )
    with open_host(Config(), tmp_path) as host:
        with host.artifacts.begin_upload("calc", "", "", 0, {}) as upload:
            upload.write(fixture("calc"))
            upload.finish()
        called_tasks = CalledTasks(host, NoOthers())
        batches = Batches(host.manager, host.config.batches, slice_seconds=0.0)

        async def answers() -> pb.InvokeBatchResponse:
            conversation = cast("Conversation", ThreadOfLoop())
            batch = await called_tasks.submit(
                request.call, lambda: None, lambda call: batches.begin(call, request, conversation), BoundCall
            )
            return await batches.run(batch)

        response = asyncio.run(answers())
        called_tasks.close()
    assert [value_of(answer) for answer in response.answers] == list(range(1, 41))
    assert len(read) == 40


def test_a_task_is_made_by_a_batch_whose_first_input_does_not_fit(server: Server) -> None:
    name = fresh("task")
    answers = run_batch(server, "calc", "add", [(), (1, 2)], task_name=name)
    assert (reason_of(answers[0]), value_of(answers[1])) == (InvalidRequest.reason, 3)
    assert server.get_task(name).found


# --- what is refused as a whole ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"parameters": parameters(1, 2)}, "call.parameters"),
        ({"execution_id": "key"}, "call.execution_id"),
        ({"context": context(execution_id="mine")}, "call.context.execution_id"),
        ({"execution_mode": pb.EXECUTION_MODE_ASYNC}, "ASYNC"),
        ({"execution_mode": pb.EXECUTION_MODE_STREAM}, "execution_mode"),
        ({"priority": 10}, "priority"),
        ({"limits": limits(max_memory_bytes=1 << 40)}, "max_memory_bytes"),
    ],
)
def test_what_makes_no_sense_for_all_is_refused_and_leaves_no_task(
    server: Server, call: dict[str, Any], says: str
) -> None:
    name = fresh("task")
    refusal = refused(
        InvalidRequest, lambda: run_batch(server, "calc", "add", [(1, 2)], task_name=name, **call)
    )
    assert says in refusal.message
    assert not server.get_task(name).found


def test_a_batch_without_inputs_is_refused(server: Server) -> None:
    assert "inputs" in refused(InvalidRequest, lambda: run_batch(server, "calc", "add", [])).message


def test_a_function_or_a_task_that_is_not_there_refuses_all(server: Server) -> None:
    refused(FunctionNotFound, lambda: run_batch(server, "calc", "subtract", [(1, 2)]))
    request = batch_request([(1, 2)], task_id="nowhere", function_name="add")
    refused(TaskNotFound, lambda: server.functions.InvokeBatch(request, timeout=PATIENCE))


def test_more_inputs_or_bytes_than_the_server_takes_are_refused(start_server: StartServer) -> None:
    server = start_server('[batches]\nmax_inputs = 3\nmax_input = "1KiB"')
    server.upload(fixture("text"), "text")
    assert len(run_batch(server, "text", "upper", [(b"a",)] * 3)) == 3
    refusal = refused(BatchTooLarge, lambda: run_batch(server, "text", "upper", [(b"a",)] * 4))
    assert (refusal.metadata["limit"], "4" in refusal.message, "3" in refusal.message) == (
        "max_inputs", True, True,
    )  # fmt: skip
    refusal = refused(BatchTooLarge, lambda: run_batch(server, "text", "upper", [(b"a" * 1000,)]))
    assert refusal.metadata["limit"] == "max_input"


def test_answers_that_do_not_fit_are_refused_and_kept(start_server: StartServer) -> None:
    server = start_server('[batches]\nmax_output = "10KiB"\nmax_running = 1')
    server.upload(fixture("text"), "text")
    answers = run_batch(server, "text", "upper", [(b"a" * 4000,)] * 4 + [(b"a",)] * 300)
    assert [value_of(answer) for answer in answers[:2]] == [b"A" * 4000] * 2
    assert [reason_of(answer) for answer in answers[2:4]] == [BatchTooLarge.reason] * 2
    assert value_of(answers[4]) == b"A"
    for answer in answers[2:4]:
        assert status_of(server, answer.execution_id).result.result.value.endswith(b"A" * 4000)
    assert reason_of(answers[-1]) == BatchTooLarge.reason
    assert answers[-1].execution_id == ""  # it never began
    assert server.stats().execution_stats.completed_executions < 304


# --- how it gets its places -------------------------------------------------------------------------------


def test_of_a_batch_at_most_one_waits_in_the_line_and_others_pass(server: Server) -> None:
    task = server.task("hostile")
    guests = start_batch(server, task, "spin")
    server.wait_for_load(6, 1)  # three quarters of the places, and one that waits
    assert value_of(server.call("calc", "add", 1, 2)) == 3
    assert not guests.done()
    guests.cancel()
    server.wait_for_load(0)


def test_one_that_waits_in_the_line_holds_up_its_batch_whoever_takes_the_places_that_come_free(
    server: Server,
) -> None:
    task, urgent = server.task("hostile"), server.task("hostile")
    guests = start_batch(server, task, "spin")
    server.wait_for_load(6, 1)
    request = pb.InvokeFunctionRequest(task_id=urgent, function_name="spin", priority=9)
    others = [server.functions.InvokeFunction.future(request) for _ in range(4)]
    server.wait_for_load(8, 3)  # of the batch and of the others
    cancelled = pb.CancelExecutionRequest(execution_id=running_ids(server, task)[0])
    assert server.functions.CancelExecution(cancelled, timeout=PATIENCE).success
    server.wait_for_load(8, 2)  # its place is another's now
    for _ in range(20):
        assert server.load() == (8, 2)
    guests.cancel()
    for other in others:
        other.cancel()
    server.wait_for_load(0)


def test_hanging_up_ends_what_runs_and_nothing_more_begins(server: Server) -> None:
    task = server.task("hostile")
    begun = server.get_task(task).task.execution_count
    guests = start_batch(server, task, "spin")
    server.wait_for_load(6, 1)
    guests.cancel()
    server.wait_for_load(0)
    assert server.get_task(task).task.execution_count == begun + 7
    assert server.get_task(task).task.last_status == pb.EXECUTION_STATUS_CANCELLED


def test_the_deadline_of_the_rpc_is_for_all_together(server: Server) -> None:
    task = server.task("hostile")
    request = batch_request(FOREVER, task_id=task, function_name="spin")
    with pytest.raises(grpc.RpcError) as caught:
        server.functions.InvokeBatch(request, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_for_load(0)


def test_one_of_a_batch_is_cancelled_by_its_id_and_the_next_one_takes_its_place(server: Server) -> None:
    task = server.task("host_calls")
    calls = start_batch(server, task, "sleep", [(2**31 - 1,), (10,), (10,)])
    server.wait_for_load(1)
    execution_id = running_ids(server, task)[0]
    server.functions.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    answers = calls.result(PATIENCE).answers
    assert (answers[0].execution_id, code_of(answers[0])) == (execution_id, "CANCELLED")
    assert [value_of(answer) >= 9 for answer in answers[1:]] == [True, True]


def test_a_guest_that_does_not_end_holds_up_neither_its_batch_nor_others(server: Server) -> None:
    task = server.task("calc")
    inputs = [(1,)] * 30 + [(2**31 - 1,)] + [(2,)] * 30
    calls = start_batch(server, task, "count_to", inputs, context=context(timeout_ms=10_000))
    server.wait_for_load(1)
    for number in range(20):
        assert value_of(server.call("calc", "add", number, 1)) == number + 1
    assert not calls.done()
    answers = calls.result(PATIENCE).answers
    assert [value_of(answer) for answer in [*answers[:30], *answers[31:]]] == [1] * 30 + [2] * 30


def test_so_many_of_a_batch_run_at_once_as_the_server_says(start_server: StartServer) -> None:
    server = start_server("[batches]\nmax_running = 2")
    server.upload(fixture("hostile"), "hostile")
    guests = start_batch(server, server.task("hostile"), "spin")
    server.wait_for_load(2)
    guests.cancel()
    server.wait_for_load(0)


def test_a_task_that_runs_one_at_a_time_runs_one_of_its_batch_at_a_time(server: Server) -> None:
    answers = run_batch(
        server, "host_calls", "sleep", [(20,)] * 6, spec={"resource_limits": limits(max_concurrency=1)}
    )
    times = sorted(
        (answer.result.started_at.ToMicroseconds(), answer.result.completed_at.ToMicroseconds())
        for answer in answers
    )
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


def test_a_full_line_refuses_a_batch_and_one_that_is_under_way_goes_on(start_server: StartServer) -> None:
    server = start_server(
        "[execution]\nmax_running = 2\nmax_pending = 1\n[pool]\nmax_ready = 1\nmax_ready_per_task = 1"
        "\n[batches]\nmax_running = 1\n[engine]\nsandboxes = 8"
    )
    for name in ("hostile", "host_calls"):
        server.upload(fixture(name), name)
    task, other = server.task("host_calls"), server.task("hostile")
    under_way = start_batch(server, task, "sleep", [(2**31 - 1,), (1,), (1,)])
    server.wait_for_load(1)
    spin = pb.InvokeFunctionRequest(task_id=other, function_name="spin")
    guests = [server.functions.InvokeFunction.future(spin) for _ in range(2)]
    server.wait_for_load(2, 1)
    refusal = refused(ServerBusy, lambda: start_batch(server, task, "sleep", [(1,)]).result())
    assert refusal.retry_after is not None
    (execution_id,) = running_ids(server, task)
    server.functions.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    until(lambda: running_ids(server, task) == [])  # the other task has its place now
    for guest in guests:
        guest.cancel()
    answers = under_way.result(PATIENCE).answers
    assert code_of(answers[0]) == "CANCELLED"
    assert [value_of(answer) >= 0 for answer in answers[1:]] == [True, True]


def test_so_many_batches_are_under_way_at_once_as_the_server_says(start_server: StartServer) -> None:
    server = start_server("[batches]\nmax_batches = 1")
    server.upload(fixture("hostile"), "hostile")
    task = server.task("hostile")
    guests = start_batch(server, task, "spin", [()])
    server.wait_for_load(1)
    refusal = refused(ServerBusy, lambda: start_batch(server, task, "unreachable", [()]).result())
    assert refusal.retry_after is not None
    guests.cancel()
    server.wait_for_load(0)
    until(lambda: _ends(server, task))


def _ends(server: Server, task: str) -> bool:
    """Whether a batch is taken again."""
    try:
        (answer,) = start_batch(server, task, "unreachable", [()]).result().answers
    except grpc.RpcError:
        return False
    return code_of(answer) == "TRAP_UNREACHABLE"


def test_a_server_that_shuts_down_tells_what_ended_and_what_it_did_not_begin(
    start_server: StartServer,
) -> None:
    server = start_server('[server]\nshutdown_grace = "200ms"\n[batches]\nmax_running = 2')
    server.upload(fixture("hostile"), "hostile")
    guests = start_batch(server, server.task("hostile"), "spin", [()] * 4)
    server.wait_for_load(2)
    server.signal(signal.SIGTERM)
    answers = guests.result(PATIENCE).answers
    assert [code_of(answer) for answer in answers[:2]] == ["CANCELLED"] * 2
    assert [reason_of(answer) for answer in answers[2:]] == [ServerDraining.reason] * 2
    assert server.exit_code() == 0
