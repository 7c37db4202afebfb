"""The tables that executions are kept in, and what keeps their totals."""

from __future__ import annotations

import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    sequence INTEGER PRIMARY KEY,
    execution_id TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    completed_at REAL,
    size INTEGER NOT NULL DEFAULT 0,
    call BLOB,
    record BLOB,
    payload BLOB,
    started_at REAL,
    worker INTEGER NOT NULL DEFAULT 0
);
DROP INDEX IF EXISTS executions_of_task;
CREATE INDEX IF NOT EXISTS unfinished ON executions (sequence) WHERE completed_at IS NULL;
CREATE INDEX IF NOT EXISTS executions_by_end ON executions (completed_at, size) WHERE completed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ended_by_status ON executions (status, sequence) WHERE completed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ended_of_task ON executions (task_id, sequence) WHERE completed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ended_of_task_by_status ON executions (task_id, status, sequence)
    WHERE completed_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS kept (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    executions INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO kept SELECT 1, COUNT(*), COALESCE(SUM(size), 0) FROM executions
    WHERE completed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM kept);
CREATE TABLE IF NOT EXISTS task_totals (
    task_id TEXT PRIMARY KEY,
    ended INTEGER NOT NULL,
    last_status TEXT NOT NULL,
    last_ended_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS one_more AFTER UPDATE OF completed_at ON executions
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL BEGIN
    UPDATE kept SET executions = executions + 1, bytes = bytes + NEW.size;
    INSERT INTO task_totals VALUES (NEW.task_id, 1, NEW.status, NEW.completed_at) ON CONFLICT (task_id) DO UPDATE
        SET ended = ended + 1, last_status = excluded.last_status, last_ended_at = excluded.last_ended_at;
END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON executions WHEN OLD.completed_at IS NOT NULL BEGIN
    UPDATE kept SET executions = executions - 1, bytes = bytes - OLD.size;
END;
"""
# `worker` is who has an execution to do, and is of no account once it has ended.
# `call` is there until the end; what an execution gave, from the end on. Lists read records without payloads.
# What is kept is counted where it changes: counting it whenever that is asked would read it all.


def make_tables(connection: sqlite3.Connection) -> None:
    """Make what is not there, and add what the tables of an earlier version lack."""
    columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(executions)")]
    if columns and "started_at" not in columns:
        connection.execute("ALTER TABLE executions ADD COLUMN started_at REAL")
    if columns and "worker" not in columns:
        connection.execute("ALTER TABLE executions ADD COLUMN worker INTEGER NOT NULL DEFAULT 0")
    connection.executescript(_SCHEMA)
