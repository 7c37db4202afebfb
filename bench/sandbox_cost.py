"""One call in a fresh sandbox, in process, against the same work through the bare C API and through wasmtime-py.

Ours: a sandbox with its limits armed, instance, call, outcome and usage read, sandbox closed; on the metered
engine, because the others meter fuel. The whole way through the manager is there to be read.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import wasmtime

from bench.figure import Figure, median_ratio
from bench.in_process import Guest, host_with
from bench.raw_fiber import MODULE, Yardstick
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.ticker import Pace
from spear_wasm.execution.fiber import Fiber, Run
from spear_wasm.execution.task import Linkage
from spear_wasm.model import Outcome, Usage

CALLS = 2000
ROUNDS = 31


def measure() -> list[Figure]:
    """Microseconds a call, and their ratios within rounds."""
    yardstick = Yardstick()
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), bytes(wasmtime.wat2wasm(MODULE)), "add", (20, 22)) as guest,
    ):
        ways: dict[str, Callable[[], object]] = {
            "raw C API": lambda: yardstick.raw_call(20, 22),
            "wasmtime-py classes": lambda: yardstick.class_call(20, 22),
            "our sandbox, metered": lambda: sandbox_call(guest, metered=True),
            "our sandbox, unmetered": lambda: sandbox_call(guest, metered=False),
            "through the manager": guest.call,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, call in ways.items():
                ticking = (
                    yardstick.ticking() if name in {"raw C API", "wasmtime-py classes"} else nullcontext()
                )
                with ticking:
                    times[name].append(microseconds(call))
    ours = times["our sandbox, metered"]
    return [
        Figure("sandbox / raw C API", median_ratio(ours, times["raw C API"]), at_most=1.5),
        Figure(
            "sandbox / wasmtime-py classes", median_ratio(ours, times["wasmtime-py classes"]), at_most=0.35
        ),
        *(Figure(name, statistics.median(rounds), "us a call") for name, rounds in times.items()),
    ]


def microseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """Time of a call, over many."""
    for _ in range(calls // 20):
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def sandbox_call(guest: Guest, *, metered: bool) -> Outcome:
    """One guest from an empty slot to its outcome and usage, without the manager."""
    linkage, limits = guest.task.linkages[metered], guest.task.limits
    sandbox = linkage.pool.take(limits, fresh=True)
    fiber = Fiber(
        sandbox,
        _run(guest, linkage, sandbox),
        deadline=time.monotonic() + limits.max_wall_time_ms / 1000,
        cpu_limit_ms=0,
        on_end=_ended,
        share=guest.task.share,
    )
    outcome = None
    while outcome is None:
        outcome = fiber.run_slice(Pace.SLOW)
    fiber.end(outcome)
    return outcome


def _run(guest: Guest, linkage: Linkage, sandbox: GuestSandbox) -> Run:
    yield from linkage.prepare(sandbox)
    return (yield from guest.function.binding.steps(sandbox, guest.arguments))


def _ended(fiber: Fiber, outcome: Outcome, usage: Usage) -> None:
    fiber.sandbox.close()
