"""What a run of the server makes of executions that the one before it has left on disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spear_wasm import host
from spear_wasm.errors import JournalFailed
from spear_wasm.execution import manager
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.storage import Accepted, Retention, SqliteJournal, StoredCall
from spear_wasm.limits import UNSAID
from spear_wasm.model import ErrorCode, ExecutionMode, ExecutionStatus
from tests.execution.conftest import OpenGuests
from tests.execution.fake_fibers import PATIENCE
from tests.execution.guests import Guests, config_with, guests_on, until
from tests.execution.storage.memory_journal import Database, MemoryJournal

PENDING, RUNNING = ExecutionStatus.PENDING, ExecutionStatus.RUNNING
PLENTY = Retention(most=1000, most_bytes=1 << 30, seconds=1e9)
HOUR_MS = 3_600_000
PATIENT = {
    "execution": {"first_backoff": "100s", "longest_backoff": "1000s"},
    "ceiling": {"max_wall_time": "2h"},
}
HASTY = {**PATIENT, "execution": {"first_backoff": "1ms", "longest_backoff": "1ms"}}

Begin = Callable[..., Guests]


class LastRun:
    """A data directory with a task, and what an earlier run of the server has left there."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        with guests_on(data_dir, config_with(**PATIENT)) as guests:
            self._task_id = guests.task("calc", "left", timeout_ms=HOUR_MS).id

    def left(self, name: str, *, attempts: int, **call: Any) -> None:
        """It has begun an execution so often."""
        asked: dict[str, Any] = {"mode": ExecutionMode.ASYNC, "budget_ms": 0, "max_retries": 0, **call}
        stored = StoredCall(
            "answer", parameters=[], limits=UNSAID, force_new_instance=False, priority=5, **asked
        )
        path = self._data_dir / "executions.db"
        with closing(SqliteJournal(path, PLENTY)) as journal:
            sequence = journal.last_sequence() + 1
            journal.accept(Accepted(name, self._task_id, sequence, b"digest", stored.packed()))
            for _ in range(attempts):
                journal.started(name).result(PATIENCE)


@pytest.fixture
def last_run(stocked_dir: Path, tmp_path: Path) -> LastRun:
    return LastRun(shutil.copytree(stocked_dir, tmp_path / "data"))


@pytest.fixture
def begin(last_run: LastRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """The next run of the server, in which nothing is left to chance."""
    monkeypatch.setattr(manager, "random", SimpleNamespace(random=lambda: 0.0))
    with ExitStack() as closing_all:
        yield lambda tables: closing_all.enter_context(guests_on(tmp_path / "data", config_with(**tables)))


def waiting(guests: Guests, name: str) -> Execution:
    execution = guests.host.executions.find(name)
    assert isinstance(execution, Execution)
    return execution


def error_of(guests: Guests, name: str) -> ErrorCode | None:
    """Why it failed; waits for its end."""
    until(lambda: (kept := guests.host.durable.journal.find(name)) is not None and kept.record is not None)
    kept = guests.host.durable.journal.find(name)
    assert kept is not None
    assert kept.record is not None
    return kept.record.outcome.error_code


def test_what_a_disk_did_not_count_is_counted_when_it_can(open_guests: OpenGuests) -> None:
    guests = open_guests()
    host, task = guests.host, guests.task("calc")
    for _ in range(3):
        guests.run(task, "answer")
    database = sqlite3.connect(host.data_dir / "executions.db", isolation_level=None)
    database.execute("ALTER TABLE task_totals RENAME TO elsewhere")
    host.totals.keep()
    until(lambda: task.uncounted == 3)
    database.execute("ALTER TABLE elsewhere RENAME TO task_totals")
    database.close()
    host.totals.keep()
    until(lambda: [each.ended for each in host.durable.journal.task_totals()] == [3])
    host.totals.keep()
    assert task.uncounted == 0
    assert [each.ended for each in host.durable.journal.task_totals()] == [3]


@pytest.mark.parametrize(("attempts", "pause"), [(1, 50), (3, 200)])
def test_what_was_lost_begins_again_after_a_pause_that_counts_its_attempts(
    last_run: LastRun, begin: Begin, attempts: int, pause: float
) -> None:
    last_run.left("lost", attempts=attempts, max_retries=9)
    guests = begin(PATIENT)
    execution = waiting(guests, "lost")
    assert (execution.status, execution.attempts) == (PENDING, attempts)
    assert guests.manager.stats().pending == 1
    assert execution.timer is not None
    assert execution.timer.when - execution.accepted == pytest.approx(pause, rel=0.1)
    guests.cancel(execution)


def test_after_the_pause_it_runs(last_run: LastRun, begin: Begin) -> None:
    last_run.left("lost", attempts=2, max_retries=9)
    guests = begin(HASTY)
    assert error_of(guests, "lost") is None
    kept = guests.host.durable.journal.find("lost")
    assert kept is not None
    assert kept.record is not None
    assert kept.record.attempts == 3


def test_what_had_not_begun_waits_for_no_pause(last_run: LastRun, begin: Begin) -> None:
    last_run.left("new", attempts=0, max_retries=9)
    assert error_of(begin(PATIENT), "new") is None


def test_a_pause_that_is_longer_than_the_budget_leaves_it_lost(last_run: LastRun, begin: Begin) -> None:
    last_run.left("lost", attempts=1, max_retries=9, budget_ms=49_000)
    assert error_of(begin(PATIENT), "lost") is ErrorCode.WORKER_LOST


def test_an_outcome_that_the_disk_does_not_take_is_written_when_it_does(
    last_run: LastRun, begin: Begin
) -> None:
    host = begin(PATIENT).host
    last_run.left("lost", attempts=1)
    with closing(sqlite3.connect(host.data_dir / "executions.db", isolation_level=None)) as database:
        database.execute(
            "CREATE TRIGGER refusing BEFORE UPDATE OF record ON executions BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        with pytest.raises(JournalFailed):
            host.take_over(gone=0, part=0, parts=1)
        database.execute("DROP TRIGGER refusing")
    host.take_over(gone=0, part=0, parts=1)
    kept = host.durable.journal.find("lost")
    assert kept is not None
    assert kept.record is not None
    assert kept.record.outcome.error_code is ErrorCode.WORKER_LOST
    assert host.executions.tally().ended == 1


def test_what_is_taken_over_while_the_server_stops_is_left_to_the_next_run(
    last_run: LastRun, begin: Begin, tmp_path: Path
) -> None:
    with guests_on(tmp_path / "data", config_with(**PATIENT)) as stopping:
        last_run.left("left", attempts=0)
        stopping.manager.stop_accepting()
        stopping.host.take_over(gone=0, part=0, parts=1)
    assert error_of(begin(PATIENT), "left") is None


def test_what_was_begun_as_often_as_it_may_is_lost(last_run: LastRun, begin: Begin) -> None:
    last_run.left("lost", attempts=2, max_retries=1)
    assert error_of(begin(HASTY), "lost") is ErrorCode.WORKER_LOST


def test_another_database_takes_nothing_but_a_journal_of_its_own(
    stocked_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database()
    monkeypatch.setattr(host, "SqliteJournal", lambda _, retention, **__: MemoryJournal(database, retention))
    data_dir = shutil.copytree(stocked_dir, tmp_path / "data")
    with guests_on(data_dir, config_with()) as guests:
        task = guests.task("calc", "kept")
        durable = guests.host.durable.submit(Call(task, "answer", execution_id="ended"), b"digest")
        record = durable.recorded.result(PATIENCE)
        stored = StoredCall("answer", ExecutionMode.ASYNC, [], UNSAID, 0, False, 5, 0)
        guests.host.durable.journal.accept(Accepted("left", task.id, 1, b"digest", stored.packed()))
    assert database.rows.keys() == {"ended", "left"}
    with guests_on(data_dir, config_with()) as guests:
        assert error_of(guests, "left") is None
        kept = guests.host.durable.journal.find("ended")
        assert kept is not None
        assert kept.record == record
        task = guests.host.tasks.get("kept")
        until(lambda: task.executions == 2)
