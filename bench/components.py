"""A component's function of a list of records, in a fresh sandbox for each call, against wasmtime's own Python objects.

Ours: a sandbox with its limits armed, instance, arguments laid out, call, result, usage read, sandbox closed. Theirs:
store, instance, function looked up, called, nothing else: no limits, no clock, no way to end it. Then 10,000 guests
that wait in a host call.
"""

from __future__ import annotations

import collections
import os
import statistics
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace

import psutil
import wasmtime
from wasmtime.component import Component, Linker

from bench.figure import Figure, median_ratio
from bench.in_process import Guest, host_with
from bench.sandbox_cost import microseconds, sandbox_call
from spear_wasm.component_world import ComponentWorld
from spear_wasm.config import CompileConfig, Config
from spear_wasm.engine.compiler import Compiler
from spear_wasm.engine.components.host_functions import ComponentFunction
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.engine import Engine
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.engine.ticker import Pace
from spear_wasm.engine.wait import Wait

CALC = Path(__file__).parents[1] / "fixtures" / "components" / "calc.wasm"
INTERFACE, FUNCTION = "lab:calc/shapes@0.1.0", "move-all"
POINTS = 10
ROUNDS = 15
CALLS = 1000
WAITING = int(os.environ.get("BENCH_WAITING", "10000"))
SLEEPER = """(component
  (import "bench:host/sleep" (func $sleep))
  (core func $sleep_ (canon lower (func $sleep)))
  (core module $guest
    (import "host" "sleep" (func $sleep))
    (memory 1)
    (func (export "run") (i32.store (i32.const 0) (i32.const 1)) (call $sleep)))
  (core instance $i (instantiate $guest (with "host" (instance (export "sleep" (func $sleep_))))))
  (func (export "run") (canon lift (core func $i "run"))))"""


def measure() -> list[Figure]:
    """Microseconds a call, their ratio within rounds, and what a guest costs that waits."""
    points = ", ".join(f'{{"x": {number}, "y": {number}}}' for number in range(POINTS))
    arguments = (f"[{points}]", '{"x": 1, "y": 2}')
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), CALC.read_bytes(), f"{INTERFACE}#{FUNCTION}", arguments) as guest,
    ):
        ways = _ways(guest)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, call in ways.items():
                times[name].append(microseconds(call, CALLS))
    ours, theirs = times["our fresh sandbox"], times["wasmtime's objects, fresh"]
    return [
        Figure("our fresh sandbox / wasmtime's objects, fresh", median_ratio(ours, theirs), at_most=1.2),
        *(Figure(name, statistics.median(rounds), "us a call") for name, rounds in times.items()),
        *_of_those_that_wait(),
    ]


def _ways(guest: Guest) -> dict[str, Callable[[], object]]:
    return {
        "our fresh sandbox": lambda: sandbox_call(guest, metered=False),
        "wasmtime's objects, fresh": _with_their_objects(),
        "through the manager": guest.call,
    }


def _with_their_objects() -> Callable[[], object]:
    engine = wasmtime.Engine()
    component, linker = Component.from_file(engine, str(CALC)), Linker(engine)
    points = [SimpleNamespace(x=number, y=number) for number in range(POINTS)]
    by = SimpleNamespace(x=1, y=2)

    def call() -> object:
        store = wasmtime.Store(engine)
        instance = linker.instantiate(store, component)
        interface = instance.get_export_index(store, INTERFACE)
        index = instance.get_export_index(store, FUNCTION, interface)
        assert index is not None
        function = instance.get_func(store, index)
        assert function is not None
        return function(store, points, by)

    return call


def _of_those_that_wait() -> list[Figure]:
    settings = EngineSettings(
        metered=False, max_memory_bytes=1 << 20, memory_reservation=1 << 20, max_table_elements=10_000,
        wasm_stack_bytes=512 << 10, sandboxes=WAITING,
    )  # fmt: skip
    limits = Config().default_limits.limits()
    with tempfile.TemporaryDirectory() as directory:
        wasm, code = Path(directory) / "sleeper.wasm", Path(directory) / "sleeper.cwasm"
        wasm.write_bytes(wat_to_wasm(SLEEPER))
        module = Compiler(settings, settings, CompileConfig()).compile(wasm, code, metered=False).module
        engine = Engine(settings, 0.001)
        waits: list[Wait] = []
        sleep = ComponentFunction("", "bench:host/sleep", "func()", _sleep(waits), waits=True)
        linked = engine.link(code, module, ComponentWorld("bench", [sleep]).needed_by(module))
    before = psutil.Process().memory_info().rss
    guests = []
    for number in range(WAITING):
        sandbox = linked.new_sandbox(limits)
        assert isinstance(sandbox, ComponentSandbox)
        run = _run(sandbox)
        while len(waits) == number:
            next(run)
        guests.append((sandbox, run))
    each = (psutil.Process().memory_info().rss - before) / 1024 / WAITING
    for wait in waits:
        wait.end()
    for sandbox, run in guests:
        collections.deque(run, maxlen=0)
        sandbox.close()
    engine.close()
    return [
        Figure("guests that wait in a host call at once", WAITING),
        Figure("resident memory of each", each, "KiB", at_most=120),
    ]


def _sleep(waits: list[Wait]) -> Callable[[ComponentSandbox], Generator[Wait, None, None]]:
    def sleep(_sandbox: ComponentSandbox) -> Generator[Wait, None, None]:
        waits.append(Wait())
        yield waits[-1]

    return sleep


def _run(sandbox: ComponentSandbox) -> Generator[None, None, None]:
    sandbox.linked.engine.ticker.begin_slice(Pace.FULL)
    yield from sandbox.instantiate()
    yield from sandbox.call("", "run", ())  # what comes after the wait raises, or it has ended well
