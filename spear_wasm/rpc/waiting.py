"""The bridge between executions, which end on any thread, and the event loop of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spear_wasm.execution.execution import Execution

Result = TypeVar("Result")


async def ended(execution: Execution) -> None:
    """Wait until an execution has ended."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def on_end(_: Execution) -> None:
        loop.call_soon_threadsafe(wake)

    execution.add_done_callback(on_end)
    await waiter


async def in_thread(threads: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
    """Run what blocks on one of these threads. It goes on to its end even where the waiting is cancelled."""
    return await asyncio.get_running_loop().run_in_executor(threads, work)
