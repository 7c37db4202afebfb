"""StreamFunction: what guests emit while they run, at the pace of whoever reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import decode
from spear_wasm.errors import InvalidRequest, Unimplemented
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

MANY = 60_000
"""Messages of 32 bytes that take longer to be sent than all buffers between guest and reader hold."""


class Stream:
    """A streamed call; its messages are not read before somebody asks for them."""

    def __init__(self, server: Server, function: str, *arguments: int, **fields: Any) -> None:
        fields.setdefault("artifact_spec", pb.ArtifactSpec(artifact_id="emitter"))
        request = pb.InvokeFunctionRequest(
            function_name=function, parameters=parameters(*arguments), **fields
        )
        self._call = server.functions.StreamFunction(request, timeout=fields.pop("deadline", None) or PATIENCE)
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


def numbers_in(messages: list[bytes]) -> list[int]:
    return [struct.unpack_from("<I", message)[0] for message in messages]


def status_of(server: Server, execution_id: str) -> pb.ExecutionResult:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id, include_result=True)
    answer = server.functions.GetExecutionStatus(request, timeout=PATIENCE)
    assert answer.found
    return answer.result


def test_messages_come_in_the_order_in_which_they_are_emitted_and_then_the_end(server: Server) -> None:
    messages, final = Stream(server, "emit_numbers", 1000, 8).rest()
    assert numbers_in(messages) == list(range(1000))
    assert {len(message) for message in messages} == {8}
    assert final.status == final.result.status == pb.EXECUTION_STATUS_COMPLETED
    assert decode(final.chunk_data) == 1000
    assert not final.result.HasField("result")
    assert final.result.cpu_time_ms > 0
    assert final.metadata["task_id"]
