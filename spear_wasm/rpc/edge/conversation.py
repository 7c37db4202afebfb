"""An RPC that a coroutine answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import grpc
import structlog

if TYPE_CHECKING:
    from spear_wasm.rpc.edge.core import Metadata, Rpc
    from spear_wasm.rpc.edge.method import Method

log = structlog.get_logger()

Told = TypeVar("Told")

NO_MESSAGE = "the request is not a message of this method"
"""For callers who send bytes that are none."""


class Conversation:
    """What a coroutine hears from its caller, and says: what handlers use of grpc.aio.ServicerContext.

    For the event loop's thread. A coroutine whose caller is gone is cancelled, and so is one that reads from him
    or writes to him then.
    """

    def __init__(self, rpc: Rpc, method: Method) -> None:
        self._rpc = rpc
        self._method = method
        self._loop = asyncio.get_running_loop()
        self._finished = False
        self._task: asyncio.Task[None] | None = None
        self._unless_finished = grpc.StatusCode.CANCELLED, ""

    def begin(self, request: object) -> asyncio.Task[None]:
        """Have the method's coroutine answer; a `request`, where there is one alone."""
        task = self._task = self._loop.create_task(self._run(request))
        task.add_done_callback(lambda _: self._finish_with(*self._unless_finished))
        self._rpc.when_closed(self._on_closed)
        return task

    def _on_closed(self, gone: bool) -> None:  # noqa: FBT001  as core tells it
        if gone:
            self._loop.call_soon_threadsafe(self._give_up)

    async def _run(self, request: object) -> None:
        try:
            await self._answer(request)
        except grpc.aio.AbortError:
            return
        except Exception:
            log.exception("call failed by a bug", method=self._rpc.method)
            self._finish_with(grpc.StatusCode.INTERNAL, "the server failed; the cause is in its log")

    async def _answer(self, request: object) -> None:
        method = self._method
        asked = self._messages() if method.takes_stream else request
        answered = method.answer(asked, self)
        if not method.gives_stream:
            response = method.encode(await answered)
            self._finished = True
            self._rpc.finish(response)
            return
        if isinstance(answered, AsyncIterator):
            async for message in answered:
                await self.write(message)
        else:  # it writes by itself
            await answered
        self._finish_with(grpc.StatusCode.OK)

    async def _messages(self) -> AsyncIterator[object]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> object:
        """The caller's next message; grpc.aio.EOF after his last.

        One who breaks off may be told as one who has sent all, and his being gone a moment later.

        Raises:
            asyncio.CancelledError: he is gone.
        """
        heard: asyncio.Future[object] = self._loop.create_future()

        def on_heard(message: object, _: int) -> None:
            told = grpc.aio.EOF if message is None else message
            self._loop.call_soon_threadsafe(_settle, heard, told)

        self.hear(on_heard)
        return await heard

    async def write(self, message: object) -> None:
        """Send a message, and wait until the transport has taken it, which is when the caller reads.

        Raises:
            asyncio.CancelledError: he is gone.
        """
        said: asyncio.Future[None] = self._loop.create_future()

        def on_said() -> None:
            self._loop.call_soon_threadsafe(_settle, said, None)

        self.say(self._method.encode(message), on_said)
        await said

    # The same for those who answer on whatever thread they are on: `read` and `write` cost a way to the loop and back

    def hear(self, heard: Callable[[object, int], None]) -> None:
        """Ask for the caller's next message, and how many bytes it is; None after his last.

        One at a time, on any thread, while the coroutine has not returned. `heard` is called on the polling thread, or
        not at all where he is gone; who breaks off may be told as with `read`.
        """

        def received(message: bytes | None, well: bool) -> None:  # noqa: FBT001  as core tells it
            if not well:
                self._loop.call_soon_threadsafe(self._give_up)
            elif message is None:
                heard(None, 0)
            else:
                try:
                    decoded = self._method.decode(message)
                except Exception:  # noqa: BLE001  each kind of message has errors of its own
                    self._loop.call_soon_threadsafe(self._refuse_message)
                else:
                    heard(decoded, len(message))

        self._rpc.receive(received)

    def say(self, message: bytes, said: Callable[[], None]) -> None:
        """Send a message; `said` is called on the polling thread when the transport has taken it.

        One at a time, on any thread, while the coroutine has not returned.
        """

        def sent(well: bool) -> None:  # noqa: FBT001  as core tells it
            if well:
                said()
            else:
                self._loop.call_soon_threadsafe(self._give_up)

        self._rpc.send(message, sent)

    def soon(self, action: Callable[[], None]) -> None:
        """Have something called on the polling thread, behind what came before; for any thread, as above."""
        self._rpc.soon(action)

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _refuse_message(self) -> None:
        # The RPC is finished when the coroutine has been: until then it may be asked for something.
        self._unless_finished = grpc.StatusCode.INTERNAL, NO_MESSAGE
        self._give_up()

    # How it ends

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the RPC with a status.

        Raises:
            grpc.aio.AbortError: always.
        """
        self._finish_with(code, details, trailing_metadata)
        raise grpc.aio.AbortError

    def time_remaining(self) -> float | None:
        """Seconds that the caller waits yet; None where that has no end."""
        return self._rpc.time_remaining()

    def _finish_with(self, code: grpc.StatusCode, details: str = "", metadata: Metadata = ()) -> None:
        if not self._finished:
            self._finished = True
            self._rpc.finish_with(code, details, metadata)


def _settle(waited_for: asyncio.Future[Told], told: Told) -> None:
    if not waited_for.done():
        waited_for.set_result(told)
