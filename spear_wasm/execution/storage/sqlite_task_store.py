"""Tasks in an SQLite database."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from spear_wasm.errors import TooManyTasks
from spear_wasm.execution.storage.sqlite_connection import connect
from spear_wasm.execution.storage.task_store import NameTakenElsewhere
from spear_wasm.execution.task import TaskRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL,
    name TEXT
);
CREATE INDEX IF NOT EXISTS tasks_named ON tasks (name)
"""


class SqliteTaskStore:
    """A TaskStore whose every call is one transaction."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # guards: _connection
        self._connection = connect(path)
        self._bring_up_to_date()
        self._connection.executescript(_SCHEMA)

    def _bring_up_to_date(self) -> None:
        """Give the tasks of an earlier version the column that their names are found by."""
        columns = [name for _, name, *_ in self._connection.execute("PRAGMA table_info(tasks)")]
        if columns and "name" not in columns:
            self._connection.execute("ALTER TABLE tasks ADD COLUMN name TEXT")
            self._connection.execute("UPDATE tasks SET name = json_extract(record, '$.name')")

    def load(self, after: int = 0) -> list[TaskRecord]:
        """The records behind a sequence number, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT sequence, record FROM tasks WHERE sequence > ? ORDER BY sequence", (after,)
            ).fetchall()
        return [_decode(content, sequence) for sequence, content in rows]

    def ids(self) -> set[str]:
        """The ids of all tasks."""
        with self._lock:
            return {task_id for (task_id,) in self._connection.execute("SELECT task_id FROM tasks")}

    def add(
        self, record: TaskRecord, most: int, is_known: Callable[[str], bool] = lambda _: False
    ) -> TaskRecord:
        """Keep a record; returns it with its sequence number, which is higher than any before.

        Raises:
            TooManyTasks: there are as many as there may be.
            NameTakenElsewhere: there is a task of that name whose id `is_known` knows nothing of.
        """
        content = msgspec.json.encode(record)
        with self._lock, self._transaction() as connection:
            named = connection.execute("SELECT task_id FROM tasks WHERE name = ?", (record.name,)).fetchall()
            if not all(is_known(task_id) for (task_id,) in named):
                raise NameTakenElsewhere
            ((number,),) = connection.execute("SELECT COUNT(*) FROM tasks")
            if number >= most:
                raise TooManyTasks(f"the server holds {most} tasks, its bound; delete some")
            cursor = connection.execute(
                "INSERT INTO tasks (task_id, record, name) VALUES (?, ?, ?)",
                (record.task_id, content, record.name),
            )
        assert cursor.lastrowid is not None
        return _decode(content, cursor.lastrowid)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")

    def remove(self, task_id: str) -> None:
        """Forget a record."""
        with self._lock:
            self._connection.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,))

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()


def _decode(content: bytes, sequence: int) -> TaskRecord:
    return replace(msgspec.json.decode(content, type=TaskRecord), sequence=sequence)
