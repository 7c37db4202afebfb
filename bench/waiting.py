"""10,000 asynchronous executions that wait in a host call at once, on one worker, until their time has come.

They are handed in over the socket, by many tasks: of the places to run, one task never gets all. Of every two one
sleeps until its time and wakes up, the other one would sleep for ever, and is ended when its budget is.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure, percentile
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

WAITING = int(os.environ.get("BENCH_WAITING", "10000"))
TASKS = 10
SPARE = 3.0
"""So many times as long as it should take to hand them in they have until their time: it comes when all wait."""
AT_LEAST_SECONDS = 10.0
LONGEST_SECONDS = 280.0
WARM_UP = 300
UNDER_WAY = 64
"""Requests of the client's at once."""
MOST_KIB_EACH = 25.0
MOST_SECONDS_LATE = 2.0
FOR_EVER_MS = 2**31 - 1
ROOM = WAITING + WAITING // 20
CONFIG = f"""
[execution]
max_running = {ROOM}
max_pending = {WAITING}
max_total_memory = "4GiB"
max_stored = {2 * WAITING}
[engine]
sandboxes = {ROOM + 10}
[pool]
max_ready = 1
max_ready_per_task = 1
[default_limits]
max_memory = "64KiB"
max_concurrency = {WAITING}
[ceiling]
max_memory = "1MiB"
max_concurrency = {WAITING}
"""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An execution that was accepted, and the ms after which it is to end: by itself, or by its budget."""

    execution_id: str
    wakes_up: bool
    milliseconds: int


def measure() -> list[Figure]:
    """What each one costs, and how late the last of them ends."""
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory), CONFIG) as server:
        with Client(server.address) as client:
            client.upload(FIXTURES / "host_calls.wasm", name="host_calls")
        return asyncio.run(_figures(server))


async def _figures(server: Server) -> list[Figure]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        begun = time.monotonic()
        await _hand_in(stub, WARM_UP, begun + 0.5)
        for_each = SPARE * (time.monotonic() - begun) / WARM_UP
        await _until(stub, running=0)
        before, threads = server.rss(), server.process.num_threads()
        begun = time.monotonic()
        over = begun + min(AT_LEAST_SECONDS + WAITING * for_each, LONGEST_SECONDS)
        accepted = await _hand_in(stub, WAITING, over)
        await _until(stub, running=WAITING)
        started = time.monotonic() - begun
        each = (server.rss() - before) / 1024 / WAITING
        more_threads = server.process.num_threads() - threads
        cpu = server.cpu_seconds()
        await asyncio.sleep(over - time.monotonic() - 1.0)
        cpu = server.cpu_seconds() - cpu
        await _until(stub, running=0)
        late = [await _seconds_late(stub, each) for each in accepted]
    return [
        Figure("executions that wait at once", WAITING),
        Figure("until all of them do", started, "s"),
        Figure("resident memory each", each, "KiB", at_most=MOST_KIB_EACH),
        Figure("threads more for each", more_threads / WAITING, at_most=0.01),
        Figure("CPU of the server while they wait", cpu, "s"),
        Figure("ended earlier than its time, the first", -min(late), "s", at_most=0.0),
        Figure("ended later than its time, p50", percentile(late, 50), "s"),
        Figure("ended later than its time, the last", max(late), "s", at_most=MOST_SECONDS_LATE),
    ]


async def _hand_in(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, number: int, over: float
) -> Sequence[Accepted]:
    """So many executions that are all to end at one time."""
    free = asyncio.Semaphore(UNDER_WAY)

    async def one(index: int) -> Accepted:
        async with free:
            wakes_up, milliseconds = index % 2 == 0, max(1, round((over - time.monotonic()) * 1000))
            answer = await stub.InvokeFunction(_call(index % TASKS, wakes_up, milliseconds))
        return Accepted(answer.execution_id, wakes_up, milliseconds)

    return await asyncio.gather(*map(one, range(number)))


def _call(task: int, wakes_up: bool, milliseconds: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        task_name=f"task {task}",
        artifact_spec=pb.ArtifactSpec(artifact_id="host_calls", max_execution_timeout_ms=300_000),
        function_name="sleep",
        execution_mode=pb.EXECUTION_MODE_ASYNC,
        context=pb.ExecutionContext(timeout_ms=0 if wakes_up else milliseconds),
    )
    duration = milliseconds if wakes_up else FOR_EVER_MS
    request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=duration))
    return request


async def _until(stub: function_pb2_grpc.FunctionServiceAsyncStub, *, running: int) -> None:
    while True:
        details = (await stub.GetHealth(pb.GetHealthRequest(include_details=True))).details
        if details.running_executions == running:
            return
        if running and details.total_executions > WARM_UP:
            raise RuntimeError(f"{details.total_executions - WARM_UP} have ended before they all waited")
        await asyncio.sleep(0.1)


async def _seconds_late(stub: function_pb2_grpc.FunctionServiceAsyncStub, accepted: Accepted) -> float:
    request = pb.GetExecutionStatusRequest(execution_id=accepted.execution_id)
    result = (await stub.GetExecutionStatus(request)).result
    expected = pb.EXECUTION_STATUS_COMPLETED if accepted.wakes_up else pb.EXECUTION_STATUS_TIMEOUT
    if result.status != expected:
        raise RuntimeError(f"an execution ended {result.error_code}: {result.error_message}")
    # Its sleep began with the guest, its budget with its admission.
    took = result.completed_at.ToNanoseconds() - result.started_at.ToNanoseconds()
    queued = 0.0 if accepted.wakes_up else result.queue_time_ms / 1000
    return took / 1e9 + queued - accepted.milliseconds / 1000
