"""Client.stream, against a server that sends what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value, StringValue

from spear_wasm.client import Client, GuestFailure, RemoteError, ServerUnreachable
from spear_wasm.client.stubs import function_pb2
from spear_wasm.errors import ServerBusy
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionStatus
from tests.cli.fake_server import FakeServer, fake_server

PATIENCE = 10.0


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def test_messages_come_one_by_one_and_then_there_is_a_result(server: FakeServer, client: Client) -> None:
    server.emits(b"one", b"", b"three", value=Int32Value(value=3), cpu_time_ms=1.5, stderr=b"log")
    with client.stream("emitter:1", "emit", 3, timeout=2, limits=ResourceLimits(max_fuel=9)) as messages:
        assert messages.execution_id == ""
        assert next(messages) == b"one"
        assert messages.execution_id == "exec-1"
        assert list(messages) == [b"", b"three"]
        assert list(messages) == []
    result = messages.result
    assert (result.value, result.status, result.cpu_time_ms) == (3, ExecutionStatus.COMPLETED, 1.5)
    assert (result.logs, result.execution_id, result.task_id) == (b"log", "exec-1", "task-1")
    request = server.request
    assert request.execution_mode == function_pb2.EXECUTION_MODE_STREAM
    assert request.artifact_spec == function_pb2.ArtifactSpec(artifact_id="emitter", version="1")
    assert (request.context.timeout_ms, request.limits.max_fuel) == (2000, 9)


def test_there_is_no_result_before_the_last_message(server: FakeServer, client: Client) -> None:
    server.emits(b"one")
    messages = client.stream("emitter", "emit")
    next(messages)
    with pytest.raises(RuntimeError, match="after the last message"):
        _ = messages.result


def test_a_guest_that_failed_is_raised_after_its_messages(server: FakeServer, client: Client) -> None:
    server.emits(b"one", status=function_pb2.EXECUTION_STATUS_FAILED, error_code="TRAP_UNREACHABLE")
    messages = client.stream("emitter", "emit")
    assert next(messages) == b"one"
    with pytest.raises(GuestFailure, match="TRAP_UNREACHABLE"):
        next(messages)
    assert not messages.result.ok


def test_unchecked_its_failure_is_a_result_like_any_other(server: FakeServer, client: Client) -> None:
    server.emits(b"one", status=function_pb2.EXECUTION_STATUS_FAILED, error_code="TRAP_UNREACHABLE")
    messages = client.stream("emitter", "emit", check=False)
    assert list(messages) == [b"one"]
    assert messages.result.error_code == "TRAP_UNREACHABLE"


def test_closing_hangs_up_and_ends_the_messages(server: FakeServer, client: Client) -> None:
    hung_up = threading.Event()

    def endless() -> Iterator[function_pb2.StreamExecutionResult]:
        sent = function_pb2.StreamExecutionResult(execution_id="exec-1")
        sent.chunk_data.Pack(BytesValue(value=b"again"))
        try:
            while True:
                yield sent
        finally:
            hung_up.set()

    server.answers["StreamFunction"] = endless()
    messages = client.stream("emitter", "emit")
    assert next(messages) == b"again"
    messages.close()
    messages.close()
    assert list(messages) == []
    with pytest.raises(RuntimeError):
        _ = messages.result
    del server.answers["StreamFunction"]
    assert hung_up.wait(PATIENCE)


def test_a_stream_that_is_closed_while_somebody_reads_ends_for_them(
    server: FakeServer, client: Client
) -> None:
    reading, over = threading.Event(), threading.Event()

    def silent() -> Iterator[function_pb2.StreamExecutionResult]:
        reading.set()
        over.wait(PATIENCE)
        yield from ()

    server.answers["StreamFunction"] = silent()
    messages = client.stream("emitter", "emit")

    def close_while_somebody_reads() -> None:
        reading.wait(PATIENCE)
        messages.close()

    closer = threading.Thread(target=close_while_somebody_reads)
    closer.start()
    assert list(messages) == []
    closer.join()
    over.set()


def test_what_the_server_refuses_is_raised_by_the_first_message(server: FakeServer, client: Client) -> None:
    server.answers["StreamFunction"] = ServerBusy("the line is full", retry_after=1.5)
    messages = client.stream("emitter", "emit")
    with pytest.raises(ServerBusy, match="the line is full") as caught:
        next(messages)
    assert caught.value.retry_after == 1.5


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable):
        next(client.stream("emitter", "emit"))


def test_a_stream_without_an_end_is_an_error(server: FakeServer, client: Client) -> None:
    server.answers["StreamFunction"] = iter(())
    with pytest.raises(RemoteError, match="without saying how the call ended"):
        list(client.stream("emitter", "emit"))


def test_messages_that_are_no_bytes_are_an_error(server: FakeServer, client: Client) -> None:
    sent = function_pb2.StreamExecutionResult(execution_id="exec-1")
    sent.chunk_data.Pack(StringValue(value="text"))
    server.answers["StreamFunction"] = iter([sent])
    with pytest.raises(RemoteError, match="no bytes, but str"):
        next(client.stream("emitter", "emit"))


def test_a_status_of_the_transport_is_told_as_it_is(server: FakeServer, client: Client) -> None:
    server.answers["StreamFunction"] = grpc.StatusCode.INTERNAL
    with pytest.raises(RemoteError, match="in plain words") as caught:
        next(client.stream("emitter", "emit"))
    assert caught.value.code is grpc.StatusCode.INTERNAL
