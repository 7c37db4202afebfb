"""What the caller gets to know about an execution."""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.client.errors import RemoteError, number_in
from spear_wasm.client.stubs import function_pb2
from spear_wasm.client.values import decode
from spear_wasm.model import ExecutionStatus, Json


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended, what it answered and what it cost. Times in milliseconds.

    Attributes:
        value: an int, a float, text, bytes or structured data, as the guest's runtime has it; several values
            are a list, none is None. In lists and structured data whole numbers are ints, an i64 beyond 2^53
            is decimal text, and bytes are base64 text.
        status: COMPLETED, FAILED, CANCELLED or TIMEOUT; PENDING or RUNNING where it has not ended.
        error_code: one of `spear_wasm.model.ErrorCode`, or of a newer server's; empty where the guest
            completed.
        error_message: for people; may hold the guest's words.
        trap_frames: the guest's stack at a trap, innermost first.
        exit_code: None where the guest did not exit with one.
        logs: what the guest logged or wrote to standard error.
        stdout: what it wrote to standard output.
        output_truncated: something of the two was cut.
        cpu_time_ms: CPU time, host calls included.
        execution_time_ms: wall time from start to end.
        queue_time_ms: wall time from admission to start.
        fuel_used: 0 where no fuel was metered.
        memory_used_bytes: peak of the sandbox's memories together.
        execution_id: names the execution.
        task_id: names the task that it belongs to; empty where an execution was asked for by its id.
        instance_id: names the sandbox that served it; the same holds.
        attempts: how often it has begun, where it had retries and needed them; otherwise 1.
    """

    value: Json | bytes
    status: ExecutionStatus
    error_code: str
    error_message: str
    trap_frames: tuple[str, ...]
    exit_code: int | None
    logs: bytes
    stdout: bytes
    output_truncated: bool
    cpu_time_ms: float
    execution_time_ms: int
    queue_time_ms: float
    fuel_used: int
    memory_used_bytes: int
    execution_id: str
    task_id: str
    instance_id: str
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether the guest completed."""
        return self.status is ExecutionStatus.COMPLETED

    @property
    def ended(self) -> bool:
        """Whether the execution is over."""
        return self.status not in {ExecutionStatus.PENDING, ExecutionStatus.RUNNING}


class GuestFailure(Exception):
    """The call was carried out, and the guest failed: a trap, a limit, an error of its own.

    Attributes:
        result: how it ended, with logs and costs. Its texts may be the guest's: escape them before they
            reach a terminal.
    """

    def __init__(self, result: CallResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        return f"{self.result.error_code or self.result.status}: {self.result.error_message}"


def result_of(answer: function_pb2.InvokeFunctionResponse) -> CallResult:
    """The result in a server's answer.

    Raises:
        RemoteError: the answer holds a status or a value that we do not know.
    """
    return result_from(answer.result, answer.execution_id, answer.task_id, answer.instance_id)


def result_from(
    result: function_pb2.ExecutionResult, execution_id: str, task_id: str = "", instance_id: str = ""
) -> CallResult:
    """The same for an execution's result alone."""
    return CallResult(
        value=_value_of(result),
        status=_status_of(result),
        error_code=result.error_code,
        error_message=result.error_message,
        trap_frames=tuple(result.trap_frames),
        exit_code=result.exit_code if result.HasField("exit_code") else None,
        logs=result.stderr,
        stdout=result.stdout,
        output_truncated=result.output_truncated,
        cpu_time_ms=result.cpu_time_ms,
        execution_time_ms=result.execution_time_ms,
        queue_time_ms=result.queue_time_ms,
        fuel_used=result.fuel_used,
        memory_used_bytes=result.memory_used_bytes,
        execution_id=execution_id,
        task_id=task_id,
        instance_id=instance_id,
        attempts=_attempts_of(result),
    )


def _attempts_of(result: function_pb2.ExecutionResult) -> int:
    return number_in(result.metrics.get("attempts", "")) or 1


def _value_of(result: function_pb2.ExecutionResult) -> Json | bytes:
    try:
        return decode(result.result)
    except ValueError as error:
        raise RemoteError(f"the server answered with {error}") from error


def _status_of(result: function_pb2.ExecutionResult) -> ExecutionStatus:
    try:
        name = function_pb2.ExecutionStatus.Name(result.status)
        return ExecutionStatus(name.removeprefix("EXECUTION_STATUS_"))
    except ValueError as error:
        raise RemoteError(f"the server answered with the unknown status {result.status}") from error
