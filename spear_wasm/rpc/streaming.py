"""What a guest emits, sent to its caller as it comes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeAlias

import grpc
import structlog

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ReaderStalled
from spear_wasm.model import TypedValue, ValueType
from spear_wasm.rpc.values import write_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.stream import MessageStream

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[object, pb.StreamExecutionResult]"


async def deliver(
    execution: Execution,
    stream: MessageStream,
    context: Context,
    unread_seconds: float,
    answer: Callable[[], Awaitable[pb.InvokeFunctionResponse]],
) -> None:
    """Send all that an execution emits, then how it ended, which `answer` is asked for.

    A write returns when the transport has taken it, which is when the caller reads.

    Raises:
        ReaderStalled: the caller has not read to the end within `unread_seconds` of the execution's end.
        asyncio.CancelledError: the caller has hung up.
    """
    try:
        async with asyncio.timeout(None) as patience:
            async for message in _messages(execution, stream, patience, unread_seconds):
                await context.write(_chunk(execution.id, message))
            await context.write(_final(await answer()))
    except TimeoutError:
        log.warning("stream given up: its end was not read", execution_id=execution.id)
        raise ReaderStalled(
            f"the execution ended {unread_seconds:g} s ago, and not all that it emitted has been read since",
            execution_id=execution.id,
        ) from None


async def _messages(
    execution: Execution, stream: MessageStream, patience: asyncio.Timeout, unread_seconds: float
) -> AsyncIterator[bytes]:
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def on_end() -> None:
        news.set()
        with contextlib.suppress(RuntimeError):  # nobody waits any more: the caller has hung up
            patience.reschedule(loop.time() + unread_seconds)

    def on_message_anywhere() -> None:
        loop.call_soon_threadsafe(news.set)

    def on_end_anywhere(_: Execution) -> None:
        loop.call_soon_threadsafe(on_end)

    stream.listen(on_message_anywhere)
    execution.add_done_callback(on_end_anywhere)
    ended = False
    while not ended:
        news.clear()
        ended = execution.done  # asked first: what was emitted before the end is taken below
        while (message := stream.take()) is not None:
            yield message
        if not ended:
            await news.wait()


def _chunk(execution_id: str, message: bytes) -> pb.StreamExecutionResult:
    chunk = pb.StreamExecutionResult(execution_id=execution_id, status=pb.EXECUTION_STATUS_RUNNING)
    write_results(chunk.chunk_data, (TypedValue(ValueType.BYTES, message),))
    return chunk


def end_alone(answer: pb.InvokeFunctionResponse) -> pb.StreamExecutionResult:
    """How an execution ended whose messages another caller got."""
    final = _final(answer)
    final.metadata["messages"] = "not kept"
    return final


def _final(answer: pb.InvokeFunctionResponse) -> pb.StreamExecutionResult:
    result = answer.result
    final = pb.StreamExecutionResult(
        execution_id=answer.execution_id,
        status=result.status,
        chunk_data=result.result if result.HasField("result") else None,
        is_final=True,
        error_message=result.error_message,
        metadata={"task_id": answer.task_id, "instance_id": answer.instance_id},
    )
    if result.error_code:
        final.metadata["error_code"] = result.error_code
    result.ClearField("result")  # which may be large, and is in the message already
    final.result.CopyFrom(result)
    return final
