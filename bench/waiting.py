"""10,000 executions that wait in a host call at once, on one worker, until their time is up."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psutil

from bench.figure import Figure, percentile
from bench.in_process import host_on
from bench.servers import FIXTURES
from spear_wasm.config import Config
from spear_wasm.config_sources import parse_config
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.fiber import FiberState
from spear_wasm.execution.stream import MessageStream
from spear_wasm.execution.task import ArtifactSpec, Task
from spear_wasm.host import Host
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionMode, ExecutionStatus, Parameter

WAITING = int(os.environ.get("BENCH_WAITING", "10000"))
BUDGET_SECONDS = 20.0
MOST_KIB_EACH = 25.0
MOST_SECONDS_LATE = 2.0


def measure() -> list[Figure]:
    """What each one costs, and how late the last of them is ended."""
    with (
        tempfile.TemporaryDirectory() as directory,
        host_on(Path(directory), _config(), (FIXTURES / "emitter.wasm").read_bytes()) as host,
    ):
        task = _task(host)
        _wait_for_end([_start(host, task, seconds=0.1) for _ in range(100)])
        before = psutil.Process().memory_info().rss
        begun = time.monotonic()
        executions = [_start(host, task, BUDGET_SECONDS) for _ in range(WAITING)]
        while not all(map(_is_waiting, executions)):
            if any(execution.done for execution in executions):
                raise RuntimeError("they do not all wait at once")
            time.sleep(0.01)
        started = time.monotonic() - begun
        each = (psutil.Process().memory_info().rss - before) / 1024 / WAITING
        cpu = time.process_time()
        time.sleep(max(0.0, executions[0].deadline - time.monotonic() - 1.0))
        cpu = time.process_time() - cpu
        _wait_for_end(executions)
    late = [(execution.ended or 0.0) - execution.deadline for execution in executions]
    return [
        Figure("executions that wait at once", WAITING),
        Figure("until all of them do", started, "s"),
        Figure("resident memory each", each, "KiB", at_most=MOST_KIB_EACH),
        Figure("CPU of the process while they wait", cpu, "s"),
        Figure("ended later than its time, p50", percentile(late, 50), "s"),
        Figure("ended later than its time, the last", max(late), "s", at_most=MOST_SECONDS_LATE),
    ]


def _config() -> Config:
    return parse_config(
        {
            "execution": {"max_running": WAITING, "max_pending": WAITING, "max_total_memory": "4GiB"},
            "engine": {"sandboxes": WAITING + 10},
            "pool": {"max_ready": 1, "max_ready_per_task": 1},
            "default_limits": {"max_memory": "64KiB", "max_concurrency": WAITING},
            "ceiling": {"max_memory": "1MiB", "max_concurrency": WAITING},
        }
    )


def _task(host: Host) -> Task:
    task = host.registration.register(
        ArtifactSpec(artifact_id="bench", resource_limits=ResourceLimits(max_concurrency=WAITING))
    )
    host.registration.link(task, metered=False)
    return task


def _start(host: Host, task: Task, seconds: float) -> Execution:
    """An execution that emits for a reader who does not read, and so waits."""
    call = Call(
        task,
        "emit_forever",
        [Parameter(4)],
        budget_ms=seconds * 1000,
        mode=ExecutionMode.STREAM,
        stream=MessageStream(max_messages=1, max_bytes=4),
    )
    return host.manager.submit(call, on_the_spot=True)


def _is_waiting(execution: Execution) -> bool:
    return execution.fiber is not None and execution.fiber.state is FiberState.WAITING


def _wait_for_end(executions: list[Execution]) -> None:
    for execution in executions:
        if execution.wait().status is not ExecutionStatus.TIMEOUT:
            raise RuntimeError(f"an execution ended {execution.outcome}")
