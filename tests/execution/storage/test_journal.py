"""What every journal does: what is kept, in which order, and for how long. SQLite's, and one that is in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from spear_wasm.errors import ExecutionExists, JournalFailed
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.storage import ExecutionJournal, Retention, SqliteJournal, StoredCall
from spear_wasm.execution.storage.journal import storable
from spear_wasm.execution.task import TaskTotal
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionMode, ExecutionStatus, Parameter, TypedValue, ValueType
from tests.execution.storage.journals import (
    NOW,
    PLENTY,
    Open,
    SettableClock,
    accepted,
    done,
    keep,
    kept,
    record,
    unfinished,
)
from tests.execution.storage.memory_journal import Database, MemoryJournal


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture(params=["sqlite", "memory"])
def open_journal(request: pytest.FixtureRequest, tmp_path: Path, clock: SettableClock) -> Iterator[Open]:
    """Opens the journal, and after its end again."""
    database = Database()
    kinds: dict[str, Callable[[Retention, int], ExecutionJournal]] = {
        "sqlite": lambda retention, worker: SqliteJournal(
            tmp_path / "executions.db", retention, clock, worker
        ),
        "memory": lambda retention, worker: MemoryJournal(database, retention, clock, worker),
    }
    with ExitStack() as closing:

        def open_one(retention: Retention = PLENTY, worker: int = 0) -> ExecutionJournal:
            journal = kinds[request.param](retention, worker)
            closing.callback(journal.close)
            return journal

        yield open_one


@pytest.fixture
def journal(open_journal: Open) -> ExecutionJournal:
    return open_journal()


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
    first, second = unfinished(journal)
    assert [first.accepted, second.accepted] == [accepted(1, call=call), accepted(2, call=call)]
    assert first.accepted.stored_call().given() == parameters
    assert (first.was_running, first.attempts) == (False, 0)
    assert (second.was_running, second.attempts) == (True, 2)
    assert kept(journal) == []
    done(journal.ended(record(1)))
    assert [each.accepted.execution_id for each in unfinished(journal)] == ["exec-2"]


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
    assert unfinished(journal) == []


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
    assert len(unfinished(journal)) == 1


def test_the_oldest_go_where_too_many_are_kept(open_journal: Open) -> None:
    journal = open_journal(Retention(2, 1 << 30, 3600))
    keep(journal, record(1, at=NOW - 1), record(2, at=NOW - 3), record(3, at=NOW - 2))
    done(journal.accept(accepted(4)))
    journal.prune()
    done(journal.started("nobody"))  # which comes after it
    assert kept(journal) == [1, 3]
    assert len(unfinished(journal)) == 1


def test_what_is_too_old_goes(open_journal: Open) -> None:
    journal = open_journal(Retention(1000, 1 << 30, 10))
    keep(journal, record(1, at=NOW - 10.5), record(2, at=NOW - 9.5))
    journal.prune()
    done(journal.started("nobody"))  # which comes after it
    assert kept(journal) == [2]


def test_the_oldest_go_where_results_are_too_large_together(open_journal: Open) -> None:
    journal = open_journal(Retention(1000, 25_000, 3600))
    values = (TypedValue(ValueType.BYTES, b"x" * 10_000),)
    keep(journal, *(record(number, at=NOW - number, values=values) for number in (1, 2, 3)))
    journal.prune()
    done(journal.started("nobody"))  # which comes after it
    assert kept(journal) == [1, 2]


def test_a_closed_journal_takes_nothing(journal: ExecutionJournal) -> None:
    write = journal.accept(accepted(1))
    journal.close()
    done(write)
    with pytest.raises(JournalFailed, match="closed"):
        done(journal.accept(accepted(2)))


def test_a_tasks_total_counts_what_is_not_kept_any_longer(open_journal: Open) -> None:
    journal = open_journal(Retention(1, 1 << 30, 3600))
    keep(journal, record(1), record(2, "other"), record(3, status=ExecutionStatus.FAILED, at=NOW + 5))
    done(journal.ended(record(3)))
    done(journal.accept(accepted(4)))
    journal.prune()
    done(journal.started("nobody"))  # which comes after it
    totals = {each.task_id: each for each in journal.task_totals()}
    assert totals["task"] == TaskTotal("task", 2, ExecutionStatus.FAILED, NOW + 5)
    assert totals["other"].ended == 1
    done(journal.forget_totals(["other"]))
    assert [each.task_id for each in journal.task_totals()] == ["task"]


def test_what_is_not_kept_can_be_counted_with_what_is(journal: ExecutionJournal) -> None:
    keep(journal, record(1, at=NOW))
    earlier = TaskTotal("task", 5, ExecutionStatus.FAILED, NOW - 1)
    later = TaskTotal("task", 7, ExecutionStatus.TIMEOUT, NOW + 1)
    other = TaskTotal("other", 2, ExecutionStatus.FAILED, NOW)
    done(journal.add_totals([earlier, other]))
    assert {each.task_id: each for each in journal.task_totals()} == {
        "task": TaskTotal("task", 6, ExecutionStatus.COMPLETED, NOW),
        "other": other,
    }
    done(journal.add_totals([later]))
    assert TaskTotal("task", 13, ExecutionStatus.TIMEOUT, NOW + 1) in journal.task_totals()


def test_an_execution_began_when_its_first_attempt_did(
    journal: ExecutionJournal, clock: SettableClock
) -> None:
    done(journal.accept(accepted(1)))
    assert unfinished(journal)[0].started_at is None
    for _ in range(2):
        done(journal.started("exec-1"))
        assert unfinished(journal)[0].started_at == NOW
        clock.now += 9


def test_a_tasks_newest_outcomes_come_first(journal: ExecutionJournal) -> None:
    keep(journal, record(1), record(3), record(2), record(4, "other"))
    done(journal.accept(accepted(5)))
    assert [each.sequence for each in journal.newest_of("task", 2)] == [3, 2]
    assert [each.sequence for each in journal.newest_of("task", 9)] == [3, 2, 1]
    assert journal.newest_of("nobody", 9) == []


# --- workers ----------------------------------------------------------------------------------------------


def test_what_a_worker_leaves_others_take_over_each_a_part_and_nobody_twice(open_journal: Open) -> None:
    gone, heir, other, bystander = (open_journal(worker=number) for number in (1, 2, 3, 4))
    numbers = [number << 10 for number in range(1, 8)]
    for number in numbers:
        done(gone.accept(accepted(number)))
    done(bystander.accept(accepted(5)))
    done(gone.started(f"exec-{numbers[0]}"))
    done(gone.ended(record(numbers[1])))
    taken = [done(journal.take_over(1, part, 2)) for part, journal in enumerate((heir, other))]
    left = [number for number in numbers if number != numbers[1]]
    assert sorted(each.accepted.sequence for part in taken for each in part) == left
    assert all(part for part in taken)
    (begun,) = [each for part in taken for each in part if each.was_running]
    assert (begun.accepted.sequence, begun.attempts) == (numbers[0], 1)
    for worker, part in zip((2, 3), taken, strict=True):
        for each in part:
            kept_now = heir.find(each.accepted.execution_id)
            assert kept_now is not None
            assert kept_now.worker == worker
    assert done(heir.take_over(1, 0, 1)) == []
    assert done(heir.take_over(4, 0, 1))[0].accepted.sequence == 5


def test_an_id_is_kept_whichever_worker_has_it_to_do(open_journal: Open) -> None:
    one, other = (open_journal(worker=number) for number in (1, 2))
    assert not other.holds("exec-1")
    done(one.accept(accepted(1)))
    assert other.holds("exec-1")
    with pytest.raises(ExecutionExists):
        done(other.accept(accepted(1)))


def test_totals_of_one_task_are_told_alone(journal: ExecutionJournal) -> None:
    keep(journal, record(1, "task"), record(2, "other"), record(3, "other"))
    assert [(total.task_id, total.ended) for total in journal.task_totals("other")] == [("other", 2)]
    assert journal.task_totals("nobody's") == []
