"""200 hostile guests at once, each with a budget of its own: when does each of them end?

A budget runs from admission, which the server's answer tells (its start, less its time in the queue). What is
judged is the time from there until the answer has reached the client: both run on this machine, by one clock.
What comes before it, the way of 200 requests into the server at once, is shown. Well-behaved guests run beside
them all the while.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure, percentile
from bench.servers import FIXTURES, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

HOSTILE = (
    ("hostile", "spin"),
    ("hostile", "recurse_forever"),
    ("hostile", "grow_and_fill"),
    ("start_spin", "answer"),
)
GUESTS = 200
FIRST_BUDGET_MS = 100
BUDGET_STEP_MS = 9
ROUNDS = 3
PAUSE_SECONDS = 0.01
"""Between one call of a well-behaved guest and the next."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One hostile guest's end. Times in ms; `late` is what went by after its budget."""

    way_in: float
    late: float
    late_with_answer: float


@dataclass(frozen=True, slots=True)
class Storm:
    """How the hostile guests ended, and how long the well-behaved ones took, those that succeeded."""

    endings: list[Ending]
    calls: int
    succeeded_ms: list[float]


def measure() -> list[Figure]:
    """Lateness in ms, over all rounds."""
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory)) as server:
        with Client(server.address) as client:
            for name in ("hostile", "start_spin", "sieve"):
                client.upload(FIXTURES / f"{name}.wasm", name=name)
        storms = [asyncio.run(_storm(server.address)) for _ in range(ROUNDS)]
    endings = [ending for storm in storms for ending in storm.endings]
    late = [ending.late for ending in endings]
    answered = [ending.late_with_answer for ending in endings]
    way_in = [ending.way_in for ending in endings]
    took = [milliseconds for storm in storms for milliseconds in storm.succeeded_ms]
    return [
        Figure("earliest end after its budget", min(late), "ms", at_least=0.0),
        Figure("99 % are answered after their budget", percentile(answered, 99), "ms", at_most=10.0),
        Figure("half are answered after their budget", percentile(answered, 50), "ms"),
        Figure("99 % end after their budget, in the server", percentile(late, 99), "ms"),
        Figure("way in, half", percentile(way_in, 50), "ms"),
        Figure(
            "well-behaved calls that succeeded",
            100.0 * len(took) / sum(storm.calls for storm in storms),
            "%",
            at_least=100.0,
        ),
        Figure("well-behaved calls, half took", percentile(took, 50), "ms"),
        Figure("well-behaved calls, 99 % took", percentile(took, 99), "ms"),
    ]


async def _storm(address: str) -> Storm:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        # The tasks are made before the storm: that is outside any call's budget.
        for artifact, function in (*HOSTILE, ("sieve", "sieve")):
            await stub.InvokeFunction(_call(artifact, function, 1))
        over = asyncio.Event()
        good = asyncio.create_task(_well_behaved(stub, over))
        endings = await asyncio.gather(*(_end_of(stub, number) for number in range(GUESTS)))
        over.set()
        calls, succeeded = await good
        return Storm(list(endings), calls, succeeded)


async def _end_of(stub: function_pb2_grpc.FunctionServiceAsyncStub, number: int) -> Ending:
    artifact, function = HOSTILE[number % len(HOSTILE)]
    budget = FIRST_BUDGET_MS + number * BUDGET_STEP_MS
    sent = time.time() * 1e3
    result = (await stub.InvokeFunction(_call(artifact, function, budget))).result
    answered = time.time() * 1e3
    if result.error_code != "TIMEOUT":
        raise RuntimeError(f"{artifact}.{function} ended with {result.error_code or 'a result'}")
    admitted = result.started_at.ToNanoseconds() / 1e6 - result.queue_time_ms
    ended = result.completed_at.ToNanoseconds() / 1e6
    return Ending(admitted - sent, ended - admitted - budget, answered - admitted - budget)


async def _well_behaved(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, over: asyncio.Event
) -> tuple[int, list[float]]:
    """Calls one after the other until it is over: how many, and the ms of those that succeeded."""
    calls, succeeded = 0, []
    while not over.is_set():
        start = time.perf_counter()
        answer = await stub.InvokeFunction(_call("sieve", "sieve", 0))
        calls += 1
        if answer.success:
            succeeded.append((time.perf_counter() - start) * 1e3)
        await asyncio.sleep(PAUSE_SECONDS)
    return calls, succeeded


def _call(artifact: str, function: str, budget_ms: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(
            artifact_id=artifact, resource_limits=pb.ResourceLimits(max_memory_bytes=32 << 20)
        ),
        function_name=function,
        context=pb.ExecutionContext(timeout_ms=budget_ms),
    )
    if function == "sieve":
        request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=1000))
    return request
