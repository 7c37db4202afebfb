"""Executions on disk: what was accepted to be done whatever happens, and what became of it.

Writes are made by one thread, as many at once as have come meanwhile: they share one transaction, and so one
wait for the disk. Each is a future that is done when the disk has it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
import structlog

from spear_wasm.errors import ExecutionExists, JournalFailed
from spear_wasm.execution.journal_tables import connect, make_tables
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionMode, ExecutionStatus, Json, Parameter, TypedValue
from spear_wasm.values import shown

log = structlog.get_logger()

LARGEST_BATCH: Final = 500
PRUNE_SECONDS: Final = 5.0

Result = TypeVar("Result")


class StoredCall(msgspec.Struct, frozen=True):
    """What is to be done, in a form that can be kept. `parameters` are values, names and types."""

    function: str
    mode: ExecutionMode
    parameters: list[tuple[Any, str, str]]
    limits: ResourceLimits
    budget_ms: float
    force_new_instance: bool
    priority: int
    max_retries: int

    def given(self) -> list[Parameter]:
        """The parameters as a call has them."""
        return [Parameter(*parameter) for parameter in self.parameters]

    def packed(self) -> bytes:
        """The same as bytes."""
        return msgspec.msgpack.encode(self)


_CALLS = msgspec.msgpack.Decoder(StoredCall)
_RECORDS = msgspec.msgpack.Decoder(ExecutionRecord)


class _Payload(msgspec.Struct, frozen=True):
    values: tuple[TypedValue, ...]
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """An execution as it was accepted. `digest` stands for the request that asked for it, `call` is packed."""

    execution_id: str
    task_id: str
    sequence: int
    digest: bytes
    call: bytes

    def stored_call(self) -> StoredCall:
        """What is to be done."""
        return _CALLS.decode(self.call)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An execution without an outcome; `attempts` says how often it was begun, `started_at` when first."""

    accepted: Accepted
    was_running: bool
    attempts: int
    started_at: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept under an execution id; no record where there is no outcome yet."""

    digest: bytes
    record: ExecutionRecord | None


@dataclass(frozen=True, slots=True)
class TaskTotal:
    """How many durable executions of a task have ended, ever, and how and when the last one did."""

    task_id: str
    ended: int
    last_status: ExecutionStatus
    last_ended_at: float


@dataclass(frozen=True, slots=True)
class Retention:
    """How long outcomes are kept: the newest so many, of so many bytes together, no older than so long."""

    most: int
    most_bytes: int
    seconds: float


class ExecutionJournal:
    """Durable executions, in one SQLite database. Thread-safe; closed by `close`.

    The futures of writes fail with JournalFailed where the disk does; then nothing of theirs was written.
    """

    def __init__(self, path: Path, retention: Retention, clock: Callable[[], float] = time.time) -> None:
        self._retention = retention
        self._clock = clock
        self._writing = connect(path)
        make_tables(self._writing)
        # Written by whoever accepts, and by the writing thread, in steps that no other thread can see half of.
        self._ids = {hash(row[0]) for row in self._writing.execute("SELECT execution_id FROM executions")}
        self._reading = connect(path)
        self._read_lock = threading.Lock()  # guards: _reading
        self._work = threading.Condition()  # guards: _queue, _closing
        self._queue: list[_Write[Any]] = []
        self._closing = False
        self._next_prune = 0.0  # of the writing thread alone, as is _writing
        self._thread = threading.Thread(target=self._write_batches, name="spear-journal", daemon=True)
        self._thread.start()

    # Writing

    def accept(self, accepted: Accepted) -> Future[None]:
        """Keep an execution that is to be done. Fails with ExecutionExists where its id is kept already."""

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    "INSERT INTO executions (sequence, execution_id, task_id, digest, status, call) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        accepted.sequence,
                        accepted.execution_id,
                        accepted.task_id,
                        accepted.digest,
                        ExecutionStatus.PENDING,
                        accepted.call,
                    ),
                )
            except sqlite3.IntegrityError:
                raise in_use(accepted.execution_id) from None

        def on_written(written: Future[None]) -> None:
            if isinstance(written.exception(), JournalFailed):
                self._forget_ids([accepted.execution_id])

        self._ids.add(hash(accepted.execution_id))
        write = self._enqueue(insert)
        write.add_done_callback(on_written)
        return write

    def started(self, execution_id: str) -> Future[None]:
        """Count an attempt that is about to begin."""
        now = self._clock()

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE executions SET status = ?, attempts = attempts + 1, started_at = COALESCE(started_at, ?) "
                "WHERE execution_id = ? AND completed_at IS NULL",
                (ExecutionStatus.RUNNING, now, execution_id),
            )

        return self._enqueue(update)

    def ended(self, record: ExecutionRecord) -> Future[None]:
        """Keep the one outcome of an execution; a second one changes nothing."""
        outcome, usage = record.outcome, record.usage
        payload = _Payload(outcome.values, usage.stdout, usage.stderr)
        brief = msgspec.structs.replace(
            record,
            outcome=msgspec.structs.replace(outcome, values=()),
            usage=msgspec.structs.replace(usage, stdout=b"", stderr=b""),
        )
        contents = msgspec.msgpack.encode(brief), msgspec.msgpack.encode(payload)

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE executions SET status = ?, completed_at = ?, record = ?, payload = ?, size = ?, call = NULL "
                "WHERE execution_id = ? AND completed_at IS NULL",
                (record.status, record.completed_at, *contents, sum(map(len, contents)), record.execution_id),
            )

        return self._enqueue(update)

    def forget_task(self, task_id: str) -> Future[list[str]]:
        """Forget the outcomes of a task's executions; the result is their ids."""

        def delete(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "DELETE FROM executions WHERE task_id = ? AND completed_at IS NOT NULL RETURNING execution_id",
                (task_id,),
            ).fetchall()
            return [execution_id for (execution_id,) in rows]

        return self._enqueue_forgetting(delete)

    def forget_totals(self, task_ids: Collection[str]) -> Future[None]:
        """Forget how many executions of these tasks have ended."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "DELETE FROM task_totals WHERE task_id = ?", [(each,) for each in task_ids]
            )

        return self._enqueue(delete)

    def prune(self) -> Future[list[str]]:
        """Forget what need not be kept any longer, a batch at most; the result is its ids.

        The journal does so itself from time to time.
        """
        return self._enqueue_forgetting(self._prune)

    def _prune(self, connection: sqlite3.Connection) -> list[str]:
        kept, size = connection.execute("SELECT executions, bytes FROM kept").fetchone()
        horizon = self._clock() - self._retention.seconds
        oldest = connection.execute(
            "SELECT sequence, size, completed_at FROM executions WHERE completed_at IS NOT NULL "
            "ORDER BY completed_at LIMIT ?",
            (LARGEST_BATCH,),
        ).fetchall()
        doomed: list[int] = []
        for sequence, row_size, completed_at in oldest:
            if (
                kept <= self._retention.most
                and size <= self._retention.most_bytes
                and completed_at >= horizon
            ):
                break
            kept, size = kept - 1, size - row_size
            doomed.append(sequence)
        # Where a batch was not enough, the next one follows soon.
        self._next_prune = time.monotonic() + (PRUNE_SECONDS if len(doomed) < LARGEST_BATCH else 0.0)
        delete = "DELETE FROM executions WHERE sequence = ? RETURNING execution_id"
        return [connection.execute(delete, (sequence,)).fetchone()[0] for sequence in doomed]

    def _enqueue_forgetting(self, change: Callable[[sqlite3.Connection], list[str]]) -> Future[list[str]]:
        write = self._enqueue(change)
        write.add_done_callback(self._on_forgotten)
        return write

    def _on_forgotten(self, written: Future[list[str]]) -> None:
        if written.exception() is None:
            self._forget_ids(written.result())

    def _forget_ids(self, execution_ids: Iterable[str]) -> None:
        self._ids.difference_update(map(hash, execution_ids))

    def _enqueue(self, change: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        write = _Write(change)
        with self._work:
            if self._closing:
                write.future.set_exception(JournalFailed("the journal is closed"))
            else:
                self._queue.append(write)
                self._work.notify()
        return write.future

    def _write_batches(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._queue or self._closing, self._seconds_to_prune())
                batch = self._queue[:LARGEST_BATCH]
                del self._queue[:LARGEST_BATCH]
                if not batch and self._closing:
                    return
            if self._seconds_to_prune() <= 0:
                pruning = _Write(self._prune)
                pruning.future.add_done_callback(self._on_forgotten)
                batch.append(pruning)
                self._next_prune = time.monotonic() + PRUNE_SECONDS  # where the disk fails, too
            self._write(batch)

    def _seconds_to_prune(self) -> float:
        return max(0.0, self._next_prune - time.monotonic())

    def _write(self, batch: list[_Write[Any]]) -> None:
        connection = self._writing
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                write.apply(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.error("executions not written", count=len(batch), error=str(error))  # noqa: TRY400  the error says it all
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for write in batch:
                write.future.set_exception(JournalFailed(f"the disk failed: {error}"))
            return
        for write in batch:
            write.settle()

    # Reading

    def unfinished(self) -> list[Unfinished]:
        """What has no outcome yet, in order of creation."""
        rows = self._read(
            "SELECT execution_id, task_id, sequence, digest, call, status, attempts, started_at FROM executions "
            "WHERE completed_at IS NULL ORDER BY sequence"
        )
        return [
            Unfinished(
                Accepted(execution_id, task_id, sequence, digest, call),
                was_running=status == ExecutionStatus.RUNNING,
                attempts=attempts,
                started_at=started_at,
            )
            for execution_id, task_id, sequence, digest, call, status, attempts, started_at in rows
        ]

    def find(self, execution_id: str) -> Kept | None:
        """What is kept under an id, with all that the execution gave."""
        rows = self._read(
            "SELECT digest, record, payload FROM executions WHERE execution_id = ?", execution_id
        )
        if not rows:
            return None
        digest, record, payload = rows[0]
        return Kept(digest, None if record is None else _whole(record, payload))

    def holds(self, execution_id: str) -> bool:
        """Whether anything is kept under an id. Waits for no disk."""
        # Of all ids there is a hash in memory. Where two are alike, an id is taken for kept that is not.
        return hash(execution_id) in self._ids

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """Outcomes in order of creation, without what the executions gave and wrote."""
        conditions, values = ["completed_at IS NOT NULL", "sequence > ?"], [cast("object", wanted.after)]
        if wanted.task_id:
            conditions.append("task_id = ?")
            values.append(wanted.task_id)
        if wanted.status is not None:
            conditions.append("status = ?")
            values.append(wanted.status)
        rows = self._read(
            f"SELECT record FROM executions WHERE {' AND '.join(conditions)} ORDER BY sequence LIMIT ?",  # noqa: S608  the conditions are ours
            *values,
            limit,
        )
        return [_RECORDS.decode(row[0]) for row in rows]

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest outcomes, newest first, as `page` has them."""
        rows = self._read(
            "SELECT record FROM executions WHERE completed_at IS NOT NULL AND task_id = ? "
            "ORDER BY sequence DESC LIMIT ?",
            task_id,
            limit,
        )
        return [_RECORDS.decode(row[0]) for row in rows]

    def task_totals(self) -> list[TaskTotal]:
        """What has ended, by task."""
        rows = self._read("SELECT task_id, ended, last_status, last_ended_at FROM task_totals")
        return [
            TaskTotal(task_id, ended, ExecutionStatus(last_status), last_ended_at)
            for task_id, ended, last_status, last_ended_at in rows
        ]

    def last_sequence(self) -> int:
        """The highest sequence number that is kept, or 0."""
        ((highest,),) = self._read("SELECT COALESCE(MAX(sequence), 0) FROM executions")
        return int(highest)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._read_lock:
            return self._reading.execute(query, values).fetchall()

    def close(self) -> None:
        """Write what is left and close the database."""
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join()
        self._writing.close()
        with self._read_lock:
            self._reading.close()


class _Write(Generic[Result]):
    """A change to be made, and the future of who wants it."""

    def __init__(self, change: Callable[[sqlite3.Connection], Result]) -> None:
        self.future: Future[Result] = Future()
        self._change = change
        self._refusal: ExecutionExists | None = None
        self._result: Result

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make the change, as part of a transaction."""
        try:
            self._result = self._change(connection)
        except ExecutionExists as refusal:
            self._refusal = refusal

    def settle(self) -> None:
        """The transaction is on disk."""
        if self._refusal is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._refusal)


def in_use(execution_id: str) -> ExecutionExists:
    """Why an id cannot be had."""
    return ExecutionExists(
        f"execution id {shown(execution_id)} is in use by another request", execution_id=execution_id
    )


def storable(parameters: Sequence[Parameter]) -> list[tuple[Any, str, str]]:
    """Parameters as StoredCall has them."""
    return [(_in_64_bits(each.value), each.name, each.type) for each in parameters]


def _in_64_bits(value: Json | bytes) -> Json | bytes:
    """The same value; integers that came as doubles, and are too large for anything else, as doubles."""
    if isinstance(value, list):
        return [cast("Json", _in_64_bits(item)) for item in value]
    if isinstance(value, dict):
        return {name: cast("Json", _in_64_bits(item)) for name, item in value.items()}
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value)
    return value


def _whole(record: bytes, payload: bytes) -> ExecutionRecord:
    brief = _RECORDS.decode(record)
    given = msgspec.msgpack.decode(payload, type=_Payload)
    return msgspec.structs.replace(
        brief,
        outcome=msgspec.structs.replace(brief.outcome, values=given.values),
        usage=msgspec.structs.replace(brief.usage, stdout=given.stdout, stderr=given.stderr),
    )
