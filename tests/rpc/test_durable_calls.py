"""Calls with a key, and what is known of them before the disk has spoken."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionElsewhere, ExecutionExists
from spear_wasm.execution.durable import DurableExecution
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.task import Task
from spear_wasm.model import ExecutionStatus
from spear_wasm.rpc.durable_calls import DurableCalls, digest_of
from tests.execution.guests import Guests, config_with, ended, guests_on, until, upload

KEY = "a key"
ANOTHER_WORKER = 7
SYNC = pb.InvokeFunctionRequest(task_id="task", function_name="spin", execution_id=KEY)
Answer = asyncio.Task[pb.InvokeFunctionResponse]


class BusyDisk:
    """A disk that takes nothing until it is let go."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("BEGIN IMMEDIATE")

    def keep_for_another_worker(self, digest: bytes) -> None:
        """Have another worker's execution there first."""
        self._database.execute(
            "INSERT INTO executions (sequence, execution_id, task_id, digest, status, call, worker) "
            "VALUES (1, ?, 'task', ?, 'RUNNING', x'', ?)",
            (KEY, digest, ANOTHER_WORKER),
        )

    def let_go(self) -> None:
        self._database.execute("COMMIT")


@contextmanager
def busy_disk(guests: Guests) -> Iterator[BusyDisk]:
    path = guests.host.data_dir / "executions.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        yield BusyDisk(database)


class Calling:
    """A host's durable calls, and one task to call."""

    def __init__(self, guests: Guests) -> None:
        self.guests = guests
        self.calls = DurableCalls(guests.host)
        self._task: Task = guests.task()

    def call(self) -> Answer:
        """Call with the key, as if over a connection of its own."""
        return asyncio.create_task(self.calls.invoke(SYNC, self._hand_in))

    async def _hand_in(self, submit: Callable[[Call], DurableExecution]) -> DurableExecution:
        return submit(Call(self._task, "spin", execution_id=KEY))

    @property
    def callers(self) -> int:
        """How many calls wait."""
        return self.calls._callers[KEY, digest_of(SYNC)]

    async def execution(self) -> Execution:
        """What the key's call has begun; waits until there is something."""
        await eventually(lambda: self.guests.host.executions.find(KEY) is not None)
        found = self.guests.host.executions.find(KEY)
        assert isinstance(found, Execution)
        return found


@pytest.fixture
def calling(tmp_path: Path) -> Iterator[Calling]:
    with guests_on(tmp_path, config_with()) as guests:
        upload(guests.host.artifacts, "hostile")
        calling = Calling(guests)
        yield calling
        calling.calls.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces, and let the loop go on."""
    await asyncio.to_thread(until, condition)


async def hang_up(answer: Answer) -> None:
    answer.cancel()
    await asyncio.wait([answer])
    assert answer.cancelled()


def run(steps: Coroutine[None, None, None]) -> None:
    asyncio.run(steps)


def test_the_last_caller_who_hangs_up_ends_what_was_called_for(calling: Calling) -> None:
    async def steps() -> None:
        first = calling.call()
        execution = await calling.execution()
        await eventually(lambda: execution.status is ExecutionStatus.RUNNING)
        second = calling.call()
        await eventually(lambda: calling.callers == 2)
        await hang_up(first)
        assert execution.kill_fault is None
        await hang_up(second)
        outcome = await asyncio.to_thread(ended, execution)
        assert outcome.status is ExecutionStatus.CANCELLED

    run(steps())


def test_what_is_hung_up_on_before_the_disk_has_it_is_kept_and_cancelled(calling: Calling) -> None:
    async def steps() -> None:
        with busy_disk(calling.guests) as disk:
            answer = calling.call()
            execution = await calling.execution()
            await hang_up(answer)
            assert not execution.done
            disk.let_go()
        outcome = await asyncio.to_thread(ended, execution)
        assert outcome.status is ExecutionStatus.CANCELLED
        assert execution.attempts == 0
        await eventually(lambda: calling.guests.host.durable.open(KEY) is None)
        kept = calling.guests.host.durable.journal.find(KEY)
        assert kept is not None
        assert kept.record is not None
        assert kept.record.status is ExecutionStatus.CANCELLED

    run(steps())


def test_hanging_up_on_the_slower_of_two_workers_ends_nothing(calling: Calling) -> None:
    host = calling.guests.host

    async def steps() -> None:
        with busy_disk(calling.guests) as disk:
            answer = calling.call()
            execution = await calling.execution()
            await hang_up(answer)
            disk.keep_for_another_worker(digest_of(SYNC))
            disk.let_go()
        await eventually(lambda: execution.done)
        assert execution.outcome is None
        kept = host.durable.journal.find(KEY)
        assert kept is not None
        assert (kept.record, kept.worker) == (None, ANOTHER_WORKER)
        await eventually(lambda: host.durable.open(KEY) is None)
        assert host.executions.find(KEY) is None

    run(steps())


def test_callers_of_the_slower_worker_are_sent_to_the_faster_one(calling: Calling) -> None:
    async def steps() -> None:
        with busy_disk(calling.guests) as disk:
            first = calling.call()
            await calling.execution()
            second = calling.call()
            await eventually(lambda: calling.callers == 2)
            disk.keep_for_another_worker(digest_of(SYNC))
            disk.let_go()
        for answer in (first, second):
            with pytest.raises(ExecutionElsewhere) as elsewhere:
                await answer
            assert elsewhere.value.metadata["worker"] == str(ANOTHER_WORKER)

    run(steps())


def test_a_key_that_another_worker_took_for_another_request_is_refused(calling: Calling) -> None:
    async def steps() -> None:
        with busy_disk(calling.guests) as disk:
            answer = calling.call()
            await calling.execution()
            disk.keep_for_another_worker(b"of another request")
            disk.let_go()
        with pytest.raises(ExecutionExists):
            await answer

    run(steps())
