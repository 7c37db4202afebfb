"""The bridge between executions, which end on any thread, and the event loop of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

from spear_wasm.errors import ExecutionExists, JournalFailed, ServerBusy, ServerDraining
from spear_wasm.execution.durable import DurableExecution
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.manager import TaskExecutionManager
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.rpc.executions import LEFT

Result = TypeVar("Result")


async def ended(execution: Execution) -> None:
    """Wait until an execution has ended."""
    await _told_of(execution.add_done_callback)


async def accepted(durable: DurableExecution) -> None:
    """Wait until the disk has an execution.

    Raises:
        ExecutionExists: another worker was faster with its id.
        JournalFailed: the disk did not take it, and it does not run.
    """
    await _result_of(durable.accepted)


async def recorded(durable: DurableExecution) -> ExecutionRecord | None:
    """The record of an execution, once the disk has it; None where the server shuts down first.

    Raises:
        JournalFailed: the disk has not taken it for long.
    """
    return await _result_of(durable.recorded)


async def _result_of(future: Future[Result]) -> Result:
    # Not `wrap_future`: where nobody waits any more, nobody is there either to take its error.
    if not future.done():
        await _told_of(future.add_done_callback)
    return future.result()


async def _told_of(subscribe: Callable[[Callable[[object], None]], None]) -> None:
    """Wait for the one call of what is subscribed, which comes on any thread."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def on_news(_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    subscribe(on_news)
    await waiter


async def is_kept(durable: DurableExecution) -> bool:
    """Whether the disk has an execution, once that is known; where it has not, it never was one."""
    try:
        await accepted(durable)
    except (ExecutionExists, JournalFailed):
        return False
    return True


LOOK_AGAIN_SECONDS = 0.02
"""How often to look for who has an execution now whose worker has died."""


async def look_again(manager: TaskExecutionManager) -> None:
    """Wait a moment for whoever takes an execution up.

    Raises:
        ServerDraining: nobody will before the server is back.
    """
    if manager.is_draining:
        raise ServerDraining(LEFT)
    await asyncio.sleep(LOOK_AGAIN_SECONDS)


class SharedWork:
    """Blocking work on threads, a bounded number of kinds at once; who asks for what is under way shares it.

    For the event loop's thread only.
    """

    def __init__(self, threads: int, most: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = most
        self._under_way: dict[Hashable, asyncio.Future[object]] = {}

    async def run(self, key: Hashable, work: Callable[[], Result]) -> Result:
        """The result of `work`, or of the work that is under way for `key`.

        It goes on to its end even where all who wait for it are cancelled.

        Raises:
            ServerBusy: too much else is under way.
        """
        future = self._under_way.get(key)
        if future is None:
            if len(self._under_way) >= self._most:
                raise ServerBusy("too many calls wait for their tasks to be made", retry_after=1.0)
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
            self._under_way[key] = future
            future.add_done_callback(lambda ended: self._forget(key, ended))
        return cast("Result", await asyncio.shield(future))

    def _forget(self, key: Hashable, ended: asyncio.Future[object]) -> None:
        del self._under_way[key]
        if not ended.cancelled():
            ended.exception()  # whoever waited has it; where nobody does any more, it is nobody's

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._threads.shutdown(cancel_futures=True)


async def in_thread(threads: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
    """Run what blocks on one of these threads. It goes on to its end even where the waiting is cancelled."""
    return await asyncio.get_running_loop().run_in_executor(threads, work)
