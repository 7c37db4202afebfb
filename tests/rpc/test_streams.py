"""StreamFunction: what guests emit while they run, at the pace of whoever reads it."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from spear_wasm import errors
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client.values import Argument, decode
from spear_wasm.errors import InvalidRequest
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
    refused,
    until,
    value_of,
)

WIDE = """
[execution]
max_running = 690

[engine]
sandboxes = 700

[pool]
max_ready = 8
max_ready_per_task = 8

[default_limits]
max_memory = "1MiB"
max_output = "256MiB"

[ceiling]
max_memory = "1MiB"
max_output = "256MiB"
"""
SHORT_GRACE = """
[server]
shutdown_grace = "1ms"
"""
NARROW_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # Else the client takes in megabytes of each stream ahead of who reads it.
    ("grpc.http2.bdp_probe", 0),
]
MANY = 20_000
"""Messages of 1,000 bytes: far more than all buffers between a guest and its reader hold."""


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets guests emit much, and many of them at once."""
    running = Server(tmp_path_factory.mktemp("wide"), WIDE)
    try:
        running.upload(fixture("emitter"), "emitter", "1")
        yield running
        assert running.stop() == 0
    finally:
        running.close()


@pytest.fixture
def functions(wide: Server) -> Iterator[function_pb2_grpc.FunctionServiceStub]:
    """A connection to it that takes in little ahead of who reads."""
    with grpc.insecure_channel(wide.address, options=NARROW_CHANNEL) as channel:
        yield function_pb2_grpc.FunctionServiceStub(channel)


class Stream:
    """A streamed call; its messages are not read before somebody asks for them."""

    def __init__(
        self,
        functions: function_pb2_grpc.FunctionServiceStub,
        function: str,
        *arguments: Argument,
        artifact: str = "emitter",
        **fields: Any,
    ) -> None:
        request = pb.InvokeFunctionRequest(
            artifact_spec=pb.ArtifactSpec(artifact_id=artifact),
            function_name=function,
            parameters=parameters(*arguments),
            **fields,
        )
        self._call = functions.StreamFunction(request, timeout=PATIENCE)
        self._messages: Iterator[pb.StreamExecutionResult] = iter(self._call)

    def next(self) -> pb.StreamExecutionResult:
        return next(self._messages)

    def rest(self) -> tuple[list[bytes], pb.StreamExecutionResult]:
        """What it emitted, and its end."""
        *messages, final = self._messages
        assert final.is_final
        assert not any(message.is_final for message in messages)
        assert {message.status for message in messages} <= {pb.EXECUTION_STATUS_RUNNING}
        assert {message.execution_id for message in messages} <= {final.execution_id}
        return [content_of(message) for message in messages], final

    def hang_up(self) -> None:
        self._call.cancel()


def content_of(message: pb.StreamExecutionResult) -> bytes:
    content = decode(message.chunk_data)
    assert isinstance(content, bytes)
    return content


def number_in(message: bytes) -> int:
    number: int = struct.unpack_from("<I", message)[0]
    return number


def numbers_in(messages: list[bytes]) -> list[int]:
    return [number_in(message) for message in messages]


def status_of(server: Server, execution_id: str) -> pb.ExecutionResult:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id, include_result=True)
    answer = server.functions.GetExecutionStatus(request, timeout=PATIENCE)
    assert answer.found
    return answer.result


def end_of(server: Server, execution_id: str) -> pb.ExecutionResult:
    """How it ended; waits for that."""
    until(lambda: status_of(server, execution_id).status != pb.EXECUTION_STATUS_RUNNING)
    return status_of(server, execution_id)


# --- what arrives -----------------------------------------------------------------------------------------


def test_messages_come_in_the_order_in_which_they_are_emitted_and_then_the_end(server: Server) -> None:
    messages, final = Stream(server.functions, "emit_numbers", 1000, 8).rest()
    assert numbers_in(messages) == list(range(1000))
    assert {len(message) for message in messages} == {8}
    assert final.status == final.result.status == pb.EXECUTION_STATUS_COMPLETED
    assert decode(final.chunk_data) == 1000
    assert not final.result.HasField("result")
    assert final.result.cpu_time_ms > 0
    assert server.get_task(final.metadata["task_id"]).found
    assert "error_code" not in final.metadata


def test_a_message_arrives_while_its_guest_still_runs(server: Server) -> None:
    stream = Stream(server.functions, "emit_and_spin")
    message = stream.next()
    assert number_in(content_of(message)) == 42
    assert status_of(server, message.execution_id).status == pb.EXECUTION_STATUS_RUNNING
    stream.hang_up()


def test_a_guest_in_c_throws_dice_with_pauses_and_is_heard(server: Server) -> None:
    throws, final = Stream(server.functions, "throw", 5, 20, artifact="dice").rest()
    eyes = [int(throw) for throw in throws]
    assert len(eyes) == 5
    assert set(eyes) <= {1, 2, 3, 4, 5, 6}
    assert decode(final.chunk_data) == sum(eyes)
    assert final.result.stderr == b"info: no hurry\n"
    assert final.result.execution_time_ms >= 100


def test_a_guest_that_emits_nothing_has_a_stream_of_its_end_alone(server: Server) -> None:
    messages, final = Stream(server.functions, "answer", artifact="calc").rest()
    assert messages == []
    assert decode(final.chunk_data) == 42


def test_an_empty_message_arrives(server: Server) -> None:
    messages, final = Stream(server.functions, "emit_range", -1, 0).rest()
    assert messages == [b""]
    assert not final.HasField("chunk_data")


def test_a_message_larger_than_the_buffer_arrives_in_pieces(wide: Server) -> None:
    messages, _ = Stream(wide.functions, "emit_all", 8).rest()
    assert [len(message) for message in messages] == [256 << 10, 256 << 10]
    assert b"".join(messages) == b"".join(struct.pack("<I65532x", page) for page in range(8))


def test_what_is_emitted_before_the_function_is_called_reaches_nobody(server: Server) -> None:
    for spec in ({}, {"runtime_config": {"ready_sandboxes": 1}}):
        task = server.call("emit_early", "say", spec=spec, task_name=fresh("task")).task_id
        request = pb.InvokeFunctionRequest(task_id=task, function_name="say")
        *messages, _ = server.functions.StreamFunction(request, timeout=PATIENCE)
        assert [content_of(message) for message in messages] == [b"called"]


def test_messages_before_a_trap_arrive_and_then_the_trap(server: Server) -> None:
    messages, final = Stream(server.functions, "emit_and_trap", 3).rest()
    assert numbers_in(messages) == [0, 1, 2]
    assert final.status == pb.EXECUTION_STATUS_FAILED
    assert final.metadata["error_code"] == final.result.error_code == "TRAP_UNREACHABLE"
    assert final.error_message
    assert final.result.trap_frames[0].startswith("emit_and_trap")


@pytest.mark.parametrize(("address", "size"), [(65536, 1), (65535, 2), (-1, 1), (0, -1), (-8, 16)])
def test_a_range_outside_of_the_guests_memory_ends_it(server: Server, address: int, size: int) -> None:
    messages, final = Stream(server.functions, "emit_range", address, size).rest()
    assert messages == []
    assert final.result.error_code == "GUEST_ERROR"
    assert final.error_message == (
        f"the guest named {size % 2**32} bytes at {address % 2**32}; its memory has 65536 bytes"
    )


def test_a_range_up_to_the_last_byte_arrives(server: Server) -> None:
    messages, _ = Stream(server.functions, "emit_range", 65535, 1).rest()
    assert messages == [bytes(1)]


# --- limits -----------------------------------------------------------------------------------------------


def test_who_emits_forever_comes_to_the_output_limit(server: Server) -> None:
    messages, final = Stream(
        server.functions, "emit_forever", 100, limits=limits(max_output_bytes=1000)
    ).rest()
    assert numbers_in(messages) == list(range(10))
    assert final.result.error_code == "OUTPUT_LIMIT"
    assert final.error_message == "the guest emitted 1100 bytes; the limit is 1000"


def test_empty_messages_come_to_the_output_limit_too(server: Server) -> None:
    stream = Stream(server.functions, "emit_nothing_forever", limits=limits(max_output_bytes=100))
    messages, final = stream.rest()
    assert messages == [b""] * 100
    assert final.result.error_code == "OUTPUT_LIMIT"


def test_messages_and_the_result_share_the_output_limit(server: Server) -> None:
    fits, exceeds = (
        Stream(server.functions, "emit_numbers", 2, 4, limits=limits(max_output_bytes=limit)).rest()
        for limit in (12, 11)
    )
    assert numbers_in(fits[0]) == numbers_in(exceeds[0]) == [0, 1]
    assert decode(fits[1].chunk_data) == 2
    assert exceeds[1].result.error_code == "OUTPUT_LIMIT"
    assert exceeds[1].error_message == "the result is 4 bytes, after 8 bytes emitted; the limit is 11"


# --- calls that nobody reads along ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [pb.EXECUTION_MODE_SYNC, pb.EXECUTION_MODE_ASYNC])
def test_in_other_modes_a_guest_runs_the_same_and_its_messages_are_dropped(server: Server, mode: int) -> None:
    def call(function: str, *arguments: int, **fields: Any) -> pb.InvokeFunctionResponse:
        return server.call("emitter", function, *arguments, execution_mode=mode, wait=True, **fields)

    assert value_of(call("emit_numbers", 1000, 100)) == 1000
    assert code_of(call("emit_forever", 100)) == "OUTPUT_LIMIT"
    assert code_of(call("emit_range", 65536, 1)) == "GUEST_ERROR"
    assert code_of(call("emit_numbers", 2, 4, limits=limits(max_output_bytes=11))) == "OUTPUT_LIMIT"


# --- readers ----------------------------------------------------------------------------------------------


def test_a_guest_waits_for_its_reader_and_nobody_else_does(
    wide: Server, functions: function_pb2_grpc.FunctionServiceStub
) -> None:
    slow = Stream(functions, "emit_numbers", MANY, 1000)
    first = slow.next()
    # The same work, begun later and read at once, comes to its end, on the same connection too.
    for stub in (functions, wide.functions):
        messages, _ = Stream(stub, "emit_numbers", MANY, 1000).rest()
        assert numbers_in(messages) == list(range(MANY))
    assert value_of(wide.call("emitter", "emit_numbers", 10, 8)) == 10
    assert status_of(wide, first.execution_id).status == pb.EXECUTION_STATUS_RUNNING
    messages, final = slow.rest()
    assert numbers_in(messages) == list(range(1, MANY))
    assert final.status == pb.EXECUTION_STATUS_COMPLETED


def test_a_reader_who_hangs_up_ends_a_guest_that_waits_for_it(
    wide: Server, functions: function_pb2_grpc.FunctionServiceStub
) -> None:
    stream = Stream(functions, "emit_forever", 1000)
    execution_id = stream.next().execution_id
    _until_it_waits(wide, execution_id)
    stream.hang_up()
    end = end_of(wide, execution_id)
    assert (end.status, end.error_message) == (pb.EXECUTION_STATUS_CANCELLED, "the reader hung up")


def test_a_reader_who_hangs_up_ends_a_guest_that_is_busy(server: Server) -> None:
    stream = Stream(server.functions, "emit_and_spin")
    execution_id = stream.next().execution_id
    stream.hang_up()
    assert end_of(server, execution_id).status == pb.EXECUTION_STATUS_CANCELLED


def test_the_budget_goes_on_while_a_guest_waits_for_its_reader(
    wide: Server, functions: function_pb2_grpc.FunctionServiceStub
) -> None:
    stream = Stream(functions, "emit_forever", 1000, context=context(timeout_ms=1500))
    execution_id = stream.next().execution_id
    assert end_of(wide, execution_id).status == pb.EXECUTION_STATUS_TIMEOUT
    messages, final = stream.rest()
    # In that time it would have emitted hundreds of thousands, had anybody read them.
    assert len(messages) < MANY
    assert numbers_in(messages) == list(range(1, len(messages) + 1))
    assert final.metadata["error_code"] == "TIMEOUT"


def test_a_guest_that_waits_for_its_reader_can_be_cancelled(
    wide: Server, functions: function_pb2_grpc.FunctionServiceStub
) -> None:
    stream = Stream(functions, "emit_forever", 1000)
    execution_id = stream.next().execution_id
    _until_it_waits(wide, execution_id)
    request = pb.CancelExecutionRequest(execution_id=execution_id, reason="enough")
    answer = wide.functions.CancelExecution(request, timeout=PATIENCE)
    assert (answer.success, answer.final_status) == (True, pb.EXECUTION_STATUS_CANCELLED)
    messages, final = stream.rest()
    assert numbers_in(messages) == list(range(1, len(messages) + 1))
    assert (final.status, final.error_message) == (pb.EXECUTION_STATUS_CANCELLED, "cancelled: 'enough'")


def _until_it_waits(server: Server, execution_id: str) -> None:
    """What can be seen of that: a later guest has emitted much more, and it still runs."""
    Stream(server.functions, "emit_numbers", MANY, 1000).rest()
    assert status_of(server, execution_id).status == pb.EXECUTION_STATUS_RUNNING


def test_five_hundred_readers_who_do_not_read_hold_up_nobody(
    wide: Server, functions: function_pb2_grpc.FunctionServiceStub
) -> None:
    slow = [Stream(functions, "emit_forever", 1000) for _ in range(500)]
    executions = [stream.next().execution_id for stream in slow]
    until(lambda: wide.load()[0] >= 500)
    assert value_of(wide.call("emitter", "emit_numbers", 1000, 100)) == 1000
    messages, _ = Stream(wide.functions, "emit_numbers", MANY, 1000).rest()
    assert len(messages) == MANY
    assert wide.load()[0] >= 500
    for stream in slow:
        stream.hang_up()
    assert {end_of(wide, each).status for each in executions} == {pb.EXECUTION_STATUS_CANCELLED}


def test_a_reader_who_does_not_read_to_the_end_is_given_up(start_server: StartServer) -> None:
    refusal = refused(errors.ReaderStalled, lambda: stalled_reader(start_server))
    assert refusal.metadata["execution_id"]


def stalled_reader(start_server: StartServer) -> None:
    """Reads on when it is too late."""
    server = start_server(WIDE.replace("max_running = 690", 'max_running = 8\nunread_for = "1ms"'))
    server.upload(fixture("emitter"), "emitter")
    with grpc.insecure_channel(server.address, options=NARROW_CHANNEL) as channel:
        stream = Stream(
            function_pb2_grpc.FunctionServiceStub(channel),
            "emit_forever",
            1000,
            context=context(timeout_ms=2000),
        )
        execution_id = stream.next().execution_id
        end_of(server, execution_id)
        until(lambda: "stream given up" in server.log())
        stream.rest()


# --- the server's end -------------------------------------------------------------------------------------


def test_a_server_that_shuts_down_ends_streams_with_a_reason(start_server: StartServer) -> None:
    server = start_server(SHORT_GRACE)
    server.upload(fixture("emitter"), "emitter")
    stream = Stream(server.functions, "emit_and_spin")
    stream.next()
    server.signal(signal.SIGTERM)
    messages, final = stream.rest()
    assert messages == []
    assert final.status == pb.EXECUTION_STATUS_CANCELLED
    assert final.error_message == "the server is shutting down"
    assert server.exit_code() == 0


def test_a_server_shuts_down_although_a_reader_does_not_read(start_server: StartServer) -> None:
    server = start_server(WIDE.replace("max_running = 690", "max_running = 8") + SHORT_GRACE)
    server.upload(fixture("emitter"), "emitter")
    with grpc.insecure_channel(server.address, options=NARROW_CHANNEL) as channel:
        stream = Stream(function_pb2_grpc.FunctionServiceStub(channel), "emit_forever", 1000)
        _until_it_waits(server, stream.next().execution_id)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError):
            stream.rest()
    assert "by a bug" not in server.log()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [pb.EXECUTION_MODE_SYNC, pb.EXECUTION_MODE_ASYNC, 9])
def test_other_modes_are_not_for_streams(server: Server, mode: int) -> None:
    refused(InvalidRequest, Stream(server.functions, "emit_and_spin", execution_mode=mode).rest)


def test_the_mode_of_a_stream_may_be_left_out_or_stream(server: Server) -> None:
    for mode in (pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_STREAM):
        messages, _ = Stream(server.functions, "emit_numbers", 1, 4, execution_mode=mode).rest()
        assert len(messages) == 1


def test_a_stream_takes_a_name(server: Server) -> None:
    name = fresh("stream")
    _, final = Stream(server.functions, "emit_numbers", 1, 4, context=context(execution_id=name)).rest()
    assert final.execution_id == name


def test_a_stream_is_admitted_like_any_other_call(server: Server) -> None:
    functions = server.functions
    refused(errors.FunctionNotFound, Stream(functions, "no such").rest)
    refused(errors.ArtifactNotFound, Stream(functions, "emit", artifact="nobody-has-this").rest)
    refused(InvalidRequest, Stream(functions, "emit_forever").rest)
    refused(
        InvalidRequest, Stream(functions, "emit_forever", 1, limits=limits(max_output_bytes=1 << 40)).rest
    )
    refused(InvalidRequest, Stream(functions, "emit_forever", 1, priority=10).rest)
    refused(InvalidRequest, Stream(functions, "emit_forever", 1, context=context(max_retries=-1)).rest)


def test_lists_show_that_an_execution_is_streamed(server: Server) -> None:
    task = fresh("task")
    _, final = Stream(server.functions, "emit_numbers", 1, 4, task_name=task).rest()
    listed = server.functions.ListExecutions(pb.ListExecutionsRequest(task_id=task), timeout=PATIENCE)
    assert [each.execution_id for each in listed.executions] == [final.execution_id]
    assert listed.executions[0].execution_mode == pb.EXECUTION_MODE_STREAM
