"""spearlet.FunctionService."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import grpc

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import ExecutionNotFound, InvalidRequest, TaskNotFound, Unimplemented
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.listing import Listed, Wanted, newest, no_such_place, oldest, sequence_in
from spear_wasm.execution.stream import MessageStream
from spear_wasm.limits import UNSAID
from spear_wasm.model import ExecutionMode
from spear_wasm.rpc import convert, executions
from spear_wasm.rpc.durable_calls import DurableCalls, is_durable
from spear_wasm.rpc.status import reporting_errors
from spear_wasm.rpc.streaming import deliver
from spear_wasm.rpc.waiting import SharedWork, ended
from spear_wasm.scheduling import DEFAULT_PRIORITY
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.execution.task import Task
    from spear_wasm.host import Host
    from spear_wasm.rpc.figures import Figures
    from spear_wasm.rpc.streaming import Context as StreamContext

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
PAGE_BYTES = 900_000
"""A page ends before it grows beyond this, whatever names its entries have."""
MAX_PRIORITY = 9
MAX_RETRIES = 100
MAX_ID_CHARS = 200
MAX_REASON_CHARS = 200
REGISTRATION_THREADS = 8
MAX_REGISTRATIONS = 64
"""Calls that may wait at once for their task to be made or linked."""
KNOWN_SPECS = 4096


class FunctionService(function_pb2_grpc.FunctionServiceServicer):
    """Calls of functions, and what there is to know about tasks and the server."""

    def __init__(self, host: Host, figures: Figures) -> None:
        self._host = host
        self._figures = figures
        self._registrations = SharedWork(REGISTRATION_THREADS, MAX_REGISTRATIONS, "spear-registration")
        self._durable_calls = DurableCalls(host)
        # Tasks by the bytes of the spec that asked for them: most callers send the same spec with every call.
        # Valid for one generation of the artifact store, in which every name means one digest.
        self._known_specs: dict[tuple[str, bytes], Task] = {}
        self._generation = -1

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._registrations.close()
        self._durable_calls.close()

    # Calls

    @reporting_errors
    async def InvokeFunction(
        self, request: pb.InvokeFunctionRequest, context: Context
    ) -> pb.InvokeFunctionResponse:
        """Run a function of a task, which is made first where the request brings a spec."""
        _check_modes(request)
        if is_durable(request):
            return await self._durable_calls.invoke(request, lambda: self._call(request, context))
        task = await self._task_for(request)
        execution = self._host.manager.submit(
            await self._linked(_call_from(request, task, context.time_remaining())), on_the_spot=True
        )
        if not execution.done:
            await self._until_ended(execution)
        return convert.invoke_response(execution)

    async def _call(self, request: pb.InvokeFunctionRequest, context: Context) -> Call:
        task = await self._task_for(request)
        asynchronous = request.execution_mode == pb.EXECUTION_MODE_ASYNC
        # Who hands in a call to be run some time may hang up long before.
        call = _call_from(request, task, None if asynchronous else context.time_remaining())
        if asynchronous:
            call = replace(call, mode=ExecutionMode.ASYNC)
        return await self._linked(call)

    async def _until_ended(self, execution: Execution) -> None:
        try:
            await ended(execution)
        except asyncio.CancelledError:
            self._host.manager.cancel(execution, "the caller went away")
            raise

    async def _task_for(self, request: pb.InvokeFunctionRequest) -> Task:
        if _asks_for_existing(request):
            reference = request.task_id or request.task_name
            task = self._host.tasks.find(reference) if reference else None
            if task is not None:
                return task
            if not (request.create_if_not_exists and request.HasField("artifact_spec")):
                raise TaskNotFound(f"there is no task {shown(reference)}", task=reference)
        elif not request.HasField("artifact_spec"):
            raise InvalidRequest(
                "a new task needs an artifact_spec; to call an existing one, give its task_id"
            )
        return await self._task_from_spec(request)

    async def _task_from_spec(self, request: pb.InvokeFunctionRequest) -> Task:
        generation = self._host.artifacts.generation
        if generation != self._generation or len(self._known_specs) >= KNOWN_SPECS:
            self._known_specs.clear()
            self._generation = generation
        key = (request.task_name, request.artifact_spec.SerializeToString(deterministic=True))
        task = self._known_specs.get(key)
        if task is None or task.deleted:
            spec = convert.spec_from(request.artifact_spec)
            name, description = request.task_name, request.task_description
            registration = self._host.registration
            task = planned = await self._registrations.run(
                ("plan", key), lambda: registration.plan(spec, name, description)
            )
            if planned.is_planned:
                # Before anybody can see the task: a call that is refused leaves none behind.
                _check_call(_call_from(request, planned, None))
                self._host.manager.check_open()
                task = await self._registrations.run(
                    ("establish", key), lambda: registration.establish(planned)
                )
            if generation == self._generation:
                self._known_specs[key] = task
        return task

    async def _linked(self, call: Call) -> Call:
        """The call, once its task is linked for the engine that it needs."""
        task = call.task
        metered = (task.limits.max_fuel or call.limits.max_fuel) != 0
        if metered not in task.linkages:
            link = self._host.registration.link
            await self._registrations.run((task.id, metered), lambda: link(task, metered=metered))
        return call

    @reporting_errors
    async def StreamFunction(  # type: ignore[override]  # the stubs know generators, not what writes to its context
        self, request: pb.InvokeFunctionRequest, context: StreamContext
    ) -> None:
        """Run a function and send what it emits while it runs, then how it ended."""
        _check_stream(request)
        task = await self._task_for(request)
        config = self._host.config.execution
        stream = MessageStream(config.max_unread_messages, int(config.max_unread))
        call = replace(
            _call_from(request, task, context.time_remaining()), mode=ExecutionMode.STREAM, stream=stream
        )
        execution = self._host.manager.submit(await self._linked(call), on_the_spot=True)
        try:
            await deliver(execution, stream, context, config.unread_for)
        finally:
            stream.close()
            if not execution.done:
                self._host.manager.cancel(execution, "the reader hung up")

    @reporting_errors
    async def GetExecutionStatus(
        self, request: pb.GetExecutionStatusRequest, context: Context
    ) -> pb.GetExecutionStatusResponse:
        """How an execution is, or how it ended."""
        execution = await self._durable_calls.find(request.execution_id)
        if execution is None:
            message = f"there is no execution {shown(request.execution_id)}, or no longer a record of it"
            return pb.GetExecutionStatusResponse(found=False, message=message)
        return executions.status_response(
            execution, payload=request.include_result, logs=request.include_logs
        )

    @reporting_errors
    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: Context
    ) -> pb.CancelExecutionResponse:
        """End an execution that waits or runs."""
        execution = await self._execution(request.execution_id)
        if not isinstance(execution, Execution):
            return executions.already_ended(execution.status)
        reason = f"cancelled: {shown(request.reason, MAX_REASON_CHARS)}" if request.reason else "cancelled"
        self._host.manager.cancel(execution, reason)
        if not request.force:
            await ended(execution)
            await self._durable_calls.settled(execution.id)
        return executions.cancel_response(execution)

    async def _execution(self, execution_id: str) -> Listed:
        execution = await self._durable_calls.find(execution_id)
        if execution is None:
            raise ExecutionNotFound(
                f"there is no execution {shown(execution_id)}, or no longer a record of it",
                execution_id=execution_id,
            )
        return execution

    @reporting_errors
    async def ListExecutions(
        self, request: pb.ListExecutionsRequest, context: Context
    ) -> pb.ListExecutionsResponse:
        """Executions in the order of their creation."""
        limit = page_size(request.limit)
        wanted = Wanted(
            task_id=self._host.tasks.get(request.task_id).id if request.task_id else "",
            status=executions.status_filter(request.status_filter),
            after=await self._place_of(request.start_after),
        )
        on_disk = await self._durable_calls.kept(wanted, limit + 1)
        # Memory is asked last, and believed where the disk knew of an execution that has ended since.
        found = oldest(on_disk, self._host.manager.page(wanted, limit + 1), wanted, limit + 1)
        return executions.page_of(found, limit, PAGE_BYTES)

    async def _place_of(self, start_after: str) -> int:
        if not start_after:
            return 0
        place = sequence_in(start_after)
        if place is None:
            execution = await self._durable_calls.find(start_after)
            if execution is None:
                raise no_such_place(start_after)
            place = execution.sequence
        return place

    # Tasks

    @reporting_errors
    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """Tasks in the order of their creation."""
        limit = page_size(request.limit)
        tasks, more = self._host.tasks.page(request.prefix, request.start_after, limit)
        response = pb.ListTasksResponse()
        room = PAGE_BYTES
        for task in tasks:
            info = convert.task_info(task, details=request.include_details)
            room -= info.ByteSize()
            if room < 0 and response.tasks:
                more = True
                break
            response.tasks.append(info)
            response.next_start_after = f"@{task.record.sequence}"
        response.has_more = more
        if not more:
            response.next_start_after = ""
        return response

    @reporting_errors
    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        """One task, with its newest executions where asked for."""
        limit = page_size(request.execution_limit)
        task = self._host.tasks.find(request.task_id)
        if task is None:
            return pb.GetTaskResponse(found=False, message=f"there is no task {shown(request.task_id)}")
        response = pb.GetTaskResponse(found=True, task=convert.task_info(task, details=True))
        if request.include_executions:
            on_disk = await self._durable_calls.newest_of(task.id, limit)
            active, records = self._host.manager.records_of(task, limit)
            found = newest(on_disk, [*active, *records], limit)
            response.executions.extend(map(executions.info_of, found))
        return response

    @reporting_errors
    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: Context) -> pb.DeleteTaskResponse:
        """End a task."""
        if not request.task_id:
            raise InvalidRequest("task_id is empty")
        delete = self._host.delete_task
        reference, force, forget = request.task_id, request.force, request.cleanup_executions
        cleaned = await self._registrations.run(
            object(), lambda: delete(reference, force=force, forget_records=forget)
        )
        return pb.DeleteTaskResponse(
            success=True, message="deleted", deleted=True, cleaned_executions=convert.saturated(cleaned)
        )

    # Figures

    @reporting_errors
    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        """How the server is."""
        return self._figures.health(details=request.include_details)

    @reporting_errors
    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """What the server has done."""
        if request.time_range_hours < 0:
            raise InvalidRequest(f"time_range_hours is {request.time_range_hours}; it must not be negative")
        return self._figures.stats(
            tasks=request.include_task_stats,
            executions=request.include_execution_stats,
            hours=request.time_range_hours,
        )


def page_size(asked: int) -> int:
    """How many entries a page may have."""
    if asked < 0:
        raise InvalidRequest(f"a limit of {asked} entries makes no sense")
    return min(asked or DEFAULT_PAGE, LARGEST_PAGE)


def _check_modes(request: pb.InvokeFunctionRequest) -> None:
    mode = request.execution_mode
    if mode not in {pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_SYNC, pb.EXECUTION_MODE_ASYNC}:
        raise InvalidRequest(f"execution_mode {mode} is not for InvokeFunction; use SYNC or ASYNC")
    _check_what_all_modes_share(request)


def _check_stream(request: pb.InvokeFunctionRequest) -> None:
    mode = request.execution_mode
    if mode not in {pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_STREAM}:
        raise InvalidRequest(
            f"execution_mode {mode} is not for StreamFunction; use STREAM, or InvokeFunction"
        )
    if request.execution_id:
        raise Unimplemented(
            "what a streamed call emits is not kept, so that a second one with its key could not be given it; "
            "leave execution_id empty, or name the execution with context.execution_id"
        )
    if request.context.max_retries:
        raise Unimplemented(
            "what a streamed call has emitted cannot be taken back, so none begins again; "
            "leave context.max_retries at 0"
        )
    _check_what_all_modes_share(request)


def _check_what_all_modes_share(request: pb.InvokeFunctionRequest) -> None:
    if not 0 <= request.priority <= MAX_PRIORITY:
        raise InvalidRequest(f"priority is {request.priority}; it must be 0 to {MAX_PRIORITY}")
    retries = request.context.max_retries
    if not 0 <= retries <= MAX_RETRIES:
        raise InvalidRequest(f"context.max_retries is {retries}; it must be 0 to {MAX_RETRIES}")
    if request.context.environment:
        raise InvalidRequest(
            "the runtimes of this server give their guests no environment variables; leave context.environment empty"
        )
    if not request.function_name:
        raise InvalidRequest("function_name is empty")


def _check_call(call: Call) -> None:
    """Refuse what the manager would refuse whenever it is asked: function, parameters, limits."""
    limits = call.task.limits.for_call(call.limits)
    call.task.function(call.function).binding.arguments(call.parameters, limits)


def _asks_for_existing(request: pb.InvokeFunctionRequest) -> bool:
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


def _call_from(request: pb.InvokeFunctionRequest, task: Task, time_remaining: float | None) -> Call:
    context = request.context
    if context.timeout_ms < 0:
        raise InvalidRequest(f"context.timeout_ms is {context.timeout_ms}; it must not be negative")
    for name, execution_id in (
        ("execution_id", request.execution_id),
        ("context.execution_id", context.execution_id),
    ):
        if len(execution_id) > MAX_ID_CHARS or not execution_id.isprintable():
            raise InvalidRequest(f"{name} must be printable text of at most {MAX_ID_CHARS} characters")
    budgets: list[float] = [context.timeout_ms] if context.timeout_ms else []
    if time_remaining is not None:
        budgets.append(max(time_remaining * 1000, 0.001))
    return Call(
        task,
        request.function_name,
        convert.parameters_from(request.parameters),
        convert.limits_from(request.limits) if request.HasField("limits") else UNSAID,
        min(budgets, default=0),
        request.execution_id,
        context.execution_id,
        request.force_new_instance,
        request.priority or DEFAULT_PRIORITY,
        max_retries=context.max_retries,
    )
