"""kill -9 under load, a hundred times on the same data directory: is an accepted call ever lost, or told two ways?

Callers hand in asynchronous calls, short and long ones, and ask for outcomes of any that were accepted before, until
the server is killed at a moment left to chance. The next server takes over. Every outcome that anybody ever hears of
must be told the same way ever after, and every call that was acknowledged must have one in the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import wrappers_pb2

from bench.figure import Figure
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

KILLS = int(os.environ.get("BENCH_KILLS", "100"))
CALLERS = 4
WATCHERS = 2
LONGEST_LOAD_SECONDS = 0.6
POLL_SECONDS = 0.02
LONG_GUEST = 2_000_000
"""What every fourth call sieves: tens of milliseconds of CPU time, so that some of them run whenever the kill comes."""
UNFINISHED = {pb.EXECUTION_STATUS_PENDING, pb.EXECUTION_STATUS_RUNNING}


@dataclass(slots=True)
class Ledger:
    """What callers have been told."""

    acknowledged: list[str] = field(default_factory=list)
    outcomes: dict[str, bytes] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    begun_again: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    told_two_ways: set[str] = field(default_factory=set)

    def note(self, execution_id: str, answer: pb.GetExecutionStatusResponse) -> None:
        """Compare what is told of an execution with what was told before."""
        if not answer.found:
            self.missing.add(execution_id)
            return
        if answer.result.status in UNFINISHED:
            if execution_id in self.outcomes:
                self.told_two_ways.add(execution_id)
            return
        told = answer.result.SerializeToString(deterministic=True)
        if self.outcomes.setdefault(execution_id, told) != told:
            self.told_two_ways.add(execution_id)
        self.codes[execution_id] = answer.result.error_code
        if "attempts" in answer.result.metrics:
            self.begun_again.add(execution_id)


def measure() -> list[Figure]:
    """Calls that were lost, or that have two outcomes: none of either."""
    ledger, dice = Ledger(), random.Random(9)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with spear_server(directory) as server, Client(server.address) as client:
            for name in ("calc", "sieve"):
                client.upload(FIXTURES / f"{name}.wasm", name=name)
        for _ in range(KILLS):
            with spear_server(directory) as server:
                asyncio.run(_load_until_killed(server, ledger, dice))
        with spear_server(directory) as server:
            asyncio.run(_hear_all_ends(server, ledger))
    lost = [each for each in ledger.acknowledged if each not in ledger.outcomes or each in ledger.missing]
    codes = list(ledger.codes.values())
    return [
        Figure("kills", float(KILLS)),
        Figure("acknowledged calls", float(len(ledger.acknowledged))),
        Figure("of them lost", float(len(lost)), at_most=0),
        Figure("of them told two ways", float(len(ledger.told_two_ways)), at_most=0),
        Figure("of them completed", float(codes.count(""))),
        Figure("of them begun again, since they ran when the server was killed", float(len(ledger.begun_again))),
        Figure("of them lost with their worker, without retries, and told so", float(codes.count("WORKER_LOST"))),
    ]  # fmt: skip


async def _load_until_killed(server: Server, ledger: Ledger, dice: random.Random) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        await stub.InvokeFunction(_call("calc", retries=0))  # from here on it is warm
        working = [asyncio.create_task(_hand_in(stub, ledger, dice)) for _ in range(CALLERS)]
        working += [asyncio.create_task(_watch(stub, ledger, dice)) for _ in range(WATCHERS)]
        await asyncio.sleep(dice.uniform(0.05, LONGEST_LOAD_SECONDS))
        server.process.kill()
        await asyncio.gather(*working)


async def _hand_in(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, ledger: Ledger, dice: random.Random
) -> None:
    while True:
        request = _call("sieve" if dice.random() < 0.25 else "calc", retries=dice.choice([0, 100]))
        request.execution_mode = pb.EXECUTION_MODE_ASYNC
        try:
            answer = await stub.InvokeFunction(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                return
            await asyncio.sleep(POLL_SECONDS)
        else:
            ledger.acknowledged.append(answer.execution_id)


async def _watch(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, ledger: Ledger, dice: random.Random
) -> None:
    while True:
        execution_id = dice.choice(ledger.acknowledged) if ledger.acknowledged else ""
        try:
            answer = await _status(stub, execution_id)
        except grpc.aio.AioRpcError:
            return
        if execution_id:
            ledger.note(execution_id, answer)


async def _hear_all_ends(server: Server, ledger: Ledger) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        for execution_id in ledger.acknowledged:
            answer = await _status(stub, execution_id)
            while answer.found and answer.result.status in UNFINISHED:
                await asyncio.sleep(POLL_SECONDS)
                answer = await _status(stub, execution_id)
            ledger.note(execution_id, answer)


async def _status(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, execution_id: str
) -> pb.GetExecutionStatusResponse:
    return await stub.GetExecutionStatus(
        pb.GetExecutionStatusRequest(execution_id=execution_id, include_result=True)
    )


def _call(artifact: str, *, retries: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id=artifact, max_execution_timeout_ms=300_000),
        function_name="sieve" if artifact == "sieve" else "add",
        context=pb.ExecutionContext(max_retries=retries),
    )
    for value in [LONG_GUEST] if artifact == "sieve" else [20, 22]:
        request.parameters.add().value.Pack(wrappers_pb2.Int32Value(value=value))
    return request
