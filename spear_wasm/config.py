"""The server's configuration: nested frozen values, checked where they are made.

Every key can be set in a file, in the environment and by a flag: see `spear_wasm.config_sources`, which needs
nothing but the fields here. Nothing here opens a socket, starts a log or exits: values that do not go together
raise ConfigurationError naming their keys.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import psutil

from spear_wasm.errors import ConfigurationError
from spear_wasm.limits import Limits


class Size(int):
    """A number of bytes."""


class Seconds(float):
    """A duration."""


Count = Annotated[int, msgspec.Meta(ge=1)]
MIB = 1 << 20


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration file."""


class LimitsSection(Section, frozen=True):
    """One set of limits; see `spear_wasm.limits.Limits` for what each one bounds."""

    max_memory: Size
    max_fuel: int
    max_cpu_time: Seconds
    max_table_elements: int
    max_input: Size
    max_output: Size
    max_log: Size
    max_concurrency: int
    max_wall_time: Seconds

    def limits(self) -> Limits:
        """The same as the value that the rest of the system uses."""
        return Limits(
            max_memory_bytes=int(self.max_memory),
            max_fuel=self.max_fuel,
            max_cpu_time_ms=round(self.max_cpu_time * 1000),
            max_table_elements=self.max_table_elements,
            max_input_bytes=int(self.max_input),
            max_output_bytes=int(self.max_output),
            max_log_bytes=int(self.max_log),
            max_concurrency=self.max_concurrency,
            max_wall_time_ms=round(self.max_wall_time * 1000),
        )


class DefaultLimits(LimitsSection, frozen=True):
    """What a task gets that asks for nothing."""

    max_memory: Size = Size(64 * MIB)
    max_fuel: int = 0
    max_cpu_time: Seconds = Seconds(0)
    max_table_elements: int = 20_000
    max_input: Size = Size(4 * MIB)
    max_output: Size = Size(4 * MIB)
    max_log: Size = Size(64 << 10)
    max_concurrency: int = 1000
    max_wall_time: Seconds = Seconds(30)


class CeilingLimits(LimitsSection, frozen=True):
    """The most that a task may ask for."""

    max_memory: Size = Size(512 * MIB)
    max_fuel: int = 0
    max_cpu_time: Seconds = Seconds(0)
    max_table_elements: int = 100_000
    max_input: Size = Size(32 * MIB)
    max_output: Size = Size(32 * MIB)
    max_log: Size = Size(4 * MIB)
    max_concurrency: int = 10_000
    max_wall_time: Seconds = Seconds(300)


class ServerConfig(Section, frozen=True):
    """The gRPC door.

    From the signal to stop on, `shutdown_grace` is what running executions have to end, and `closing_grace` what
    is left then to end the others, tell their callers and close; after both the process ends as it is.
    """

    shutdown_grace: Seconds = Seconds(10)
    closing_grace: Seconds = Seconds(5)
    max_connection_streams: Count = 10_000


class EngineConfig(Section, frozen=True):
    """The WebAssembly engines and what all of their sandboxes share.

    `sandboxes` is how many may be alive at once in each engine; `tick` the length of a guest's slice.
    """

    sandboxes: Count = 1000
    wasm_stack: Size = Size(512 << 10)
    tick: Seconds = Seconds(0.001)


class CompileConfig(Section, frozen=True):
    """What one compilation may use; each runs in a process of its own."""

    max_wall_time: Seconds = Seconds(60)
    max_cpu_time: Seconds = Seconds(60)
    max_memory: Size = Size(2048 * MIB)
    max_concurrency: Count = 1
    max_functions: Count = 50_000
    max_function_bytes: Size = Size(1 * MIB)


class ArtifactsConfig(Section, frozen=True):
    """Bounds on what is stored."""

    max_artifact: Size = Size(64 * MIB)
    max_artifacts: Count = 10_000
    max_disk: Size = Size(16 << 30)
    max_uploads: Count = 16
    upload_idle_timeout: Seconds = Seconds(30)


class TaskExecutionManagerConfig(Section, frozen=True):
    """Admission, threads and what is remembered.

    `max_total_memory` bounds the memory that running sandboxes may grow to together; an execution for which
    there is no room waits in the line. 0 means three quarters of the machine's (or the container's) memory.
    `threads` of 0 means one for each core. Of executions that ended, memory keeps the newest: `max_records`, and
    results and logs of `max_record_bytes` together. Of those that were ASYNC or had a key the disk keeps as many as
    `max_stored` and `max_stored_bytes` say, none for longer than `stored_for`; what those hold together that have no
    outcome yet is bounded by `max_unfinished_bytes`. Of a streamed one, as much waits to
    be read as `max_unread_messages` and `max_unread` say; then its guest waits. When it has ended, its reader has
    `unread_for` to take the rest. Before a call's retries there are pauses of `first_backoff`, twice that, and so on
    up to `longest_backoff`, of which up to half is left to chance.
    """

    max_running: Count = 500
    max_pending: Count = 2000
    max_total_memory: Size = Size(0)
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_tasks: Count = 10_000
    max_records: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    max_record_bytes: Size = Size(64 * MIB)
    max_stored: Count = 100_000
    max_stored_bytes: Size = Size(4 << 30)
    stored_for: Seconds = Seconds(7 * 86400)
    max_unfinished_bytes: Size = Size(1 << 30)
    max_unread: Size = Size(256 << 10)
    max_unread_messages: Count = 256
    unread_for: Seconds = Seconds(30)
    first_backoff: Seconds = Seconds(0.1)
    longest_backoff: Seconds = Seconds(10)

    def total_memory(self) -> int:
        """The bound on sandboxes' memory in bytes, measured where it is not configured."""
        return self.max_total_memory or _machine_memory() * 3 // 4

    def thread_count(self) -> int:
        """Executor threads, measured where not configured."""
        return self.threads or len(os.sched_getaffinity(0))


class InstancePoolConfig(Section, frozen=True):
    """Sandboxes that wait for calls, made ahead of them or kept from others: what tasks' runtime_config asks for.

    `max_ready_per_task` and `max_ready` bound how many wait. A sandbox that is reused serves `max_uses` calls at
    most; none is handed out that is older than `max_lifetime`, or has served and then waited for `max_idle`. Tasks
    may ask for less. Of those of a task that wait, `scheduling` chooses unless the task names another policy. How
    many a task has between the least and the most that it asks for, `scaling` says: "fixed" (the least), "reactive"
    (what was needed within `max_idle`) or "predictive" (that, or what was needed at this time of other seasons, of
    the length `season`). All pools are looked after every `upkeep`.
    """

    max_ready_per_task: Count = 64
    max_ready: Count = 400
    max_uses: Count = 1000
    max_lifetime: Seconds = Seconds(3600)
    max_idle: Seconds = Seconds(300)
    scheduling: Literal[
        "round_robin",
        "weighted_round_robin",
        "least_loaded",
        "least_response_time",
        "resource_based",
        "random",
        "power_of_two",
    ] = "least_loaded"
    scaling: Literal["fixed", "reactive", "predictive"] = "predictive"
    season: Seconds = Seconds(86400)
    upkeep: Seconds = Seconds(1)


class RuntimeConfig(Section, frozen=True):
    """Where runtimes are found besides the ones that come with the package."""

    directories: tuple[str, ...] = ()


class LogConfig(Section, frozen=True):
    """Structured logs on standard error."""

    format: Literal["json", "console", "auto"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True):
    """Everything an operator may set; each field is a table of the TOML file."""

    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    compile: CompileConfig = CompileConfig()
    artifacts: ArtifactsConfig = ArtifactsConfig()
    execution: TaskExecutionManagerConfig = TaskExecutionManagerConfig()
    pool: InstancePoolConfig = InstancePoolConfig()
    runtimes: RuntimeConfig = RuntimeConfig()
    log: LogConfig = LogConfig()
    default_limits: DefaultLimits = DefaultLimits()
    ceiling: CeilingLimits = CeilingLimits()

    def __post_init__(self) -> None:
        default, ceiling = _checked("default_limits", self.default_limits), _checked("ceiling", self.ceiling)
        try:
            default.within(ceiling, whose="default_limits")
        except ConfigurationError as error:
            key = _key_of(error)
            raise ConfigurationError(
                error.message, limit=error.metadata["limit"], keys=f"default_limits.{key}, ceiling.{key}"
            ) from error
        if self.execution.max_running + self.pool.max_ready > self.engine.sandboxes:
            raise ConfigurationError(
                f"execution.max_running ({self.execution.max_running}) and pool.max_ready ({self.pool.max_ready}) "
                f"together exceed engine.sandboxes ({self.engine.sandboxes})",
                keys="execution.max_running, pool.max_ready, engine.sandboxes",
            )
        if not self.execution.max_unread:
            raise ConfigurationError(
                "execution.max_unread is 0; streamed messages need some room", keys="execution.max_unread"
            )
        for key in ("max_lifetime", "max_idle", "season"):
            if not getattr(self.pool, key):
                raise ConfigurationError(f"pool.{key} is 0; it must be longer", keys=f"pool.{key}")
        if not 0.01 <= self.pool.upkeep <= 60:
            raise ConfigurationError(
                f"pool.upkeep is {self.pool.upkeep} s; it must be between 10 ms and 1 min", keys="pool.upkeep"
            )
        if not 0.0005 <= self.engine.tick <= 0.1:
            raise ConfigurationError(
                f"engine.tick is {self.engine.tick} s; it must be between 0.5 ms and 100 ms",
                keys="engine.tick",
            )


def _checked(table: str, section: LimitsSection) -> Limits:
    try:
        return section.limits()
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{table}: {error.message}", limit=error.metadata["limit"], keys=f"{table}.{_key_of(error)}"
        ) from error


def _key_of(error: ConfigurationError) -> str:
    """The key of the limit that an error is about; units are in the values, not in the keys' names."""
    return error.metadata["limit"].removesuffix("_bytes").removesuffix("_ms")


def _machine_memory() -> int:
    """Bytes of memory that this process can use: the machine's, or its control group's where that is less."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    total = psutil.virtual_memory().total
    return total if limit == "max" else min(int(limit), total)
