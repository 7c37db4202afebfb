"""Writes to an SQLite database that share transactions, and so share the wait for the disk."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import structlog

from spear_wasm.errors import ExecutionExists, JournalFailed

log = structlog.get_logger()

LARGEST_BATCH: Final = 500

Result = TypeVar("Result")
Change: TypeAlias = Callable[[sqlite3.Connection], Result]


@dataclass(frozen=True, slots=True)
class RowsStatement:
    """An SQL statement about one row of `columns` values or many: `sql` has `{rows}` where they go."""

    sql: str
    columns: int

    def execute(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Do so in one step: each step takes the GIL anew, which is dear where others want it."""
        row = f"({', '.join('?' * self.columns)})"
        sql = self.sql.format(rows=", ".join([row] * len(rows)))
        connection.execute(sql, [*itertools.chain.from_iterable(rows)])


class GroupCommit:
    """Makes changes on one thread, as many in one transaction as have come meanwhile. Thread-safe."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection  # of the thread alone
        self._work = threading.Condition()  # guards: _queue, _closing
        self._queue: list[_Change[Any] | _Rows] = []
        self._closing = False
        self._thread = threading.Thread(target=self._write_batches, name="spear-journal", daemon=True)
        self._thread.start()

    def submit(self, change: Change[Result]) -> Future[Result]:
        """Make a change; the future is done when it is on disk.

        It fails with JournalFailed where the disk does, then nothing of the change was made, or with the
        ExecutionExists that the change raises, before it has changed anything.
        """
        write = _Change(change)
        with self._work:
            self._put(write)
        return write.future

    def submit_row(self, statement: RowsStatement, row: tuple[Any, ...]) -> Future[None]:
        """The same for a statement about a row. It is made at once with others that come right after each other.

        They share a future.
        """
        with self._work:
            last = self._queue[-1] if self._queue else None
            if (
                not isinstance(last, _Rows)
                or last.statement is not statement
                or len(last.rows) >= LARGEST_BATCH
            ):
                last = _Rows(statement)
                self._put(last)
            last.rows.append(row)
        return last.future

    def _put(self, write: _Change[Any] | _Rows) -> None:
        if self._closing:
            write.future.set_exception(JournalFailed("the journal is closed"))
        else:
            self._queue.append(write)
            self._work.notify()

    def close(self) -> None:
        """Write what is left, and close the connection."""
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join()
        self._connection.close()

    def _write_batches(self) -> None:
        while batch := self._next_batch():
            self._write(batch)

    def _next_batch(self) -> list[_Change[Any] | _Rows]:
        """What has come, waiting for it; nothing when no more will."""
        with self._work:
            self._work.wait_for(lambda: self._queue or self._closing)
            batch = self._queue[:LARGEST_BATCH]
            del self._queue[:LARGEST_BATCH]
            return batch

    def _write(self, batch: list[_Change[Any] | _Rows]) -> None:
        connection = self._connection
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


class _Change(Generic[Result]):
    """A change to be made, and the future of who wants it."""

    def __init__(self, change: Change[Result]) -> None:
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


class _Rows:
    """Rows of a statement, and the future of all who want them. `rows` grow until their turn has come."""

    def __init__(self, statement: RowsStatement) -> None:
        self.future: Future[None] = Future()
        self.statement = statement
        self.rows: list[tuple[Any, ...]] = []

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make the changes, as part of a transaction."""
        self.statement.execute(connection, self.rows)

    def settle(self) -> None:
        """The transaction is on disk."""
        self.future.set_result(None)
