"""A host whose tasks run the fixtures, and the few words that tests of it need."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import Config
from spear_wasm.config_sources import parse_config
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.task import ArtifactSpec, Task, TaskFunction
from spear_wasm.host import Host, open_host
from spear_wasm.limits import UNSAID, Limits, ResourceLimits
from spear_wasm.model import Json, Outcome, Parameter, TypedValue
from tests.execution.fake_fibers import PATIENCE
from tests.workshop import wasm_of

STOCK = (
    "big_memory", "calc", "canary", "emitter", "hostile",
    "initialize", "initialize_spin", "initialize_trap", "no_memory", "text",
)  # fmt: skip

_numbers = itertools.count(1)


def upload(artifacts: ArtifactStore, name: str) -> str:
    """Store a fixture under its name; returns its digest."""
    wasm = wasm_of(name)
    with artifacts.begin_upload(name, "1", "", len(wasm), {}) as upload:
        upload.write(wasm)
        artifact, _ = upload.finish()
    return artifact.digest


def ended(execution: Execution) -> Outcome:
    """How it ended; waits for that."""
    over = threading.Event()
    execution.add_done_callback(lambda _: over.set())
    assert over.wait(PATIENCE), f"{execution.id} is {execution.status} still"
    assert execution.outcome is not None
    return execution.outcome


def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.001)


class Guests:
    """A host with the fixtures uploaded, and shorthands for it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.manager = host.manager

    def task(
        self,
        artifact: str = "hostile",
        name: str = "",
        *,
        limits: ResourceLimits = UNSAID,
        ready: int = 0,
        timeout_ms: int = 0,
        **runtime_config: object,
    ) -> Task:
        """A new task, or the one of that name."""
        spec = ArtifactSpec(
            artifact_id=artifact,
            resource_limits=limits,
            runtime_config={"ready_sandboxes": ready, **runtime_config},
            max_execution_timeout_ms=timeout_ms,
        )
        return self.host.registration.register(spec, name or f"task {next(_numbers)}")

    def delete(self, reference: str, *, force: bool, forget_records: bool) -> int:
        """End a task; how many records were forgotten with it."""
        task = self.host.tasks.get(reference)
        return self.host.delete_task(task, force=force, forget_records=forget_records)

    def submit(
        self, task: Task, function: str, *values: Json, on_the_spot: bool = False, **call: Any
    ) -> Execution:
        parameters = [Parameter(value) for value in values]
        return self.manager.submit(Call(task, function, parameters, **call), on_the_spot=on_the_spot)

    def run(self, task: Task, function: str, *values: Json, **call: Any) -> Execution:
        """A call that has ended."""
        execution = self.submit(task, function, *values, **call)
        ended(execution)
        return execution

    def values(
        self, task: Task, function: str, *values: Json, **call: Any
    ) -> tuple[int | float | bytes, ...]:
        """What a call returned."""
        outcome = ended(self.submit(task, function, *values, **call))
        assert outcome.error_code is None, outcome.error_message
        return tuple(value.value for value in outcome.values)

    def spinning(self, task: Task, **call: Any) -> Execution:
        """A call that ends when it is cancelled."""
        return self.submit(task, "spin", **call)

    def cancel(self, *executions: Execution) -> None:
        for execution in executions:
            self.manager.cancel(execution, "the test has seen enough")
        for execution in executions:
            ended(execution)

    def ready_of(self, task: Task) -> int:
        """How many sandboxes the task has ready."""
        return sum(linkage.pool.stats().ready for linkage in task.linkages.values())

    def validate(self) -> None:
        """What must hold whenever nothing waits or runs."""
        manager, tasks = self.manager, self.host.tasks.all()
        until(lambda: not manager.stats().running)  # answers come before what they used is given back
        assert not self.host.executions.active()
        assert manager._admission.is_idle
        assert manager._admission._room.memory_taken == 0
        assert [task.holding.places for task in tasks] == [0] * len(tasks)
        assert [task.active for task in tasks] == [{}] * len(tasks)


@contextmanager
def guests_on(data_dir: Path, config: Config) -> Iterator[Guests]:
    """A host that is drained and closed at the end, and has lost nothing by then."""
    with open_host(config, data_dir) as host:
        guests = Guests(host)
        yield guests
        host.end_executions()
        guests.validate()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("spear-executor")]
    ready = host.registration._pools._capacity
    assert (ready.taken, ready.memory_taken) == (0, 0)


def config_with(**tables: dict[str, Any]) -> Config:
    """The default configuration but for these tables, on two threads and within bounds of known size."""
    execution = {"threads": 2, "max_total_memory": "2GiB", "max_running": 250, **tables.pop("execution", {})}
    pool = {"max_ready": 50, **tables.pop("pool", {})}
    return parse_config({"execution": execution, "pool": pool, "engine": {"sandboxes": 300}, **tables})


class ThreadNames:
    """Stands for a function's binding, and notes on which threads its guests run."""

    def __init__(self, function: TaskFunction) -> None:
        self.seen: list[str] = []
        self.signature = function.binding.signature
        self._binding = function.binding
        function.binding = self

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> object:
        return self._binding.arguments(parameters, limits, environment)

    def steps(self, sandbox: Sandbox, arguments: object) -> Generator[None, None, tuple[TypedValue, ...]]:
        self.seen.append(threading.current_thread().name)
        return (yield from self._binding.steps(sandbox, arguments))
