"""Executions on disk: what is kept, in which order, for how long, and what a failing disk leads to."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_wasm.errors import ExecutionExists, JournalFailed
from spear_wasm.execution.journal import (
    Accepted,
    ExecutionJournal,
    Retention,
    StoredCall,
    TaskTotal,
    storable,
)
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.limits import UNSAID, ResourceLimits
from spear_wasm.model import (
    ErrorCode,
    ExecutionMode,
    ExecutionStatus,
    Outcome,
    Parameter,
    TypedValue,
    Usage,
    ValueType,
)
from tests.execution.fake_fibers import PATIENCE

PLENTY = Retention(most=1000, most_bytes=1 << 30, seconds=3600)
NOW = 1_000_000.0
CALL = StoredCall(
    "add", ExecutionMode.ASYNC, [], UNSAID, 0, force_new_instance=False, priority=5, max_retries=0
)

Open = Callable[..., ExecutionJournal]


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as closing:

        def open_one(retention: Retention = PLENTY) -> ExecutionJournal:
            journal = ExecutionJournal(tmp_path / "executions.db", retention, lambda: NOW)
            closing.callback(journal.close)
            return journal

        yield open_one


@pytest.fixture
def journal(open_journal: Open) -> ExecutionJournal:
    return open_journal()


def done(write: Future[Any]) -> Any:
    return write.result(PATIENCE)


def accepted(number: int, task: str = "task", call: StoredCall = CALL) -> Accepted:
    return Accepted(f"exec-{number}", task, number, b"digest", call.packed())


def record(
    number: int, task: str = "task", *, at: float = NOW, values: tuple[TypedValue, ...] = (), **outcome: Any
) -> ExecutionRecord:
    return ExecutionRecord(
        f"exec-{number}", task, "add", ExecutionMode.ASYNC, number, "sandbox", at, at, 0.5, 0.25,
        Outcome(outcome.pop("status", ExecutionStatus.COMPLETED), values, **outcome),
        Usage(cpu_ns=7, fuel=9, stdout=b"out", stderr=b"err\xff"),
    )  # fmt: skip


def keep(journal: ExecutionJournal, *records: ExecutionRecord) -> None:
    for each in records:
        journal.accept(accepted(each.sequence, each.task_id))
        done(journal.ended(each))


def kept(journal: ExecutionJournal, **wanted: Any) -> list[int]:
    return [each.sequence for each in journal.page(Wanted(**wanted), 1000)]


def test_what_was_accepted_is_unfinished_until_it_has_ended(
    journal: ExecutionJournal, open_journal: Open
) -> None:
    parameters = [
        Parameter(b"\0\xff", "raw"), Parameter({"list": [1, -1.5, None, True, "é"]}, "json", "json"),
        Parameter(2**64 - 1), Parameter(-(2**63)), Parameter(math.inf),
    ]  # fmt: skip
    call = StoredCall(
        "f", ExecutionMode.SYNC, storable(parameters), ResourceLimits(max_fuel=2**63), 12.5,
        force_new_instance=True, priority=9, max_retries=3,
    )  # fmt: skip
    for number in (2, 1):
        done(journal.accept(accepted(number, call=call)))
    done(journal.started("exec-2"))
    done(journal.started("exec-2"))
    journal.close()
    journal = open_journal()
    first, second = journal.unfinished()
    assert [first.accepted, second.accepted] == [accepted(1, call=call), accepted(2, call=call)]
    assert first.accepted.stored_call().given() == parameters
    assert (first.was_running, first.attempts) == (False, 0)
    assert (second.was_running, second.attempts) == (True, 2)
    assert kept(journal) == []
    done(journal.ended(record(1)))
    assert [each.accepted.execution_id for each in journal.unfinished()] == ["exec-2"]


def test_an_integer_that_only_a_double_can_hold_is_kept_as_one() -> None:
    assert storable([Parameter([10**300, {"x": -(10**300)}])]) == [([1e300, {"x": -1e300}], "", "")]


def test_an_outcome_is_told_as_it_was(journal: ExecutionJournal, open_journal: Open) -> None:
    values = (
        TypedValue(ValueType.I64, -(2**63)), TypedValue(ValueType.F64, -0.0), TypedValue(ValueType.F32, 1.0),
        TypedValue(ValueType.BYTES, b"\0\xff"),
    )  # fmt: skip
    whole = record(1, values=values)
    failed = record(
        2, status=ExecutionStatus.FAILED, error_code=ErrorCode.EXIT_STATUS, exit_code=3, error_message="three",
        trap_frames=("a", "b"),
    )  # fmt: skip
    keep(journal, whole, failed)
    journal.close()
    journal = open_journal()
    assert [journal.find(f"exec-{number}") for number in (1, 2, 3)][2] is None
    for expected in (whole, failed):
        found = journal.find(expected.execution_id)
        assert found is not None
        assert (found.digest, repr(found.record)) == (b"digest", repr(expected))
    brief = journal.page(Wanted(), 1)[0]
    assert (brief.outcome.values, brief.usage.stdout, brief.usage.stderr) == ((), b"", b"")
    assert brief.usage.cpu_ns == 7


def test_the_first_outcome_stays(journal: ExecutionJournal) -> None:
    keep(journal, record(1))
    assert journal.holds("exec-1")
    assert not journal.holds("exec-2")
    done(journal.ended(record(1, status=ExecutionStatus.FAILED)))
    done(journal.started("exec-1"))
    found = journal.find("exec-1")
    assert found is not None
    assert found.record == record(1)
    assert journal.unfinished() == []


def test_an_id_that_is_kept_is_refused_and_others_of_its_batch_are_not(journal: ExecutionJournal) -> None:
    writes = [journal.accept(accepted(number)) for number in (1, 1, 2)]
    done(writes[0])
    with pytest.raises(ExecutionExists, match="exec-1"):
        done(writes[1])
    done(writes[2])


def test_lists_are_in_order_of_creation_and_can_be_narrowed(journal: ExecutionJournal) -> None:
    keep(journal, record(3), record(1, "other"), record(2, status=ExecutionStatus.FAILED))
    assert kept(journal) == [1, 2, 3]
    assert kept(journal, after=1) == [2, 3]
    assert kept(journal, task_id="other") == [1]
    assert kept(journal, status=ExecutionStatus.FAILED) == [2]
    assert [each.sequence for each in journal.page(Wanted(), 2)] == [1, 2]
    assert journal.last_sequence() == 3


def test_a_tasks_outcomes_can_be_forgotten_but_not_what_it_has_yet_to_do(journal: ExecutionJournal) -> None:
    keep(journal, record(1), record(2, "other"), record(3))
    done(journal.accept(accepted(4)))
    assert sorted(done(journal.forget_task("task"))) == ["exec-1", "exec-3"]
    assert kept(journal) == [2]
    assert len(journal.unfinished()) == 1


def test_the_oldest_go_where_too_many_are_kept(open_journal: Open) -> None:
    journal = open_journal(Retention(2, 1 << 30, 3600))
    keep(journal, record(1, at=NOW - 1), record(2, at=NOW - 3), record(3, at=NOW - 2))
    done(journal.accept(accepted(4)))
    done(journal.prune())
    assert kept(journal) == [1, 3]
    assert len(journal.unfinished()) == 1


def test_what_is_too_old_goes(open_journal: Open) -> None:
    journal = open_journal(Retention(1000, 1 << 30, 10))
    keep(journal, record(1, at=NOW - 10.5), record(2, at=NOW - 9.5))
    done(journal.prune())
    assert kept(journal) == [2]


def test_the_oldest_go_where_results_are_too_large_together(open_journal: Open) -> None:
    journal = open_journal(Retention(1000, 25_000, 3600))
    values = (TypedValue(ValueType.BYTES, b"x" * 10_000),)
    keep(journal, *(record(number, at=NOW - number, values=values) for number in (1, 2, 3)))
    done(journal.prune())
    assert kept(journal) == [1, 2]


def test_a_disk_that_fails_fails_the_whole_batch_and_the_next_is_tried_again(
    journal: ExecutionJournal, tmp_path: Path
) -> None:
    done(journal.accept(accepted(1)))
    other = sqlite3.connect(tmp_path / "executions.db", isolation_level=None)
    other.execute("ALTER TABLE executions RENAME TO elsewhere")
    with pytest.raises(JournalFailed, match="no such table"):
        done(journal.accept(accepted(2)))
    other.execute("ALTER TABLE elsewhere RENAME TO executions")
    other.close()
    done(journal.accept(accepted(3)))
    assert [each.accepted.sequence for each in journal.unfinished()] == [1, 3]


def test_a_closed_journal_takes_nothing(journal: ExecutionJournal) -> None:
    write = journal.accept(accepted(1))
    journal.close()
    done(write)
    with pytest.raises(JournalFailed, match="closed"):
        done(journal.accept(accepted(2)))


def test_what_comes_while_the_disk_is_busy_shares_one_transaction(journal: ExecutionJournal) -> None:
    statements: list[str] = []
    journal._writing.set_trace_callback(statements.append)
    busy, go_on = threading.Event(), threading.Event()

    def linger(_: sqlite3.Connection) -> None:
        busy.set()
        go_on.wait(PATIENCE)

    journal._enqueue(linger)
    assert busy.wait(PATIENCE)
    writes = [journal.accept(accepted(number)) for number in range(1, 51)]
    go_on.set()
    for write in writes:
        done(write)
    assert statements.count("COMMIT") <= 3  # the first two, and perhaps one that pruned
    assert len(journal.unfinished()) == 50


def counted(journal: ExecutionJournal) -> tuple[tuple[int, ...], tuple[int, ...]]:
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
        journal = closing.enter_context(contextlib.closing(ExecutionJournal(path, retention, lambda: NOW)))
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
                done(journal.prune())
            else:
                journal.close()
                journal = closing.enter_context(
                    contextlib.closing(ExecutionJournal(path, retention, lambda: NOW))
                )
            if step == "end":
                ended = newest
            totals, recount = counted(journal)
            assert totals == recount
            there = {row[0] for row in journal._read("SELECT execution_id FROM executions")}
            assert {f"exec-{n}" for n in range(1, newest + 1) if journal.holds(f"exec-{n}")} == there


def test_a_tasks_total_counts_what_is_not_kept_any_longer(open_journal: Open) -> None:
    journal = open_journal(Retention(1, 1 << 30, 3600))
    keep(journal, record(1), record(2, "other"), record(3, status=ExecutionStatus.FAILED, at=NOW + 5))
    done(journal.ended(record(3)))
    done(journal.accept(accepted(4)))
    done(journal.prune())
    totals = {each.task_id: each for each in journal.task_totals()}
    assert totals["task"] == TaskTotal("task", 2, ExecutionStatus.FAILED, NOW + 5)
    assert totals["other"].ended == 1
    done(journal.forget_totals(["other"]))
    assert [each.task_id for each in journal.task_totals()] == ["task"]


def test_an_execution_began_when_its_first_attempt_did(journal: ExecutionJournal) -> None:
    done(journal.accept(accepted(1)))
    assert journal.unfinished()[0].started_at is None
    for _ in range(2):
        done(journal.started("exec-1"))
        assert journal.unfinished()[0].started_at == NOW
        journal._clock = lambda: NOW + 9


def test_an_id_that_the_disk_did_not_take_is_not_held(journal: ExecutionJournal, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "executions.db", isolation_level=None)
    other.execute("ALTER TABLE executions RENAME TO elsewhere")
    with pytest.raises(JournalFailed):
        done(journal.accept(accepted(1)))
    other.execute("ALTER TABLE elsewhere RENAME TO executions")
    other.close()
    assert not journal.holds("exec-1")


def test_a_tasks_newest_outcomes_come_first(journal: ExecutionJournal) -> None:
    keep(journal, record(1), record(3), record(2), record(4, "other"))
    done(journal.accept(accepted(5)))
    assert [each.sequence for each in journal.newest_of("task", 2)] == [3, 2]
    assert [each.sequence for each in journal.newest_of("task", 9)] == [3, 2, 1]
    assert journal.newest_of("nobody", 9) == []


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
    assert journal.unfinished()[0].started_at == NOW


def test_no_question_is_answered_by_reading_everything(journal: ExecutionJournal) -> None:
    asked: list[str] = []
    journal._reading.set_trace_callback(asked.append)
    journal._writing.set_trace_callback(asked.append)
    for task in ("", "task"):
        for status in (None, ExecutionStatus.FAILED):
            journal.page(Wanted(task, status, 7), 10)
    journal.newest_of("task", 10)
    journal.find("exec-1")
    journal.unfinished()
    journal.last_sequence()
    keep(journal, record(1))
    done(journal.started("exec-1"))
    done(journal.forget_task("task"))
    done(journal.prune())
    journal._reading.set_trace_callback(None)
    journal._writing.set_trace_callback(None)
    about_executions = [each for each in asked if " executions " in each and "kept" not in each]
    assert len(about_executions) >= 12
    for statement in about_executions:
        plan = [row[3] for row in journal._read(f"EXPLAIN QUERY PLAN {statement}")]
        reads = [step for step in plan if "SEARCH" in step or "SCAN" in step]
        assert all("SEARCH" in step or "INDEX" in step for step in reads), (statement, plan)
        assert not any("TEMP B-TREE" in step for step in plan), (statement, plan)
