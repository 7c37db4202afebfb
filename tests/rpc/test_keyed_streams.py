"""Streamed calls with a key: their outcome is kept, their messages are not. And streamed calls that begin again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client
from spear_wasm.client.values import decode
from spear_wasm.errors import ExecutionExists, ServerDraining
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Server,
    busy_disk,
    code_of,
    context,
    fixture,
    fresh,
    no_disk,
    parameters,
    refused,
    until,
)
from tests.rpc.test_durable import COMPLETED, PENDING, RUNNING, outcome
from tests.rpc.test_executions import cancel, status_of, wait_for
from tests.rpc.test_recovery import killed
from tests.rpc.test_retries import config
from tests.rpc.test_streams import Stream, numbers_in

FAILED, CANCELLED = pb.EXECUTION_STATUS_FAILED, pb.EXECUTION_STATUS_CANCELLED
ONE_AT_A_TIME = """
[execution]
max_running = 1
first_backoff = "1ms"
longest_backoff = "2ms"
[server]
shutdown_grace = "100ms"
"""
RETRYING = {"runtime_config": {"retry_traps": True}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


def started(start_server: StartServer, directory: Path, settings: str = ONE_AT_A_TIME) -> Server:
    server = start_server(settings, directory)
    server.upload(fixture("emitter"), "emitter", "1")
    server.upload(fixture("hostile"), "hostile", "1")
    return server


def keyed(server: Server, key: str, function: str, *arguments: int, **fields: Any) -> Stream:
    return Stream(server.functions, function, *arguments, execution_id=key, **fields)


def end_alone(stream: Stream) -> pb.StreamExecutionResult:
    """How a call ended whose messages another caller got."""
    messages, final = stream.rest()
    assert messages == []
    assert final.metadata["messages"] == "not kept"
    del final.metadata["messages"]
    return final


# --- keys -------------------------------------------------------------------------------------------------


def test_messages_come_to_the_first_who_calls_and_the_outcome_to_all(server: Server) -> None:
    key = fresh("key")
    messages, final = keyed(server, key, "emit_numbers", 3, 4).rest()
    assert numbers_in(messages) == [0, 1, 2]
    assert (final.execution_id, final.status, decode(final.chunk_data)) == (key, COMPLETED, 3)
    assert "messages" not in final.metadata
    assert end_alone(keyed(server, key, "emit_numbers", 3, 4)) == final
    assert (
        end_alone(keyed(server, key, "emit_numbers", 3, 4, execution_mode=pb.EXECUTION_MODE_STREAM)) == final
    )


def test_a_failure_is_the_outcome_of_its_key_too(server: Server) -> None:
    key = fresh("key")
    messages, final = keyed(server, key, "emit_and_trap", 2).rest()
    assert numbers_in(messages) == [0, 1]
    assert final.metadata["error_code"] == "TRAP_UNREACHABLE"
    assert end_alone(keyed(server, key, "emit_and_trap", 2)) == final


def test_another_request_with_the_same_key_is_refused(server: Server) -> None:
    key = fresh("key")
    keyed(server, key, "emit_numbers", 1, 4).rest()
    refused(ExecutionExists, keyed(server, key, "emit_numbers", 2, 4).rest)
    refused(ExecutionExists, lambda: server.call("emitter", "emit_numbers", 1, 4, execution_id=key))


def test_who_comes_while_the_first_reads_waits_for_its_end(server: Server) -> None:
    key = fresh("key")
    first = keyed(server, key, "emit_and_spin")
    first.next()
    second = keyed(server, key, "emit_and_spin", context=context(timeout_ms=20_000))
    assert status_of(server, key).result.status == RUNNING
    cancel(server, key)
    _, final = first.rest()
    assert final.metadata["error_code"] == "CANCELLED"
    assert end_alone(second) == final


def test_it_ends_when_its_reader_hangs_up_and_not_when_another_does(server: Server) -> None:
    key = fresh("key")
    first = keyed(server, key, "emit_and_spin")
    first.next()
    second, third = (keyed(server, key, "emit_and_spin") for _ in range(2))
    second.hang_up()
    with pytest.raises(grpc.RpcError):
        second.next()
    assert status_of(server, key).result.status == RUNNING
    first.hang_up()
    assert end_alone(third).error_message == "the reader hung up"
    assert outcome(server, key).status == CANCELLED


def test_a_reader_who_hangs_up_before_the_disk_has_the_call_ends_it(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory)
    server.call("emitter", "emit_numbers", 1, 4)
    with busy_disk(server):
        stream = keyed(server, "key", "emit_and_spin")
        until(lambda: status_of(server, "key").found)
        stream.hang_up()
        with pytest.raises(grpc.RpcError):
            stream.next()
    assert outcome(server, "key").status == CANCELLED


def test_the_client_asks_with_a_key(server: Server) -> None:
    key = fresh("key")
    with Client(server.address) as client:
        for expected in (2, 0):
            with client.stream("emitter", "emit_numbers", 2, 4, key=key, max_retries=1) as messages:
                assert len(list(messages)) == expected
                assert (messages.result.value, messages.result.execution_id) == (2, key)


# --- one server after another -----------------------------------------------------------------------------


def test_a_key_is_remembered_by_the_next_server(start_server: StartServer, directory: Path) -> None:
    first = started(start_server, directory)
    _, final = keyed(first, "key", "emit_numbers", 3, 4).rest()
    killed(first)
    second = start_server(ONE_AT_A_TIME, directory)
    assert end_alone(keyed(second, "key", "emit_numbers", 3, 4)) == final


def test_what_had_not_begun_runs_at_the_next_server_though_nobody_reads(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    first.call_later("hostile", "spin")
    first.wait_for_load(1)
    waiting = keyed(first, "key", "emit_numbers", 3, 4)
    first.wait_for_load(1, 1)
    killed(first)
    with pytest.raises(grpc.RpcError):
        waiting.next()
    second = start_server(ONE_AT_A_TIME, directory)
    assert decode(end_alone(keyed(second, "key", "emit_numbers", 3, 4)).chunk_data) == 3


def test_what_was_lost_does_not_begin_again_for_nobody_knows_what_was_read(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    reading = keyed(first, "key", "emit_and_spin", context=context(max_retries=9))
    reading.next()
    killed(first)  # before anybody hangs up
    del reading
    second = start_server(ONE_AT_A_TIME, directory)
    again = keyed(second, "key", "emit_and_spin", context=context(max_retries=9))
    assert end_alone(again).metadata["error_code"] == "WORKER_LOST"


def test_a_server_that_stops_keeps_what_has_not_begun_and_ends_what_has(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    reading = keyed(first, "reading", "emit_and_spin", context=context(max_retries=9))
    reading.next()
    waiting = keyed(first, "waiting", "emit_numbers", 3, 4)
    first.wait_for_load(1, 1)
    first.signal()
    refusal = refused(ServerDraining, waiting.rest)
    assert refusal.metadata["execution_id"] == "waiting"
    _, final = reading.rest()
    assert (final.status, final.error_message) == (CANCELLED, "the server is shutting down")
    assert first.exit_code() == 0

    second = start_server(ONE_AT_A_TIME, directory)
    assert outcome(second, "waiting").status == COMPLETED
    assert outcome(second, "reading").status == CANCELLED


# --- retries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key"])
def test_a_stream_begins_again_until_something_was_emitted(
    start_server: StartServer, directory: Path, key: str | None
) -> None:
    server = started(start_server, directory)

    def end_of(artifact: str, function: str, *arguments: int) -> tuple[list[bytes], pb.StreamExecutionResult]:
        request = pb.InvokeFunctionRequest(
            artifact_spec=pb.ArtifactSpec(artifact_id=artifact, **RETRYING),  # type: ignore[arg-type]
            function_name=function,
            parameters=parameters(*arguments),
            context=context(max_retries=2),
            execution_id=key and fresh(key),
        )
        *messages, final = server.functions.StreamFunction(request, timeout=PATIENCE)
        return [decode(message.chunk_data) for message in messages], final  # type: ignore[misc]

    messages, final = end_of("hostile", "unreachable")
    assert (messages, final.status, final.result.metrics["attempts"]) == ([], FAILED, "3")
    messages, final = end_of("emitter", "emit_and_trap", 2)
    assert (numbers_in(messages), final.status) == ([0, 1], FAILED)
    assert not final.result.metrics


def test_a_stream_that_the_disk_did_not_let_begin_begins_again(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, config('first_backoff = "100ms"'))
    spinning = server.call_later("hostile", "spin", context=context(execution_id="spinning"))
    server.wait_for_load(1)
    stream = keyed(server, "key", "emit_numbers", 3, 4, context=context(max_retries=100))
    wait_for(server, "key", PENDING)
    server.wait_for_load(1, 1)
    with no_disk(server):
        cancel(server, "spinning")
        until(lambda: status_of(server, "key").result.HasField("started_at"))
    assert code_of(spinning.answer()) == "CANCELLED"
    messages, final = stream.rest()
    assert numbers_in(messages) == [0, 1, 2]
    assert int(final.result.metrics["attempts"]) > 1
