"""Executions that ended, as far as they are remembered: the newest, up to a bound."""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from spear_wasm.model import ExecutionMode, ExecutionStatus, Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.listing import Wanted


class ExecutionRecord(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of an execution that ended. Times ending in `_at` are seconds since the epoch."""

    execution_id: str
    task_id: str
    function: str
    mode: ExecutionMode
    sequence: int
    sandbox_id: str
    started_at: float | None
    completed_at: float
    run_seconds: float
    queue_seconds: float
    outcome: Outcome
    usage: Usage
    attempts: int = 1

    @property
    def status(self) -> ExecutionStatus:
        """How it ended."""
        return self.outcome.status

    @property
    def size(self) -> int:
        """About how many bytes it holds that a guest chose."""
        outcome, usage = self.outcome, self.usage
        size = len(usage.stdout) + len(usage.stderr) + len(outcome.error_message)
        for result in outcome.values:
            if isinstance(result.value, bytes):
                size += len(result.value)
        return size


def record_of(execution: Execution) -> ExecutionRecord:
    """The record of an execution that has ended."""
    assert execution.outcome is not None
    assert execution.completed_at is not None
    return ExecutionRecord(
        execution.id,
        execution.task.id,
        execution.function.name,
        execution.mode,
        execution.sequence,
        execution.sandbox_id,
        execution.started_at,
        execution.completed_at,
        execution.run_seconds,
        execution.queue_seconds,
        execution.outcome,
        execution.usage,
        execution.attempts,
    )


class Records(Protocol):
    """What is remembered. Not locked: the manager's lock guards it."""

    def __contains__(self, execution_id: str) -> bool:
        """Whether there is a record of that id."""
        ...

    def get(self, execution_id: str) -> ExecutionRecord | None:
        """The record of that id."""
        ...

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """The first that are wanted, in order of creation."""
        ...

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest records, newest first."""
        ...

    def remember(self, execution: Execution) -> None:
        """Keep a record of one that has ended."""
        ...

    def forget_task(self, task_id: str) -> int:
        """Forget a task's records; returns how many there were."""
        ...


class NoRecords:
    """Remembers nothing."""

    def __contains__(self, execution_id: str) -> bool:
        """There is none."""
        return False

    def get(self, execution_id: str) -> ExecutionRecord | None:  # noqa: ARG002  none has any
        """There is none."""
        return None

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:  # noqa: ARG002  none fits
        """There are none."""
        return []

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:  # noqa: ARG002  no task has any
        """There are none."""
        return []

    def remember(self, execution: Execution) -> None:
        """Let it go."""

    def forget_task(self, task_id: str) -> int:  # noqa: ARG002  no task has any
        """There were none."""
        return 0


class ExecutionRecords:
    """The newest records of all tasks: the last that ended, up to a number and a number of bytes.

    A page costs what it holds, however many records there are; to add one costs the same whatever there is.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._by_sequence: OrderedDict[int, ExecutionRecord] = OrderedDict()  # in the order of their ends
        self._by_id: dict[str, ExecutionRecord] = {}
        self._orders: dict[_Kind, _Order] = {}

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._by_id

    def get(self, execution_id: str) -> ExecutionRecord | None:
        """The record of that id."""
        return self._by_id.get(execution_id)

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """The first that are wanted, in order of creation."""
        completed = wanted.status is ExecutionStatus.COMPLETED
        order = self._orders.get((wanted.task_id, None if completed else wanted.status))
        if order is None:
            return []
        found = order.after(wanted.after, self._by_sequence)
        return list(itertools.islice(filter(wanted.fits, found) if completed else found, limit))

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest records, newest first."""
        order = self._orders.get((task_id, None))
        if order is None:
            return []
        return list(itertools.islice(order.backwards(self._by_sequence), limit))

    def remember(self, execution: Execution) -> None:
        """Keep a record of one that has ended."""
        self.add(record_of(execution))

    def add(self, record: ExecutionRecord) -> None:
        """Keep one more; the oldest go where there are too many, or too large ones."""
        self._by_sequence[record.sequence] = self._by_id[record.execution_id] = record
        for kind in _kinds_of(record):
            order = self._orders.get(kind)
            if order is None:
                order = self._orders[kind] = _Order()
            order.add(record.sequence)
        self._bytes += record.size
        if len(self._by_id) > self._most:
            self._drop_oldest()
        while self._bytes > self._most_bytes and len(self._by_id) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._by_sequence.values())))

    def _drop(self, record: ExecutionRecord) -> None:
        del self._by_sequence[record.sequence], self._by_id[record.execution_id]
        self._bytes -= record.size
        for kind in _kinds_of(record):
            if not self._orders[kind].drop(self._by_sequence):
                del self._orders[kind]

    def forget_task(self, task_id: str) -> int:
        """Forget a task's records; returns how many there were."""
        doomed = self.newest_of(task_id, len(self._by_id))
        for record in doomed:
            self._drop(record)
        return len(doomed)


_Kind: TypeAlias = "tuple[str, ExecutionStatus | None]"
"""Which records a list holds: those of a task (empty: of any) that ended like this (None: in any way)."""


def _kinds_of(record: ExecutionRecord) -> tuple[_Kind, ...]:
    task_id, status = record.task_id, record.outcome.status
    if status is ExecutionStatus.COMPLETED:
        # Most did: they are found among all, and the call that completes does not pay for two more lists.
        return ("", None), (task_id, None)
    return ("", None), (task_id, None), ("", status), (task_id, status)


class _Order:
    """The sequence numbers of records, in order. Those that were dropped stay until somebody comes across them."""

    __slots__ = ("_dropped", "_numbers")

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._dropped = 0

    def add(self, number: int) -> None:
        """Most come in order."""
        if not self._numbers or number > self._numbers[-1]:
            self._numbers.append(number)
        else:
            bisect.insort(self._numbers, number)

    def drop(self, present: Container[int]) -> bool:
        """One of them is not present any longer; whether any others are."""
        self._dropped += 1
        if self._dropped * 2 > len(self._numbers):
            self._numbers = [number for number in self._numbers if number in present]
            self._dropped = 0
        return bool(self._numbers)

    def after(self, number: int, present: Mapping[int, ExecutionRecord]) -> Iterator[ExecutionRecord]:
        """Those behind a number."""
        self._trim(present)
        start = bisect.bisect_right(self._numbers, number)
        return _present(itertools.islice(self._numbers, start, None), present)

    def backwards(self, present: Mapping[int, ExecutionRecord]) -> Iterator[ExecutionRecord]:
        """All of them, last first."""
        return _present(reversed(self._numbers), present)

    def _trim(self, present: Container[int]) -> None:
        # Where most were dropped, so that each is come across once.
        gone = len(list(itertools.takewhile(lambda number: number not in present, self._numbers)))
        del self._numbers[:gone]
        self._dropped -= gone


def _present(numbers: Iterable[int], present: Mapping[int, ExecutionRecord]) -> Iterator[ExecutionRecord]:
    return (present[number] for number in numbers if number in present)
