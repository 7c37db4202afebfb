"""Guests of a server that all sleep at once: room for them, and how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc


def room_for(guests: int) -> str:
    """The configuration of a server that may have so many at once, and as many that are about to end."""
    return f"""
[execution]
max_running = {2 * guests}
max_pending = {guests}
[engine]
sandboxes = {2 * guests + 10}
[pool]
max_ready = 1
max_ready_per_task = 1
[default_limits]
max_memory = "1MiB"
[ceiling]
max_memory = "1MiB"
"""


async def until_running(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, number: int, is_too_late: Callable[[], bool]
) -> None:
    """Return once so many executions have begun and not ended.

    Raises:
        RuntimeError: `is_too_late` says that there will never be as many.
    """
    while True:
        health = await stub.GetHealth(pb.GetHealthRequest(include_details=True))
        if health.details.running_executions >= number:
            return
        if is_too_late():
            raise RuntimeError(f"some have ended before all {number} ran")
        await asyncio.sleep(0.05)
