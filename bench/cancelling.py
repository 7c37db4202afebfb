"""500 guests at once, most of them cancelled one after the other: how long does each cancellation take?

A cancellation is timed by its caller, from the request until the answer that tells the final status. The guests
that nobody cancels compute something meanwhile: what they return must be what they return when they are alone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure, percentile
from bench.neighbours import undisturbed
from bench.servers import FIXTURES, spear_server
from bench.sleepers import until_running
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

CANCELLED = 450
SIBLINGS = 50
NUMBERS = 8_000_000
"""What the siblings sieve: tens of milliseconds of CPU time, which they have to share with the others."""
BUDGET_MS = 240_000
CONFIG = '[engine]\nsandboxes = 1200\n[execution]\nmax_running = 800\nmax_total_memory = "8GiB"\n'


def measure() -> list[Figure]:
    """Latencies in ms, and what became of the siblings."""
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory), CONFIG) as server:
        with Client(server.address) as client:
            for name in ("hostile", "sieve"):
                client.upload(FIXTURES / f"{name}.wasm", name=name)
        took, cancelled, unchanged = undisturbed(lambda: asyncio.run(_cancel_most(server.address)), server)
    return [
        Figure("99 % of cancellations are answered within", percentile(took, 99), "ms", at_most=10.0),
        Figure("half of cancellations are answered within", percentile(took, 50), "ms"),
        Figure("the slowest", max(took), "ms"),
        Figure("cancelled executions that say so", 100.0 * cancelled / CANCELLED, "%", at_least=100.0),
        Figure("siblings that end as if alone", 100.0 * unchanged / SIBLINGS, "%", at_least=100.0),
    ]


async def _cancel_most(address: str) -> tuple[list[float], int, int]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        alone = (await stub.InvokeFunction(_call("sieve", "sieve"))).result.result
        spinning = await asyncio.gather(
            *(stub.InvokeFunction(_call("hostile", "spin", asynchronous=True)) for _ in range(CANCELLED))
        )
        siblings = [
            asyncio.ensure_future(stub.InvokeFunction(_call("sieve", "sieve"))) for _ in range(SIBLINGS)
        ]
        # The siblings have too much to do to have ended by then.
        await until_running(stub, CANCELLED + SIBLINGS, lambda: False)
        took, cancelled = [], 0
        for execution in spinning:
            start = time.perf_counter()
            answer = await stub.CancelExecution(
                pb.CancelExecutionRequest(execution_id=execution.execution_id)
            )
            took.append((time.perf_counter() - start) * 1e3)
            cancelled += answer.final_status == pb.EXECUTION_STATUS_CANCELLED
        ends = await asyncio.gather(*siblings)
        return took, cancelled, sum(end.success and end.result.result == alone for end in ends)


def _call(artifact: str, function: str, *, asynchronous: bool = False) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(
            artifact_id=artifact,
            resource_limits=pb.ResourceLimits(max_memory_bytes=8 << 20),
            max_execution_timeout_ms=BUDGET_MS,
        ),
        function_name=function,
    )
    if asynchronous:
        request.execution_mode = pb.EXECUTION_MODE_ASYNC
    if function == "sieve":
        request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=NUMBERS))
    return request
