"""Calls that are kept on disk: when they are answered, and how a key finds the first of its kind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionElsewhere, ExecutionExists, JournalFailed
from spear_wasm.execution.listing import newest, oldest
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.storage.journal import in_use
from spear_wasm.rpc.executions import LEFT, ended_response, left_to_the_next, unfinished_result
from spear_wasm.rpc.under_way import GONE
from spear_wasm.rpc.waiting import accepted, in_thread, is_kept, look_again, recorded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from spear_wasm.execution.durable import DurableExecution
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.execution.listing import Known, Listed, Wanted
    from spear_wasm.execution.storage import Kept
    from spear_wasm.execution.task import Task, TaskTotal
    from spear_wasm.host import Host

HandIn: TypeAlias = "Callable[[Callable[[Call], DurableExecution]], Awaitable[DurableExecution]]"

READING_THREADS = 4
TRIES = 3
"""To be the first with a key, or to find who was."""


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
        self._callers: Counter[tuple[str, bytes]] = Counter()
        """How many calls wait for how an execution ends, by its key and the digest of what they ask for."""

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._threads.shutdown()

    async def invoke(self, request: pb.InvokeFunctionRequest, hand_in: HandIn) -> pb.InvokeFunctionResponse:
        """Answer a call; where no execution has its key, `hand_in` makes it and gives it to what it is called with.

        Where the server shuts down first, an asynchronous call is answered with how it is: accepted.

        Raises:
            ExecutionExists: its key is another request's.
            ExecutionElsewhere: the execution that has its key is another worker's.
            ServerDraining: the server shuts down first; the call is kept, and runs when it is back.
        """
        if request.execution_mode == pb.EXECUTION_MODE_ASYNC:
            return await self._hand_in(request, hand_in)
        digest = digest_of(request)
        with self._calling(request.execution_id, digest):
            found, _ = await self.first_of(request, digest, hand_in)
            return await self.end_of(found)

    async def _hand_in(self, request: pb.InvokeFunctionRequest, hand_in: HandIn) -> pb.InvokeFunctionResponse:
        found, is_new = await self.first_of(request, digest_of(request), hand_in)
        if isinstance(found, ExecutionRecord):
            return ended_response(found)
        if not request.wait and is_new:
            # As the disk has it: it may have begun by now, or ended, which is for those who ask.
            return _accepted_response(found.execution, pb.ExecutionResult(status=pb.EXECUTION_STATUS_PENDING))
        if request.wait or found.execution.lifecycle.is_final:
            record = await recorded(found)
            if record is not None:
                return ended_response(record)
        return _accepted_response(found.execution, unfinished_result(found.execution))

    @contextlib.contextmanager
    def _calling(self, key: str, digest: bytes) -> Iterator[None]:
        """A call that waits: when the last one of its request has gone away, what they called for is cancelled."""
        self._callers[key, digest] += 1
        try:
            yield
        except asyncio.CancelledError:
            durable = self._durable.open(key)
            if self._callers[key, digest] == 1 and durable is not None and durable.digest == digest:
                self._host.manager.cancel(durable.execution, GONE)
            raise
        finally:
            self._callers[key, digest] -= 1
            if not self._callers[key, digest]:
                del self._callers[key, digest]

    async def first_of(
        self, request: pb.InvokeFunctionRequest, digest: bytes, hand_in: HandIn
    ) -> tuple[DurableExecution | ExecutionRecord, bool]:
        """The execution that a request is about: the first that has its key, or a new one; and whether it is new.

        The disk has it by then. `digest` is the request's.

        Raises:
            ExecutionExists: its key is another request's.
            ExecutionElsewhere: it is another worker's.
            JournalFailed: the disk did not take it, and it does not run.
        """
        for tries_left in reversed(range(TRIES)):
            found = await self._first(request.execution_id, digest)
            if found is not None:
                return found, False
            try:
                new = await hand_in(lambda call: self._durable.submit(call, digest))
                await accepted(new)
                return new, True
            except (
                ExecutionExists
            ):  # another caller was faster; where the disk refused that one, this one may be first
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def end_of(self, found: DurableExecution | ExecutionRecord) -> pb.InvokeFunctionResponse:
        """How an execution ended; waits for that, and for the disk.

        Raises:
            JournalFailed: the disk has not taken the outcome for long.
            ServerDraining: the server shuts down first; it is kept, and goes on when the server is back.
        """
        record = found if isinstance(found, ExecutionRecord) else await _record_of(found)
        return ended_response(record)

    async def _first(self, key: str, digest: bytes) -> DurableExecution | ExecutionRecord | None:
        """The execution that has a key, or its record; None where the key is free, or there is none.

        Raises:
            ExecutionExists: it is another request's.
            ExecutionElsewhere: it is another worker's.
            ServerDraining: nobody takes it up before the server is back.
        """
        if not key:
            return None
        while True:
            durable = self._durable.open(key)
            if durable is not None and await is_kept(durable):
                _check_same(key, durable.digest, digest)
                return durable
            kept = await self._kept(key)
            if kept is None:
                return None
            _check_same(key, kept.digest, digest)
            if kept.record is not None:
                return kept.record
            if kept.worker != self._host.seat.worker:
                raise ExecutionElsewhere("another worker has the execution", worker=kept.worker)
            await look_again(self._host.manager)  # it is this worker's by now, which has yet to take it up

    async def _kept(self, execution_id: str) -> Kept | None:
        return await in_thread(self._threads, lambda: self._durable.journal.find(execution_id))

    # What there is

    async def find(self, execution_id: str) -> Known | None:
        """An execution that waits or runs here, or the record of one that ended, wherever that was.

        Raises:
            ExecutionElsewhere: the disk has it for this worker, which has yet to take it up from one that is gone.
            JournalFailed: it has ended, and the disk has not taken its outcome for long.
        """
        found = await self._find_in_memory(execution_id)
        if found is not None:
            return found
        kept = await self._kept(execution_id)
        if kept is None:
            return None
        if kept.record is not None:
            return kept.record
        found = await self._find_in_memory(execution_id)  # it may have come since it was looked for there
        # One that serves alone takes everything up before it listens.
        if found is None and kept.worker and kept.worker == self._host.seat.worker:
            raise ExecutionElsewhere("it has yet to be taken up", worker=kept.worker)
        return found

    async def _find_in_memory(self, execution_id: str) -> Known | None:
        durable = self._durable.open(execution_id)
        if durable is None:
            return self._host.executions.find(execution_id)
        return await recorded(durable) if durable.execution.lifecycle.is_final else durable.execution

    async def settled(self, execution_id: str) -> None:
        """Return when the outcome of an execution is on disk, where it has one that belongs there.

        Raises:
            JournalFailed: the disk has not taken it for long.
        """
        durable = self._durable.open(execution_id)
        if durable is not None and durable.execution.lifecycle.is_final:
            await recorded(durable)

    # Lists

    async def page(self, wanted: Wanted, limit: int, elsewhere: Iterable[Listed] = ()) -> list[Listed]:
        """The first executions that are wanted, in memory here or `elsewhere` or on disk, in order of creation."""
        journal = self._durable.journal
        on_disk = await in_thread(self._threads, lambda: journal.page(wanted, limit))
        # Memory is asked last, and believed where the disk knew of an execution that has ended since.
        in_memory = self._in_memory(wanted, limit)
        return await self._told(oldest(on_disk, [*elsewhere, *in_memory], wanted, limit))

    async def newest_of(self, task: Task, limit: int, elsewhere: Iterable[Listed] = ()) -> list[Listed]:
        """A task's newest executions, in memory here or `elsewhere` or on disk, newest first."""
        journal = self._durable.journal
        on_disk = await in_thread(self._threads, lambda: journal.newest_of(task.id, limit))
        return await self._told(newest(on_disk, [*elsewhere, *self._newest_in_memory(task, limit)], limit))

    async def page_in_memory(self, wanted: Wanted, limit: int) -> list[Listed]:
        """All that wait or run here and are wanted, and the first so many of those that ended, in no order."""
        return await self._told(list(filter(wanted.fits, self._in_memory(wanted, limit))))

    async def newest_in_memory(self, task: Task, limit: int) -> list[Listed]:
        """A task's executions that wait or run here, and the newest that ended, in no order."""
        return await self._told(self._newest_in_memory(task, limit))

    def _in_memory(self, wanted: Wanted, limit: int) -> list[Listed]:
        untold = self._untold()
        known = self._host.executions.page(wanted, limit + len(untold))
        return [*untold.values(), *_without(untold, known)]

    def _newest_in_memory(self, task: Task, limit: int) -> list[Listed]:
        untold = {number: each for number, each in self._untold().items() if each.task is task}
        active, records = self._host.executions.of_task(task, limit + len(untold))
        return [*untold.values(), *_without(untold, [*active, *records])]

    async def totals(self, task_id: str = "") -> list[TaskTotal]:
        """What the disk knows that tasks have done, or one of them."""
        return await in_thread(self._threads, lambda: self._durable.journal.task_totals(task_id))

    def _untold(self) -> dict[int, Execution]:
        return {each.sequence: each for each in self._durable.untold()}

    async def _told(self, found: list[Listed]) -> list[Listed]:
        """A list that tells of no end that belongs on disk and is not there: for now, that execution still runs."""
        for each in found:
            if isinstance(each, ExecutionRecord):
                with contextlib.suppress(JournalFailed):
                    await self.settled(each.execution_id)
        untold = self._untold()
        return [untold.get(each.sequence, each) for each in found]


def _without(untold: Mapping[int, Execution], found: Iterable[Listed]) -> list[Listed]:
    return [each for each in found if each.sequence not in untold]


def _check_same(key: str, digest: bytes, other: bytes) -> None:
    if digest != other:
        raise in_use(key)


async def _record_of(durable: DurableExecution) -> ExecutionRecord:
    record = await recorded(durable)
    if record is None:
        raise left_to_the_next(durable.execution)
    return record


def _accepted_response(execution: Execution, result: pb.ExecutionResult) -> pb.InvokeFunctionResponse:
    return pb.InvokeFunctionResponse(
        success=True,
        message=f"accepted; {LEFT}" if execution.is_left else "accepted",
        execution_id=execution.id,
        task_id=execution.task.id,
        instance_id=execution.sandbox_id,
        result=result,
        status_endpoint=f"executions/{execution.id}",
    )
