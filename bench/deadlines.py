"""200 hostile guests at once, each with a budget of its own: when does each of them end?

The budget runs from admission. What is judged is the server's own account (queue and run time of the answer, to
the nanosecond of its timestamps); what the client sees on top of that is the burst's way in, and is shown.
Well-behaved guests run beside them.
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
GOOD_CALLS = 100


@dataclass(frozen=True, slots=True)
class Ending:
    """How long after its budget a guest ended, in ms: by the server's account and by the client's clock."""

    server_late: float
    client_late: float


def measure() -> list[Figure]:
    """Lateness in ms."""
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory)) as server:
        with Client(server.address) as client:
            for name in ("hostile", "start_spin", "sieve"):
                client.upload(FIXTURES / f"{name}.wasm", name=name)
        endings, good = asyncio.run(_storm(server.address))
    late = [ending.server_late for ending in endings]
    seen = [ending.client_late for ending in endings]
    return [
        Figure("earliest end after its budget", min(late), "ms", at_least=0.0),
        Figure("99 % end after their budget", percentile(late, 99), "ms", at_most=10.0),
        Figure("half end after their budget", percentile(late, 50), "ms"),
        Figure("half, as the client sees it", percentile(seen, 50), "ms"),
        Figure("99 %, as the client sees it", percentile(seen, 99), "ms"),
        Figure("well-behaved calls that succeeded", 100.0 * good / GOOD_CALLS, "%", at_least=100.0),
    ]


async def _storm(address: str) -> tuple[list[Ending], int]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        # The tasks are made before the storm: that is outside any call's budget.
        for artifact, function in (*HOSTILE, ("sieve", "sieve")):
            await stub.InvokeFunction(_call(artifact, function, 1))
        hostile = (_end_of(stub, number) for number in range(GUESTS))
        endings, good = await asyncio.gather(asyncio.gather(*hostile), _well_behaved(stub))
    return list(endings), good


async def _end_of(stub: function_pb2_grpc.FunctionServiceAsyncStub, number: int) -> Ending:
    artifact, function = HOSTILE[number % len(HOSTILE)]
    budget = FIRST_BUDGET_MS + number * BUDGET_STEP_MS
    start = time.perf_counter()
    result = (await stub.InvokeFunction(_call(artifact, function, budget))).result
    elapsed = (time.perf_counter() - start) * 1e3
    if result.error_code != "TIMEOUT":
        raise RuntimeError(f"{artifact}.{function} ended with {result.error_code or 'a result'}")
    ran = (result.completed_at.ToNanoseconds() - result.started_at.ToNanoseconds()) / 1e6
    return Ending(result.queue_time_ms + ran - budget, elapsed - budget)


async def _well_behaved(stub: function_pb2_grpc.FunctionServiceAsyncStub) -> int:
    answers = [await stub.InvokeFunction(_call("sieve", "sieve", 0)) for _ in range(GOOD_CALLS)]
    return sum(answer.success for answer in answers)


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
