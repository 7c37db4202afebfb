"""What an InvokeFunctionRequest asks for, read and checked."""

from __future__ import annotations

from msgspec import structs

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.entries import check_environment
from spear_wasm.execution.execution import Call
from spear_wasm.execution.task import Task
from spear_wasm.limits import UNSAID
from spear_wasm.rpc import convert
from spear_wasm.scheduling import DEFAULT_PRIORITY

MAX_PRIORITY = 9
MAX_RETRIES = 100
MAX_ID_CHARS = 200


def check_invocation(request: pb.InvokeFunctionRequest) -> None:
    """Refuse what makes no sense for InvokeFunction, whatever the task.

    Raises:
        InvalidRequest: which field it is, and why.
    """
    mode = request.execution_mode
    if mode not in {pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_SYNC, pb.EXECUTION_MODE_ASYNC}:
        raise InvalidRequest(f"execution_mode {mode} is not for InvokeFunction; use SYNC or ASYNC")
    _check_what_all_modes_share(request)


def check_stream(request: pb.InvokeFunctionRequest) -> None:
    """Refuse what makes no sense for StreamFunction, whatever the task.

    Raises:
        InvalidRequest: which field it is, and why.
    """
    mode = request.execution_mode
    if mode not in {pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_STREAM}:
        raise InvalidRequest(
            f"execution_mode {mode} is not for StreamFunction; use STREAM, or InvokeFunction"
        )
    _check_what_all_modes_share(request)


def _check_what_all_modes_share(request: pb.InvokeFunctionRequest) -> None:
    if not 0 <= request.priority <= MAX_PRIORITY:
        raise InvalidRequest(f"priority is {request.priority}; it must be 0 to {MAX_PRIORITY}")
    if not request.function_name:
        raise InvalidRequest("function_name is empty")
    if request.execution_id:
        _check_id(request.execution_id, "execution_id")
    if request.HasField("context"):
        _check_context(request.context)


def _check_context(context: pb.ExecutionContext) -> None:
    if not 0 <= context.max_retries <= MAX_RETRIES:
        raise InvalidRequest(f"context.max_retries is {context.max_retries}; it must be 0 to {MAX_RETRIES}")
    if context.timeout_ms < 0:
        raise InvalidRequest(f"context.timeout_ms is {context.timeout_ms}; it must not be negative")
    _check_id(context.execution_id, "context.execution_id")
    check_environment(context.environment, "context.environment")


def _check_id(execution_id: str, field: str) -> None:
    if len(execution_id) > MAX_ID_CHARS or not execution_id.isprintable():
        raise InvalidRequest(f"{field} must be printable text of at most {MAX_ID_CHARS} characters")


def asks_for_existing(request: pb.InvokeFunctionRequest) -> bool:
    """Whether a task is meant that should be there, and not one to make.

    Raises:
        InvalidRequest: neither is.
    """
    kind = request.invocation_type
    if kind == pb.INVOCATION_TYPE_EXISTING_TASK:
        return True
    if kind == pb.INVOCATION_TYPE_UNKNOWN:
        if not request.task_id and not request.HasField("artifact_spec"):
            raise InvalidRequest("give a task_id to call an existing task, or an artifact_spec to make one")
        return bool(request.task_id)
    if kind != pb.INVOCATION_TYPE_NEW_TASK:
        raise InvalidRequest(f"invocation_type {kind} is unknown")
    return False


def call_from(request: pb.InvokeFunctionRequest, task: Task, time_remaining: float | None) -> Call:
    """The call of a task's function, in the time that its RPC has left; None where that does not count.

    The request has been checked.

    Raises:
        InvalidRequest: a parameter cannot be read.
    """
    call = Call(
        task,
        request.function_name,
        convert.parameters_from(request.parameters),
        convert.limits_from(request.limits) if request.HasField("limits") else UNSAID,
        0 if time_remaining is None else max(time_remaining * 1000, 0.001),
        request.execution_id,
        force_new_instance=request.force_new_instance,
        priority=request.priority or DEFAULT_PRIORITY,
    )
    # Most have none, and each of its fields costs something to ask for.
    return _in_context(call, request.context) if request.HasField("context") else call


def _in_context(call: Call, context: pb.ExecutionContext) -> Call:
    budgets = [budget for budget in (call.budget_ms, context.timeout_ms) if budget]
    return structs.replace(
        call,
        budget_ms=min(budgets, default=0),
        suggested_id=context.execution_id,
        max_retries=context.max_retries,
        environment=dict(context.environment),
    )
