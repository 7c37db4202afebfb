"""How tasks come and go: an artifact is found, a runtime chosen, limits resolved, code linked, a name taken.

All of it blocks (on disks, on compilers), so none of it happens within a call's budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from spear_wasm.artifacts.references import parse_checksum
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactNotFound,
    ChecksumMismatch,
    FunctionNotFound,
    InvalidRequest,
    SpearError,
    Unimplemented,
)
from spear_wasm.execution.ids import new_id
from spear_wasm.execution.task import ArtifactSpec, Linkage, Task, TaskRecord
from spear_wasm.execution.task_policy import TaskPolicy
from spear_wasm.pool import PoolTerms
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.artifacts.code_cache import CodeCache
    from spear_wasm.artifacts.store import ArtifactStore, StoredArtifact
    from spear_wasm.engine.engine import Engine
    from spear_wasm.engine.sandbox import Sandbox, Steps
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.task_registry import TaskRegistry
    from spear_wasm.limits import Limits
    from spear_wasm.model import ModuleInfo
    from spear_wasm.pool import PoolFactory
    from spear_wasm.runtime import RuntimeManager

log = structlog.get_logger()

MAX_DESCRIPTION_CHARS = 4096
MAX_ENTRIES = 64
MAX_ENTRY_CHARS = 4096


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
        artifacts: ArtifactStore,
        code: CodeCache,
        runtimes: RuntimeManager,
        engines: Mapping[bool, Engine],
        manager: TaskExecutionManager,
        limits: LimitPolicy,
        pools: PoolFactory,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._code = code
        self._runtimes = runtimes
        self._engines = engines
        self._manager = manager
        self._limits = limits
        self._pools = pools

    def restore(self, records: list[TaskRecord]) -> None:
        """Put tasks of an earlier run into service; one that no longer can be is left out, and logged."""
        for record in records:
            try:
                self._registry.restore(self._make(record))
            except SpearError as error:
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
        artifact = self._resolve(spec)
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
            added = self._registry.add(task)
        finally:
            if added is not task:
                _close_pools(task)
        self._unlink_if_gone(added)
        return added

    def _resolve(self, spec: ArtifactSpec) -> StoredArtifact:
        try:
            artifact = self._artifacts.resolve(spec.artifact_id, spec.version)
        except (ArtifactNotFound, InvalidRequest):
            if spec.location:
                raise Unimplemented(
                    "this server fetches no artifacts by location; upload the module and name it by artifact_id"
                ) from None
            raise
        if spec.checksum and parse_checksum(spec.checksum) != artifact.digest:
            raise ChecksumMismatch(
                f"artifact {shown(spec.artifact_id)} is sha256:{artifact.digest}, not {shown(spec.checksum, 80)}"
            )
        return artifact

    def _make(self, record: TaskRecord) -> Task:
        spec = record.spec
        if spec.environment:
            raise InvalidRequest(f"the {record.runtime} runtime gives its guests no environment variables")
        limits = self._limits.default.for_task(
            spec.resource_limits, spec.max_execution_timeout_ms, self._limits.ceiling
        )
        policy = TaskPolicy.parse(spec.runtime_config, self._pools.config)
        artifact = self._artifacts.get(record.digest)
        return Task(record, limits, policy, self._runtimes.find(record.runtime, artifact.module))

    def link(self, task: Task, *, metered: bool) -> None:
        """Make a task callable on one of the engines: compile or load its code, resolve imports, open its pool.

        Raises:
            ArtifactDeleted: its artifact was removed by force.
            UnlinkableArtifact: it imports what its runtime does not provide.
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
        linked = self._engines[metered].link(code.path, artifact.module, functions)
        task.module = artifact.module
        prepare = _preparation(task, artifact.module)
        is_usual = metered == (task.limits.max_fuel != 0)
        terms = task.policy.pool if is_usual else PoolTerms()
        pool = self._pools.new(linked, task.limits, terms, self._manager.prepare_later(task, prepare))
        # Two threads may link a task at once; the second's pool is not used, and closed.
        winner = task.linkages.setdefault(metered, Linkage(pool, prepare))
        if winner.pool is not pool:
            pool.close()
        self._unlink_if_gone(task)

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

    def delete(self, reference: str, *, force: bool, forget_records: bool) -> int:
        """End a task; returns how many records of executions were forgotten with it.

        Raises:
            TaskNotFound: there is none of that id or name.
            TaskBusy: it has executions and `force` is not set.
        """
        task = self._registry.get(reference)
        forgotten = self._manager.retire(task, force=force, forget_records=forget_records)
        self._registry.remove(task)
        _close_pools(task)
        return forgotten

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
            task.function(task.policy.warm_up).binding.arguments((), task.limits)
        except (FunctionNotFound, InvalidRequest) as error:
            raise InvalidRequest(f"runtime_config.warm_up: {error.message}", key="warm_up") from None


def _preparation(task: Task, module: ModuleInfo) -> Callable[[Sandbox], Steps]:
    """What makes a task's sandboxes, and runs what must run before their first call; the warm-up comes last."""
    prepare = task.runtime.preparation(module)
    if not task.policy.warm_up:
        return prepare
    warm_up = task.function(task.policy.warm_up).binding
    arguments = warm_up.arguments((), task.limits)

    def prepare_and_warm_up(sandbox: Sandbox) -> Steps:
        yield from prepare(sandbox)
        sandbox.doing = f"the warm-up function {shown(task.policy.warm_up)}"
        yield from warm_up.steps(sandbox, arguments, sandbox.limits)
        sandbox.doing = ""

    return prepare_and_warm_up


def _close_pools(task: Task) -> None:
    for metered in tuple(task.linkages):
        linkage = task.linkages.pop(metered, None)
        if linkage is not None:
            linkage.pool.close()


def _default_name(spec: ArtifactSpec, artifact: StoredArtifact) -> str:
    return f"{spec.artifact_id}:{artifact.version or artifact.digest[:12]}"


def _check_task_name(name: str) -> None:
    if len(name) > 400 or not name.isprintable() or name != name.strip():
        raise InvalidRequest(f"task_name {shown(name)} must be printable text of at most 400 characters")


def _check_bounds(spec: ArtifactSpec, description: str) -> None:
    if len(description) > MAX_DESCRIPTION_CHARS or len(spec.description) > MAX_DESCRIPTION_CHARS:
        raise InvalidRequest(f"a description is longer than {MAX_DESCRIPTION_CHARS} characters")
    for what, entries in (("metadata", spec.metadata), ("environment", spec.environment)):
        if len(entries) > MAX_ENTRIES or any(len(k) + len(v) > MAX_ENTRY_CHARS for k, v in entries.items()):
            raise InvalidRequest(
                f"{what} may hold {MAX_ENTRIES} entries of {MAX_ENTRY_CHARS} characters each"
            )
