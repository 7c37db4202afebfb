"""Tasks: named registrations of artifacts, with what they allow and how they have fared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from spear_wasm.errors import FunctionNotFound
from spear_wasm.execution.share import Share
from spear_wasm.limits import UNSAID, Limits, ResourceLimits
from spear_wasm.model import ExecutionStatus
from spear_wasm.scheduling import Holding
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.engine.guest_sandbox import GuestSandbox, Steps
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.shared_turns import SharedTurns
    from spear_wasm.execution.task_policy import TaskPolicy
    from spear_wasm.model import ModuleInfo
    from spear_wasm.pool import Pool
    from spear_wasm.runtime import CallableFunction, Runtime

QUICK_STREAK = 3
"""Runs in a row that ended within a slice, after which a function may run on the thread that admits it."""
LONGEST_STREAK = 1000
"""So many are enough for any."""
FORGIVEN_AFTER = 4
"""Streaks, each as long as is asked for at present, after which the first length is enough again."""


@dataclass(frozen=True, slots=True)
class ArtifactSpec:
    """What a caller says about the artifact of a task. Limits are unresolved, as asked for."""

    artifact_id: str = ""
    artifact_type: str = ""
    location: str = ""
    version: str = ""
    checksum: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    description: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    runtime_config: dict[str, object] = field(default_factory=dict)
    resource_limits: ResourceLimits = UNSAID
    max_execution_timeout_ms: int = 0
    invocation_type: int = 0


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is kept of a task on disk. Times are milliseconds since the epoch.

    `sequence` orders creation, from 1; 0 means that it is not on disk yet.
    """

    task_id: str
    name: str
    description: str
    digest: str
    runtime: str
    spec: ArtifactSpec
    created_at: int
    sequence: int = 0

    def same_work(self, other: TaskRecord) -> bool:
        """Whether both run the same artifact under the same terms; labels and descriptions do not count."""
        mine, theirs = self.spec, other.spec
        return (
            (self.digest, self.runtime) == (other.digest, other.runtime)
            and mine.resource_limits == theirs.resource_limits
            and mine.environment == theirs.environment
            and mine.runtime_config == theirs.runtime_config
            and mine.max_execution_timeout_ms == theirs.max_execution_timeout_ms
        )


@dataclass(frozen=True, slots=True)
class TaskTotal:
    """How many executions of a task have ended, and how and when the last one did, in seconds since the epoch."""

    task_id: str
    ended: int
    last_status: ExecutionStatus
    last_ended_at: float


class TaskCount(msgspec.Struct, frozen=True):
    """What one worker knows of a task that the disk does not; times in seconds since the epoch."""

    task_id: str
    uncounted: int
    running: int
    waiting: int
    last_status: ExecutionStatus | None
    last_ended_at: float


class TaskFunction:
    """A function of a task, bound once, and how its runs have gone."""

    __slots__ = ("binding", "name", "needed_streak", "quick_streak")

    def __init__(self, name: str, binding: CallableFunction) -> None:
        self.name = name
        self.binding = binding
        self.quick_streak = 0
        self.needed_streak = QUICK_STREAK

    @property
    def is_quick(self) -> bool:
        """Whether it may be expected to end within a slice."""
        return self.quick_streak >= self.needed_streak

    def ran(self, *, quick: bool) -> None:
        """One more run ended within a slice, or did not: then a longer streak is asked for, if it was taken for quick.

        A guest that is quick a few times to hold up whoever trusts it finds that the next time is ever further away.
        """
        # Statistics: an update lost between threads harms nothing.
        if not quick:
            if self.is_quick:
                self.needed_streak = min(2 * self.needed_streak, LONGEST_STREAK)
            self.quick_streak = 0
            return
        self.quick_streak += 1
        if self.quick_streak >= FORGIVEN_AFTER * self.needed_streak:
            self.needed_streak = QUICK_STREAK


@dataclass(frozen=True, slots=True)
class Linkage:
    """A task's artifact, linked for one engine: its pool, and how its sandboxes are prepared."""

    pool: Pool
    prepare: Callable[[GuestSandbox], Steps]


class Task:
    """A task in service. `record`, `limits`, `policy`, `runtime` and `settings`, its runtime's, never change.

    `share` is the executor's. `holding`, `turns` and `deleted` are guarded by the manager's lock, `active` and what is
    counted by ExecutionRegistry's. `linkages` and `functions` change in one step at a time, under the GIL.
    """

    def __init__(
        self,
        record: TaskRecord,
        limits: Limits,
        policy: TaskPolicy,
        runtime: Runtime,
        settings: object = None,
    ) -> None:
        self.record = record
        self.limits = limits
        self.policy = policy
        self.runtime = runtime
        self.settings = settings
        self.module: ModuleInfo | None = None
        self.linkages: dict[bool, Linkage] = {}
        """By whether fuel is metered."""
        self.functions: dict[str, TaskFunction] = {}
        self.active: dict[str, Execution] = {}
        """Executions that wait or run, by id."""
        self.most_at_once = limits.max_concurrency
        """How many of its executions may run at once in this process."""
        self.turns: SharedTurns | None = None
        """What all workers take turns by, where it may have fewer than there are workers."""
        self.share = Share()
        self.holding = Holding()
        self.executions = 0
        self.uncounted = 0
        """Executions that ended, and that the disk does not know of yet: of them it counts the durable ones alone."""
        self.last_status: ExecutionStatus | None = None
        self.updated_at = record.created_at
        self.deleted = False

    @property
    def id(self) -> str:
        """The id that we gave it."""
        return self.record.task_id

    @property
    def name(self) -> str:
        """The name that callers use."""
        return self.record.name

    def count_end(self, status: ExecutionStatus, at: float, number: int = 1) -> None:
        """So many executions have ended, the last one like this."""
        self.executions += number
        self.last_status = status
        self.updated_at = max(self.record.created_at, int(at * 1000))

    @property
    def waiting(self) -> int:
        """Its executions that have been accepted and hold no room: in the line, held, or between two attempts."""
        # One that has ended holds its room for a moment longer than it is active.
        return max(0, len(self.active) - self.holding.places)

    @property
    def is_planned(self) -> bool:
        """Whether it has not been in service yet."""
        return self.record.sequence == 0

    def function(self, name: str) -> TaskFunction:
        """A function by its export name. The task must have been planned or linked by this process.

        Raises:
            FunctionNotFound: the artifact exports no callable function of that name.
        """
        known = self.functions.get(name)
        if known is None:
            assert self.module is not None
            binding = self.runtime.bind(self.module, name, self.settings)
            if binding is None:
                raise self._no_function(name, self.module)
            known = self.functions.setdefault(name, TaskFunction(name, binding))
        return known

    def _no_function(self, name: str, module: ModuleInfo) -> FunctionNotFound:
        names = [shown(each.name, 40) for each in self.runtime.signatures(module)[:10]]
        listed = f"it has {', '.join(names)}" if names else "it has none that can be called"
        return FunctionNotFound(f"task {shown(self.name)} has no function {shown(name)}; {listed}")
