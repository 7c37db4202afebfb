"""InvokeStream: many calls on one stream, answered as they end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import grpc
import structlog

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ReaderStalled, ServerDraining
from spear_wasm.rpc.executions import ended_response
from spear_wasm.rpc.refusals import refusal
from spear_wasm.rpc.status import reported

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Execution
    from spear_wasm.host import Host

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[object, pb.InvokeFunctionResponse]"
Remaining: TypeAlias = Callable[[], "float | None"]
BeginAtOnce: TypeAlias = "Callable[[pb.InvokeFunctionRequest, Remaining], Execution | None]"
Invoke: TypeAlias = "Callable[[pb.InvokeFunctionRequest, Remaining], Awaitable[pb.InvokeFunctionResponse]]"

METHOD = "InvokeStream"


class Place(NamedTuple):
    """What a request holds of its stream until it is answered."""

    number: int
    size: int


class CallStream:
    """One stream of calls. For the event loop's thread.

    Requests are read while the calls under way and the answers that nobody has read leave room for more.
    `begin_at_once` gives a request's execution where nothing has to be waited for first, and `invoke` answers any
    other.
    """

    def __init__(self, begin_at_once: BeginAtOnce, invoke: Invoke, host: Host, context: Context) -> None:
        self._begin_at_once = begin_at_once
        self._invoke = invoke
        self._manager = host.manager
        self._bounds = host.config.call_streams
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._executions: dict[Execution, Place] = {}
        self._slow_calls: set[asyncio.Task[None]] = set()
        self._answers: deque[tuple[int, pb.InvokeFunctionResponse]] = deque()
        """Those that are to be written, each with its size."""
        self._requests = 0
        self._unanswered = 0
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._hung_up = False

    async def run(self) -> None:
        """Answer every request.

        Raises:
            ReaderStalled: an answer was not taken for as long as the server waits.
            ServerDraining: the server shuts down before the caller has sent all.
            asyncio.CancelledError: the caller has hung up.
        """
        reading = self._reading = asyncio.create_task(self._read_requests())
        reading.add_done_callback(lambda _: self._has_news.set())
        try:
            await self._write_answers(reading)
        finally:
            self._end_all(reading)
        if self._hung_up:
            raise ServerDraining("the server is shutting down and reads no more calls")
        reading.result()

    def hang_up(self) -> None:
        """Read no more; the stream ends when what was read is answered."""
        self._hung_up = True
        if self._reading is not None:
            self._reading.cancel()

    def _end_all(self, reading: asyncio.Task[None]) -> None:
        reading.cancel()
        for call in self._slow_calls:
            call.cancel()
        executions, self._executions = self._executions, {}
        for execution in executions:
            self._manager.cancel(execution, "the caller went away")

    # Requests

    async def _read_requests(self) -> None:
        while True:
            await self._until_room()
            request = await self._context.read()
            if not isinstance(request, pb.InvokeFunctionRequest):  # there are no more
                return
            self._requests += 1
            place = Place(self._requests, request.ByteSize())
            self._unanswered += 1
            self._bytes += place.size
            self._begin(request, place)

    async def _until_room(self) -> None:
        while self._unanswered >= self._bounds.max_calls or self._bytes >= self._bounds.max_bytes:
            self._has_room.clear()
            await self._has_room.wait()

    def _begin(self, request: pb.InvokeFunctionRequest, place: Place) -> None:
        try:
            execution = self._begin_at_once(request, self._context.time_remaining)
        except Exception as error:  # noqa: BLE001  it is the end of this call alone
            self._answer(place, refusal(reported(error, METHOD)))
            return
        if execution is None:
            call = asyncio.create_task(self._answer_in_time(request, place))
            self._slow_calls.add(call)
            call.add_done_callback(self._slow_calls.discard)
        elif execution.done:
            self._answer(place, ended_response(execution))
        else:
            self._executions[execution] = place
            execution.add_done_callback(self._on_end)

    async def _answer_in_time(self, request: pb.InvokeFunctionRequest, place: Place) -> None:
        try:
            answer = await self._invoke(request, self._context.time_remaining)
        except Exception as error:  # noqa: BLE001  as above
            answer = refusal(reported(error, METHOD))
        self._answer(place, answer)

    def _on_end(self, execution: Execution) -> None:
        """On whatever thread ended it."""
        self._loop.call_soon_threadsafe(self._ended, execution)

    def _ended(self, execution: Execution) -> None:
        place = self._executions.pop(execution, None)
        if place is not None:
            self._answer(place, ended_response(execution))

    # Answers

    def _answer(self, place: Place, answer: pb.InvokeFunctionResponse) -> None:
        answer.request_number = place.number
        size = answer.ByteSize()
        self._bytes += size - place.size
        self._answers.append((size, answer))
        self._has_news.set()

    async def _write_answers(self, reading: asyncio.Task[None]) -> None:
        unread_for = self._bounds.unread_for
        try:
            async with asyncio.timeout(None) as patience:
                while self._unanswered or not reading.done():
                    self._has_news.clear()
                    while self._answers:
                        patience.reschedule(self._loop.time() + unread_for)
                        await self._write(*self._answers.popleft())
                    patience.reschedule(None)
                    if self._unanswered or not reading.done():
                        await self._has_news.wait()
        except TimeoutError:
            log.warning("stream of calls given up: its answers were not read")
            raise ReaderStalled(f"no answer was read for {unread_for:g} s, and more of them wait") from None

    async def _write(self, size: int, answer: pb.InvokeFunctionResponse) -> None:
        # It returns when the transport has taken the answer, which is when the caller reads.
        await self._context.write(answer)
        self._unanswered -= 1
        self._bytes -= size
        self._has_room.set()
