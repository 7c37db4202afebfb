"""Ending executions that this worker has in memory. Whoever sees them end tells those who wanted that."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from spear_wasm.errors import ExecutionNotFound
from spear_wasm.execution.execution import Execution
from spear_wasm.rpc.executions import cancel_response
from spear_wasm.rpc.status import refuse, reported
from spear_wasm.values import shown

if TYPE_CHECKING:
    from typing import TypeAlias

    from spear_wasm.api import function_pb2 as pb
    from spear_wasm.execution.durable import DurableExecution
    from spear_wasm.execution.records import ExecutionRecord
    from spear_wasm.host import Host
    from spear_wasm.rpc.edge import UnaryCall

    Cancelled: TypeAlias = "Future[pb.CancelExecutionResponse]"

METHOD = "CancelExecution"
MAX_REASON_CHARS = 200


def not_found(execution_id: str) -> ExecutionNotFound:
    """Nobody has an execution of that id."""
    return ExecutionNotFound(
        f"there is no execution {shown(execution_id)}, or no longer a record of it",
        execution_id=execution_id,
    )


class Cancellations:
    """Ends executions that wait or run. Thread-safe."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def answer(self, calls: list[UnaryCall]) -> list[UnaryCall]:
        """Begin what calls ask for, and answer them when it is done; those that are about other executions."""
        left = []
        for call in calls:
            try:
                cancelled = self.begin(call.request)
            except Exception as error:  # noqa: BLE001  what it is, the caller is told
                refuse(call, reported(error, METHOD))
                continue
            if cancelled is None:
                left.append(call)
            else:
                cancelled.add_done_callback(partial(_tell, call))
        return left

    def begin(self, request: pb.CancelExecutionRequest) -> Cancelled | None:
        """End an execution; None where none of that id waits or runs here.

        The future is done when the outcome may be told, or at once with `force`. It fails with ServerDraining where
        the execution is left to the next run of the server, with ExecutionNotFound where the disk has not taken the
        call, and with JournalFailed where it has not taken the outcome for long.
        """
        durable = self._host.durable.open(request.execution_id)
        execution = durable.execution if durable else self._host.executions.find(request.execution_id)
        if not isinstance(execution, Execution):
            return None
        reason = f"cancelled: {shown(request.reason, MAX_REASON_CHARS)}" if request.reason else "cancelled"
        self._host.manager.cancel(execution, reason)
        cancelled: Cancelled = Future()
        if request.force:
            _settle(cancelled, execution)
        elif durable is None:
            execution.add_done_callback(partial(_settle, cancelled))
        else:
            durable.recorded.add_done_callback(partial(_on_recorded, cancelled, durable))
        return cancelled


def _on_recorded(
    cancelled: Cancelled, durable: DurableExecution, recorded: Future[ExecutionRecord | None]
) -> None:
    error = recorded.exception()
    if error is not None:
        cancelled.set_exception(error)
    elif durable.execution.is_left:
        durable.accepted.add_done_callback(partial(_on_left, cancelled, durable.execution))
    else:
        _settle(cancelled, durable.execution)


def _on_left(cancelled: Cancelled, execution: Execution, accepted: Future[None]) -> None:
    if accepted.exception() is None:
        _settle(cancelled, execution)
    else:
        cancelled.set_exception(not_found(execution.id))


def _settle(cancelled: Cancelled, execution: Execution) -> None:
    try:
        cancelled.set_result(cancel_response(execution))
    except Exception as error:  # noqa: BLE001  whoever waits is told
        cancelled.set_exception(error)


def _tell(call: UnaryCall, cancelled: Cancelled) -> None:
    error = cancelled.exception()
    if error is None:
        call.answer(cancelled.result())
    else:
        assert isinstance(error, Exception)
        refuse(call, reported(error, METHOD))
