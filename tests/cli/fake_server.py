"""A server that answers what it is told to, on a real socket, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from spear_wasm.client.stubs import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.errors import SpearError


class FakeServer:
    """Answers with `answers[method]`: a message, a list of them used up in turn, an error, or what it streams.

    Which functions an artifact has is told, `functions`, and not remembered, unless there is another answer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[Any] = []
        self.time_remaining: float | None = None
        self.address = ""
        self.functions: tuple[str, ...] = ("f",)

    @property
    def request(self) -> Any:
        """The one request that came."""
        (request,) = self.requests
        return request

    def answers_with(self, value: Message | None = None, **fields: Any) -> None:
        """Let InvokeFunction succeed with a value, or with whatever the fields of the result say."""
        result = function_pb2.ExecutionResult(status=function_pb2.EXECUTION_STATUS_COMPLETED)
        if value is not None:
            result.result.Pack(value)
        result.MergeFrom(function_pb2.ExecutionResult(**fields))
        success = result.status == function_pb2.EXECUTION_STATUS_COMPLETED
        self.answers["InvokeFunction"] = function_pb2.InvokeFunctionResponse(
            success=success, execution_id="exec-1", task_id="task-1", instance_id="inst-1", result=result
        )

    def emits(self, *messages: bytes, value: Message | None = None, **fields: Any) -> None:
        """Let StreamFunction send these, and then its end."""
        self.answers_with(value, **fields)
        end = self.answers["InvokeFunction"]
        final = function_pb2.StreamExecutionResult(
            execution_id=end.execution_id, status=end.result.status, is_final=True, result=end.result,
            metadata={"task_id": end.task_id, "instance_id": end.instance_id},
        )  # fmt: skip
        final.chunk_data.CopyFrom(end.result.result)
        final.result.ClearField("result")
        self.answers["StreamFunction"] = iter([*map(_emitted, messages), final])

    def fails_with(self, error_code: str, message: str = "", **fields: Any) -> None:
        """Let InvokeFunction tell of a guest that failed."""
        status = function_pb2.EXECUTION_STATUS_FAILED
        if error_code == "TIMEOUT":
            status = function_pb2.EXECUTION_STATUS_TIMEOUT
        self.answers_with(status=status, error_code=error_code, error_message=message, **fields)

    def __getattr__(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        return lambda request, context: self._answer(method, request, context)

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        if method == "GetArtifact" and method not in self.answers:
            return artifact(functions=[artifact_pb2.FunctionSignature(name=each) for each in self.functions])
        self.requests.append(request if isinstance(request, Message) else list(request))
        self.time_remaining = context.time_remaining()
        answer = self.answers[method]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, SpearError):
            answer = status_of(answer)
        if isinstance(answer, Status):
            context.abort_with_status(rpc_status.to_status(answer))
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "in plain words")
        return answer


def _emitted(message: bytes) -> function_pb2.StreamExecutionResult:
    sent = function_pb2.StreamExecutionResult(
        execution_id="exec-1", status=function_pb2.EXECUTION_STATUS_RUNNING
    )
    sent.chunk_data.Pack(BytesValue(value=message))
    return sent


def status_of(
    error: SpearError,
    *,
    domain: str = "spear-wasm",
    reason: str | None = None,
) -> Status:
    """The status that a server reports an error with."""
    said: list[Message] = [ErrorInfo(reason=reason or error.reason, domain=domain, metadata=error.metadata)]
    if error.retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMicroseconds(round(error.retry_after * 1e6))
        said.append(retry)
    packed = []
    for detail in said:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return Status(code=error.status, message=error.message, details=packed)


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """One that listens on a free port of this machine."""
    fake = FakeServer()
    server = grpc.server(ThreadPoolExecutor(2))
    function_pb2_grpc.add_FunctionServiceServicer_to_server(cast("Any", fake), server)
    artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(cast("Any", fake), server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(grace=None).wait()


def artifact(name: str = "calc", version: str = "1", **fields: Any) -> artifact_pb2.ArtifactInfo:
    """An artifact as a server describes it."""
    info = artifact_pb2.ArtifactInfo(
        digest="sha256:" + "ab" * 32, name=name, version=version, size_bytes=1536, runtime_type="core",
        compile_time_ms=1.5, **fields,
    )  # fmt: skip
    info.created_at.FromJsonString("2026-01-02T03:04:05Z")
    return info
