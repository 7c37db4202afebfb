"""GetExecutionStatus and ListExecutions on a server that keeps a thousand executions, and on one that keeps a million.

The executions are on disk, written by the journal itself; half of them failed, and they are of ten tasks. The larger
server's memory is full of executions, too. What is asked for is never the same twice. Both are asked in turns.
"""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from bench.figure import Figure, median_ratio
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client
from spear_wasm.engine.outcome import failure
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.storage import Accepted, Retention, SqliteJournal, StoredCall
from spear_wasm.limits import UNSAID
from spear_wasm.model import ErrorCode, ExecutionMode, ExecutionStatus, Outcome, TypedValue, Usage, ValueType

FEW = 1000
MANY = int(os.environ.get("BENCH_RECORDS", "1000000"))
REMEMBERED = {FEW: 1000, MANY: 10_000}
TASKS = 10
ROUNDS = 7
STATUS_CALLS = 500
LIST_CALLS = 60
BATCH = 500
CONFIG = '[execution]\nmax_stored = 2000000\nmax_stored_bytes = "64GiB"\n'

CALL = StoredCall(
    "answer", ExecutionMode.ASYNC, [], UNSAID, 0, force_new_instance=False, priority=5, max_retries=0
).packed()

Stub: TypeAlias = function_pb2_grpc.FunctionServiceStub
Ask: TypeAlias = Callable[[Stub], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A server, how many executions it keeps, and the tasks that they are of."""

    server: Server
    stub: Stub
    number: int
    tasks: list[str]


def measure() -> list[Figure]:
    """Ratios of the server's CPU time for a call, and of the time in which it is answered."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closings:
        few, many = (closings.enter_context(_keeping(Path(folder), number)) for number in (FEW, MANY))
        kinds = _kinds()
        figures: list[Figure] = []
        for name, (calls, make) in kinds.items():
            cpu: dict[int, list[float]] = {FEW: [], MANY: []}
            took: dict[int, list[float]] = {FEW: [], MANY: []}
            for turn in range(ROUNDS + 1):
                for kept in (few, many):
                    asks = [make(kept) for _ in range(calls)]
                    cpu_us, times = _ask(kept, asks)
                    if turn:  # the first one warms up
                        cpu[kept.number].append(cpu_us)
                        took[kept.number].append(statistics.median(times))
            figures += [
                Figure(f"{name}: CPU, many / few", median_ratio(cpu[MANY], cpu[FEW]), at_most=2.0),
                Figure(f"{name}: answered, many / few", median_ratio(took[MANY], took[FEW]), at_most=2.0),
                Figure(f"{name}: with many", statistics.median(cpu[MANY]), "CPU us a call"),
            ]
    return figures


def _kinds() -> dict[str, tuple[int, Callable[[Kept], Ask]]]:
    dice = random.Random(1)

    def status(kept: Kept) -> Ask:
        request = pb.GetExecutionStatusRequest(
            execution_id=_id_of(dice.randrange(1, kept.number + 1)), include_result=True
        )
        return lambda stub: _check(stub.GetExecutionStatus(request).found)

    def listed(**fields: object) -> Callable[[Kept], Ask]:
        def make(kept: Kept) -> Ask:
            asked = dict(fields)
            if "task_id" in asked:
                asked["task_id"] = dice.choice(kept.tasks)
            after = dice.randrange(kept.number // 2)
            request = pb.ListExecutionsRequest(start_after=f"@{after + 1}", **asked)  # type: ignore[arg-type]
            return lambda stub: _check(bool(stub.ListExecutions(request).executions))

        return make

    failed = pb.EXECUTION_STATUS_FAILED
    return {
        "GetExecutionStatus": (STATUS_CALLS, status),
        "ListExecutions": (LIST_CALLS, listed(limit=40)),
        "ListExecutions of a task": (LIST_CALLS, listed(limit=40, task_id="")),
        "ListExecutions by status": (LIST_CALLS, listed(limit=40, status_filter=failed)),
        "ListExecutions of a task by status": (
            LIST_CALLS,
            listed(limit=20, task_id="", status_filter=failed),
        ),
    }


def _check(answered: bool) -> None:
    if not answered:
        raise RuntimeError("an answer was empty")


def _ask(kept: Kept, asks: list[Ask]) -> tuple[float, list[float]]:
    """CPU time of the server for each, and how long each took."""
    before, times = kept.server.cpu_seconds(), []
    for ask in asks:
        start = time.perf_counter()
        ask(kept.stub)
        times.append(time.perf_counter() - start)
    return (kept.server.cpu_seconds() - before) / len(asks) * 1e6, times


@contextmanager
def _keeping(folder: Path, number: int) -> Iterator[Kept]:
    """A server that keeps so many executions."""
    directory = folder / str(number)
    directory.mkdir()
    with spear_server(directory, CONFIG) as server, Client(server.address) as client:
        client.upload(FIXTURES / "calc.wasm", name="calc")
        tasks = [_task(server, f"task {number}") for number in range(TASKS)]
    _fill(directory / "data" / "executions.db", number, tasks)
    with spear_server(directory, CONFIG) as server, grpc.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        for call in range(REMEMBERED[number]):
            task_id = tasks[call % TASKS]
            stub.InvokeFunction(pb.InvokeFunctionRequest(task_id=task_id, function_name="answer"))
        yield Kept(server, stub, number, tasks)


def _task(server: Server, name: str) -> str:
    """A new task; returns its id."""
    spec = pb.ArtifactSpec(artifact_id="calc")
    with grpc.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        request = pb.InvokeFunctionRequest(task_name=name, artifact_spec=spec, function_name="answer")
        return stub.InvokeFunction(request).task_id


def _fill(path: Path, number: int, tasks: list[str]) -> None:
    with closing(SqliteJournal(path, Retention(2 * number, 1 << 40, 1e9))) as journal:
        for first in range(1, number + 1, BATCH):
            writes: list[Future[None]] = []
            for sequence in range(first, min(first + BATCH, number + 1)):
                task = tasks[sequence // 2 % TASKS]
                writes.append(journal.accept(Accepted(_id_of(sequence), task, sequence, b"digest", CALL)))
                writes.append(journal.ended(_record(sequence, task)))
            wait(writes)


def _record(sequence: int, task: str) -> ExecutionRecord:
    value = (TypedValue(ValueType.I32, sequence),)
    trap = failure(ErrorCode.TRAP_UNREACHABLE, "the guest executed `unreachable`")
    outcome = Outcome(ExecutionStatus.COMPLETED, value) if sequence % 2 else trap
    at, usage = time.time(), Usage(cpu_ns=10_000, peak_memory_bytes=65536)
    return ExecutionRecord(
        _id_of(sequence), task, "answer", ExecutionMode.ASYNC, sequence, "sandbox", at, at, 0.001, 0.001, outcome, usage
    )  # fmt: skip


def _id_of(sequence: int) -> str:
    """An id as long as ours, in no order either."""
    return "exec-" + hashlib.md5(str(sequence).encode(), usedforsecurity=False).hexdigest()
