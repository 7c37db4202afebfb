"""Lists of executions in the order of their creation, page by page."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.execution import Execution
from spear_wasm.model import ExecutionMode, ExecutionStatus
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spear_wasm.execution.records import ExecutionRecord


class ActiveExecution(msgspec.Struct, frozen=True):
    """An execution that waits or runs on another worker, as it was when that one was asked."""

    execution_id: str
    task_id: str
    function: str
    mode: ExecutionMode
    sequence: int
    status: ExecutionStatus
    started_at: float | None
    run_seconds: float
    attempts: int


def as_active(execution: Execution) -> ActiveExecution:
    """The same of one that is here."""
    return ActiveExecution(
        execution.id,
        execution.task.id,
        execution.function.name,
        execution.mode,
        execution.sequence,
        execution.standing,
        execution.started_at,
        execution.run_seconds,
        execution.attempts,
    )


Known: TypeAlias = "Execution | ExecutionRecord"
"""An execution that is here, or what is known of one that has ended."""
Listed: TypeAlias = "Execution | ExecutionRecord | ActiveExecution"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which executions a list is to hold; empty and None leave the choice open."""

    task_id: str = ""
    status: ExecutionStatus | None = None
    after: int = 0

    def fits(self, execution: Listed) -> bool:
        """Whether an execution belongs to the list."""
        return (
            execution.sequence > self.after
            and (not self.task_id or task_id_of(execution) == self.task_id)
            and (self.status is None or status_of(execution) is self.status)
        )


def task_id_of(execution: Listed) -> str:
    """The task that an execution is of."""
    return execution.task.id if isinstance(execution, Execution) else execution.task_id


def status_of(execution: Listed) -> ExecutionStatus:
    """How it is, as far as that is to be told."""
    return execution.standing if isinstance(execution, Execution) else execution.status


def oldest(
    kept: Iterable[ExecutionRecord], remembered: Iterable[Listed], wanted: Wanted, limit: int
) -> list[Listed]:
    """The first that are wanted, oldest first, of those on disk and those in memory."""
    by_sequence: dict[int, Listed] = {each.sequence: each for each in kept}
    by_sequence |= {each.sequence: each for each in remembered if wanted.fits(each)}
    return heapq.nsmallest(limit, by_sequence.values(), key=lambda each: each.sequence)


def newest(kept: Iterable[ExecutionRecord], remembered: Iterable[Listed], limit: int) -> list[Listed]:
    """The last of those on disk and those in memory, newest first."""
    by_sequence: dict[int, Listed] = {each.sequence: each for each in kept}
    by_sequence |= {each.sequence: each for each in remembered}
    return heapq.nlargest(limit, by_sequence.values(), key=lambda each: each.sequence)


def cursor_of(execution: Listed) -> str:
    """What to hand in as `start_after` to go on behind this one."""
    return f"@{execution.sequence}"


def sequence_in(cursor: str) -> int | None:
    """The place that a cursor stands for; None where the text is no cursor."""
    number = cursor[1:]
    return int(number) if cursor.startswith("@") and number.isdecimal() and len(number) < 20 else None


def no_such_place(start_after: str) -> InvalidRequest:
    """What is wrong with a `start_after` that is neither a cursor nor an id."""
    return InvalidRequest(
        f"start_after {shown(start_after)} is neither a cursor of ours nor the id of an execution that is kept"
    )
