"""Client.batch and Client.invoke_stream, against servers that answer oddly."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from spear_wasm.client import Client, Invocation, RemoteError, ServerUnreachable
from spear_wasm.client.stubs import function_pb2
from spear_wasm.errors import ServerBusy
from tests.cli.fake_server import FakeServer, artifact, fake_server

ADD = Invocation("calc:2", "add", (1, 2))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def answer(number: int = 0, **result: object) -> function_pb2.InvokeFunctionResponse:
    said = function_pb2.ExecutionResult(**result)  # type: ignore[arg-type]  # whatever fields a test names
    return function_pb2.InvokeFunctionResponse(request_number=number, result=said)


def refusal(reason: str, **metrics: str) -> function_pb2.InvokeFunctionResponse:
    return answer(error_code=reason, error_message="in words", metrics=metrics)


def batch_of(
    server: FakeServer, client: Client, *answers: function_pb2.InvokeFunctionResponse
) -> BaseException | None:
    """The refusal that the first of these answers is."""
    server.answers["InvokeBatch"] = function_pb2.InvokeBatchResponse(answers=answers)
    return client.batch("calc", "add", [(1, 2)] * len(answers))[0].refusal


def test_a_refusal_is_the_error_that_the_server_raised(server: FakeServer, client: Client) -> None:
    error = batch_of(
        server, client, refusal("SERVER_BUSY", grpc_status="8", retry_after_ms="1500", task="calc")
    )
    assert isinstance(error, ServerBusy)
    assert (error.message, error.retry_after, error.metadata) == ("in words", 1.5, {"task": "calc"})


def test_a_refusal_for_a_reason_of_a_newer_server_is_a_remote_error(
    server: FakeServer, client: Client
) -> None:
    error = batch_of(server, client, refusal("MOON_PHASE", grpc_status="9", retry_after_ms="9" * 5000))
    assert isinstance(error, RemoteError)
    assert (error.code, error.retry_after) == (grpc.StatusCode.FAILED_PRECONDITION, None)


def test_what_a_batch_asks_for(server: FakeServer, client: Client) -> None:
    batch_of(server, client, refusal("SERVER_BUSY"), refusal("SERVER_BUSY"))
    call = server.request.call
    assert call.artifact_spec == function_pb2.ArtifactSpec(artifact_id="calc")
    assert (call.function_name, list(call.parameters)) == ("add", [])
    assert [len(each.parameters) for each in server.request.inputs] == [2, 2]


def test_another_number_of_answers_than_of_inputs_is_an_error(server: FakeServer, client: Client) -> None:
    server.answers["InvokeBatch"] = function_pb2.InvokeBatchResponse()
    with pytest.raises(RemoteError, match="0 answers to 1 inputs"):
        client.batch("calc", "add", [(1, 2)])


@pytest.mark.parametrize("numbers", [[0], [2], [1, 1]])
def test_an_answer_to_nothing_that_was_asked_is_an_error(
    server: FakeServer, client: Client, numbers: list[int]
) -> None:
    completed = function_pb2.EXECUTION_STATUS_COMPLETED
    server.answers["InvokeStream"] = iter([answer(number, status=completed) for number in numbers])
    with pytest.raises(RemoteError, match="not open"):
        list(client.invoke_stream([ADD]))


def test_a_stream_asks_once_which_artifact_is_meant(server: FakeServer, client: Client) -> None:
    server.answers |= {"GetArtifact": artifact("calc", "3"), "InvokeStream": iter(())}
    calls = [Invocation("calc", "add", (1, number), runtime_config={"reuse": True}) for number in range(9)]
    with pytest.raises(RemoteError, match="left 9 calls"):
        list(client.invoke_stream(calls))
    looked_up, asked = server.requests
    assert looked_up.reference == "calc"
    assert {each.artifact_spec.version for each in asked} == {"3"}
    assert len({each.task_name for each in asked}) == 1


def test_a_stream_that_ends_early_is_an_error(server: FakeServer, client: Client) -> None:
    server.answers["InvokeStream"] = iter([])
    with pytest.raises(RemoteError, match="left 1 calls"):
        list(client.invoke_stream([ADD]))


def test_a_stream_that_is_refused_raises(server: FakeServer, client: Client) -> None:
    server.answers["InvokeStream"] = ServerBusy("not now", retry_after=2)
    with pytest.raises(ServerBusy, match="not now"):
        list(client.invoke_stream([ADD]))


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable):
        list(client.invoke_stream([ADD]))
