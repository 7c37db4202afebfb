"""Cold starts against sandbox-seconds held: synthetic traces against no pool, a fixed one, and ones that scale.

The pools are ours; time is simulated, and with it the calls, and the preparation of a sandbox, which takes ten times
as long as a call. Each trace is a panel of results/warm_pool.svg, each way of scaling a line in it, with a point for
each size, or for each time for which a need is remembered (`pool.max_idle`). Down and left is better.

Why `predictive` is the default: where calls have a habit (the daily wave) its line lies below from two minutes on, so
at the five of `pool.max_idle` too: reactive that holds as much has more cold starts, although the two days count in
which the habit is learnt. Below two minutes it is the other way round. Where calls have none, both lines are one, or
nearly: sparse calls that come at the same minutes by chance look like a habit and move the points along the line.
A fixed pool is as good where calls come at one rate for ever and its size is right, and where hardly any cold start
is worth holding at all times what a burst needs. Nothing saves the first calls of a spike that nobody could know of.
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figure import Figure
from bench.in_process import host_with
from bench.servers import FIXTURES
from bench.svg import Line, Panel, Point, drawn
from bench.traces import Trace, all_traces
from spear_wasm.config import InstancePoolConfig
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.limits import Limits
from spear_wasm.pool import Capacity, InstancePool, PoolTerms
from spear_wasm.pool.instance_pool import Prepared
from spear_wasm.pool.scaling import Scaling

PREPARATION_SECONDS = 2.0
CALL_SECONDS = 0.2
UPKEEP_SECONDS = 1.0
CEILING = 64
SIZES = (1, 2, 4, 8, 16)
MEMORIES = (30, 120, 300, 1200)
HABITUAL = "daily wave"
PICTURE = Path(__file__).parent / "results" / "warm_pool.svg"


@dataclass(frozen=True, slots=True)
class Result:
    """How one pool fared with one trace."""

    label: str
    cold: int
    calls: int
    held_seconds: float

    @property
    def cold_percent(self) -> float:
        """Of its calls."""
        return 100 * self.cold / self.calls

    @property
    def held_per_call(self) -> float:
        """Sandbox-seconds."""
        return self.held_seconds / self.calls


class Simulation:
    """A pool, and a clock that jumps from one thing that happens to the next."""

    def __init__(self, linked: LinkedArtifact, limits: Limits, terms: PoolTerms) -> None:
        self.now = 0.0
        self._limits = limits
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        capacity = Capacity(10 * CEILING, 10 * CEILING * limits.max_memory_bytes)
        self._pool = InstancePool(linked, limits, terms, capacity, self._prepare, clock=lambda: self.now)

    def replay(self, trace: Trace, label: str) -> Result:
        """The whole trace."""
        arrivals = iter((*trace.arrivals, trace.seconds + 1.0))
        arrival = next(arrivals)
        for second in range(1, trace.seconds + 1):
            while arrival < second:
                self._go_on_until(arrival)
                self._call()
                arrival = next(arrivals)
            self._go_on_until(second * UPKEEP_SECONDS)
            self._pool.upkeep()
        stats = self._pool.stats()
        self._pool.close()
        self._go_on_until(trace.seconds + PREPARATION_SECONDS + CALL_SECONDS)
        return Result(label, stats.served_new, stats.served_new + stats.served_ready, stats.held_seconds)

    def _go_on_until(self, time: float) -> None:
        while self._agenda and self._agenda[0][0] <= time:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = time

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), action))

    def _prepare(self, _: GuestSandbox, prepared: Prepared) -> None:
        self._after(PREPARATION_SECONDS, lambda: prepared(True))

    def _call(self) -> None:
        sandbox = self._pool.take(self._limits, fresh=False)
        waits = 0.0 if sandbox.prepared else PREPARATION_SECONDS
        self._after(waits + CALL_SECONDS, lambda: self._end(sandbox))

    def _end(self, sandbox: GuestSandbox) -> None:
        self._pool.give_back(sandbox, None)
        sandbox.close()


def ways() -> dict[str, list[tuple[str, PoolTerms]]]:
    """The lines of the picture, and the points on each."""
    fixed = [(str(size), PoolTerms(floor=size, ceiling=size)) for size in SIZES]
    scaled = {
        scaling.value: [
            (f"{memory} s", PoolTerms(ceiling=CEILING, scaling=scaling, max_idle=memory))
            for memory in MEMORIES
        ]
        for scaling in (Scaling.REACTIVE, Scaling.PREDICTIVE)
    }
    return {"fixed": fixed, **scaled}


def measure() -> list[Figure]:
    """Replays everything, draws it, and judges what the default stands on."""
    results: dict[str, dict[str, list[Result]]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), (FIXTURES / "calc.wasm").read_bytes(), "add", (1, 2)) as guest,
    ):
        linked, limits = guest.task.linkages[False].pool.linked, guest.task.limits
        traces = all_traces()
        for trace in traces:
            results[trace.name] = {
                way: [Simulation(linked, limits, terms).replay(trace, label) for label, terms in points]
                for way, points in ways().items()
            }
    PICTURE.write_text(_picture(traces, results), encoding="utf-8")
    return [figure for trace in traces for figure in _figures(trace.name, results[trace.name])]


def _figures(trace: str, results: dict[str, list[Result]]) -> list[Figure]:
    default = MEMORIES.index(int(InstancePoolConfig().max_idle))
    reactive, predictive = results["reactive"][default], results["predictive"][default]
    return [
        Figure(f"{trace}: calls, all cold without a pool", reactive.calls),
        Figure(f"{trace}: cold starts, reactive", reactive.cold_percent, "%"),
        Figure(f"{trace}: cold starts, predictive", predictive.cold_percent, "%"),
        Figure(f"{trace}: held, reactive", reactive.held_per_call, "s a call"),
        Figure(f"{trace}: held, predictive", predictive.held_per_call, "s a call"),
        Figure(
            f"{trace}: cold starts, predictive / reactive that holds as much",
            predictive.cold / _cold_at(results["reactive"], predictive.held_seconds),
            at_most=0.9 if trace == HABITUAL else 1.05,
        ),
    ]


def _cold_at(line: list[Result], held_seconds: float) -> float:
    """Where a line of results lies above a point of the axis; straight between its own, on logarithmic scales."""
    for left, right in itertools.pairwise(line):
        if left.held_seconds <= held_seconds <= right.held_seconds:
            way = math.log(right.held_seconds / left.held_seconds)
            part = math.log(held_seconds / left.held_seconds) / way if way else 0.0
            return left.cold * math.exp(part * math.log(right.cold / left.cold))
    raise ValueError("the line does not reach as far")


def _picture(traces: list[Trace], results: dict[str, dict[str, list[Result]]]) -> str:
    panels = [
        Panel(
            trace.name,
            trace.what,
            [
                Line(way, [Point(each.held_per_call, each.cold_percent, each.label) for each in points])
                for way, points in results[trace.name].items()
            ],
        )
        for trace in traces
    ]
    return drawn(
        "Cold starts against sandbox-seconds held",
        "no pool at all: 100 % cold, nothing held",
        panels,
        across="sandbox-seconds held per call",
        up="cold starts, % of calls",
    )
