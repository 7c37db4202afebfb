"""The figures of one process: read when asked for, from the process and from the counters that calls move."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import psutil

from spear_wasm.execution.counters import Tally
from spear_wasm.pool import PoolStats

if TYPE_CHECKING:
    from spear_wasm.host import Host

MIB = 1 << 20
LATE_TICKS = 5
"""Ticks by which the clock of the guests may be late before that is worth saying."""
LOW_DISK_BYTES = 256 * MIB
LOW_DISK_SHARE = 0.02
FULL_LINE_SHARE = 0.8


class CpuMeter:
    """CPU time of this process and of its children that ended, as a share of one core since the last look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _last
        self._last = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        times = os.times()
        return time.monotonic(), times.user + times.system + times.children_user + times.children_system

    def percent(self) -> float:
        """100.0 is one core fully used."""
        with self._lock:
            (then, used_then), self._last = self._last, self._read()
            now, used_now = self._last
        return 100.0 * (used_now - used_then) / (now - then) if now > then else 0.0


def resident_bytes(pid: int) -> int:
    """What a process has in memory; nothing where it has ended meanwhile."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


class WorkerFigures(msgspec.Struct, frozen=True):
    """What one process is and did, at one moment. `worker` is 0 for one that serves alone."""

    worker: int
    pid: int
    uptime: float
    complaints: list[str]
    memory_bytes: int
    cpu_percent: float
    threads: int
    open_files: int
    running: int
    pending: int
    active_tasks: list[str]
    pools: PoolStats
    tally: Tally
    """Since the start."""
    recent: Tally
    """Of the hours that were asked for."""


class Figures:
    """Reads the figures of this process."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._started = time.monotonic()
        self._process = psutil.Process()
        self._cpu = CpuMeter()

    def read(self, hours: int = 0) -> WorkerFigures:
        """All of them; `recent` of the last so many hours, or all since the start."""
        stats = self._host.manager.stats()
        return WorkerFigures(
            worker=self._host.seat.worker,
            pid=self._process.pid,
            uptime=time.monotonic() - self._started,
            complaints=self._complaints(),
            memory_bytes=self._memory(),
            cpu_percent=self._cpu.percent(),
            threads=self._process.num_threads(),
            open_files=self._process.num_fds(),
            running=stats.running,
            pending=stats.pending,
            active_tasks=stats.active_tasks,
            pools=self._host.pools.stats(),
            tally=stats.tally,
            recent=self._host.manager.stats(hours).tally if hours else stats.tally,
        )

    def _complaints(self) -> list[str]:
        tickers = [engine.ticker for engine in self._host.engines.open()]
        found = [
            f"the guests' clock is {ticker.lag * 1000:.1f} ms late"
            for ticker in tickers
            if ticker.lag > LATE_TICKS * ticker.period
        ]
        disk = psutil.disk_usage(str(self._host.data_dir))
        if disk.free < max(LOW_DISK_BYTES, disk.total * LOW_DISK_SHARE):
            found.append(f"the disk of the data directory has {disk.free // MIB} MiB left")
        fullness = self._host.manager.line_fullness
        if fullness >= FULL_LINE_SHARE:
            found.append(f"the line of waiting executions is {fullness:.0%} full")
        return found

    def _memory(self) -> int:
        """Resident bytes of this process and of the compilations that it runs."""
        total = self._process.memory_info().rss
        return total + sum(map(resident_bytes, self._host.compiler.child_pids()))
