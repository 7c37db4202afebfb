"""spearlet.FunctionService."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import time
from typing import TYPE_CHECKING, TypeAlias

import grpc
from msgspec import structs

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import ExecutionElsewhere, ExecutionNotFound, InvalidRequest
from spear_wasm.execution.durable import DurableExecution
from spear_wasm.execution.execution import BoundCall, Call, Execution
from spear_wasm.execution.listing import Known, Wanted, no_such_place, sequence_in
from spear_wasm.execution.stream import MessageStream
from spear_wasm.model import ExecutionMode
from spear_wasm.rpc import convert, executions, reports
from spear_wasm.rpc.batches import Batches, check_batch
from spear_wasm.rpc.call_stream import CallStream
from spear_wasm.rpc.called_tasks import CalledTasks
from spear_wasm.rpc.durable_calls import DurableCalls, digest_of, is_durable
from spear_wasm.rpc.figures import resident_bytes
from spear_wasm.rpc.following import relay_log, send_log
from spear_wasm.rpc.invocations import check_invocation, check_stream
from spear_wasm.rpc.others import PEER_SECONDS, NoOthers, last_of
from spear_wasm.rpc.quick_calls import QuickCalls
from spear_wasm.rpc.status import reporting_errors
from spear_wasm.rpc.streaming import deliver, end_alone
from spear_wasm.rpc.task_counts import KnownByTasks, TaskCounts
from spear_wasm.rpc.under_way import GONE
from spear_wasm.rpc.waiting import ended, is_kept
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spear_wasm.host import Host
    from spear_wasm.rpc.edge import Conversation
    from spear_wasm.rpc.figures import Figures
    from spear_wasm.rpc.following import Context as LogContext
    from spear_wasm.rpc.others import Others
    from spear_wasm.rpc.streaming import Context as StreamContext

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
PAGE_BYTES = 900_000
"""A page ends before it grows beyond this, whatever names its entries have."""
MAX_REASON_CHARS = 200


class FunctionService(function_pb2_grpc.FunctionServiceServicer):
    """Calls of functions, and what there is to know about tasks and the server."""

    def __init__(self, host: Host, figures: Figures, others: Others) -> None:
        self._host = host
        self._figures = figures
        self._others = others
        self._called_tasks = CalledTasks(host, others)
        self.quick_calls = QuickCalls(host, self._called_tasks)
        self.durable_calls = DurableCalls(host)
        self._batches = Batches(host.manager, host.config.batches, host.config.engine.tick)
        self._call_streams: set[CallStream] = set()
        self._hangs_up = False

    def alone(self) -> FunctionService:
        """The same service, which answers for this process alone: for the other workers."""
        same = copy.copy(self)
        same._others = NoOthers()  # noqa: SLF001  it is our own
        return same

    def hang_up(self) -> None:
        """End the streams of calls, now that nothing is accepted any more, once what has ended is answered."""
        self._hangs_up = True
        for stream in self._call_streams:
            stream.hang_up()

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._called_tasks.close()
        self.durable_calls.close()

    # Calls

    @reporting_errors
    async def InvokeFunction(
        self, request: pb.InvokeFunctionRequest, context: Context
    ) -> pb.InvokeFunctionResponse:
        """Run a function of a task, which is made first where the request brings a spec."""
        return await self._invoke(request, context.time_remaining)

    async def _invoke(
        self, request: pb.InvokeFunctionRequest, time_remaining: Callable[[], float | None]
    ) -> pb.InvokeFunctionResponse:
        check_invocation(request)
        if is_durable(request):
            return await self._others.answer(
                lambda: self.durable_calls.invoke(
                    request, lambda submit: self._called_tasks.submit(request, time_remaining, submit)
                ),
                lambda there: there.InvokeFunction(request),
            )
        execution = await self._called_tasks.submit(request, time_remaining, self.quick_calls.submit)
        if not execution.done:
            await self._until_ended(execution)
        return executions.ended_response(execution)

    async def _until_ended(self, execution: Execution) -> None:
        try:
            await ended(execution)
        except asyncio.CancelledError:
            self._host.manager.cancel(execution, GONE)
            raise

    @reporting_errors
    async def InvokeStream(  # type: ignore[override]  # as for StreamFunction
        self, requests: object, context: Conversation
    ) -> None:
        """Run a function for each request, many of them at once, and answer as they end."""
        stream = CallStream(self.quick_calls, self._invoke, self._host, context)
        self._call_streams.add(stream)
        if self._hangs_up:
            stream.hang_up()
        try:
            await stream.run()
        finally:
            self._call_streams.discard(stream)

    @reporting_errors
    async def InvokeBatch(  # type: ignore[override]  # as for InvokeStream
        self, request: pb.InvokeBatchRequest, context: Conversation
    ) -> pb.InvokeBatchResponse:
        """Run a function over many inputs, and answer when all have ended."""
        check_batch(request, self._host.config.batches)
        batch = await self._called_tasks.submit(
            request.call,
            _no_time_limit,
            lambda call: self._batches.begin(call, request, context),
            check=BoundCall,
        )
        return await self._batches.run(batch)

    @reporting_errors
    async def StreamFunction(  # type: ignore[override]  # the stubs know generators, not what writes to its context
        self, request: pb.InvokeFunctionRequest, context: StreamContext
    ) -> None:
        """Run a function and send what it emits while it runs, then how it ended."""
        check_stream(request)
        request.execution_mode = pb.EXECUTION_MODE_STREAM  # whoever leaves it out means the same
        config = self._host.config.execution
        stream = MessageStream(config.max_unread_messages, int(config.max_unread))
        if request.execution_id:
            final = await self._others.answer(
                lambda: self._stream_with_key(request, stream, context),
                lambda there: last_of(there.StreamFunction(request)),
            )
            if final is not None:
                await context.write(final)
            return

        def submit(call: Call) -> Execution:
            return self._host.manager.submit(_streamed(call, stream), on_the_spot=True)

        execution = await self._called_tasks.submit(request, context.time_remaining, submit)

        async def answer() -> pb.InvokeFunctionResponse:
            return executions.ended_response(execution)

        await self._read_along(execution, stream, context, answer)

    async def _stream_with_key(
        self, request: pb.InvokeFunctionRequest, stream: MessageStream, context: StreamContext
    ) -> pb.StreamExecutionResult | None:
        """How an execution ended whose messages an earlier call gets; None where this one has got them."""
        calls = self.durable_calls
        mine: Execution | None = None

        def hand_in(submit: Callable[[Call], DurableExecution]) -> Awaitable[DurableExecution]:
            def submit_streamed(call: Call) -> DurableExecution:
                nonlocal mine
                durable = submit(_streamed(call, stream))
                mine = durable.execution
                return durable

            return self._called_tasks.submit(request, context.time_remaining, submit_streamed)

        try:
            found, is_new = await calls.first_of(request, digest_of(request), hand_in)
        except asyncio.CancelledError:
            if mine is not None:
                stream.close()
                self._host.manager.cancel(mine, "the reader hung up")
            raise
        if is_new and isinstance(found, DurableExecution):
            await self._read_along(found.execution, stream, context, lambda: calls.end_of(found))
            return None
        return end_alone(await calls.end_of(found))

    async def _read_along(
        self,
        execution: Execution,
        stream: MessageStream,
        context: StreamContext,
        answer: Callable[[], Awaitable[pb.InvokeFunctionResponse]],
    ) -> None:
        try:
            await deliver(execution, stream, context, self._host.config.execution.unread_for, answer)
        finally:
            stream.close()
            if not execution.done:
                self._host.manager.cancel(execution, "the reader hung up")

    @reporting_errors
    async def GetExecutionStatus(
        self, request: pb.GetExecutionStatusRequest, context: Context
    ) -> pb.GetExecutionStatusResponse:
        """How an execution is, or how it ended."""
        elsewhere = await self._others.of_holder(
            request.execution_id, lambda there: there.GetExecutionStatus(request, timeout=PEER_SECONDS)
        )
        if elsewhere is not None:
            return elsewhere
        execution = await self.durable_calls.find(request.execution_id)
        if execution is None:
            missing = _not_found(request.execution_id)
            return pb.GetExecutionStatusResponse(found=False, message=missing.message)
        return executions.status_response(
            execution, payload=request.include_result, logs=request.include_logs
        )

    @reporting_errors
    async def FollowLog(  # type: ignore[override]  # as for StreamFunction
        self, request: pb.FollowLogRequest, context: LogContext
    ) -> None:
        """Send what an execution has logged, and what it logs, until it has ended."""
        unread_for = self._host.config.execution.unread_for
        if await self._others.of_holder(
            request.execution_id, lambda there: relay_log(there.FollowLog(request), context, unread_for)
        ):
            return
        durable = self._host.durable.open(request.execution_id)
        if durable is not None:
            await is_kept(durable)
        execution = await self._execution(request.execution_id)
        await send_log(execution, context, unread_for)

    @reporting_errors
    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: Context
    ) -> pb.CancelExecutionResponse:
        """End an execution that waits or runs."""
        elsewhere = await self._others.of_holder(
            request.execution_id, lambda there: there.CancelExecution(request)
        )
        if elsewhere is not None:
            return elsewhere
        execution = await self._execution(request.execution_id)
        if not isinstance(execution, Execution):
            return executions.already_ended(execution.status)
        reason = f"cancelled: {shown(request.reason, MAX_REASON_CHARS)}" if request.reason else "cancelled"
        durable = self._host.durable.open(execution.id)
        self._host.manager.cancel(execution, reason)
        if not request.force:
            await ended(execution)
            await self.durable_calls.settled(execution.id)
        if execution.is_left and durable is not None and not await is_kept(durable):
            raise _not_found(execution.id)
        return executions.cancel_response(execution)

    async def _execution(self, execution_id: str) -> Known:
        execution = await self.durable_calls.find(execution_id)
        if execution is None:
            raise _not_found(execution_id)
        return execution

    @reporting_errors
    async def ListExecutions(
        self, request: pb.ListExecutionsRequest, context: Context
    ) -> pb.ListExecutionsResponse:
        """Executions in the order of their creation."""
        limit = page_size(request.limit)
        await self._called_tasks.catch_up()
        wanted = Wanted(
            task_id=self._host.tasks.get(request.task_id).id if request.task_id else "",
            status=executions.status_filter(request.status_filter),
            after=await self._place_of(request.start_after),
        )
        elsewhere = await self._others.page(wanted, limit + 1)
        found = await self.durable_calls.page(wanted, limit + 1, elsewhere)
        return executions.page_of(found, limit, PAGE_BYTES)

    async def _place_of(self, start_after: str) -> int:
        if not start_after:
            return 0
        place = sequence_in(start_after)
        if place is None:
            execution = None
            with contextlib.suppress(ExecutionElsewhere):  # as with those of other workers
                execution = await self.durable_calls.find(start_after)
            if execution is None:
                raise no_such_place(start_after)
            place = execution.sequence
        return place

    # Tasks

    @reporting_errors
    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """Tasks in the order of their creation."""
        limit = page_size(request.limit)
        await self._called_tasks.catch_up()
        counts = await self._counts()
        tasks, more = self._host.tasks.page(request.prefix, request.start_after, limit)
        response = pb.ListTasksResponse()
        room = PAGE_BYTES
        for task in tasks:
            info = counts.info(task, details=request.include_details)
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
        await self._called_tasks.catch_up()
        task = self._host.tasks.find(request.task_id)
        if task is None:
            return pb.GetTaskResponse(found=False, message=f"there is no task {shown(request.task_id)}")
        counts = await self._counts(task.id)
        response = pb.GetTaskResponse(found=True, task=counts.info(task, details=True))
        if request.include_executions:
            elsewhere = await self._others.newest_of(task.id, limit)
            found = await self.durable_calls.newest_of(task, limit, elsewhere)
            response.executions.extend(map(executions.info_of, found))
        return response

    @reporting_errors
    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: Context) -> pb.DeleteTaskResponse:
        """End a task."""
        if not request.task_id:
            raise InvalidRequest("task_id is empty")
        cleaned = await self._called_tasks.delete(
            request.task_id, force=request.force, forget_records=request.cleanup_executions
        )
        return pb.DeleteTaskResponse(
            success=True, message="deleted", deleted=True, cleaned_executions=convert.saturated(cleaned)
        )

    # Figures

    @reporting_errors
    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        """How the server is."""
        figures = await self._server_figures()
        return reports.health_response(figures, self._host.runtimes.names, details=request.include_details)

    async def _server_figures(self, hours: int = 0) -> reports.ServerFigures:
        others = await self._others.reports(hours)
        board = self._host.seat.board
        return reports.ServerFigures(
            uptime=int(time.monotonic() - board.made_at),
            workers=[self._figures.read(hours), *others.figures],
            silent=others.silent,
            other_memory_bytes=resident_bytes(os.getppid()) if board.is_shared else 0,
        )

    async def _counts(self, task_id: str = "") -> KnownByTasks | TaskCounts:
        """What tasks have done, or one of them."""
        elsewhere = await self._others.counts()
        if elsewhere is None:
            return KnownByTasks()
        here = self._host.executions.counts(self._host.tasks.all())
        return TaskCounts(await self.durable_calls.totals(task_id), [*here, *elsewhere])

    @reporting_errors
    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """What the server has done."""
        if request.time_range_hours < 0:
            raise InvalidRequest(f"time_range_hours is {request.time_range_hours}; it must not be negative")
        await self._called_tasks.catch_up()
        figures, tasks = await self._server_figures(request.time_range_hours), self._host.tasks.all()
        response = pb.GetStatsResponse(
            service_stats=reports.service_stats(figures, len(tasks)),
            function_service_stats=reports.function_service_stats(
                figures, len(tasks), self._host.artifacts.counts()[0]
            ),
        )
        if request.include_task_stats:
            counts = await self._counts()
            infos = [counts.info(task, details=False) for task in tasks]
            runtimes = (task.record.runtime for task in tasks)
            response.task_stats.CopyFrom(reports.task_stats(infos, runtimes, figures.active_tasks))
        if request.include_execution_stats:
            response.execution_stats.CopyFrom(reports.execution_stats(figures))
        return response


def _no_time_limit() -> None:
    """For executions whose RPC has a deadline for all of them together."""


def _not_found(execution_id: str) -> ExecutionNotFound:
    return ExecutionNotFound(
        f"there is no execution {shown(execution_id)}, or no longer a record of it",
        execution_id=execution_id,
    )


def _streamed(call: Call, stream: MessageStream) -> Call:
    return structs.replace(call, mode=ExecutionMode.STREAM, stream=stream)


def page_size(asked: int) -> int:
    """How many entries a page may have."""
    if asked < 0:
        raise InvalidRequest(f"a limit of {asked} entries makes no sense")
    return min(asked or DEFAULT_PAGE, LARGEST_PAGE)
