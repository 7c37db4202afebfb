"""InvokeFunction over a socket against grpcio's two servers, asyncio and threaded, that run nothing.

All are asked by h2load, in turns. Ours keeps all its books: counters, records, usage, a JSON log in a file.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import wrappers_pb2
from google.protobuf.message import Message

from bench import h2load
from bench.figure import Figure, median_ratio
from bench.servers import FIXTURES, Server, running, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client

METHOD = "/spearlet.FunctionService/InvokeFunction"
CALLS = 10_000
ROUNDS = 9
WARM_UP_CALLS = 2000
ADDENDS = (wrappers_pb2.Int32Value(value=20), wrappers_pb2.Int32Value(value=22))


@dataclass(frozen=True, slots=True)
class Rounds:
    """What one server did with one kind of request, a figure for each round."""

    calls_per_second: list[float] = field(default_factory=list)
    cpu_us_per_call: list[float] = field(default_factory=list)


def measure() -> list[Figure]:
    """Throughput and CPU time against the null servers, for both forms of the request."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with (
            spear_server(directory) as ours,
            running(["bench.peers.null_server"], directory / "null.log") as null,
            running(["bench.peers.threaded_null_server"], directory / "null.log") as threaded,
            Client(ours.address) as client,
        ):
            client.upload(FIXTURES / "calc.wasm", name="calc")
            task_id = client.call("calc", "add", 20, 22).task_id
            figures: list[Figure] = []
            for form, request in (("existing task", existing_task(task_id)), ("task by its spec", by_spec())):
                servers = {"ours": ours, "asyncio null": null, "threaded null": threaded}
                figures += _compare(form, request, servers, directory / "body", client)
    return figures


def existing_task(
    task_id: str, function: str = "add", values: Sequence[Message] = ADDENDS
) -> pb.InvokeFunctionRequest:
    """A call that names its task."""
    return pb.InvokeFunctionRequest(
        invocation_type=pb.INVOCATION_TYPE_EXISTING_TASK,
        task_id=task_id,
        function_name=function,
        parameters=_parameters(values),
        execution_mode=pb.EXECUTION_MODE_SYNC,
    )


def by_spec() -> pb.InvokeFunctionRequest:
    """A call that brings its task's spec along, as most clients do."""
    return pb.InvokeFunctionRequest(
        invocation_type=pb.INVOCATION_TYPE_NEW_TASK,
        artifact_spec=pb.ArtifactSpec(artifact_id="calc"),
        function_name="add",
        parameters=_parameters(ADDENDS),
        execution_mode=pb.EXECUTION_MODE_SYNC,
    )


def _parameters(values: Sequence[Message]) -> list[pb.FunctionParameter]:
    parameters = [pb.FunctionParameter() for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value.Pack(value)
    return parameters


def _compare(
    form: str, request: pb.InvokeFunctionRequest, servers: dict[str, Server], body: Path, client: Client
) -> list[Figure]:
    rounds = {name: Rounds() for name in servers}

    def ask(name: str, calls: int) -> float:
        return h2load.run(servers[name].address, METHOD, request, calls, body)

    before = completed(client)
    for name in servers:
        ask(name, WARM_UP_CALLS)
    for _ in range(ROUNDS):
        for name, server in servers.items():
            start = server.cpu_seconds()
            rounds[name].calls_per_second.append(ask(name, CALLS))
            rounds[name].cpu_us_per_call.append((server.cpu_seconds() - start) / CALLS * 1e6)
    if completed(client) - before != WARM_UP_CALLS + ROUNDS * CALLS:
        raise RuntimeError("not every call that h2load made was completed")
    ours = rounds.pop("ours")
    ratios = [
        (
            name,
            median_ratio(ours.calls_per_second, null.calls_per_second),
            median_ratio(null.cpu_us_per_call, ours.cpu_us_per_call),
        )
        for name, null in rounds.items()
    ]
    shown: list[tuple[str, Callable[[Rounds], list[float]]]] = [
        ("calls/s", lambda each: each.calls_per_second),
        ("CPU us a call", lambda each: each.cpu_us_per_call),
    ]
    return [
        *(Figure(f"{form}: calls/s, ours / {name}", rate, at_least=0.70) for name, rate, _ in ratios),
        *(Figure(f"{form}: CPU a call, {name} / ours", cpu, at_least=0.70) for name, _, cpu in ratios),
        *(
            Figure(f"{form}: {name}", statistics.median(values(each)), unit)
            for unit, values in shown
            for name, each in {"ours": ours, **rounds}.items()
        ),
    ]


def completed(client: Client) -> int:
    """Executions that the server counts as completed."""
    return client.stats().execution_stats.completed_executions
