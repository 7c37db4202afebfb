"""Executions in answers: how they are, how they ended, and lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest, ServerDraining
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.listing import ActiveExecution, Known, Listed, as_active, cursor_of
from spear_wasm.model import ExecutionMode, ExecutionStatus
from spear_wasm.rpc.convert import STATUS_OF, timestamp, write_time
from spear_wasm.rpc.values import write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_wasm.execution.records import ExecutionRecord
    from spear_wasm.model import Outcome, Usage

LEFT = "the server is shutting down; the execution is kept, and goes on when it is back"
MODE_OF = {mode: pb.ExecutionMode.Value(f"EXECUTION_MODE_{mode.value}") for mode in ExecutionMode}
MAX_MESSAGE_CHARS = 200
MAX_NAME_CHARS = 200
"""Guest-chosen names in lists are cut here, so that a page stays small."""
_STATUS_NAMED = {number: status for status, number in STATUS_OF.items()}


def left_to_the_next(execution: Execution) -> ServerDraining:
    """Why nothing more is to be had of an execution that this run of the server is done with."""
    return ServerDraining(LEFT, execution_id=execution.id)


def status_filter(number: int) -> ExecutionStatus | None:
    """The status that a list is to be of; None for any.

    Raises:
        InvalidRequest: there is no such status.
    """
    if number == pb.EXECUTION_STATUS_UNKNOWN:
        return None
    status = _STATUS_NAMED.get(pb.ExecutionStatus.ValueType(number))
    if status is None:
        raise InvalidRequest(f"status_filter {number} is unknown")
    return status


def ended_response(execution: Known) -> pb.InvokeFunctionResponse:
    """The answer to a call whose execution has ended."""
    answer = pb.InvokeFunctionResponse()
    write_answer(answer, execution)
    return answer


def write_answer(answer: pb.InvokeFunctionResponse, execution: Known) -> None:
    """The same, into a message that is empty.

    It is filled where it is, field by field: a message that is made apart is copied by way of its bytes, which takes
    longer than all else here.
    """
    outcome = execution.outcome
    assert outcome is not None
    if isinstance(execution, Execution):
        execution_id, task_id = execution.id, execution.task.id
    else:
        execution_id, task_id = execution.execution_id, execution.task_id
    if outcome.status is ExecutionStatus.COMPLETED:
        answer.success = True
    else:
        answer.message = outcome.error_message
    answer.execution_id = execution_id
    answer.task_id = task_id
    answer.instance_id = execution.sandbox_id
    answer.status_endpoint = f"executions/{execution_id}"
    _write_result(answer.result, execution, payload=True)


def status_response(execution: Known, *, payload: bool, logs: bool) -> pb.GetExecutionStatusResponse:
    """What GetExecutionStatus says of an execution: of one that runs, what it has logged so far."""
    if isinstance(execution, Execution):
        logged = execution.log_from(0) if payload or logs else b""
        result = unfinished_result(execution)
        result.stderr = logged if payload else b""
    else:
        logged = execution.usage.stderr
        result = ended_result(execution, payload=payload)
    response = pb.GetExecutionStatusResponse(found=True, result=result)
    if isinstance(execution, Execution) and execution.is_left:
        response.message = LEFT
    if logs:
        response.logs.extend(logged.decode(errors="backslashreplace").splitlines())
    return response


def unfinished_result(execution: Execution) -> pb.ExecutionResult:
    """How an execution is that has not ended."""
    return pb.ExecutionResult(
        status=STATUS_OF[execution.standing],
        execution_time_ms=round(execution.run_seconds * 1000),
        started_at=timestamp(execution.started_at),
        queue_time_ms=execution.queue_seconds * 1000,
        metrics=_attempts_entry(execution.attempts),
    )


def ended_result(execution: Known, *, payload: bool) -> pb.ExecutionResult:
    """How an execution ended; its values and what it wrote only with `payload`."""
    result = pb.ExecutionResult()
    _write_result(result, execution, payload=payload)
    return result


def _write_result(result: pb.ExecutionResult, execution: Known, *, payload: bool) -> None:
    outcome, usage = execution.outcome, execution.usage
    assert outcome is not None
    result.status = STATUS_OF[outcome.status]
    result.execution_time_ms = round(execution.run_seconds * 1000)
    result.memory_used_bytes = usage.peak_memory_bytes
    write_time(result.started_at, execution.started_at)
    write_time(result.completed_at, execution.completed_at)
    result.cpu_time_ms = usage.cpu_ns / 1e6
    result.fuel_used = usage.fuel or 0
    result.queue_time_ms = execution.queue_seconds * 1000
    result.output_truncated = usage.output_truncated
    if payload:
        _write_payload(result, outcome, usage)
    if outcome.status is not ExecutionStatus.COMPLETED:
        result.error_message = outcome.error_message
        result.error_code = outcome.error_code or ""
        result.trap_frames.extend(outcome.trap_frames)
    if outcome.exit_code is not None:
        result.exit_code = outcome.exit_code
    if execution.attempts > 1:
        result.metrics["attempts"] = str(execution.attempts)


def _write_payload(result: pb.ExecutionResult, outcome: Outcome, usage: Usage) -> None:
    if outcome.values:  # else there is no result, not an empty one
        write_results(result.result, outcome.values)
    if usage.stdout or usage.stderr:
        result.stdout, result.stderr = usage.stdout, usage.stderr


def _attempts_entry(attempts: int) -> dict[str, str] | None:
    """How often an execution has begun, where that is more than once: an entry for its metrics or metadata."""
    return {"attempts": str(attempts)} if attempts > 1 else None


def info_of(execution: Listed) -> pb.ExecutionInfo:
    """An execution as lists have it."""
    if isinstance(execution, Execution):
        return _active_info(as_active(execution))
    return _active_info(execution) if isinstance(execution, ActiveExecution) else _record_info(execution)


def _active_info(execution: ActiveExecution) -> pb.ExecutionInfo:
    """An execution that waits or runs."""
    return pb.ExecutionInfo(
        execution_id=execution.execution_id,
        task_id=execution.task_id,
        function_name=execution.function[:MAX_NAME_CHARS],
        execution_mode=MODE_OF[execution.mode],
        status=STATUS_OF[execution.status],
        started_at=timestamp(execution.started_at),
        execution_time_ms=round(execution.run_seconds * 1000),
        metadata=_attempts_entry(execution.attempts),
    )


def _record_info(record: ExecutionRecord) -> pb.ExecutionInfo:
    """An execution that has ended."""
    return pb.ExecutionInfo(
        execution_id=record.execution_id,
        task_id=record.task_id,
        function_name=record.function[:MAX_NAME_CHARS],
        execution_mode=MODE_OF[record.mode],
        status=STATUS_OF[record.status],
        started_at=timestamp(record.started_at),
        completed_at=timestamp(record.completed_at),
        execution_time_ms=round(record.run_seconds * 1000),
        memory_used_bytes=record.usage.peak_memory_bytes,
        error_message=record.outcome.error_message[:MAX_MESSAGE_CHARS],
        metadata=_attempts_entry(record.attempts),
    )


def page_of(found: Sequence[Listed], limit: int, most_bytes: int) -> pb.ListExecutionsResponse:
    """A page of executions; `found` holds one more than its limit where more follow."""
    response = pb.ListExecutionsResponse()
    room = most_bytes
    for execution in found[:limit]:
        info = info_of(execution)
        room -= info.ByteSize()
        if room < 0 and response.executions:
            break
        response.executions.append(info)
    response.has_more = len(response.executions) < len(found)
    if response.has_more:
        response.next_start_after = cursor_of(found[len(response.executions) - 1])
    return response


def cancel_response(execution: Execution) -> pb.CancelExecutionResponse:
    """What became of a cancellation.

    Raises:
        ServerDraining: it came too late for this run of the server.
    """
    if execution.is_left:
        raise left_to_the_next(execution)
    status = execution.status
    if status is not ExecutionStatus.CANCELLED and execution.lifecycle.is_final:
        return already_ended(status)  # it was faster
    message = "cancelled" if execution.lifecycle.is_final else "it is being ended"
    return pb.CancelExecutionResponse(success=True, message=message, final_status=STATUS_OF[status])


def already_ended(status: ExecutionStatus) -> pb.CancelExecutionResponse:
    """The answer to whoever cancels what is over."""
    return pb.CancelExecutionResponse(
        success=False,
        message=f"the execution had ended before it could be cancelled: it is {status}",
        final_status=STATUS_OF[status],
    )
