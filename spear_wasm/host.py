"""A host: everything that runs guests, put together, without a door. The gRPC server is one door to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import Config
from spear_wasm.engine.compiler import Compiler
from spear_wasm.engine.engine import Engine
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.execution.durable import DurableExecutions
from spear_wasm.execution.executor import Executor
from spear_wasm.execution.journal import ExecutionJournal, Retention
from spear_wasm.execution.manager import TaskExecutionManager
from spear_wasm.execution.registration import LimitPolicy, TaskRegistration
from spear_wasm.execution.task_registry import TaskRegistry
from spear_wasm.execution.task_store import TaskStore
from spear_wasm.pool import PoolFactory
from spear_wasm.runtime import RuntimeManager


class Host:
    """The parts that a door needs. Opened and closed by `open_host`.

    `tasks` finds tasks, `registration` makes and ends them, `manager` runs their functions, `durable` those whose
    fate is kept on disk.
    """

    def __init__(self, config: Config, data_dir: Path, closing: contextlib.ExitStack) -> None:
        self.config = config
        self.data_dir = data_dir
        plain, metered = (_engine_settings(config, metered=metered) for metered in (False, True))
        self.compiler = Compiler(plain, metered, config.compile)
        closing.callback(self.compiler.close)
        self.code = CodeCache(data_dir, self.compiler)
        self.artifacts = ArtifactStore(data_dir, config.artifacts, self.code)
        closing.callback(self.artifacts.close)
        self.runtimes = RuntimeManager(config.runtimes)
        tick = config.engine.tick
        self.engines = {False: Engine(plain, tick), True: Engine(metered, tick)}
        for engine in self.engines.values():
            closing.callback(engine.close)
        journal = ExecutionJournal(data_dir / "executions.db", _retention(config))
        closing.callback(journal.close)
        executor = Executor(config.execution.thread_count())
        closing.callback(executor.close)
        self.manager = TaskExecutionManager(
            config.execution, executor, journal.last_sequence(), journal.holds
        )
        self.durable = DurableExecutions(self.manager, journal, int(config.execution.max_unfinished_bytes))
        store = TaskStore(data_dir / "tasks.db")
        closing.callback(store.close)
        self.tasks = TaskRegistry(store, config.execution.max_tasks)
        self.pools = PoolFactory(config.pool, config.execution.total_memory() // 4)
        self.registration = TaskRegistration(
            registry=self.tasks,
            artifacts=self.artifacts,
            code=self.code,
            runtimes=self.runtimes,
            engines=self.engines,
            manager=self.manager,
            limits=_limit_policy(config),
            pools=self.pools,
        )
        executor.repeat(config.pool.upkeep, self.pools.upkeep)
        closing.callback(self.registration.close_pools)
        self.registration.restore(store.load())
        self.durable.recover(self.tasks, self.registration)

    def delete_task(self, reference: str, *, force: bool, forget_records: bool) -> int:
        """End a task; returns how many records of executions were forgotten with it, in memory or on disk.

        Raises:
            TaskNotFound: there is none of that id or name.
            TaskBusy: it has executions and `force` is not set.
        """
        task = self.tasks.get(reference)
        remembered = {
            record.execution_id
            for record in self.manager.records_of(task, self.config.execution.max_records)[1]
        }
        forgotten = self.registration.delete(task.id, force=force, forget_records=forget_records)
        if not forget_records:
            return forgotten
        self.durable.wait_for_end(task.id)
        on_disk = self.durable.journal.forget_task(task.id).result()
        return forgotten + len(set(on_disk) - remembered)

    def drain(self) -> None:
        """Accept nothing more and see the running executions to their end, within the grace configured.

        Durable ones that wait are left for the next run of the server.
        """
        self._suspend()
        self.manager.drain(self.config.server.shutdown_grace)

    def end_executions(self) -> None:
        """Cut the grace short: end what runs. Durable ones that wait are left as by `drain`."""
        self._suspend()
        self.manager.end_all()

    def _suspend(self) -> None:
        self.manager.stop_accepting()
        self.durable.suspend()


@contextlib.contextmanager
def open_host(config: Config, data_dir: Path) -> Iterator[Host]:
    """A host on a data directory, which it alone may use meanwhile; drained and closed at the end.

    Raises:
        ConfigurationError: the directory is in use, or a runtime cannot be loaded.
    """
    with contextlib.ExitStack() as closing:
        host = Host(config, data_dir, closing)
        closing.callback(host.drain)
        yield host


def _retention(config: Config) -> Retention:
    execution = config.execution
    return Retention(execution.max_stored, int(execution.max_stored_bytes), execution.stored_for)


def _limit_policy(config: Config) -> LimitPolicy:
    # What may grow beyond what all sandboxes share would never be started, and hold up the line.
    most = config.execution.total_memory()
    default, ceiling = (
        replace(limits, max_memory_bytes=min(limits.max_memory_bytes, most))
        for limits in (config.default_limits.limits(), config.ceiling.limits())
    )
    return LimitPolicy(default, ceiling)


def _engine_settings(config: Config, *, metered: bool) -> EngineSettings:
    return EngineSettings(
        metered=metered,
        max_memory_bytes=_whole_pages(config.ceiling.max_memory),
        max_table_elements=config.ceiling.max_table_elements,
        wasm_stack_bytes=int(config.engine.wasm_stack),
        sandboxes=config.engine.sandboxes,
    )


def _whole_pages(size: int) -> int:
    return -(-size // 65536) * 65536
