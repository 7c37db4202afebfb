"""The same calls one by one, many on a stream, and 256 to a batch: calls per CPU-second of the server.

All are asked for by h2load, in turns within each round, with all books kept; and so is our edge alone, which runs
nothing, for what there is to be saved: a stream can be no cheaper than one of nothing, nor a batch than its sandboxes.
(Twice and eight times were asked for when a call by itself cost 300 us. Calls that come at one time are begun together
now, and one costs half of that.)
What other callers feel of batches is measured with one call after the other, alone and beside batches without a pause
between them.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message

from bench import h2load
from bench.figure import Figure, median_ratio, percentile
from bench.rpc_cost import METHOD, completed, existing_task
from bench.servers import FIXTURES, Server, running, spear_server
from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client

SERVICE = METHOD.rpartition("/")[0]
INPUTS = 256
CALLS = 32 * INPUTS
"""In each way and round: as many as fill a batch for each of h2load's streams."""
ROUNDS = 9
TRICKLE = 300
PAUSE_SECONDS = 0.005


def measure() -> list[Figure]:
    """Ratios of CPU time, and what others feel, in ms."""
    h2load.check_installed()
    with (
        tempfile.TemporaryDirectory() as folder,
        spear_server(Path(folder)) as server,
        running(["bench.peers.our_edge"], Path(folder) / "edge.log") as edge,
        Client(server.address) as client,
    ):
        client.upload(FIXTURES / "calc.wasm", name="calc")
        request = existing_task(client.call("calc", "add", 20, 22).task_id)
        body = Path(folder) / "body"
        return _costs(server, edge, client, request, body) + _latencies(server, request, body)


def _costs(
    server: Server, edge: Server, client: Client, request: pb.InvokeFunctionRequest, body: Path
) -> list[Figure]:
    def ask(asked: Server, method: str, message: Message, requests: int, times: int = 1) -> float:
        start = asked.cpu_seconds()
        h2load.run(asked.address, f"{SERVICE}/{method}", message, requests, body, times=times)
        return (asked.cpu_seconds() - start) / CALLS * 1e6

    ours: dict[str, Callable[[], float]] = {
        "unary": lambda: ask(server, "InvokeFunction", request, CALLS),
        "stream": lambda: ask(server, "InvokeStream", request, CALLS // INPUTS, INPUTS),
        "batch": lambda: ask(server, "InvokeBatch", batch_of(request), CALLS // INPUTS),
    }
    ways = ours | {
        "unary, of nothing": lambda: ask(edge, "InvokeFunction", request, CALLS),
        "stream, of nothing": lambda: ask(edge, "InvokeStream", request, CALLS // INPUTS, INPUTS),
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    before = completed(client)
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            costs[name].append(way())
    if completed(client) - before != len(ours) * (ROUNDS + 1) * CALLS:
        raise RuntimeError("not every call that h2load made was completed")
    return [
        Figure(
            "calls per CPU-second, stream / unary",
            median_ratio(costs["unary"], costs["stream"]),
            at_least=2.0,
        ),
        Figure(
            f"calls per CPU-second, batch of {INPUTS} / unary",
            median_ratio(costs["unary"], costs["batch"]),
            at_least=8.0,
        ),
        *(Figure(f"{name}: CPU a call", statistics.median(each), "us") for name, each in costs.items()),
    ]


def batch_of(request: pb.InvokeFunctionRequest) -> pb.InvokeBatchRequest:
    """So many times the same as in one request."""
    shared = pb.InvokeFunctionRequest()
    shared.CopyFrom(request)
    shared.ClearField("parameters")
    return pb.InvokeBatchRequest(
        call=shared, inputs=[pb.BatchInput(parameters=request.parameters) for _ in range(INPUTS)]
    )


def _latencies(server: Server, request: pb.InvokeFunctionRequest, body: Path) -> list[Figure]:
    alone = _trickle(server, request)
    over = threading.Event()
    batches = threading.Thread(target=_keep_asking, args=(server, batch_of(request), body, over))
    batches.start()
    try:
        beside = _trickle(server, request)
    finally:
        over.set()
        batches.join()
    return [
        Figure(f"{percent} % of single calls {where} take", percentile(times, percent), "ms")
        for where, times in (("alone", alone), ("beside batches", beside))
        for percent in (50, 99)
    ]


def _keep_asking(server: Server, request: Message, body: Path, over: threading.Event) -> None:
    while not over.is_set():
        h2load.run(server.address, f"{SERVICE}/InvokeBatch", request, CALLS // INPUTS, body)


def _trickle(server: Server, request: pb.InvokeFunctionRequest) -> list[float]:
    took = []
    with Client(server.address) as client:
        for _ in range(TRICKLE):
            start = time.perf_counter()
            client.call_task(request.task_id, request.function_name, 20, 22)
            took.append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE_SECONDS)
    return took
