"""Tasks on disk: they outlive the server. What they did is in memory only."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import msgspec

from spear_wasm.execution.task import TaskRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL
)
"""


class TaskStore:
    """The records of all tasks, in creation order. Thread-safe; every call is one transaction."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # guards: _connection
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(_SCHEMA)

    def load(self) -> list[TaskRecord]:
        """All records, oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT sequence, record FROM tasks ORDER BY sequence").fetchall()
        return [_decode(content, sequence) for sequence, content in rows]

    def add(self, record: TaskRecord) -> TaskRecord:
        """Keep a record; returns it with its sequence number."""
        content = msgspec.json.encode(record)
        with self._lock:
            cursor = self._connection.execute(
                "INSERT INTO tasks (task_id, record) VALUES (?, ?)", (record.task_id, content)
            )
        assert cursor.lastrowid is not None
        return _decode(content, cursor.lastrowid)

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
