"""Two tasks on one server, one of which is flooded: what does the other one's caller feel?

The trickle is one call after the other, with a pause between them. It is measured alone, then while the other task
has 40 callers on however few processors there are. Rounds alternate; their ratio is judged.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure, median_ratio, percentile
from bench.neighbours import undisturbed
from bench.servers import FIXTURES, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

CAPACITY = 4
FLOOD = 10 * CAPACITY
ROOM = {"all may run": 500, f"{CAPACITY} may run": CAPACITY}
"""Executions that run at once: all of them, so that they share the processors alone, or a tenth, so that they wait."""
CALLS = 100
ROUNDS = 5
PAUSE_SECONDS = 0.01
NUMBERS = 4_000_000
"""What each call sieves: tens of milliseconds of CPU time, so that the guests are what the server is busy with."""


@dataclass(frozen=True, slots=True)
class Round:
    """What the trickle's calls took in ms, and how many the flood made meanwhile."""

    alone: list[float]
    beside: list[float]
    flooded: int


def measure() -> list[Figure]:
    """Times of the trickle's calls in ms."""
    return [figure for room, running in ROOM.items() for figure in _figures(room, running)]


def _figures(room: str, running: int) -> list[Figure]:
    config = f"[execution]\nmax_running = {running}\n"
    with tempfile.TemporaryDirectory() as directory, spear_server(Path(directory), config) as server:
        with Client(server.address) as client:
            client.upload(FIXTURES / "sieve.wasm", name="sieve")
        rounds = [undisturbed(lambda: asyncio.run(_round(server.address)), server) for _ in range(ROUNDS)]
    alone, beside = ([getattr(each, name) for each in rounds] for name in ("alone", "beside"))
    ratio = median_ratio(
        [percentile(times, 99) for times in beside], [percentile(times, 99) for times in alone]
    )
    return [
        Figure(f"{room}: 99 % of calls beside a flood, in those alone", ratio, at_most=2.0),
        Figure(f"{room}: half of calls alone take", percentile(_flat(alone), 50), "ms"),
        Figure(f"{room}: half of calls beside a flood take", percentile(_flat(beside), 50), "ms"),
        Figure(f"{room}: the flood's calls meanwhile", float(sum(each.flooded for each in rounds))),
    ]


def _flat(rounds: list[list[float]]) -> list[float]:
    return [each for times in rounds for each in times]


async def _round(address: str) -> Round:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        for task in ("trickle", "flood"):
            await stub.InvokeFunction(_call(task))
        alone, over = await _trickle(stub), asyncio.Event()
        callers = [asyncio.create_task(_flood(stub, over)) for _ in range(FLOOD)]
        beside = await _trickle(stub)
        over.set()
        return Round(alone, beside, sum(await asyncio.gather(*callers)))


async def _trickle(stub: function_pb2_grpc.FunctionServiceAsyncStub) -> list[float]:
    took = []
    for _ in range(CALLS):
        start = time.perf_counter()
        answer = await stub.InvokeFunction(_call("trickle"))
        if not answer.success:
            raise RuntimeError(answer.message)
        took.append((time.perf_counter() - start) * 1e3)
        await asyncio.sleep(PAUSE_SECONDS)
    return took


async def _flood(stub: function_pb2_grpc.FunctionServiceAsyncStub, over: asyncio.Event) -> int:
    calls = 0
    while not over.is_set():
        await stub.InvokeFunction(_call("flood"))
        calls += 1
    return calls


def _call(task: str) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        task_name=task, artifact_spec=pb.ArtifactSpec(artifact_id="sieve"), function_name="sieve"
    )
    request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=NUMBERS))
    return request
