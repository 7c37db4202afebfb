"""Our host within this process, with one task to call, its log written where nobody reads it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from spear_wasm.config import Config, LogConfig
from spear_wasm.execution.execution import Call
from spear_wasm.execution.task import ArtifactSpec, Task, TaskFunction
from spear_wasm.host import Host, open_host
from spear_wasm.logs import configure_logs
from spear_wasm.model import ExecutionStatus, Parameter

DEFAULT = Config()


@dataclass(frozen=True, slots=True)
class Guest:
    """A function that is ready to be called, and its arguments."""

    host: Host
    task: Task
    function: TaskFunction
    parameters: list[Parameter]
    environment: Mapping[str, str]
    arguments: object

    def call(self) -> None:
        """One call, all the way through the manager."""
        call = Call(self.task, self.function.name, self.parameters, environment=self.environment)
        execution = self.host.manager.submit(call, on_the_spot=True)
        outcome = execution.outcome if execution.done else execution.wait()
        assert outcome is not None
        if outcome.status is not ExecutionStatus.COMPLETED:
            raise RuntimeError(f"{self.function.name}: {outcome.error_message}")


@contextlib.contextmanager
def host_with(
    directory: Path,
    wasm: bytes,
    function: str,
    arguments: Sequence[int | str | bytes],
    *,
    named: Mapping[str, bytes] = MappingProxyType({}),
    environment: Mapping[str, str] = MappingProxyType({}),
    config: Config = DEFAULT,
) -> Iterator[Guest]:
    """A host with a module, linked for both engines."""
    with host_on(directory, config, wasm) as host:
        task = host.registration.register(ArtifactSpec(artifact_id="bench"))
        for metered in (False, True):
            host.registration.link(task, metered=metered)
        bound = task.function(function)
        parameters = [Parameter(value) for value in arguments]
        parameters += [Parameter(value, name) for name, value in named.items()]
        prepared = bound.binding.arguments(parameters, task.limits, environment)
        yield Guest(host, task, bound, parameters, environment, prepared)


@contextlib.contextmanager
def host_on(directory: Path, config: Config, wasm: bytes) -> Iterator[Host]:
    """A host that has a module under the name `bench`."""
    with _logs_written_nowhere(), open_host(config, directory / "data") as host:
        with host.artifacts.begin_upload("bench", "", "", len(wasm), {}) as upload:
            upload.write(wasm)
            upload.finish()
        yield host


@contextlib.contextmanager
def _logs_written_nowhere() -> Iterator[None]:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        configure_logs(LogConfig(format="json"))
        yield
