"""Executions that ended, as far as they are remembered: the newest, up to a bound."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from spear_wasm.model import ErrorCode, ExecutionMode, ExecutionStatus, Outcome, TypedValue, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.listing import Wanted


MOST_FILED_TOGETHER: Final = 64
SMALL: Final = 64
"""What is shorter is not worth tidying up."""
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
    """What a record holds beside what it is found by: without names, a quarter of the bytes."""

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
    those that did, who are most, are looked for among all. Small ones are filed some at a time: what that takes is in
    the processor's caches by the first of them.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._filed_together = min(MOST_FILED_TOGETHER, most // 64)
        self._bytes = 0
        self._unfiled: dict[str, ExecutionRecord] = {}
        self._by_id: dict[str, _Row] = {}
        self._by_end: deque[_Row] = deque()  # the first that ended first; some may be forgotten
        self._all = _Order()
        self._of_task: dict[str, _Order] = {}
        self._uncompleted: dict[ExecutionStatus, _Order] = {}
        self._sweep_at = SMALL

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
        """Keep a record of one that has ended; none is made where none is kept."""
        if self._most:
            self.add(record_of(execution))

    def add(self, record: ExecutionRecord) -> None:
        """Keep one more; the oldest go where there are too many, or too large ones."""
        self._unfiled[record.execution_id] = record
        if len(self._unfiled) >= self._filed_together or not _is_small(record):
            self._file()

    def _file(self) -> None:
        unfiled, self._unfiled = self._unfiled, {}
        for record in unfiled.values():
            self._file_one(record)

    def _file_one(self, record: ExecutionRecord) -> None:
        task_id = record.task_id
        row = _Row(record.execution_id, task_id, record.sequence, record.outcome.status, _packed(record))
        self._by_id[record.execution_id] = row
        self._by_end.append(row)
        self._bytes += len(row.packed)
        self._all.add(row)
        order = self._of_task.get(task_id)
        if order is None:
            order = self._new_order(task_id)
        order.add(row)
        if row.status is not ExecutionStatus.COMPLETED:
            self._uncompleted.setdefault(row.status, _Order()).add(row)
        if len(self._by_id) > self._most:
            self._drop_oldest()
        while self._bytes > self._most_bytes and len(self._by_id) > 1:
            self._drop_oldest()

    def _new_order(self, task_id: str) -> _Order:
        if len(self._of_task) >= self._sweep_at:
            self._of_task = {each: order for each, order in self._of_task.items() if order.sweep()}
            self._sweep_at = max(SMALL, 2 * len(self._of_task))
        order = self._of_task[task_id] = _Order()
        return order

    def _drop_oldest(self) -> None:
        row = self._by_end.popleft()
        while not row.packed:
            row = self._by_end.popleft()
        self._drop(row)

    def _drop(self, row: _Row) -> None:
        del self._by_id[row.execution_id]
        self._bytes -= len(row.packed)
        row.packed = b""

    def forget_task(self, task_id: str) -> int:
        """Forget a task's records; returns how many there were."""
        self._file()
        order = self._of_task.pop(task_id, None)
        doomed = list(order.backwards()) if order is not None else []
        for row in doomed:
            self._drop(row)
        self._by_end = deque(row for row in self._by_end if row.packed)
        return len(doomed)


_PACKER: Final = msgspec.msgpack.Encoder()
_RESTS: Final = msgspec.msgpack.Decoder(_Rest)


def _packed(record: ExecutionRecord) -> bytes:
    outcome, usage = record.outcome, record.usage
    return _PACKER.encode(
        _Rest(
            record.function,
            record.mode,
            record.sandbox_id,
            record.started_at,
            record.completed_at,
            record.run_seconds,
            record.queue_seconds,
            record.attempts,
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


def _is_small(record: ExecutionRecord) -> bool:
    """Whether it has nothing in it but figures."""
    usage, outcome = record.usage, record.outcome
    if usage.stdout or usage.stderr or outcome.error_message:
        return False
    for each in outcome.values:  # no generator: this is every call's way  # noqa: SIM110  as it says
        if not isinstance(each.value, _FIGURES):
            return False
    return True


class _Order:
    """Rows in the order of their sequence numbers. Those that are forgotten stay until they are come across."""

    __slots__ = ("_rows", "_sweep_at")

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._sweep_at = SMALL

    def add(self, row: _Row) -> None:
        """Most come in order."""
        rows = self._rows
        if not rows or row.sequence > rows[-1].sequence:
            rows.append(row)
        else:
            bisect.insort(rows, row, key=_sequence_of)
        if len(rows) > self._sweep_at:
            self.sweep()

    def sweep(self) -> bool:
        """Let go what is forgotten; whether anything is left. By itself as often as the rows have doubled."""
        self._rows = [row for row in self._rows if row.packed]
        self._sweep_at = max(SMALL, 2 * len(self._rows))
        return bool(self._rows)

    def after(self, sequence: int) -> Iterator[_Row]:
        """Those behind a sequence number."""
        # The oldest are forgotten first: so each is come across once.
        forgotten = itertools.takewhile(lambda row: not row.packed, self._rows)
        del self._rows[: sum(1 for _ in forgotten)]
        start = bisect.bisect_right(self._rows, sequence, key=_sequence_of)
        return (row for row in itertools.islice(self._rows, start, None) if row.packed)

    def backwards(self) -> Iterator[_Row]:
        """All of them, last first."""
        return (row for row in reversed(self._rows) if row.packed)


_sequence_of = operator.attrgetter("sequence")
