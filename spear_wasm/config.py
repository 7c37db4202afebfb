"""The server's configuration: nested frozen values, checked where they are made.

Every key can be set in a file, in the environment and by a flag: see `spear_wasm.config_sources`, which needs
nothing but the fields here. Nothing here opens a socket, starts a log or exits: values that do not go together
raise ConfigurationError naming their keys.

TaskExecutionManagerConfig, InstancePoolConfig and RuntimeConfig are named as in SPEAR, whose clients can call this
server. Its keys are not: units are in values ("30s") and not in names, and most of them mean something else here.
`max_concurrent_executions` is execution.max_running; `max_instances_per_task` is a task's max_concurrency for those
that run, and pool.max_ready_per_task for those that wait; `min_instances_per_task` is a task's ready_sandboxes;
`instance_idle_timeout_ms` is pool.max_idle; the intervals of its loops are pool.upkeep. Instead of a utilization to aim
at, thresholds and cooldowns there is pool.scaling, which goes by what was needed. Making a sandbox has no time-out of
its own but counts against the call's budget, no sandbox needs health checks since one that failed is gone, and
artifacts and tasks stay until they are deleted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from spear_wasm.errors import ConfigurationError
from spear_wasm.limits import Limits
from spear_wasm.machine import usable_cores, usable_memory
from spear_wasm.outbound.rules import OutboundRules


class Size(int):
    """A number of bytes."""


class Seconds(float):
    """A duration."""


Count = Annotated[int, msgspec.Meta(ge=1)]
MIB = 1 << 20
MOST_WORKERS = 256


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

    Of `workers` there is one process each, under a supervisor where they are several; 0 means one for each core, or
    fewer where each would have too little (`workers.shares`). Where they are several, a connection takes new calls for
    `max_connection_age`, and its client has to make another: so calls come to be spread over all workers, and one that
    is replaced is left by its callers.

    Single answers that callers have not read yet have `max_unread` bytes together in each process, or are one: where
    there is no room for the newest, the callers of those that have waited longest are hung up on.

    With `tls_cert` and `tls_key` (PEM files, read at the start) it speaks TLS, with `tls_client_ca` only to clients
    whose certificates that authority signed. With `token_file` it answers those who bring one of the tokens in
    there, one a line; the file is read again when it has changed.
    """

    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    token_file: str = ""

    workers: Annotated[int, msgspec.Meta(ge=0, le=MOST_WORKERS)] = 0
    max_connection_age: Seconds = Seconds(10)
    shutdown_grace: Seconds = Seconds(10)
    closing_grace: Seconds = Seconds(5)
    max_connection_streams: Count = 10_000
    max_unread: Size = Size(256 << 20)

    def __post_init__(self) -> None:
        if not self.max_connection_age:
            raise ConfigurationError(
                "server.max_connection_age is 0; it must be longer", keys="server.max_connection_age"
            )
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigurationError(
                "server.tls_cert and server.tls_key are a certificate and its key; give both or neither",
                keys="server.tls_cert, server.tls_key",
            )
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigurationError(
                "server.tls_client_ca is for TLS, which needs server.tls_cert and server.tls_key",
                keys="server.tls_client_ca, server.tls_cert",
            )

    @property
    def authenticates(self) -> bool:
        """Whether it looks at who comes."""
        return bool(self.token_file or self.tls_client_ca)


class EngineConfig(Section, frozen=True):
    """The WebAssembly engines and what all of their sandboxes share.

    `sandboxes` is how many may be alive at once in each engine, which the kernel's bound on the memory areas of a
    process bounds (vm.max_map_count). With more than some 2,000 guests compute up to a third slower: their memories no
    longer have all addresses to themselves. `tick` is the length of a guest's slice.
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
    max_uploads: Count = 64
    upload_idle_timeout: Seconds = Seconds(30)


class FetchConfig(Section, frozen=True):
    """Where artifacts may be fetched from when a task is made by `location`; nowhere, unless it is said.

    `directories` are those below which files are read, `hosts` those that are asked: `HOST`, `HOST:PORT`,
    `*.DOMAIN` or `*`. Hosts at addresses that are not public are refused unless these are in `private_networks`,
    which are written like `10.0.0.0/8`. A fetch may take `max_time` with all of its redirects.
    """

    directories: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    private_networks: tuple[str, ...] = ()
    max_time: Seconds = Seconds(60)
    max_redirects: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5

    def __post_init__(self) -> None:
        self.rules()
        for directory in self.directories:
            if not Path(directory).is_absolute():
                raise ConfigurationError(
                    f"fetch.directories: {directory!a} is no absolute path", keys="fetch.directories"
                )
        if not self.max_time:
            raise ConfigurationError("fetch.max_time is 0; it must be longer", keys="fetch.max_time")

    def rules(self) -> OutboundRules:
        """Which hosts may be asked, and in which networks."""
        return OutboundRules.parse(self.hosts, self.private_networks)


class TaskExecutionManagerConfig(Section, frozen=True):
    """Admission, threads and what is remembered.

    Of what `max_running`, `max_pending`, `max_total_memory` and `max_unfinished_bytes` bound, one task never gets all:
    a task that is alone has three quarters (`scheduling.fair_share`).
    `max_total_memory` bounds the memory that running sandboxes may grow to together; an execution for which
    there is no room waits in the line. 0 means three quarters of the machine's (or the container's) memory.
    `threads` of 0 means one for each core, in each worker. Of executions that ended, memory keeps the newest:
    `max_records`, and results and logs of `max_record_bytes` together. Of those that were ASYNC or had a key the disk
    keeps as many as `max_stored` and `max_stored_bytes` say, none for longer than `stored_for`; what those hold
    together that have no outcome yet is bounded by `max_unfinished_bytes`. Of a streamed one, as much waits to be read
    as `max_unread_messages` and `max_unread` say; then its guest waits. When it has ended, its reader has
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
        return self.max_total_memory or usable_memory() * 3 // 4

    def thread_count(self) -> int:
        """Executor threads, measured where not configured."""
        return self.threads or usable_cores()


class BatchConfig(Section, frozen=True):
    """What InvokeBatch takes: `max_inputs` in a request of `max_input`, whose answers have `max_output` together.

    `max_running` of a batch's executions are under way at once. Of `max_batches` at once a task that is alone gets
    three quarters.
    """

    max_inputs: Count = 1024
    max_input: Size = Size(16 * MIB)
    max_output: Size = Size(32 * MIB)
    max_running: Count = 32
    max_batches: Count = 64


class CallStreamConfig(Section, frozen=True):
    """What one InvokeStream may have under way before it reads on.

    No request is read while `max_calls` run, or their answers are unread, nor while requests and answers hold
    `max_bytes` or more. A reader who takes nothing for `unread_for` is hung up on.
    """

    max_calls: Count = 128
    max_bytes: Size = Size(4 * MIB)
    unread_for: Seconds = Seconds(30)


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
    """Where runtimes are found besides the ones that come with the package, and what tasks may grant their guests.

    Directories below `readable_directories`; those below `writable_directories` to write in, too; and a scratch
    directory for each sandbox of at most `max_scratch`. `http_hosts` are those that guests may send requests to, none
    unless it is said: `HOST`, `HOST:PORT`, `*.DOMAIN` or `*`. Hosts at addresses that are not public are refused unless
    these are in `http_private_networks`, which are written like `10.0.0.0/8`. `max_http_requests` of all guests
    together are under way at once, further ones wait. A response may have `max_http_response` bytes, and what a guest
    keeps in variables `max_vars`.
    """

    directories: tuple[str, ...] = ()
    readable_directories: tuple[str, ...] = ()
    writable_directories: tuple[str, ...] = ()
    max_scratch: Size = Size(0)
    http_hosts: tuple[str, ...] = ()
    http_private_networks: tuple[str, ...] = ()
    max_http_requests: Count = 512
    max_http_response: Size = Size(16 * MIB)
    max_vars: Size = Size(1 * MIB)

    def __post_init__(self) -> None:
        self.http_rules()

    def http_rules(self) -> OutboundRules:
        """Which hosts may be asked, and in which networks."""
        return OutboundRules.parse(self.http_hosts, self.http_private_networks)


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
    fetch: FetchConfig = FetchConfig()
    execution: TaskExecutionManagerConfig = TaskExecutionManagerConfig()
    pool: InstancePoolConfig = InstancePoolConfig()
    batches: BatchConfig = BatchConfig()
    call_streams: CallStreamConfig = CallStreamConfig()
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
        if not self.call_streams.max_bytes:
            raise ConfigurationError(
                "call_streams.max_bytes is 0; calls on a stream need some room", keys="call_streams.max_bytes"
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
