"""Health and statistics of a server: of one process, or of all of its workers together."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil

from spear_wasm.api import function_pb2 as pb
from spear_wasm.execution.counters import Tally
from spear_wasm.pool import PoolStats
from spear_wasm.rpc.convert import saturated
from spear_wasm.rpc.figures import MIB
from spear_wasm.units import format_duration, format_size

if TYPE_CHECKING:
    from spear_wasm.rpc.figures import WorkerFigures

SERVICE_NAME = "spear-wasm-function-service"
MOST_LISTED = 100


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What a server is and did. The first of `workers` is the one that answers; `silent` gave no figures in time.

    `uptime` is in seconds, `other_memory_bytes` of its processes that are no workers.
    """

    uptime: int
    workers: Sequence[WorkerFigures]
    silent: Sequence[int] = ()
    other_memory_bytes: int = 0

    def sum(self, figure: Callable[[WorkerFigures], int]) -> int:
        """Of all workers."""
        return sum(map(figure, self.workers))

    @property
    def memory_bytes(self) -> int:
        """Resident bytes of all processes. What they share counts for each."""
        return self.other_memory_bytes + self.sum(lambda each: each.memory_bytes)

    @property
    def cpu_percent(self) -> float:
        """100.0 is one core fully used."""
        return sum(each.cpu_percent for each in self.workers)

    @property
    def active_tasks(self) -> int:
        """Tasks with an execution waiting or running anywhere."""
        return len({task_id for each in self.workers for task_id in each.active_tasks})

    @property
    def tally(self) -> Tally:
        """What has ended since the workers started."""
        return _together(each.tally for each in self.workers)

    @property
    def recent(self) -> Tally:
        """What has ended in the hours that were asked for."""
        return _together(each.recent for each in self.workers)

    @property
    def pools(self) -> PoolStats:
        """All pools that keep sandboxes."""
        return sum((each.pools for each in self.workers), PoolStats())

    def complaints(self) -> list[str]:
        """What is not as it should be; and where, if not everywhere."""
        said: dict[str, list[int]] = {}
        for each in self.workers:
            for complaint in each.complaints:
                said.setdefault(complaint, []).append(each.worker)
        found = [
            complaint if len(by) == len(self.workers) else f"worker {', '.join(map(str, by))}: {complaint}"
            for complaint, by in said.items()
        ]
        return found + [f"worker {number} does not answer" for number in self.silent]


def health_response(
    figures: ServerFigures, runtimes: Sequence[str], *, details: bool
) -> pb.GetHealthResponse:
    """Healthy, or degraded with the reasons."""
    complaints = figures.complaints()
    response = pb.GetHealthResponse(
        status="degraded" if complaints else "healthy",
        message="; ".join(complaints) or "all is well",
        uptime_seconds=figures.uptime,
        healthy=not complaints,
    )
    if details:
        response.details.CopyFrom(_health_details(figures, runtimes))
    return response


def _health_details(figures: ServerFigures, runtimes: Sequence[str]) -> pb.HealthDetails:
    return pb.HealthDetails(
        active_tasks=saturated(figures.active_tasks),
        running_executions=saturated(figures.sum(lambda each: each.running)),
        pending_executions=saturated(figures.sum(lambda each: each.pending)),
        total_memory_used=figures.memory_bytes,
        total_executions=figures.tally.ended,
        system_info=_system_info(figures, runtimes),
        service_name=SERVICE_NAME,
        version=version("spear-wasm"),
        uptime_seconds=figures.uptime,
        memory_usage_mb=figures.memory_bytes // MIB,
        cpu_usage_percent=figures.cpu_percent,
    )


def _system_info(figures: ServerFigures, runtimes: Sequence[str]) -> dict[str, str]:
    pools = figures.pools
    info = {
        "cpu_count": str(os.cpu_count()),
        "machine": platform.machine(),
        "open_files": str(figures.sum(lambda each: each.open_files)),
        "platform": platform.system(),
        "pool_busy": str(pools.busy),
        "pool_cold_starts": str(pools.served_new),
        "pool_failed_preparations": str(pools.failed_preparations),
        "pool_hits": str(pools.served_ready),
        "pool_preparing": str(pools.preparing),
        "pool_ready": str(pools.ready),
        "pool_sandbox_seconds": f"{pools.held_seconds:.3f}",
        "python": platform.python_version(),
        "runtimes": ", ".join(runtimes),
        "threads": str(figures.sum(lambda each: each.threads)),
        "wasmtime": version("wasmtime"),
    }
    answering = figures.workers[0].worker
    if answering:
        info |= {"worker": str(answering), "workers": str(len(figures.workers) + len(figures.silent))}
        info |= {f"worker.{each.worker}": _in_a_line(each) for each in figures.workers}
        info |= {f"worker.{number}": "does not answer" for number in figures.silent}
    return info


def _in_a_line(each: WorkerFigures) -> str:
    return (
        f"pid {each.pid}, up {format_duration(int(each.uptime))}, {each.running} running, {each.pending} waiting, "
        f"{each.tally.ended} ended, {format_size(each.memory_bytes)}, {each.cpu_percent:.1f} % of a core"
    )


def service_stats(figures: ServerFigures, tasks: int) -> pb.ServiceStats:
    """The counters that the old clients know."""
    return pb.ServiceStats(
        uptime_seconds=figures.uptime,
        total_tasks=saturated(tasks),
        total_executions=saturated(figures.tally.ended),
        total_memory_used=figures.memory_bytes,
        cpu_usage_percent=figures.cpu_percent,
        memory_usage_percent=100.0 * figures.memory_bytes / psutil.virtual_memory().total,
    )


def function_service_stats(figures: ServerFigures, tasks: int, artifacts: int) -> pb.FunctionServiceStats:
    """Counters since the start."""
    running, tally = figures.sum(lambda each: each.running), figures.tally
    return pb.FunctionServiceStats(
        task_count=saturated(tasks),
        execution_count=saturated(tally.ended + running + figures.sum(lambda each: each.pending)),
        running_executions=saturated(running),
        artifact_count=saturated(artifacts),
        instance_count=saturated(running + figures.pools.ready),
        successful_executions=saturated(tally.completed),
        failed_executions=saturated(tally.failed),
        average_response_time_ms=tally.average_response_ms,
    )


def execution_stats(figures: ServerFigures) -> pb.ExecutionStats:
    """Counters of the hours that were asked for."""
    recent = figures.recent
    return pb.ExecutionStats(
        running_executions=saturated(figures.sum(lambda each: each.running)),
        pending_executions=saturated(figures.sum(lambda each: each.pending)),
        completed_executions=saturated(recent.completed),
        failed_executions=saturated(recent.failed),
        average_execution_time_ms=recent.average_run_ms,
        success_rate_percent=recent.success_percent,
        executions_by_function=_most_called(recent),
    )


def task_stats(infos: Sequence[pb.TaskInfo], runtimes: Iterable[str], active: int) -> pb.TaskStats:
    """How many tasks there are of which kind, and which of them did most."""
    by_type: dict[str, int] = {}
    for runtime in runtimes:
        by_type[runtime] = by_type.get(runtime, 0) + 1
    busiest = sorted((info for info in infos if info.execution_count), key=lambda info: -info.execution_count)
    return pb.TaskStats(
        active_tasks=saturated(active),
        idle_tasks=saturated(len(infos) - active),
        tasks_by_type=by_type,
        most_active_tasks=busiest[:10],
    )


def _together(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _most_called(tally: Tally) -> dict[str, int]:
    """Executions by function name, for the names most called."""
    most = sorted(tally.by_function.items(), key=lambda item: -item[1])[:MOST_LISTED]
    return {name: saturated(count) for name, count in most}
