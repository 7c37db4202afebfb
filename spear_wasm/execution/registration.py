"""How tasks come and go: an artifact is found, a runtime chosen, limits resolved, code linked, a name taken.

All of it blocks (on disks, on compilers), so none of it happens within a call's budget.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from spear_wasm.artifacts.references import digest_reference
from spear_wasm.artifacts.source import WantedArtifact
from spear_wasm.board import News
from spear_wasm.engine.companion import CompiledCompanion
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactNotFound,
    FunctionNotFound,
    InvalidRequest,
    SpearError,
)
from spear_wasm.execution.entries import check_entries, check_environment
from spear_wasm.execution.ids import new_id
from spear_wasm.execution.shared_turns import SharedTurns
from spear_wasm.execution.storage import NameTakenElsewhere
from spear_wasm.execution.task import ArtifactSpec, Linkage, Task, TaskRecord
from spear_wasm.execution.task_policy import TaskPolicy
from spear_wasm.pool import PoolTerms
from spear_wasm.runtime import AccompaniedRuntime, TighteningSettings
from spear_wasm.values import shown
from spear_wasm.wishes import Wishes

if TYPE_CHECKING:
    from spear_wasm.artifacts.code_cache import CodeCache
    from spear_wasm.artifacts.source import ArtifactSource
    from spear_wasm.artifacts.store import StoredArtifact
    from spear_wasm.engine.engines import Engines
    from spear_wasm.engine.guest_sandbox import GuestSandbox, Steps
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.task_registry import TaskRegistry
    from spear_wasm.limits import Limits
    from spear_wasm.model import ModuleInfo
    from spear_wasm.pool import PoolFactory
    from spear_wasm.runtime import Runtime
    from spear_wasm.runtime_manager import RuntimeManager

log = structlog.get_logger()

MAX_DESCRIPTION_CHARS = 4096


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """What tasks get that ask for nothing, and the most that they may ask for."""

    default: Limits
    ceiling: Limits


class TaskRegistration:
    """Makes tasks of specs and ends them. Thread-safe; what it decides is kept in the registry."""

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        source: ArtifactSource,
        code: CodeCache,
        runtimes: RuntimeManager,
        engines: Engines,
        manager: TaskExecutionManager,
        limits: LimitPolicy,
        pools: PoolFactory,
    ) -> None:
        self._registry = registry
        self._seat = registry.seat
        self._is_alone = not self._seat.board.is_shared
        self._catching_up = (
            threading.Lock()
        )  # guards: what is heard below, and that one thread at a time does so
        self._caught_up = self._ended = self._removals = b""
        self._source = source
        self._artifacts = source.store
        self._code = code
        self._runtimes = runtimes
        self._engines = engines
        self._manager = manager
        self._limits = limits
        self._pools = pools

    @property
    def is_current(self) -> bool:
        """Whether the tasks are those that there are, whichever worker made or ended them. Asked by every call."""
        return self._is_alone or self._caught_up == self._seat.heard_of_tasks()

    def catch_up(self) -> None:
        """Put the tasks on disk into service that are not yet, and end those that are gone there.

        One that cannot be put into service any more is left out, and logged.
        """
        with self._catching_up:
            heard = self._seat.heard_of_tasks()
            ended, removals = self._seat.heard(News.ENDED_TASKS), self._seat.heard(News.REMOVALS)
            for record in self._registry.come():
                self._restore(record)
            if ended != self._ended:
                self._end_gone()
            if removals != self._removals:
                self._unlink_removed()
            self._caught_up, self._ended, self._removals = heard, ended, removals

    def _end_gone(self) -> None:
        for task in self._registry.gone():
            self._manager.retire(task, force=True, forget_records=False)
            self._registry.drop(task)
            _close_pools(task)

    def _unlink_removed(self) -> None:
        for digest in {task.record.digest for task in self._registry.all() if task.linkages}:
            if not self._artifacts.has(digest):
                self.artifact_removed(digest)

    def _restore(self, record: TaskRecord) -> None:
        try:
            self._registry.restore(self._make(record))
        except SpearError as error:
            self._registry.leave_out(record)
            log.warning("task not restored", task_id=record.task_id, error=error.message)

    def register(self, spec: ArtifactSpec, name: str = "", description: str = "") -> Task:
        """The task for a spec: the one that has this name, if it does the same work, or a new one, linked.

        Raises:
            InvalidRequest, ArtifactError, TaskError, GuestRuntimeError: why there can be none.
        """
        return self.establish(self.plan(spec, name, description))

    def plan(self, spec: ArtifactSpec, name: str = "", description: str = "") -> Task:
        """The task that has this name, if it does the same work, or a new one that nobody sees yet.

        Calls can be checked against a planned task; it holds nothing, and may be dropped.

        Raises:
            InvalidRequest, ArtifactError, TaskError, GuestRuntimeError: why there can be none.
        """
        _check_bounds(spec, description)
        artifact = self._source.get(
            WantedArtifact.parse(spec.artifact_id, spec.version, spec.checksum, spec.location)
        )
        name = name or _default_name(spec, artifact)
        _check_task_name(name)
        runtime = self._runtimes.find(spec.artifact_type, artifact.module)
        record = TaskRecord(
            task_id=new_id("task"),
            name=name,
            description=description,
            digest=artifact.digest,
            runtime=runtime.name,
            spec=spec,
            created_at=int(time.time() * 1000),
        )
        existing = self._registry.reuse(record)
        if existing is not None:
            return existing
        self._registry.check_room()
        runtime.host_functions(artifact.module)  # raises where there are not all that the module imports
        task = self._make(record)
        task.module = artifact.module
        _check_warm_up(task)
        return task

    def establish(self, task: Task) -> Task:
        """Link a planned task and put it into service; the one that exists where another thread was faster.

        A task that has been in service is returned as it is.

        Raises:
            ArtifactError, TaskError, GuestRuntimeError: why it cannot be; nothing of it stays.
        """
        if not task.is_planned:
            return task
        self.link(task, metered=task.limits.max_fuel != 0)
        added = None
        try:
            added = self._add(task)
        finally:
            if added is not task:
                _close_pools(task)
        self._unlink_if_gone(added)
        return added

    def _add(self, task: Task) -> Task:
        while True:
            try:
                return self._registry.add(task)
            except NameTakenElsewhere:
                self.catch_up()

    def _make(self, record: TaskRecord) -> Task:
        spec = record.spec
        limits = self._limits.default.for_task(
            spec.resource_limits, spec.max_execution_timeout_ms, self._limits.ceiling
        )
        wishes = Wishes(spec.runtime_config)
        policy = TaskPolicy.parse(wishes, self._pools.config)
        module = self._artifacts.get(record.digest).module
        runtime = self._runtimes.find(record.runtime, module)
        settings = runtime.settings(module, spec.environment, wishes, self._runtimes.config)
        wishes.refuse_others()
        if isinstance(settings, TighteningSettings):
            limits = settings.tightened(limits)
        if not self._is_alone:
            policy = policy.for_worker(self._seat)
        task = Task(record, limits, policy, runtime, settings)
        if limits.max_concurrency >= self._seat.board.places:
            task.most_at_once = self._seat.share_of(limits.max_concurrency)
        else:
            task.turns = SharedTurns(self._code.locks, self._seat, task.id, limits.max_concurrency)
        return task

    def has_code(self, task: Task) -> bool:
        """Whether a task can be linked for its usual calls without compiling anything."""
        return self._code.has(task.record.digest, metered=task.limits.max_fuel != 0)

    def link(self, task: Task, *, metered: bool) -> None:
        """Make a task callable on one of the engines: compile or load its code, resolve imports, open its pool.

        Raises:
            ArtifactDeleted: its artifact was removed by force.
            UnlinkableArtifact: it imports what its runtime does not provide.
            SandboxUnavailable: there cannot be such an engine.
        """
        if metered in task.linkages:
            return
        try:
            artifact = self._artifacts.get(task.record.digest)
        except ArtifactNotFound:
            raise ArtifactDeleted(
                f"the artifact of task {shown(task.name)} was deleted; upload it again",
                digest=task.record.digest,
            ) from None
        functions = task.runtime.host_functions(artifact.module)
        code = self._code.load(artifact.digest, self._artifacts.path(artifact.digest), metered=metered)
        companion = self._companion_of(task.runtime, metered=metered)
        linked = self._engines.get(metered=metered).link(code.path, artifact.module, functions, companion)
        task.module = artifact.module
        prepare = _preparation(task, artifact.module)
        is_usual = metered == (task.limits.max_fuel != 0)
        terms = task.policy.pool if is_usual else PoolTerms()
        pool = self._pools.new(linked, task.limits, terms, self._manager.preparations.of(task, prepare))
        # Two threads may link a task at once; the second's pool is not used, and closed.
        winner = task.linkages.setdefault(metered, Linkage(pool, prepare))
        if winner.pool is not pool:
            pool.close()
        self._unlink_if_gone(task)

    def _companion_of(self, runtime: Runtime, *, metered: bool) -> CompiledCompanion | None:
        if not isinstance(runtime, AccompaniedRuntime):
            return None
        companion = runtime.companion
        code = self._code.load(companion.digest, companion.wasm, metered=metered)
        return CompiledCompanion(companion.name, code.path, code.module, companion.functions)

    def _unlink_if_gone(self, task: Task) -> None:
        """Close a task's pools where it, or its artifact, was removed while they were made.

        Who removed it may have looked before they were there.
        """
        try:
            self._artifacts.get(task.record.digest)
        except ArtifactNotFound:
            _close_pools(task)
        if task.deleted:
            _close_pools(task)

    def remove_retired(self, task: Task) -> None:
        """Take a task out of service and off the disk of which the manager accepts no calls any more."""
        self._registry.remove(task)
        _close_pools(task)

    def close_pools(self) -> None:
        """Close all tasks' ready sandboxes; nothing may be running."""
        for task in self._registry.all():
            _close_pools(task)

    def is_referenced(self, digest: str) -> bool:
        """Whether a task is pinned to the artifact."""
        return any(task.record.digest == digest for task in self._registry.all())

    def artifact_removed(self, digest: str) -> None:
        """The artifact is gone: its tasks fail from now on, until it is uploaded again."""
        for task in self._registry.all():
            if task.record.digest == digest:
                _close_pools(task)


def _check_warm_up(task: Task) -> None:
    if task.policy.warm_up:
        try:
            task.function(task.policy.warm_up).binding.arguments((), task.limits, {})
        except (FunctionNotFound, InvalidRequest) as error:
            raise InvalidRequest(f"runtime_config.warm_up: {error.message}", key="warm_up") from None


def _preparation(task: Task, module: ModuleInfo) -> Callable[[GuestSandbox], Steps]:
    """What makes a task's sandboxes, and runs what must run before their first call; the warm-up comes last."""
    prepare = task.runtime.preparation(module, task.settings)
    if not task.policy.warm_up:
        return prepare
    warm_up = task.function(task.policy.warm_up).binding
    arguments = warm_up.arguments((), task.limits, {})

    def prepare_and_warm_up(sandbox: GuestSandbox) -> Steps:
        yield from prepare(sandbox)
        sandbox.doing = f"the warm-up function {shown(task.policy.warm_up)}"
        yield from warm_up.steps(sandbox, arguments)
        sandbox.doing = ""

    return prepare_and_warm_up


def _close_pools(task: Task) -> None:
    for metered in tuple(task.linkages):
        linkage = task.linkages.pop(metered, None)
        if linkage is not None:
            linkage.pool.close()


def _default_name(spec: ArtifactSpec, artifact: StoredArtifact) -> str:
    called = spec.artifact_id or digest_reference(artifact.digest)
    return f"{called}:{artifact.version or artifact.digest[:12]}"


def _check_task_name(name: str) -> None:
    if len(name) > 400 or not name.isprintable() or name != name.strip():
        raise InvalidRequest(f"task_name {shown(name)} must be printable text of at most 400 characters")


def _check_bounds(spec: ArtifactSpec, description: str) -> None:
    if len(description) > MAX_DESCRIPTION_CHARS or len(spec.description) > MAX_DESCRIPTION_CHARS:
        raise InvalidRequest(f"a description is longer than {MAX_DESCRIPTION_CHARS} characters")
    check_entries(spec.metadata, "metadata")
    check_environment(spec.environment, "environment")
