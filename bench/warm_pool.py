"""Cold starts against sandbox-seconds held: synthetic traces against no pool, a fixed one, and ones that scale.

The pools are ours; time is simulated, and with it the preparation of a sandbox and the calls. Each trace is a panel
of results/warm_pool.svg, each way of scaling a line in it, with a point for each size, or for each time that it
remembers a need. Down is better, left is cheaper: a line below and left of another is the better way.

What the picture shows, and why `predictive` is the default: PLACEHOLDER
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figure import Figure
from bench.in_process import host_with
from bench.servers import FIXTURES
from bench.traces import Trace, all_traces
from spear_wasm.engine.engine import LinkedArtifact
from spear_wasm.engine.sandbox import Sandbox
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


@dataclass(frozen=True, slots=True)
class Result:
    """How one pool fared with one trace."""

    label: str
    cold: int
    calls: int
    held_seconds: float


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

    def _prepare(self, _: Sandbox, prepared: Prepared) -> None:
        self._after(PREPARATION_SECONDS, lambda: prepared(True))

    def _call(self) -> None:
        sandbox = self._pool.take(self._limits, fresh=False)
        waits = 0.0 if sandbox.prepared else PREPARATION_SECONDS
        self._after(waits + CALL_SECONDS, lambda: self._end(sandbox))

    def _end(self, sandbox: Sandbox) -> None:
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
