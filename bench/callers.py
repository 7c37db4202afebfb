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
from bench.sleepers import room_for, until_running
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

CALLERS = 2000
CHANNELS = 20
TASKS = 10
ASLEEP_SECONDS = 15.0
"""Longer than it takes until all of them wait."""
WARM_UP = 200


def measure() -> list[Figure]:
    """What each of them costs the server."""
    with (
        tempfile.TemporaryDirectory() as directory,
        spear_server(Path(directory), room_for(CALLERS)) as server,
    ):
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
            *(stubs[index % CHANNELS].InvokeFunction(_call(index, 1)) for index in range(WARM_UP))
        )
        before, threads = server.rss(), server.process.num_threads()
        until = time.monotonic() + ASLEEP_SECONDS
        calls = [
            asyncio.create_task(_answered(stubs[index % CHANNELS], index, until)) for index in range(CALLERS)
        ]
        await until_running(stubs[0], CALLERS, lambda: time.monotonic() > until)
        each = (server.rss() - before) / 1024 / CALLERS
        more_threads = server.process.num_threads() - threads
        late = await asyncio.gather(*calls)
    return [
        Figure("callers who wait at once", CALLERS),
        Figure("resident memory each", each, "KiB", at_most=60),
        Figure("threads more for each", more_threads / CALLERS, at_most=0.01),
        Figure("answered later than its time, 99 %", percentile(late, 99), "s"),
    ]


async def _answered(stub: function_pb2_grpc.FunctionServiceAsyncStub, index: int, until: float) -> float:
    """Seconds between a guest's time and its caller's answer."""
    answer = await stub.InvokeFunction(_call(index, max(1, round((until - time.monotonic()) * 1000))))
    if not answer.success:
        raise RuntimeError(answer.message)
    return time.monotonic() - until


def _call(index: int, milliseconds: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        task_name=f"task {index % TASKS}",
        artifact_spec=pb.ArtifactSpec(artifact_id="host_calls", max_execution_timeout_ms=60_000),
        function_name="sleep",
        execution_mode=pb.EXECUTION_MODE_SYNC,
    )
    request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=milliseconds))
    return request
