"""Connections to SQLite databases that several processes write to."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_BUSY_SECONDS = 30.0
"""How long a writer waits for another process's, which is a matter of milliseconds where the disk is well."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose transactions are on disk when they are committed."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
