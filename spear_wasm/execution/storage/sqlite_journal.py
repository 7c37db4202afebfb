"""Executions in an SQLite database. Writes share transactions: see GroupCommit."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from spear_wasm.errors import JournalFailed
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord, without_payload
from spear_wasm.execution.storage.group_commit import Change, GroupCommit, RowsStatement
from spear_wasm.execution.storage.journal import Accepted, Kept, Retention, Unfinished, in_use
from spear_wasm.execution.storage.sqlite_connection import connect
from spear_wasm.execution.storage.sqlite_tables import make_tables
from spear_wasm.execution.task import TaskTotal
from spear_wasm.model import ExecutionStatus, TypedValue

LARGEST_PRUNING: Final = 500
"""Outcomes that are forgotten in one transaction: others wait for it."""

# The last bits of a sequence number tell of the worker that gave it: they part nothing evenly.
_TAKE_OVER: Final = (
    "UPDATE executions SET worker = ? WHERE completed_at IS NULL AND worker = ? AND (sequence >> 10) % ? = ? "
    "RETURNING execution_id, task_id, sequence, digest, call, status, attempts, started_at"
)
# No execution is in it twice: an attempt begins when the disk has the one before.
_STARTED: Final = RowsStatement(
    "WITH started (id, now, at) AS (VALUES {rows}) "
    "UPDATE executions SET status = now, attempts = attempts + 1, started_at = COALESCE(started_at, at) "
    "FROM started WHERE execution_id = id AND completed_at IS NULL",
    columns=3,
)
_ENDED: Final = RowsStatement(
    "WITH ended (id, final, at, outcome, given, bytes) AS (VALUES {rows}) "
    "UPDATE executions SET status = final, completed_at = at, record = outcome, payload = given, size = bytes, "
    "call = NULL FROM ended WHERE execution_id = id AND completed_at IS NULL",
    columns=6,
)

_RECORDS = msgspec.msgpack.Decoder(ExecutionRecord)


class _Payload(msgspec.Struct, frozen=True):
    values: tuple[TypedValue, ...]
    stdout: bytes
    stderr: bytes


class SqliteJournal:
    """An ExecutionJournal in one SQLite database."""

    def __init__(
        self, path: Path, retention: Retention, clock: Callable[[], float] = time.time, worker: int = 0
    ) -> None:
        self._worker = worker
        self._retention = retention
        self._clock = clock
        writing = connect(path)
        make_tables(writing)
        if not worker:
            writing.execute("UPDATE executions SET worker = 0 WHERE completed_at IS NULL AND worker <> 0")
        # Written by whoever accepts, and by the writing thread, in steps that no other thread can see half of.
        self._ids = {hash(row[0]) for row in writing.execute("SELECT execution_id FROM executions")}
        self._reading = connect(path)
        self._read_lock = threading.Lock()  # guards: _reading
        self._writes = GroupCommit(writing)

    # Writing

    def accept(self, accepted: Accepted) -> Future[None]:
        """Keep an execution that is to be done. Fails with ExecutionExists where its id is kept already."""

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    "INSERT INTO executions (sequence, execution_id, task_id, digest, status, call, worker) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        accepted.sequence,
                        accepted.execution_id,
                        accepted.task_id,
                        accepted.digest,
                        ExecutionStatus.PENDING,
                        accepted.call,
                        self._worker,
                    ),
                )
            except sqlite3.IntegrityError:
                raise in_use(accepted.execution_id) from None

        def on_written(written: Future[None]) -> None:
            if isinstance(written.exception(), JournalFailed):
                self._forget_ids([accepted.execution_id])

        self._ids.add(hash(accepted.execution_id))
        write = self._writes.submit(insert)
        write.add_done_callback(on_written)
        return write

    def started(self, execution_id: str) -> Future[None]:
        """Count an attempt that is about to begin."""
        return self._writes.submit_row(_STARTED, (execution_id, ExecutionStatus.RUNNING, self._clock()))

    def ended(self, record: ExecutionRecord) -> Future[None]:
        """Keep the one outcome of an execution; a second one changes nothing."""
        outcome, usage = record.outcome, record.usage
        payload = _Payload(outcome.values, usage.stdout, usage.stderr)
        contents = msgspec.msgpack.encode(without_payload(record)), msgspec.msgpack.encode(payload)
        size = sum(map(len, contents))
        return self._writes.submit_row(
            _ENDED, (record.execution_id, record.status, record.completed_at, *contents, size)
        )

    def take_over(self, gone: int, part: int, parts: int) -> Future[list[Unfinished]]:
        """Have this worker to do what one left that is gone: of so many parts one, in order of creation."""

        def update(connection: sqlite3.Connection) -> list[Unfinished]:
            rows = connection.execute(_TAKE_OVER, (self._worker, gone, parts, part)).fetchall()
            return sorted(map(_unfinished, rows), key=lambda each: each.accepted.sequence)

        return self._writes.submit(update)

    def forget_task(self, task_id: str) -> Future[list[str]]:
        """Forget the outcomes of a task's executions; the result is their ids."""

        def delete(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "DELETE FROM executions WHERE task_id = ? AND completed_at IS NOT NULL RETURNING execution_id",
                (task_id,),
            ).fetchall()
            return [execution_id for (execution_id,) in rows]

        return self._submit_forgetting(delete)

    def add_totals(self, totals: Collection[TaskTotal]) -> Future[None]:
        """Count executions that are not kept here."""

        def update(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO task_totals VALUES (?, ?, ?, ?) ON CONFLICT (task_id) DO UPDATE SET "
                "ended = ended + excluded.ended, last_ended_at = MAX(last_ended_at, excluded.last_ended_at), "
                "last_status = IIF(excluded.last_ended_at >= last_ended_at, excluded.last_status, last_status)",
                [(each.task_id, each.ended, each.last_status, each.last_ended_at) for each in totals],
            )

        return self._writes.submit(update)

    def forget_totals(self, task_ids: Collection[str]) -> Future[None]:
        """Forget how many executions of these tasks have ended."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "DELETE FROM task_totals WHERE task_id = ?", [(each,) for each in task_ids]
            )

        return self._writes.submit(delete)

    def prune(self) -> None:
        """Forget what need not be kept any longer. To be called now and then."""
        self._submit_forgetting(self._delete_oldest).add_done_callback(self._go_on_pruning)

    def _go_on_pruning(self, pruned: Future[list[str]]) -> None:
        if pruned.exception() is None and len(pruned.result()) == LARGEST_PRUNING:
            self.prune()

    def _delete_oldest(self, connection: sqlite3.Connection) -> list[str]:
        kept, size = connection.execute("SELECT executions, bytes FROM kept").fetchone()
        horizon = self._clock() - self._retention.seconds
        oldest = connection.execute(
            "SELECT sequence, size, completed_at FROM executions WHERE completed_at IS NOT NULL "
            "ORDER BY completed_at LIMIT ?",
            (LARGEST_PRUNING,),
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
        delete = "DELETE FROM executions WHERE sequence = ? RETURNING execution_id"
        return [connection.execute(delete, (sequence,)).fetchone()[0] for sequence in doomed]

    def _submit_forgetting(self, change: Change[list[str]]) -> Future[list[str]]:
        write = self._writes.submit(change)
        write.add_done_callback(self._on_forgotten)
        return write

    def _on_forgotten(self, written: Future[list[str]]) -> None:
        if written.exception() is None:
            self._forget_ids(written.result())

    def _forget_ids(self, execution_ids: Iterable[str]) -> None:
        self._ids.difference_update(map(hash, execution_ids))

    # Reading

    def find(self, execution_id: str) -> Kept | None:
        """What is kept under an id, with all that the execution gave."""
        rows = self._read(
            "SELECT digest, record, payload, worker FROM executions WHERE execution_id = ?", execution_id
        )
        if not rows:
            return None
        digest, record, payload, worker = rows[0]
        return Kept(digest, None if record is None else _whole(record, payload), worker)

    def holds(self, execution_id: str) -> bool:
        """Whether anything is kept under an id. Waits for no disk."""
        if self._worker:  # others keep something, too; what they have written, a page in memory has
            return bool(self._read("SELECT 1 FROM executions WHERE execution_id = ?", execution_id))
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

    def task_totals(self, task_id: str = "") -> list[TaskTotal]:
        """What has ended of each task, or of one, ever: what was kept here, and what was added."""
        query = "SELECT task_id, ended, last_status, last_ended_at FROM task_totals"
        rows = self._read(f"{query} WHERE task_id = ?", task_id) if task_id else self._read(query)
        return [
            TaskTotal(task_id, ended, ExecutionStatus(last_status), last_ended_at)
            for task_id, ended, last_status, last_ended_at in rows
        ]

    def last_sequence(self) -> int:
        """The highest sequence number that is kept, or 0."""
        ((highest,),) = self._read("SELECT COALESCE(MAX(sequence), 0) FROM executions")
        return int(highest)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._read_lock:
                return self._reading.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalFailed(f"the disk failed: {error}") from error

    def close(self) -> None:
        """Write what is left and close the database."""
        self._writes.close()
        with self._read_lock:
            self._reading.close()


def _unfinished(row: tuple[Any, ...]) -> Unfinished:
    execution_id, task_id, sequence, digest, call, status, attempts, started_at = row
    return Unfinished(
        Accepted(execution_id, task_id, sequence, digest, call),
        was_running=status == ExecutionStatus.RUNNING,
        attempts=attempts,
        started_at=started_at,
    )


def _whole(record: bytes, payload: bytes) -> ExecutionRecord:
    brief = _RECORDS.decode(record)
    given = msgspec.msgpack.decode(payload, type=_Payload)
    return msgspec.structs.replace(
        brief,
        outcome=msgspec.structs.replace(brief.outcome, values=given.values),
        usage=msgspec.structs.replace(brief.usage, stdout=given.stdout, stderr=given.stderr),
    )
