"""Which artifacts there are and under which names, in SQLite.

An *entry* is a name and a version that point at a digest; an upload without a name makes an entry whose name
is empty, one for each digest. An artifact is there as long as an entry points at it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from spear_wasm.artifacts.references import Reference
from spear_wasm.errors import ConfigurationError, StorageFull, VersionExists
from spear_wasm.model import ModuleInfo

SCHEMA_VERSION = 1
PAGE_BYTES = 1 << 20
"""How much a page of entries may say, as JSON; a page holds one entry at least."""

_BUSY_SECONDS = 5.0
_ENTRY_OVERHEAD = 200
"""What an entry adds to a page besides its module, labels and names: digest, times, field tags; generous."""

_SCHEMA = f"""
BEGIN;
CREATE TABLE artifacts (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    compile_time_ms REAL NOT NULL,
    module BLOB NOT NULL
);
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL REFERENCES artifacts (digest),
    labels BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    uploaded INTEGER NOT NULL
);
CREATE UNIQUE INDEX entries_named ON entries (name, version) WHERE name <> '';
CREATE UNIQUE INDEX entries_unnamed ON entries (digest) WHERE name = '';
CREATE INDEX entries_by_upload ON entries (name, uploaded);
CREATE INDEX entries_by_digest ON entries (digest);
CREATE UNIQUE INDEX entries_uploaded ON entries (uploaded);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_SELECT = """
SELECT sequence, digest, name, version, size_bytes, labels, created_at, module, compile_time_ms
FROM entries JOIN artifacts USING (digest)
"""
_BY_NAME = """
WHERE name = :name AND name <> '' AND (:version = '' OR version = :version)
ORDER BY uploaded DESC LIMIT 1
"""
_BY_DIGEST = """
WHERE digest = :digest AND (:version = '' OR version = :version)
ORDER BY uploaded DESC LIMIT 1
"""
_PAGE = """
WHERE sequence > :after AND substr(name, 1, length(:prefix)) = :prefix
ORDER BY sequence LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of an artifact's bytes; the time is wall time in milliseconds."""

    size_bytes: int
    compile_time_ms: float
    module: ModuleInfo


@dataclass(frozen=True, slots=True)
class Entry:
    """A name and a version for an artifact; `created_at` is in milliseconds since the epoch.

    An empty name means by digest alone.
    """

    name: str
    version: str
    digest: str
    labels: Mapping[str, str]
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An entry and the artifact it points at. `digest` is 64 lower-case hex digits.

    `created_at` is in milliseconds since the epoch, `compile_time_ms` wall time.
    """

    digest: str
    name: str
    version: str
    size_bytes: int
    labels: Mapping[str, str]
    created_at: int
    module: ModuleInfo
    compile_time_ms: float


@dataclass(frozen=True, slots=True)
class Removal:
    """Entries to be removed; `last` says that no others point at the artifact, so that it goes with them."""

    digest: str
    size_bytes: int
    sequences: frozenset[int]
    last: bool


class Catalog:
    """The owner of the database and of the one connection to it. Thread-safe; every call is one transaction.

    Raises:
        ConfigurationError: the file is no catalogue of ours, or of a newer version.
        StorageFull: (any method that writes) the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # guards: _connection, and with it the database
        self._connection = _connect(path)

    def close(self) -> None:
        """Close the database; again is harmless."""
        with self._lock:
            self._connection.close()

    def enter(self, entry: Entry, description: Description, *, max_entries: int) -> None:
        """Make an entry, and the artifact where it is new. One that exists becomes its name's newest upload.

        Raises:
            VersionExists: the name and version point at other bytes.
            StorageFull: there are `max_entries`.
        """
        with self._transaction() as db:
            sequence = _known_sequence(db, entry)
            uploaded = _one(db, "SELECT coalesce(max(uploaded), 0) + 1 FROM entries")
            if sequence is not None:
                db.execute("UPDATE entries SET uploaded = ? WHERE sequence = ?", (uploaded, sequence))
                return
            if _count_entries(db) >= max_entries:
                raise _too_many(max_entries)
            db.execute(
                "INSERT INTO artifacts VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    entry.digest,
                    description.size_bytes,
                    description.compile_time_ms,
                    msgspec.json.encode(description.module),
                ),
            )
            db.execute(
                "INSERT INTO entries (name, version, digest, labels, created_at, uploaded)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    entry.name,
                    entry.version,
                    entry.digest,
                    msgspec.json.encode(dict(entry.labels)),
                    entry.created_at,
                    uploaded,
                ),
            )

    def refuse_moved(self, name: str, version: str, digest: str) -> None:
        """VersionExists if a name and version point at other bytes than these."""
        with self._reading() as db:
            _refuse_moved(db, name, version, digest)

    def refuse_if_full(self, max_entries: int) -> None:
        """StorageFull if there are `max_entries`."""
        with self._reading() as db:
            if _count_entries(db) >= max_entries:
                raise _too_many(max_entries)

    def find(self, reference: Reference) -> StoredArtifact | None:
        """What a reference means: of several entries the one that was uploaded last."""
        with self._reading() as db:
            row = _find(db, reference)
        return None if row is None else _decoded(row)

    def has(self, digest: str) -> bool:
        """Whether there is an artifact of that digest."""
        with self._reading() as db:
            return db.execute("SELECT 1 FROM artifacts WHERE digest = ?", (digest,)).fetchone() is not None

    def describe(self, digest: str) -> Description | None:
        """What is known of the artifact of that digest."""
        with self._reading() as db:
            row = db.execute(
                "SELECT size_bytes, compile_time_ms, module FROM artifacts WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else Description(row[0], row[1], _decode_module(row[2]))

    def page(self, prefix: str, *, after: int, size: int) -> tuple[list[StoredArtifact], int | None]:
        """Entries whose names begin with `prefix`, in the order of creation.

        The page begins after the sequence number `after`, and ends at `size` entries, or before it says more
        than PAGE_BYTES. With it comes the number to go on after, or None at the end.
        """
        rows: list[tuple[Any, ...]] = []
        more = False
        with self._reading() as db:
            query = {"after": after, "prefix": prefix, "limit": size + 1}
            with contextlib.closing(db.execute(_SELECT + _PAGE, query)) as cursor:
                room = PAGE_BYTES
                for row in cursor:
                    room -= _weight(row)
                    more = len(rows) == size or (room < 0 and bool(rows))
                    if more:
                        break
                    rows.append(row)
        return [_decoded(row) for row in rows], rows[-1][0] if more else None

    def removal(self, reference: Reference) -> Removal | None:
        """What removing a reference takes: by name one entry (without a version the newest), by digest all."""
        with self._reading() as db:
            row = _find(db, reference)
            if row is None:
                return None
            sequence, digest, _, _, size_bytes, *_ = row
            entries = _sequences(db, digest)
        going = entries if reference.digest else frozenset({sequence})
        return Removal(digest, size_bytes, going, last=going == entries)

    def remove(self, removal: Removal) -> bool:
        """Do what was decided; False, and nothing is done, if entries came or went meanwhile."""
        with self._transaction() as db:
            entries = _sequences(db, removal.digest)
            if not removal.sequences <= entries or removal.last != (removal.sequences == entries):
                return False
            db.executemany(
                "DELETE FROM entries WHERE sequence = ?", [(number,) for number in removal.sequences]
            )
            if removal.last:
                db.execute("DELETE FROM artifacts WHERE digest = ?", (removal.digest,))
            return True

    def forget(self, digest: str) -> None:
        """Remove an artifact with all of its entries."""
        with self._transaction() as db:
            db.execute("DELETE FROM entries WHERE digest = ?", (digest,))
            db.execute("DELETE FROM artifacts WHERE digest = ?", (digest,))

    def sizes(self) -> dict[str, int]:
        """All artifacts: their digests, and their bytes."""
        with self._reading() as db:
            return dict(db.execute("SELECT digest, size_bytes FROM artifacts").fetchall())

    def count(self) -> int:
        """How many artifacts there are."""
        with self._reading() as db:
            return _one(db, "SELECT count(*) FROM artifacts")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _disk_full_refused():
            db = self._connection
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its other files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an upload that was acknowledged stays
        connection.execute("PRAGMA foreign_keys = ON")
        _bring_up_to_date(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ConfigurationError(f"{path} cannot be used as a catalogue: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    version = _one(connection, "PRAGMA user_version")
    if version == 0:
        connection.executescript(_SCHEMA)
    elif version != SCHEMA_VERSION:
        raise ConfigurationError(f"{path} has schema version {version}; this server knows {SCHEMA_VERSION}")


def _one(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


def _count_entries(db: sqlite3.Connection) -> int:
    return _one(db, "SELECT count(*) FROM entries")


def _sequences(db: sqlite3.Connection, digest: str) -> frozenset[int]:
    rows = db.execute("SELECT sequence FROM entries WHERE digest = ?", (digest,))
    return frozenset(number for (number,) in rows)


def _find(db: sqlite3.Connection, reference: Reference) -> tuple[Any, ...] | None:
    where = _BY_DIGEST if reference.digest else _BY_NAME
    values = {"name": reference.name, "version": reference.version, "digest": reference.digest}
    row: tuple[Any, ...] | None = db.execute(_SELECT + where, values).fetchone()
    return row


def _known_sequence(db: sqlite3.Connection, entry: Entry) -> int | None:
    _refuse_moved(db, entry.name, entry.version, entry.digest)
    row = db.execute(
        "SELECT sequence FROM entries WHERE digest = ? AND name = ? AND version = ?",
        (entry.digest, entry.name, entry.version),
    ).fetchone()
    return None if row is None else int(row[0])


def _refuse_moved(db: sqlite3.Connection, name: str, version: str, digest: str) -> None:
    row = db.execute(
        "SELECT digest FROM entries WHERE name = ? AND version = ? AND name <> ''", (name, version)
    ).fetchone()
    if row is not None and row[0] != digest:
        raise VersionExists(
            f"{name}:{version} exists with other bytes, and versions do not move; choose another version",
            name=name, version=version, digest=row[0],
        )  # fmt: skip


def _too_many(max_entries: int) -> StorageFull:
    return StorageFull(
        f"{max_entries} artifacts are stored, as many as the server keeps; delete some that are not needed",
        limit=max_entries,
    )


def _weight(row: tuple[Any, ...]) -> int:
    _, _, name, version, _, labels, _, module, _ = row
    return len(name) + len(version) + len(labels) + len(module) + _ENTRY_OVERHEAD


def _decoded(row: tuple[Any, ...]) -> StoredArtifact:
    _, digest, name, version, size_bytes, labels, created_at, module, compile_time_ms = row
    return StoredArtifact(
        digest=digest,
        name=name,
        version=version,
        size_bytes=size_bytes,
        labels=msgspec.json.decode(labels, type=dict[str, str]),
        created_at=created_at,
        module=_decode_module(module),
        compile_time_ms=compile_time_ms,
    )


def _decode_module(module: bytes) -> ModuleInfo:
    return msgspec.json.decode(module, type=ModuleInfo)


@contextlib.contextmanager
def _disk_full_refused() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise StorageFull("the disk under the data directory is full") from error
