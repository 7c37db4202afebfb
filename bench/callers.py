"""2,000 callers who each wait for an answer at once, while their guests sleep in a host call; all are answered."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure, percentile
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

CALLERS = 2000
CHANNELS = 20
TASKS = 10
ASLEEP_SECONDS = 15.0
"""Longer than it takes until all of them wait."""
CONFIG = f"""
[execution]
max_running = {2 * CALLERS}
max_pending = {CALLERS}
[engine]
sandboxes = {2 * CALLERS + 10}
[pool]
max_ready = 1
max_ready_per_task = 1
[default_limits]
max_memory = "1MiB"
max_concurrency = {CALLERS}
[ceiling]
max_memory = "1MiB"
max_concurrency = {CALLERS}
"""


def measure() -> list[Figure]:
    """What each of them costs the server."""
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory), CONFIG) as server:
        with Client(server.address) as client:
            client.upload(FIXTURES / "host_calls.wasm", name="host_calls")
        return asyncio.run(_figures(server))


async def _figures(server: Server) -> list[Figure]:
    async with contextlib.AsyncExitStack() as open_channels:
        options = [("grpc.use_local_subchannel_pool", 1)]
        stubs = [
            function_pb2_grpc.FunctionServiceStub(
                await open_channels.enter_async_context(grpc.aio.insecure_channel(server.address, options))
            )
            for _ in range(CHANNELS)
        ]
        await asyncio.gather(
            *(stubs[index % CHANNELS].InvokeFunction(_call(index, 1)) for index in range(200))
        )
        before, threads = server.rss(), server.process.num_threads()
        until = time.monotonic() + ASLEEP_SECONDS
        calls = [
            asyncio.create_task(_answered(stubs[index % CHANNELS], index, until)) for index in range(CALLERS)
        ]
        while await _running(stubs[0]) < CALLERS:
            if time.monotonic() > until:
                raise RuntimeError("some had ended before all of them waited")
        each = (server.rss() - before) / 1024 / CALLERS
        more_threads = server.process.num_threads() - threads
        late = await asyncio.gather(*calls)
    return [
        Figure("callers who wait at once", CALLERS),
        Figure("resident memory each", each, "KiB", at_most=60),
        Figure("threads more than before", more_threads),
        Figure("answered later than its time, 99 %", percentile(late, 99), "s"),
    ]


async def _answered(stub: function_pb2_grpc.FunctionServiceAsyncStub, index: int, until: float) -> float:
    """Seconds between a guest's time and its caller's answer."""
    answer = await stub.InvokeFunction(_call(index, max(1, round((until - time.monotonic()) * 1000))))
    if not answer.success:
        raise RuntimeError(answer.message)
    return time.monotonic() - until


async def _running(stub: function_pb2_grpc.FunctionServiceAsyncStub) -> int:
    await asyncio.sleep(0.1)
    answer = await stub.GetHealth(pb.GetHealthRequest(include_details=True))
    return int(answer.details.running_executions)


def _call(index: int, milliseconds: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        task_name=f"task {index % TASKS}",
        artifact_spec=pb.ArtifactSpec(artifact_id="host_calls", max_execution_timeout_ms=60_000),
        function_name="sleep",
        execution_mode=pb.EXECUTION_MODE_SYNC,
    )
    request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=milliseconds))
    return request
