"""Health and statistics: read when asked for, from the process and from the counters that calls move."""

from __future__ import annotations

import os
import platform
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil

from spear_wasm.api import function_pb2 as pb
from spear_wasm.rpc import convert
from spear_wasm.rpc.convert import saturated

if TYPE_CHECKING:
    from spear_wasm.execution.counters import Tally
    from spear_wasm.execution.task import Task
    from spear_wasm.host import Host

SERVICE_NAME = "spear-wasm-function-service"
MIB = 1 << 20
LATE_TICKS = 5
"""Ticks by which the clock of the guests may be late before that is worth saying."""
LOW_DISK_BYTES = 256 * MIB
LOW_DISK_SHARE = 0.02
FULL_LINE_SHARE = 0.8
MOST_LISTED = 100


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


class Figures:
    """Answers GetHealth and GetStats."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._started = time.monotonic()
        self._process = psutil.Process()
        self._cpu = CpuMeter()

    def health(self, *, details: bool) -> pb.GetHealthResponse:
        """Healthy, or degraded with the reasons."""
        complaints = self._complaints()
        response = pb.GetHealthResponse(
            status="degraded" if complaints else "healthy",
            message="; ".join(complaints) or "all is well",
            uptime_seconds=self._uptime(),
            healthy=not complaints,
        )
        if details:
            response.details.CopyFrom(self._details())
        return response

    def _uptime(self) -> int:
        return int(time.monotonic() - self._started)

    def _complaints(self) -> list[str]:
        tickers = [engine.ticker for engine in self._host.engines.values()]
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

    def _details(self) -> pb.HealthDetails:
        stats = self._host.manager.stats()
        memory = self._memory()
        return pb.HealthDetails(
            active_tasks=saturated(stats.active_tasks),
            running_executions=saturated(stats.running),
            pending_executions=saturated(stats.pending),
            total_memory_used=memory,
            total_executions=stats.tally.ended,
            system_info=self._system_info(),
            service_name=SERVICE_NAME,
            version=version("spear-wasm"),
            uptime_seconds=self._uptime(),
            memory_usage_mb=memory // MIB,
            cpu_usage_percent=self._cpu.percent(),
        )

    def _memory(self) -> int:
        """Resident bytes of this process and of the compilations that it runs."""
        total = self._process.memory_info().rss
        for pid in self._host.compiler.child_pids():
            try:
                total += psutil.Process(pid).memory_info().rss
            except psutil.Error:  # it ended meanwhile
                continue
        return total

    def _system_info(self) -> dict[str, str]:
        pools = self._host.pools.stats()
        return {
            "cpu_count": str(os.cpu_count()),
            "machine": platform.machine(),
            "open_files": str(self._process.num_fds()),
            "platform": platform.system(),
            "pool_busy": str(pools.busy),
            "pool_cold_starts": str(pools.served_new),
            "pool_failed_preparations": str(pools.failed_preparations),
            "pool_hits": str(pools.served_ready),
            "pool_preparing": str(pools.preparing),
            "pool_ready": str(pools.ready),
            "pool_sandbox_seconds": f"{pools.held_seconds:.3f}",
            "python": platform.python_version(),
            "runtimes": ", ".join(self._host.runtimes.names),
            "threads": str(self._process.num_threads()),
            "wasmtime": version("wasmtime"),
        }

    def stats(self, *, tasks: bool, executions: bool, hours: int) -> pb.GetStatsResponse:
        """Counters; those of executions cover the last so many hours, or all since the start."""
        manager = self._host.manager.stats()
        known = self._host.tasks.all()
        memory = self._memory()
        response = pb.GetStatsResponse(
            service_stats=pb.ServiceStats(
                uptime_seconds=self._uptime(),
                total_tasks=saturated(len(known)),
                total_executions=saturated(manager.tally.ended),
                total_memory_used=memory,
                cpu_usage_percent=self._cpu.percent(),
                memory_usage_percent=100.0 * memory / psutil.virtual_memory().total,
            ),
            function_service_stats=pb.FunctionServiceStats(
                task_count=saturated(len(known)),
                execution_count=saturated(manager.tally.ended + manager.running + manager.pending),
                running_executions=saturated(manager.running),
                artifact_count=saturated(self._host.artifacts.counts()[0]),
                instance_count=saturated(manager.sandboxes + self._host.pools.stats().ready),
                successful_executions=saturated(manager.tally.completed),
                failed_executions=saturated(manager.tally.failed),
                average_response_time_ms=manager.tally.average_response_ms,
            ),
        )
        if tasks:
            response.task_stats.CopyFrom(_task_stats(known))
        if executions:
            response.execution_stats.CopyFrom(self._execution_stats(hours))
        return response

    def _execution_stats(self, hours: int) -> pb.ExecutionStats:
        stats = self._host.manager.stats(hours)
        return pb.ExecutionStats(
            running_executions=saturated(stats.running),
            pending_executions=saturated(stats.pending),
            completed_executions=saturated(stats.tally.completed),
            failed_executions=saturated(stats.tally.failed),
            average_execution_time_ms=stats.tally.average_run_ms,
            success_rate_percent=stats.tally.success_percent,
            executions_by_function=_most_called(stats.tally),
        )


def _task_stats(known: list[Task]) -> pb.TaskStats:
    active = sum(bool(task.active) for task in known)
    by_type: dict[str, int] = {}
    for task in known:
        by_type[task.record.runtime] = by_type.get(task.record.runtime, 0) + 1
    busiest = sorted((task for task in known if task.executions), key=lambda task: -task.executions)
    return pb.TaskStats(
        active_tasks=saturated(active),
        idle_tasks=saturated(len(known) - active),
        tasks_by_type=by_type,
        most_active_tasks=[convert.task_info(task, details=False) for task in busiest[:10]],
    )


def _most_called(tally: Tally) -> dict[str, int]:
    """Executions by function name, for the names most called."""
    most = sorted(tally.by_function.items(), key=lambda item: -item[1])[:MOST_LISTED]
    return {name: saturated(count) for name, count in most}
