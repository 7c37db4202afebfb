"""Executions in answers: how they are, how they ended, and lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.listing import Listed, cursor_of
from spear_wasm.model import ExecutionStatus
from spear_wasm.rpc.convert import STATUS_OF, active_info, attempts_entry, record_info, timestamp
from spear_wasm.rpc.values import encode_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_wasm.execution.records import ExecutionRecord

_STATUS_NAMED = {number: status for status, number in STATUS_OF.items()}


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


def status_response(execution: Listed, *, payload: bool, logs: bool) -> pb.GetExecutionStatusResponse:
    """What GetExecutionStatus says of an execution."""
    if isinstance(execution, Execution):
        return pb.GetExecutionStatusResponse(found=True, result=unfinished_result(execution))
    response = pb.GetExecutionStatusResponse(found=True, result=record_result(execution, payload=payload))
    if logs:
        response.logs.extend(execution.usage.stderr.decode(errors="backslashreplace").splitlines())
    return response


def unfinished_result(execution: Execution) -> pb.ExecutionResult:
    """How an execution is that has not ended."""
    return pb.ExecutionResult(
        status=STATUS_OF[execution.status],
        execution_time_ms=round(execution.run_seconds * 1000),
        started_at=timestamp(execution.started_at),
        queue_time_ms=execution.queue_seconds * 1000,
        metrics=attempts_entry(execution.attempts),
    )


def record_result(record: ExecutionRecord, *, payload: bool) -> pb.ExecutionResult:
    """How an execution ended; its values and what it wrote only with `payload`."""
    outcome, usage = record.outcome, record.usage
    return pb.ExecutionResult(
        status=STATUS_OF[outcome.status],
        result=encode_results(outcome.values) if payload else None,
        error_message=outcome.error_message,
        error_code=outcome.error_code or "",
        execution_time_ms=round(record.run_seconds * 1000),
        memory_used_bytes=usage.peak_memory_bytes,
        started_at=timestamp(record.started_at),
        completed_at=timestamp(record.completed_at),
        cpu_time_ms=usage.cpu_ns / 1e6,
        fuel_used=usage.fuel or 0,
        queue_time_ms=record.queue_seconds * 1000,
        stdout=usage.stdout if payload else b"",
        stderr=usage.stderr if payload else b"",
        exit_code=outcome.exit_code,
        trap_frames=outcome.trap_frames,
        output_truncated=usage.output_truncated,
        metrics=attempts_entry(record.attempts),
    )


def info_of(execution: Listed) -> pb.ExecutionInfo:
    """An execution as lists have it."""
    return active_info(execution) if isinstance(execution, Execution) else record_info(execution)


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
    """What became of a cancellation."""
    status = execution.status
    if status is not ExecutionStatus.CANCELLED and execution.lifecycle.is_final:
        return already_ended(status)  # it was faster
    message = "cancelled" if execution.lifecycle.is_final else "its guest is being stopped"
    return pb.CancelExecutionResponse(success=True, message=message, final_status=STATUS_OF[status])


def already_ended(status: ExecutionStatus) -> pb.CancelExecutionResponse:
    """The answer to whoever cancels what is over."""
    return pb.CancelExecutionResponse(
        success=False,
        message=f"the execution had ended before it could be cancelled: it is {status}",
        final_status=STATUS_OF[status],
    )
