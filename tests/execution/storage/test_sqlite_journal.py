"""What a journal in SQLite does besides: a failing disk, shared transactions, earlier versions, and what it costs."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_wasm.errors import JournalFailed
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.storage import Retention, SqliteJournal
from spear_wasm.model import ExecutionStatus
from tests.execution.fake_fibers import PATIENCE
from tests.execution.storage.journals import NOW, PLENTY, accepted, done, keep, record, unfinished

Open = Callable[[], SqliteJournal]


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as closing:

        def open_one() -> SqliteJournal:
            journal = SqliteJournal(tmp_path / "executions.db", PLENTY, lambda: NOW)
            closing.callback(journal.close)
            return journal

        yield open_one


@pytest.fixture
def journal(open_journal: Open) -> SqliteJournal:
    return open_journal()


def test_a_disk_that_fails_fails_the_whole_batch_and_the_next_is_tried_again(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    done(journal.accept(accepted(1)))
    other = sqlite3.connect(tmp_path / "executions.db", isolation_level=None)
    other.execute("ALTER TABLE executions RENAME TO elsewhere")
    with pytest.raises(JournalFailed, match="no such table"):
        done(journal.accept(accepted(2)))
    other.execute("ALTER TABLE elsewhere RENAME TO executions")
    other.close()
    done(journal.accept(accepted(3)))
    assert [each.accepted.sequence for each in unfinished(journal)] == [1, 3]


def test_what_comes_while_the_disk_is_busy_shares_one_transaction(journal: SqliteJournal) -> None:
    statements: list[str] = []
    journal._writes._connection.set_trace_callback(statements.append)
    busy, go_on = threading.Event(), threading.Event()

    def linger(_: sqlite3.Connection) -> None:
        busy.set()
        go_on.wait(PATIENCE)

    journal._writes.submit(linger)
    assert busy.wait(PATIENCE)
    writes = [journal.accept(accepted(number)) for number in range(1, 51)]
    go_on.set()
    for write in writes:
        done(write)
    assert statements.count("COMMIT") <= 2
    assert len(unfinished(journal)) == 50


def counted(journal: SqliteJournal) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many outcomes are kept, and their bytes: as the totals say, and as counting says."""
    totals = journal._read("SELECT executions, bytes FROM kept")[0]
    recount = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM executions WHERE completed_at IS NOT NULL"
    return totals, journal._read(recount)[0]


STEPS = st.sampled_from(["accept", "end", "end again", "forget", "prune", "open again"])


@settings(deadline=None, max_examples=30)
@given(st.lists(STEPS, max_size=30))
def test_the_totals_are_what_counting_would_give(steps: list[str]) -> None:
    with TemporaryDirectory() as directory, ExitStack() as closing:
        path, retention = Path(directory) / "executions.db", Retention(3, 2000, 3600)
        journal = closing.enter_context(contextlib.closing(SqliteJournal(path, retention, lambda: NOW)))
        newest = ended = 0
        for step in steps:
            if step == "accept":
                newest += 1
                done(journal.accept(accepted(newest)))
            elif step == "end":
                done(journal.ended(record(newest)))
            elif step == "end again":
                done(journal.ended(record(ended, status=ExecutionStatus.FAILED)))
            elif step == "forget":
                done(journal.forget_task("task"))
            elif step == "prune":
                journal.prune()
                done(journal.started("nobody"))
            else:
                journal.close()
                journal = closing.enter_context(
                    contextlib.closing(SqliteJournal(path, retention, lambda: NOW))
                )
            if step == "end":
                ended = newest
            totals, recount = counted(journal)
            assert totals == recount
            there = {row[0] for row in journal._read("SELECT execution_id FROM executions")}
            assert {f"exec-{n}" for n in range(1, newest + 1) if journal.holds(f"exec-{n}")} == there


def test_an_id_that_the_disk_did_not_take_is_not_held(journal: SqliteJournal, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "executions.db", isolation_level=None)
    other.execute("ALTER TABLE executions RENAME TO elsewhere")
    with pytest.raises(JournalFailed):
        done(journal.accept(accepted(1)))
    other.execute("ALTER TABLE elsewhere RENAME TO executions")
    other.close()
    assert not journal.holds("exec-1")


def test_the_journal_of_an_earlier_version_is_taken_over(open_journal: Open, tmp_path: Path) -> None:
    journal = open_journal()
    keep(journal, record(1))
    done(journal.accept(accepted(2)))
    journal.close()
    old = sqlite3.connect(tmp_path / "executions.db")
    old.executescript(
        "ALTER TABLE executions DROP COLUMN started_at; DROP TABLE kept; DROP TABLE task_totals;"
        "DROP TRIGGER one_more; DROP TRIGGER one_less;"
    )
    old.close()
    journal = open_journal()
    assert counted(journal)[0] == counted(journal)[1] != (0, 0)
    done(journal.started("exec-2"))
    assert unfinished(journal)[0].started_at == NOW


GIVEN = {"SCAN started", "SCAN ended", "SCAN CONSTANT ROW", "SCAN 1 CONSTANT ROW"}
"""Reads of what the statement itself brings."""


def test_no_question_is_answered_by_reading_everything(journal: SqliteJournal) -> None:
    asked: list[str] = []
    journal._reading.set_trace_callback(asked.append)
    journal._writes._connection.set_trace_callback(asked.append)
    for task in ("", "task"):
        for status in (None, ExecutionStatus.FAILED):
            journal.page(Wanted(task, status, 7), 10)
    journal.newest_of("task", 10)
    journal.find("exec-1")
    unfinished(journal)
    journal.last_sequence()
    keep(journal, record(1))
    done(journal.started("exec-1"))
    done(journal.forget_task("task"))
    journal.prune()
    done(journal.started("nobody"))
    journal._reading.set_trace_callback(None)
    journal._writes._connection.set_trace_callback(None)
    about_executions = [each for each in asked if " executions " in each and "kept" not in each]
    assert len(about_executions) >= 12
    for statement in about_executions:
        plan = [row[3] for row in journal._read(f"EXPLAIN QUERY PLAN {statement}")]
        reads = [step for step in plan if "SEARCH" in step or ("SCAN" in step and step not in GIVEN)]
        assert all("SEARCH" in step or "INDEX" in step for step in reads), (statement, plan)
        assert not any("TEMP B-TREE" in step for step in plan), (statement, plan)
