"""Calls that are kept on disk: when they are answered, and how a key finds the first of its kind."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionExists, ServerDraining
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.model import ExecutionStatus
from spear_wasm.rpc.executions import record_result, unfinished_result
from spear_wasm.rpc.waiting import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spear_wasm.execution.durable import DurableExecution
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.execution.listing import Listed, Wanted
    from spear_wasm.host import Host

READING_THREADS = 4


def is_durable(request: pb.InvokeFunctionRequest) -> bool:
    """Whether a call is to be kept on disk."""
    return request.execution_mode == pb.EXECUTION_MODE_ASYNC or bool(request.execution_id)


def digest_of(request: pb.InvokeFunctionRequest) -> bytes:
    """What two requests share that ask for the same.

    The id, who asks, how long they wait and what their proxies added to the headers does not count.
    """
    canonical = pb.InvokeFunctionRequest()
    canonical.CopyFrom(request)
    canonical.ClearField("execution_id")
    canonical.ClearField("wait")
    for field in ("execution_id", "timeout_ms", "session_id", "user_id", "headers"):
        canonical.context.ClearField(field)
    if not canonical.context.ByteSize():
        canonical.ClearField("context")
    if canonical.execution_mode == pb.EXECUTION_MODE_UNKNOWN:
        canonical.execution_mode = pb.EXECUTION_MODE_SYNC
    canonical.DiscardUnknownFields()
    return hashlib.sha256(canonical.SerializeToString(deterministic=True)).digest()


class DurableCalls:
    """Calls of a host that are kept on disk, and what is kept. For the event loop's thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._durable = host.durable
        self._threads = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="spear-reading")
        self._callers: dict[str, int] = {}
        """How many calls wait for the end of an execution whose callers matter, by its id."""

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._threads.shutdown()

    async def invoke(
        self, request: pb.InvokeFunctionRequest, make_call: Callable[[], Awaitable[Call]]
    ) -> pb.InvokeFunctionResponse:
        """Answer a call; `make_call` is asked for it where no execution has its key.

        Raises:
            ExecutionExists: its key is another request's.
            ServerDraining: the server shuts down first; the call is kept, and runs when it is back.
        """
        digest = digest_of(request)
        found = await self._first(request.execution_id, digest)
        if found is None:
            call = await make_call()
            try:
                found = self._durable.submit(call, digest)
            except ExecutionExists:
                found = await self._first(request.execution_id, digest)  # another caller was faster
                if found is None:
                    raise
        return await self._answer(request, found)

    async def _first(self, execution_id: str, digest: bytes) -> DurableExecution | ExecutionRecord | None:
        if not execution_id:
            return None
        return await in_thread(self._threads, lambda: self._durable.first(execution_id, digest))

    async def _answer(
        self, request: pb.InvokeFunctionRequest, found: DurableExecution | ExecutionRecord
    ) -> pb.InvokeFunctionResponse:
        if isinstance(found, ExecutionRecord):
            return _ended_response(found)
        if request.execution_mode == pb.EXECUTION_MODE_ASYNC:
            await _accepted(found)
            if not request.wait and not found.execution.lifecycle.is_final:
                return _accepted_response(found.execution)
            record = await _recorded(found)
        else:
            record = await self._recorded_while_called(found)
        if record is None:
            raise ServerDraining("the server is shutting down; the call is kept, and runs when it is back")
        return _ended_response(record)

    async def _recorded_while_called(self, durable: DurableExecution) -> ExecutionRecord | None:
        """The record of an execution that is cancelled when the last of its callers has gone away."""
        execution = durable.execution
        self._callers[execution.id] = self._callers.get(execution.id, 0) + 1
        try:
            await _accepted(durable)
            return await _recorded(durable)
        except asyncio.CancelledError:
            if self._callers[execution.id] == 1:
                self._host.manager.cancel(execution, "the caller went away")
            raise
        finally:
            self._callers[execution.id] -= 1
            if not self._callers[execution.id]:
                del self._callers[execution.id]

    # What there is

    async def find(self, execution_id: str) -> Listed | None:
        """An execution that waits or runs, or the record of one that ended, wherever that is."""
        await self.settled(execution_id)
        found = self._host.manager.find(execution_id)
        if found is None:
            kept = await in_thread(self._threads, lambda: self._durable.journal.find(execution_id))
            found = kept.record if kept is not None else None
        return found

    async def settled(self, execution_id: str) -> None:
        """Return when the outcome of that execution is on disk, where it has one and belongs there."""
        durable = self._durable.open(execution_id)
        if durable is not None and durable.execution.lifecycle.is_final:
            await _recorded(durable)

    async def kept(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """The first outcomes on disk that are wanted."""
        return await in_thread(self._threads, lambda: self._durable.journal.page(wanted, limit))

    async def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest outcomes on disk."""
        return await in_thread(self._threads, lambda: self._durable.journal.newest_of(task_id, limit))


async def _accepted(durable: DurableExecution) -> None:
    await asyncio.shield(asyncio.wrap_future(durable.accepted))


async def _recorded(durable: DurableExecution) -> ExecutionRecord | None:
    return await asyncio.shield(asyncio.wrap_future(durable.recorded))


def _accepted_response(execution: Execution) -> pb.InvokeFunctionResponse:
    return pb.InvokeFunctionResponse(
        success=True,
        message="accepted",
        execution_id=execution.id,
        task_id=execution.task.id,
        instance_id=execution.sandbox_id,
        result=unfinished_result(execution),
        status_endpoint=f"executions/{execution.id}",
    )


def _ended_response(record: ExecutionRecord) -> pb.InvokeFunctionResponse:
    success = record.status is ExecutionStatus.COMPLETED
    return pb.InvokeFunctionResponse(
        success=success,
        message="" if success else record.outcome.error_message,
        execution_id=record.execution_id,
        task_id=record.task_id,
        instance_id=record.sandbox_id,
        result=record_result(record, payload=True),
        status_endpoint=f"executions/{record.execution_id}",
    )
