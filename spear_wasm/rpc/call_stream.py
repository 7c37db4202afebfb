"""InvokeStream: many calls on one stream, answered as they end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import structlog

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ReaderStalled, ServerDraining, SpearError
from spear_wasm.rpc.edge import Gathering
from spear_wasm.rpc.executions import ended_response
from spear_wasm.rpc.refusals import refusal
from spear_wasm.rpc.status import reported
from spear_wasm.rpc.under_way import UnderWay

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Execution
    from spear_wasm.host import Host
    from spear_wasm.rpc.edge import Conversation
    from spear_wasm.rpc.quick_calls import QuickCalls

log = structlog.get_logger()

Remaining: TypeAlias = Callable[[], "float | None"]
Invoke: TypeAlias = "Callable[[pb.InvokeFunctionRequest, Remaining], Awaitable[pb.InvokeFunctionResponse]]"

METHOD = "InvokeStream"


class Place(NamedTuple):
    """What a request holds of its stream until it is answered."""

    number: int
    size: int


class StreamedCall(NamedTuple):
    """A call that has been read."""

    request: pb.InvokeFunctionRequest
    place: Place
    time_remaining: Remaining

    @property
    def size(self) -> int:
        """The bytes of the request."""
        return self.place.size


class CallStream:
    """One stream of calls.

    A request is begun on the thread that reads it, and answered by the one that ends its execution: to carry it to an
    event loop and back would cost more than a short call. The loop has what has to be waited for. So any thread may
    come here; what the lock guards is done under it, and nothing is asked of the conversation but under it, since
    nothing may be once `run` has returned.

    Requests are read while the calls under way and the answers that nobody has read leave room for more. What the
    `quick_calls` cannot begin at once `invoke` answers.
    """

    def __init__(
        self, quick_calls: QuickCalls, invoke: Invoke, host: Host, conversation: Conversation
    ) -> None:
        self._quick_calls = quick_calls
        self._invoke = invoke
        self._bounds = host.config.call_streams
        self._conversation = conversation
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()  # the loop's
        self._slow_calls: set[asyncio.Task[None]] = set()  # the loop's, too
        self._at_hand = Gathering(self._begin)  # the polling thread's
        self._under_way = UnderWay(host.manager, self._answer_ended)
        self._lock = threading.Lock()
        # guards: all below
        self._answers: deque[bytes] = deque()
        """Those that are to be sent when the one before has been taken."""
        self._sending_since: float | None = None
        """When the answer was sent that has not been taken yet; a time.monotonic() value."""
        self._requests = 0
        self._unanswered = 0
        self._bytes = 0
        self._waits_for_room = False
        self._takes_requests = True
        self._is_hung_up = self._is_closed = False

    async def run(self) -> None:
        """Answer every request.

        Raises:
            ReaderStalled: an answer was not taken for as long as the server waits.
            ServerDraining: the server shuts down before the caller has sent all.
            asyncio.CancelledError: the caller has hung up.
        """
        with self._lock:
            self._read_on()
        try:
            await self._until_over()
        finally:
            self._close()
        if self._is_hung_up:
            raise ServerDraining("the server is shutting down and reads no more calls")

    async def _until_over(self) -> None:
        unread_for = self._bounds.unread_for
        while (patience := unread_for - self._stalled_for()) > 0:
            try:
                async with asyncio.timeout(patience):
                    await self._over.wait()
            except TimeoutError:
                continue
            return
        log.warning("stream of calls given up: its answers were not read")
        raise ReaderStalled(f"an answer was not read for {unread_for:g} s")

    def _stalled_for(self) -> float:
        since = self._sending_since
        return 0.0 if since is None else time.monotonic() - since

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
        for call in self._slow_calls:
            call.cancel()
        self._under_way.close()

    # Requests

    def _read_on(self) -> None:
        """Read the next request if there is room for it. The lock is held."""
        bounds = self._bounds
        self._waits_for_room = self._unanswered >= bounds.max_calls or self._bytes >= bounds.max_bytes
        if not self._waits_for_room and self._takes_requests and not self._is_closed:
            self._conversation.hear(self._on_request)

    def _on_request(self, request: object, size: int) -> None:
        with self._lock:
            if not self._takes_requests:  # it came too late
                return
            if not isinstance(request, pb.InvokeFunctionRequest):  # there are no more
                self._take_no_more()
                return
            self._requests += 1
            self._unanswered += 1
            self._bytes += size
            place = Place(self._requests, size)
            self._read_on()
        self._at_hand.add(StreamedCall(request, place, self._conversation.time_remaining), self._soon)

    def _soon(self, action: Callable[[], None]) -> None:
        with self._lock:
            if not self._is_closed:
                self._conversation.soon(action)

    def _take_no_more(self) -> None:
        self._takes_requests = False
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._takes_requests and not self._unanswered:
            self._loop.call_soon_threadsafe(self._over.set)

    def _begin(self, calls: list[StreamedCall]) -> None:
        for part in self._quick_calls.begin(calls):
            for call, begun in part:
                if begun is None:
                    self._loop.call_soon_threadsafe(self._begin_slowly, call)
                elif isinstance(begun, SpearError):  # it is the end of this call alone
                    self._answer(call.place, refusal(begun))
                elif begun.done:
                    self._answer_ended(call.place, begun)
                else:
                    self._under_way.add(begun, call.place)

    def _begin_slowly(self, call: StreamedCall) -> None:
        """On the loop."""
        if not self._is_closed:
            answering = self._loop.create_task(self._answer_in_time(call))
            self._slow_calls.add(answering)
            answering.add_done_callback(self._slow_calls.discard)

    async def _answer_in_time(self, call: StreamedCall) -> None:
        try:
            answer = await self._invoke(call.request, call.time_remaining)
        except Exception as error:  # noqa: BLE001  it is the end of this call alone
            answer = refusal(reported(error, METHOD))
        self._answer(call.place, answer)

    # Answers

    def _answer_ended(self, place: Place, execution: Execution) -> None:
        try:
            answer = ended_response(execution)
        except Exception as error:  # noqa: BLE001  as above
            answer = refusal(reported(error, METHOD))
        self._answer(place, answer)

    def _answer(self, place: Place, answer: pb.InvokeFunctionResponse) -> None:
        answer.request_number = place.number
        content = answer.SerializeToString()
        with self._lock:
            self._bytes += len(content) - place.size
            self._answers.append(content)
            if self._sending_since is None:
                self._send_next()

    def _send_next(self) -> None:
        """Send an answer, if any waits. The lock is held."""
        if not self._answers or self._is_closed:
            self._sending_since = None
            return
        self._sending_since = time.monotonic()
        answer = self._answers.popleft()
        # It is taken when the caller reads.
        self._conversation.say(answer, lambda: self._on_taken(len(answer)))

    def _on_taken(self, size: int) -> None:
        with self._lock:
            self._unanswered -= 1
            self._bytes -= size
            self._send_next()
            if self._waits_for_room:
                self._read_on()
            self._end_if_over()

    def hang_up(self) -> None:
        """Take no more requests; the stream ends when those that were taken are answered."""
        with self._lock:
            if self._takes_requests:
                self._is_hung_up = True
                self._take_no_more()
