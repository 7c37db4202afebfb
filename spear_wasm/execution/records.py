"""Executions that ended, as far as they are remembered: the newest, up to a bound."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import msgspec

from spear_wasm.model import ErrorCode, ExecutionMode, ExecutionStatus, Outcome, TypedValue, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.listing import Wanted


MOST_FILED_TOGETHER: Final = 256
"""The more, the less each costs, and the longer they keep the registry's lock: some 3 us each."""
_FIGURES: Final = (int, float)


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


def without_payload(record: ExecutionRecord) -> ExecutionRecord:
    """The same without what the execution gave and wrote."""
    return msgspec.structs.replace(
        record,
        outcome=msgspec.structs.replace(record.outcome, values=()),
        usage=msgspec.structs.replace(record.usage, stdout=b"", stderr=b""),
    )


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


class _Rest(msgspec.Struct, array_like=True, gc=False):
    """What a record holds beside what it is found by, in the order in which `_row_of` writes it."""

    function: str
    mode: ExecutionMode
    sandbox_id: str
    started_at: float | None
    completed_at: float
    run_seconds: float
    queue_seconds: float
    attempts: int
    values: tuple[TypedValue, ...]
    error_code: ErrorCode | None
    error_message: str
    trap_frames: tuple[str, ...]
    exit_code: int | None
    cpu_ns: int
    peak_memory_bytes: int
    fuel: int | None
    stdout: bytes
    stderr: bytes
    output_truncated: bool


class _Row(msgspec.Struct, gc=False):
    """A record as it is kept: what it is found by, and the rest as bytes, which are empty when it is forgotten."""

    execution_id: str
    task_id: str
    sequence: int
    status: ExecutionStatus
    packed: bytes

    def record(self) -> ExecutionRecord:
        """The record as it was."""
        rest = _RESTS.decode(self.packed)
        return ExecutionRecord(
            self.execution_id,
            self.task_id,
            rest.function,
            rest.mode,
            self.sequence,
            rest.sandbox_id,
            rest.started_at,
            rest.completed_at,
            rest.run_seconds,
            rest.queue_seconds,
            Outcome(
                self.status,
                rest.values,
                rest.error_code,
                rest.error_message,
                rest.trap_frames,
                rest.exit_code,
            ),
            Usage(
                rest.cpu_ns,
                rest.peak_memory_bytes,
                rest.fuel,
                rest.stdout,
                rest.stderr,
                rest.output_truncated,
            ),
            rest.attempts,
        )

    def fits(self, wanted: Wanted) -> bool:
        """Whether it is of the task and the status that are wanted."""
        return (not wanted.task_id or self.task_id == wanted.task_id) and (
            wanted.status is None or self.status is wanted.status
        )


class ExecutionRecords:
    """The newest records of all tasks: the last that ended, up to a number and a number of bytes.

    Not locked: ExecutionRegistry's lock guards it.

    A page costs what it holds, however many records there are. Every call pays for the keeping: it is one row, known
    by its id and in the lists of all and of its task. Those that did not complete are in one of their status, too;
    those that did, who are most, are looked for among all. Small ones are kept as they are for a while, and filed some
    at a time: what that takes is in the processor's caches by the first of them.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._filed_together = min(MOST_FILED_TOGETHER, most // 16)
        self._bytes = 0
        self._unfiled: dict[str, Execution] = {}
        self._by_id: dict[str, _Row] = {}
        self._by_end: deque[_Row] = deque()  # the first that ended first
        self._all = _Order()
        self._of_task: dict[str, _Order] = {}
        self._uncompleted: dict[ExecutionStatus, _Order] = {}

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._unfiled or execution_id in self._by_id

    def get(self, execution_id: str) -> ExecutionRecord | None:
        """The record of that id."""
        self._file()
        row = self._by_id.get(execution_id)
        return None if row is None else row.record()

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """The first that are wanted, in order of creation."""
        self._file()
        order = self._order_for(wanted)
        rows = order.after(wanted.after) if order is not None else iter(())
        fitting = (row for row in rows if row.fits(wanted))
        return [row.record() for row in itertools.islice(fitting, limit)]

    def _order_for(self, wanted: Wanted) -> _Order | None:
        """The shortest list that holds all that are wanted."""
        if wanted.status is not None and wanted.status is not ExecutionStatus.COMPLETED:
            return self._uncompleted.get(wanted.status)
        return self._of_task.get(wanted.task_id) if wanted.task_id else self._all

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest records, newest first."""
        self._file()
        order = self._of_task.get(task_id)
        rows = order.backwards() if order is not None else iter(())
        return [row.record() for row in itertools.islice(rows, limit)]

    def remember(self, execution: Execution) -> None:
        """Keep a record of one that has ended; the oldest go where there are too many, or too large ones."""
        if not self._most:
            return
        self._unfiled[execution.id] = execution
        if len(self._unfiled) >= self._filed_together or not _is_small(execution):
            self._file()

    def _file(self) -> None:
        if not self._unfiled:
            return
        unfiled, self._unfiled = self._unfiled, {}
        rows = [_row_of(execution) for execution in unfiled.values()]
        self._by_id.update(zip(unfiled, rows, strict=True))
        self._by_end.extend(rows)
        self._bytes += sum(len(row.packed) for row in rows)
        self._put_in_order(sorted(rows, key=_sequence_of))
        self._drop_what_is_too_much()

    def _put_in_order(self, rows: list[_Row]) -> None:
        self._all.add(rows)
        for task_id, of_task in itertools.groupby(rows, _task_of):
            order = self._of_task.get(task_id)
            if order is None:
                order = self._of_task[task_id] = _Order()
            order.add(list(of_task))
        for row in rows:
            if row.status is not ExecutionStatus.COMPLETED:
                self._uncompleted.setdefault(row.status, _Order()).add([row])

    def _drop_what_is_too_much(self) -> None:
        too_many = len(self._by_id) - self._most
        if too_many > 0:
            self._drop_oldest(too_many)
        while self._bytes > self._most_bytes and len(self._by_id) > 1:
            self._drop_oldest(1)

    def _drop_oldest(self, count: int) -> None:
        self._forget([self._by_end.popleft() for _ in range(count)])

    def _forget(self, rows: list[_Row]) -> None:
        for row in rows:
            del self._by_id[row.execution_id]
            self._bytes -= len(row.packed)
            row.packed = b""
        self._all.let_go(len(rows))
        for task_id, count in Counter(map(_task_of, rows)).items():
            order = self._of_task[task_id]
            order.let_go(count)
            if not order:
                del self._of_task[task_id]
        uncompleted = Counter(row.status for row in rows if row.status is not ExecutionStatus.COMPLETED)
        for status, count in uncompleted.items():
            self._uncompleted[status].let_go(count)

    def forget_task(self, task_id: str) -> int:
        """Forget a task's records; returns how many there were."""
        self._file()
        order = self._of_task.get(task_id)
        if order is None:
            return 0
        doomed = list(order.backwards())
        self._forget(doomed)
        self._by_end = deque(row for row in self._by_end if row.packed)
        return len(doomed)


_PACKER: Final = msgspec.msgpack.Encoder()
_RESTS: Final = msgspec.msgpack.Decoder(_Rest)


def _row_of(execution: Execution) -> _Row:
    outcome, usage = execution.outcome, execution.usage
    assert outcome is not None
    # A tuple is written as the struct is that it is read as, and made faster.
    packed = _PACKER.encode(
        (
            execution.function.name,
            execution.mode,
            execution.sandbox_id,
            execution.started_at,
            execution.completed_at,
            execution.run_seconds,
            execution.queue_seconds,
            execution.attempts,
            outcome.values,
            outcome.error_code,
            outcome.error_message,
            outcome.trap_frames,
            outcome.exit_code,
            usage.cpu_ns,
            usage.peak_memory_bytes,
            usage.fuel,
            usage.stdout,
            usage.stderr,
            usage.output_truncated,
        )
    )
    return _Row(execution.id, execution.task.id, execution.sequence, outcome.status, packed)


def _is_small(execution: Execution) -> bool:
    """Whether it holds nothing but figures."""
    outcome, usage = execution.outcome, execution.usage
    assert outcome is not None
    if usage.stdout or usage.stderr or outcome.error_message or execution.stream is not None:
        return False
    for each in outcome.values:  # no generator: this is every call's way  # noqa: SIM110  as it says
        if not isinstance(each.value, _FIGURES):
            return False
    return True


class _Order:
    """Rows in the order of their sequence numbers.

    Those that are forgotten are passed over at once where none is remembered before them, as is usual. They go when
    they have become more than the others.
    """

    __slots__ = ("_first", "_remembered", "_rows")

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._first = 0  # all before it are forgotten
        self._remembered = 0

    def __len__(self) -> int:
        return self._remembered

    def add(self, rows: list[_Row]) -> None:
        """Add some that are in order; most come after all others."""
        known = self._rows
        self._remembered += len(rows)
        late = bisect.bisect(rows, known[-1].sequence, key=_sequence_of) if known else 0
        for row in rows[:late]:
            bisect.insort(known, row, self._first, key=_sequence_of)
        known.extend(rows[late:])

    def let_go(self, count: int) -> None:
        """So many have been forgotten."""
        self._remembered -= count
        rows, first = self._rows, self._first
        while first < len(rows) and not rows[first].packed:
            first += 1
        if len(rows) > 2 * self._remembered + MOST_FILED_TOGETHER:
            rows, first = [row for row in rows[first:] if row.packed], 0
        self._rows, self._first = rows, first

    def after(self, sequence: int) -> Iterator[_Row]:
        """Those behind a sequence number."""
        start = bisect.bisect_right(self._rows, sequence, self._first, key=_sequence_of)
        return (row for row in itertools.islice(self._rows, start, None) if row.packed)

    def backwards(self) -> Iterator[_Row]:
        """All of them, last first."""
        return (row for row in reversed(self._rows) if row.packed)


_sequence_of = operator.attrgetter("sequence")
_task_of = operator.attrgetter("task_id")
