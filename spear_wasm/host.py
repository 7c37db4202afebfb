"""A host: everything that runs guests, put together, without a door. The gRPC server is one door to it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.fetcher import Fetcher
from spear_wasm.artifacts.source import ArtifactSource
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.board import Board, Claim, Seat
from spear_wasm.config import Config
from spear_wasm.engine.compiler import Compiler
from spear_wasm.engine.engines import Engines
from spear_wasm.engine.settings import EngineSettings, reservation_for
from spear_wasm.errors import ConfigurationError, SandboxUnavailable
from spear_wasm.execution.durable import DurableExecutions
from spear_wasm.execution.execution_registry import ExecutionRegistry
from spear_wasm.execution.executor import Executor
from spear_wasm.execution.manager import TaskExecutionManager
from spear_wasm.execution.records import ExecutionRecords
from spear_wasm.execution.recovery import Recovery
from spear_wasm.execution.registration import LimitPolicy, TaskRegistration
from spear_wasm.execution.shared_allowance import SharedAllowance
from spear_wasm.execution.storage import (
    ExecutionJournal,
    Retention,
    SqliteJournal,
    SqliteTaskStore,
    TaskStore,
)
from spear_wasm.execution.task import Task
from spear_wasm.execution.task_registry import TaskRegistry
from spear_wasm.execution.task_totals import TaskTotals, forget_gone
from spear_wasm.execution.warm_start import link_used_last
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key
from spear_wasm.locks.turns import Turns
from spear_wasm.pool import PoolFactory
from spear_wasm.runtime_manager import RuntimeManager
from spear_wasm.scheduling import Allowance, Room

KEEP_TOTALS_SECONDS = 10.0
"""What tasks have done within so long is forgotten where the server is killed, but for what is kept on disk anyway."""
SETTLE_SECONDS = 0.2
"""For so long a worker that is idle may keep from others what it has claimed ahead."""
PRUNE_SECONDS = 5.0
"""For so long more outcomes may be kept than the configuration says."""


class Host:
    """The parts that a door needs. Opened and closed by `open_host`.

    `tasks` finds tasks, `registration` makes and ends them, `manager` runs their functions, `durable` those whose
    fate is kept on disk; `executions` finds what runs and ran.
    """

    def __init__(self, config: Config, data_dir: Path, closing: contextlib.ExitStack, seat: Seat) -> None:
        self.config = config
        self.data_dir = data_dir
        self.seat = seat
        settings = engine_settings(config)
        self.compiler = Compiler(*settings, config.compile, _compilation_turns(config, data_dir, seat))
        closing.callback(self.compiler.close)
        self.runtimes = RuntimeManager(config.runtimes)
        self.code = CodeCache(data_dir, self.compiler, self.runtimes.companions, seat)
        self.artifacts = ArtifactStore(data_dir, config.artifacts, self.code, self.runtimes.recognise)
        closing.callback(self.artifacts.close)
        self.fetcher = Fetcher(config.fetch)
        closing.callback(self.fetcher.close)
        self.engines = Engines(settings, config.engine.tick)
        closing.callback(self.engines.close)
        _check_sandboxes(self.engines)
        journal = _journal(config, data_dir, seat)
        closing.callback(journal.close)
        executor = Executor(config.execution.thread_count())
        closing.callback(executor.close)
        remembered = ExecutionRecords(config.execution.max_records, int(config.execution.max_record_bytes))
        self.executions = ExecutionRegistry(remembered, journal.last_sequence(), journal.holds, seat)
        room = _room(config, data_dir, seat)
        self.manager = TaskExecutionManager(config.execution, room, executor, self.executions)
        self.durable = DurableExecutions(
            self.manager, executor, journal, int(config.execution.max_unfinished_bytes)
        )
        store = _task_store(data_dir)
        closing.callback(store.close)
        self.tasks = TaskRegistry(store, config.execution.max_tasks, seat)
        self.pools = PoolFactory(config.pool, seat.share_of(config.execution.total_memory()) // 4)
        self.registration = TaskRegistration(
            registry=self.tasks,
            source=ArtifactSource(self.artifacts, self.fetcher),
            code=self.code,
            runtimes=self.runtimes,
            engines=self.engines,
            manager=self.manager,
            limits=_limit_policy(config, seat),
            pools=self.pools,
        )
        closing.callback(self.registration.close_pools)
        self.registration.catch_up()
        self.totals = TaskTotals(journal, self.executions, self.tasks)
        self._recovery = Recovery(self.durable, self.manager, self.executions, self.tasks, self.registration)
        if not seat.worker:
            self.totals.recall()
            self._recovery.take_over(gone=0, part=0, parts=1)
        self._begin_chores(executor)
        closing.callback(self.totals.keep)

    def _begin_chores(self, executor: Executor) -> None:
        executor.repeat(self.config.pool.upkeep, self.pools.upkeep)
        executor.repeat(KEEP_TOTALS_SECONDS, self.totals.keep)
        executor.repeat(PRUNE_SECONDS, self.durable.journal.prune)
        if self.seat.board.is_shared:
            executor.repeat(SETTLE_SECONDS, self.manager.settle)

    def delete_task(
        self, task: Task, *, force: bool, forget_records: bool, forgotten: Collection[str] = ()
    ) -> int:
        """End a task; returns how many records of executions were forgotten with it, in memory or on disk.

        `forgotten` are the ids of those that were forgotten elsewhere.

        Raises:
            TaskBusy: it has executions and `force` is not set.
        """
        here = self.retire_task(task, force=force, forget_records=forget_records)
        self.registration.remove_retired(task)
        on_disk = self.durable.journal.forget_task(task.id).result() if forget_records else []
        return len({*here, *forgotten, *on_disk})

    def retire_task(self, task: Task, *, force: bool, forget_records: bool) -> set[str]:
        """Accept nothing more for a task that is to be deleted; the ids of executions that were forgotten with it.

        With `forget_records` what is being cancelled of it has its outcomes on disk when this returns.

        Raises:
            TaskBusy: it has executions and `force` is not set.
        """
        remembered = self.executions.of_task(task, self.config.execution.max_records)[1]
        self.manager.retire(task, force=force, forget_records=forget_records)
        if not forget_records:
            return set()
        self.durable.wait_for_end(task.id)
        return {record.execution_id for record in remembered}

    def take_over(self, gone: int, part: int, parts: int) -> None:
        """See to a part of the durable executions that a worker has left that is gone; 0 is an earlier run."""
        self.registration.catch_up()
        self._recovery.take_over(gone, part, parts)

    def finish(self) -> None:
        """Accept nothing more, and see what waits and runs to its end within the grace configured.

        What is left then of the durable ones another worker takes over.
        """
        self.manager.finish(self.config.server.shutdown_grace)
        self.durable.suspend()

    def drain(self, grace_seconds: float | None = None) -> None:
        """Accept nothing more and see the running executions to their end, within a grace: the one configured, or this.

        Durable ones that wait are left for the next run of the server.
        """
        grace = self.config.server.shutdown_grace if grace_seconds is None else grace_seconds
        self._suspend()
        self.manager.drain(grace)

    def end_executions(self) -> None:
        """Cut the grace short: end what runs. Durable ones that wait are left as by `drain`."""
        self._suspend()
        self.manager.end_all()

    def _suspend(self) -> None:
        self.manager.stop_accepting()
        self.durable.suspend()


def prepare(config: Config, data_dir: Path, seat: Seat) -> None:
    """Make a data directory ready for workers: remove what a crash has left there, count what is there.

    What was left to be done is nobody's afterwards. For a supervisor, which has the directory's lock and the first
    seat. No thread is left of it.

    Raises:
        ConfigurationError: what is in the directory cannot be used.
    """
    runtimes = RuntimeManager(config.runtimes)
    compiler = Compiler(*engine_settings(config), config.compile)
    code = CodeCache(data_dir, compiler, runtimes.companions, seat)
    ArtifactStore(data_dir, config.artifacts, code, runtimes.recognise).close()
    with (
        contextlib.closing(_journal(config, data_dir, seat)) as journal,
        contextlib.closing(_task_store(data_dir)) as store,
    ):
        forget_gone(journal, journal.task_totals(), store.ids()).result()


@contextlib.contextmanager
def open_host(config: Config, data_dir: Path, seat: Seat | None = None) -> Iterator[Host]:
    """A host on a data directory; drained and closed at the end.

    It alone may use the directory meanwhile, unless it has a seat among the workers of a server whose supervisor has
    made the directory ready: see `prepare`.

    Raises:
        ConfigurationError: the directory is in use, or a runtime cannot be loaded.
    """
    with contextlib.ExitStack() as closing:
        host = Host(config, data_dir, closing, seat or Board().seat(0))
        closing.callback(host.drain)
        link_used_last(host.durable.journal, host.tasks, host.registration)
        yield host


def _compilation_turns(config: Config, data_dir: Path, seat: Seat) -> Turns | None:
    if not seat.board.is_shared:
        return None
    return Turns(FileLocks(data_dir), Key.COMPILING, config.compile.max_concurrency)


def _check_sandboxes(engines: Engines) -> None:
    try:
        engines.get(metered=False)
    except SandboxUnavailable as error:
        raise ConfigurationError(error.message, keys="engine.sandboxes") from error


def _journal(config: Config, data_dir: Path, seat: Seat) -> ExecutionJournal:
    execution = config.execution
    retention = Retention(execution.max_stored, int(execution.max_stored_bytes), execution.stored_for)
    return SqliteJournal(data_dir / "executions.db", retention, worker=seat.worker)


def _task_store(data_dir: Path) -> TaskStore:
    return SqliteTaskStore(data_dir / "tasks.db")


def _room(config: Config, data_dir: Path, seat: Seat) -> Room:
    running, memory = config.execution.max_running, config.execution.total_memory()
    if not seat.board.is_shared:
        return Room(Allowance(running), Allowance(memory))
    locks = FileLocks(data_dir)
    return Room(
        SharedAllowance(running, Claim.RUNNING, seat, locks),
        SharedAllowance(memory, Claim.MEMORY, seat, locks),
    )


def _limit_policy(config: Config, seat: Seat) -> LimitPolicy:
    # What may grow beyond what a worker has for certain might never be started, and hold up the line.
    most = seat.share_of(config.execution.total_memory())
    default, ceiling = (
        replace(limits, max_memory_bytes=min(limits.max_memory_bytes, most))
        for limits in (config.default_limits.limits(), config.ceiling.limits())
    )
    return LimitPolicy(default, ceiling)


def engine_settings(config: Config) -> tuple[EngineSettings, EngineSettings]:
    """The settings of a host's two engines: without and with fuel metering."""
    max_memory_bytes = _whole_pages(config.ceiling.max_memory)
    plain = EngineSettings(
        metered=False,
        max_memory_bytes=max_memory_bytes,
        memory_reservation=reservation_for(max_memory_bytes, config.engine.sandboxes),
        max_table_elements=config.ceiling.max_table_elements,
        wasm_stack_bytes=int(config.engine.wasm_stack),
        sandboxes=config.engine.sandboxes,
    )
    return plain, replace(plain, metered=True)


def _whole_pages(size: int) -> int:
    return -(-size // 65536) * 65536
