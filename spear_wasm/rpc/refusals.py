"""Refusals that are answers: where many calls share an RPC, one that is refused must not end it."""

from __future__ import annotations

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import SpearError
from spear_wasm.rpc.status import error_info, printable_message


def refusal(error: SpearError, execution_id: str = "") -> pb.InvokeFunctionResponse:
    """What an answer says of a call that would have ended an RPC of its own with this error.

    `execution_id` is of the execution whose answer it takes the place of, if any.
    """
    info = error_info(error)
    message = printable_message(error)
    metrics = {**info.metadata, "grpc_status": str(error.status.value)}
    if error.retry_after is not None:
        metrics["retry_after_ms"] = str(round(error.retry_after * 1000))
    return pb.InvokeFunctionResponse(
        message=message,
        execution_id=execution_id,
        result=pb.ExecutionResult(
            status=pb.EXECUTION_STATUS_UNKNOWN,
            error_message=message,
            error_code=info.reason,
            metrics=metrics,
        ),
    )
