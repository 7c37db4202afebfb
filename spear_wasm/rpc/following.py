"""What a guest logs, sent to whoever follows as it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import grpc

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ReaderStalled
from spear_wasm.execution.execution import Execution
from spear_wasm.rpc.executions import left_to_the_next

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from spear_wasm.execution.listing import Known

Context: TypeAlias = "grpc.aio.ServicerContext[object, pb.FollowLogResponse]"


async def send_log(execution: Known, context: Context, unread_seconds: float) -> None:
    """Send all that an execution has logged so far, and what it logs until it has ended.

    Raises:
        ServerDraining: the server shuts down first; the execution is kept.
        ReaderStalled: the follower has read nothing for `unread_seconds`.
        asyncio.CancelledError: the follower has hung up.
    """
    async for part in _parts(execution):
        await _send(part, context, unread_seconds)


async def relay_log(
    parts: AsyncIterable[pb.FollowLogResponse], context: Context, unread_seconds: float
) -> bool:
    """Send a follower what another worker sends; returns at its end, which is always one.

    Raises:
        ReaderStalled, asyncio.CancelledError: as `send_log` does.
    """
    async for part in parts:
        await _send(part, context, unread_seconds)
    return True


async def _send(part: pb.FollowLogResponse, context: Context, unread_seconds: float) -> None:
    try:
        await asyncio.wait_for(context.write(part), unread_seconds)
    except TimeoutError:
        raise ReaderStalled(f"the log has not been read for {unread_seconds:g} s") from None


async def _parts(execution: Known) -> AsyncIterator[pb.FollowLogResponse]:
    if not isinstance(execution, Execution):
        if execution.usage.stderr:
            yield pb.FollowLogResponse(content=execution.usage.stderr, attempt=execution.attempts)
        return
    news = _News()
    execution.follow(news)
    execution.add_done_callback(lambda _: news())
    try:
        async for part in _parts_so_far(execution, news):
            yield part
    finally:
        execution.unfollow(news)
    if execution.is_left:
        raise left_to_the_next(execution)


async def _parts_so_far(execution: Execution, news: _News) -> AsyncIterator[pb.FollowLogResponse]:
    attempt, sent, ended = 0, 0, False
    while not ended:
        ended = execution.done  # asked first: what was logged before the end is sent below
        if attempt != execution.attempts:
            attempt, sent = execution.attempts, 0
        content = execution.log_from(sent)
        if attempt != execution.attempts:  # another one has begun, and this may be its log
            continue
        if content:
            sent += len(content)
            yield pb.FollowLogResponse(content=content, attempt=attempt)
        elif not ended:
            await news.come()


class _News:
    """Tells the event loop, from any thread, that something is new; once, until somebody has come to look."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._told = False

    def __call__(self) -> None:
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._event.set)

    async def come(self) -> None:
        """Wait for news, and be ready for the next."""
        await self._event.wait()
        self._event.clear()
        self._told = False
