"""Calls at a steady rate while an upload that is a compile bomb is being refused, against calls without it.

Whoever uploads it is a process of its own, as is the server: what it costs the caller's process to make and send ten
megabytes would be taken for something that it costs the calls.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench import modules
from bench.figure import Figure, median_ratio, percentile
from bench.servers import FIXTURES, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client
from spear_wasm.errors import CompileRefused

CONFIG = '[compile]\nmax_cpu_time = "4s"\n'
CALLS_PER_SECOND = 200
SECONDS = 3.0
ROUNDS = 3


def measure() -> list[Figure]:
    """The 99th percentile of the latency, in ms, and its ratio with the bomb to that without."""
    with (
        tempfile.TemporaryDirectory() as directory,
        spear_server(Path(directory), CONFIG) as server,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as uploader,
    ):
        with Client(server.address) as client:
            client.upload(FIXTURES / "calc.wasm", name="calc")
            client.call("calc", "add", 20, 22)
        bombs = [Path(directory) / f"bomb_{number}.wasm" for number in range(ROUNDS)]
        for number, path in enumerate(bombs):
            path.write_bytes(modules.bomb(40_000 + number))
        uploader.submit(time.sleep, 0).result()  # it has started
        quiet, bombed = zip(
            *(asyncio.run(_round(server.address, uploader, path)) for path in bombs), strict=True
        )
    return [
        Figure("p99 with a bomb / without", median_ratio(bombed, quiet), at_most=1.5),
        Figure("p99 without", sorted(quiet)[ROUNDS // 2], "ms"),
        Figure("p99 with a bomb", sorted(bombed)[ROUNDS // 2], "ms"),
    ]


async def _round(address: str, uploader: ProcessPoolExecutor, bomb: Path) -> tuple[float, float]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        await _steady_calls(stub, 0.5)
        quiet = await _steady_calls(stub, SECONDS)
        refused = asyncio.get_running_loop().run_in_executor(uploader, _upload, address, bomb)
        bombed = await _steady_calls(stub, SECONDS)
        if refused.done():
            raise RuntimeError("the bomb was refused before the calls were through")
        await refused
    return percentile(quiet, 99), percentile(bombed, 99)


def _upload(address: str, bomb: Path) -> None:
    with Client(address) as client:
        try:
            client.upload(bomb, name="bomb")
        except CompileRefused:
            return
    raise RuntimeError("the bomb was not refused")


async def _steady_calls(stub: function_pb2_grpc.FunctionServiceAsyncStub, seconds: float) -> list[float]:
    """Latencies in ms. Each call starts when it is due, whatever became of those before it."""
    start = time.perf_counter()
    calls = [
        asyncio.create_task(_call_at(stub, start + number / CALLS_PER_SECOND))
        for number in range(int(seconds * CALLS_PER_SECOND))
    ]
    return list(await asyncio.gather(*calls))


async def _call_at(stub: function_pb2_grpc.FunctionServiceAsyncStub, due: float) -> float:
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    answer = await stub.InvokeFunction(_request())
    if not answer.success:
        raise RuntimeError(answer.message)
    return (time.perf_counter() - due) * 1e3


def _request() -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(artifact_spec=pb.ArtifactSpec(artifact_id="calc"), function_name="add")
    for value in (20, 22):
        request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=value))
    return request
