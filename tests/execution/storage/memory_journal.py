"""An ExecutionJournal that keeps everything in memory: what else could stand where SQLite does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec

from spear_wasm.errors import ExecutionExists, JournalFailed
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.storage import Accepted, Kept, Retention, Unfinished
from spear_wasm.execution.task import TaskTotal


@dataclass
class Row:
    accepted: Accepted
    worker: int
    attempts: int = 0
    started_at: float | None = None
    record: ExecutionRecord | None = None


@dataclass
class Database:
    """What outlives a journal."""

    rows: dict[str, Row] = field(default_factory=dict)
    totals: dict[str, TaskTotal] = field(default_factory=dict)


class MemoryJournal:
    """Writes take effect at once, and are done when they return."""

    def __init__(
        self,
        database: Database,
        retention: Retention,
        clock: Callable[[], float] = time.time,
        worker: int = 0,
    ) -> None:
        self._worker = worker
        self._database = database
        self._retention = retention
        self._clock = clock
        self._lock = threading.RLock()  # guards: _database, _closed
        self._closed = False

    def _write(self, change: Callable[[], Any]) -> Future[Any]:
        write: Future[Any] = Future()
        with self._lock:
            try:
                if self._closed:
                    raise JournalFailed("the journal is closed")
                result = change()
            except (ExecutionExists, JournalFailed) as error:
                write.set_exception(error)
                return write
        write.set_result(result)
        return write

    def accept(self, accepted: Accepted) -> Future[None]:
        def change() -> None:
            if accepted.execution_id in self._database.rows:
                raise ExecutionExists(f"{accepted.execution_id} is in use")
            self._database.rows[accepted.execution_id] = Row(accepted, self._worker)

        return self._write(change)

    def started(self, execution_id: str) -> Future[None]:
        def change() -> None:
            row = self._database.rows.get(execution_id)
            if row is not None and row.record is None:
                row.attempts += 1
                row.started_at = row.started_at or self._clock()

        return self._write(change)

    def ended(self, record: ExecutionRecord) -> Future[None]:
        def change() -> None:
            row = self._database.rows.get(record.execution_id)
            if row is not None and row.record is None:
                row.record = record
                self._add(TaskTotal(record.task_id, 1, record.status, record.completed_at))

        return self._write(change)

    def forget_task(self, task_id: str) -> Future[list[str]]:
        return self._write(lambda: self._forget([each for each in self._ended() if each.task_id == task_id]))

    def prune(self) -> None:
        def change() -> None:
            newest = sorted(self._ended(), key=lambda each: -each.completed_at)
            size, doomed = 0, []
            for number, record in enumerate(newest):
                size += len(msgspec.msgpack.encode(record))
                old = record.completed_at < self._clock() - self._retention.seconds
                if number >= self._retention.most or size > self._retention.most_bytes or old:
                    doomed.append(record)
            self._forget(doomed)

        self._write(change)

    def _forget(self, records: list[ExecutionRecord]) -> list[str]:
        for record in records:
            del self._database.rows[record.execution_id]
        return [record.execution_id for record in records]

    def add_totals(self, totals: Collection[TaskTotal]) -> Future[None]:
        def change() -> None:
            for each in totals:
                self._add(each)

        return self._write(change)

    def _add(self, more: TaskTotal) -> None:
        known = self._database.totals.get(more.task_id, dataclasses.replace(more, ended=0))
        latest = max(known, more, key=lambda each: each.last_ended_at)
        self._database.totals[more.task_id] = dataclasses.replace(latest, ended=known.ended + more.ended)

    def forget_totals(self, task_ids: Collection[str]) -> Future[None]:
        return self._write(lambda: [self._database.totals.pop(each, None) for each in task_ids])

    def take_over(self, gone: int, part: int, parts: int) -> Future[list[Unfinished]]:
        def change() -> list[Unfinished]:
            taken = [
                row
                for row in self._database.rows.values()
                if row.record is None and row.worker == gone and (row.accepted.sequence >> 10) % parts == part
            ]
            for row in taken:
                row.worker = self._worker
            return [
                Unfinished(each.accepted, each.attempts > 0, each.attempts, each.started_at)
                for each in sorted(taken, key=lambda each: each.accepted.sequence)
            ]

        return self._write(change)

    def find(self, execution_id: str) -> Kept | None:
        row = self._database.rows.get(execution_id)
        return None if row is None else Kept(row.accepted.digest, row.record, row.worker)

    def holds(self, execution_id: str) -> bool:
        return execution_id in self._database.rows

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        found = sorted(filter(wanted.fits, self._ended()), key=lambda each: each.sequence)
        return [_brief(each) for each in found[:limit]]

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        mine = [each for each in self._ended() if each.task_id == task_id]
        return [_brief(each) for each in sorted(mine, key=lambda each: -each.sequence)[:limit]]

    def _ended(self) -> list[ExecutionRecord]:
        with self._lock:
            return [each.record for each in self._database.rows.values() if each.record is not None]

    def task_totals(self, task_id: str = "") -> list[TaskTotal]:
        return [each for each in self._database.totals.values() if task_id in {"", each.task_id}]

    def last_sequence(self) -> int:
        return max((each.accepted.sequence for each in self._database.rows.values()), default=0)

    def close(self) -> None:
        self._closed = True


def _brief(record: ExecutionRecord) -> ExecutionRecord:
    return msgspec.structs.replace(
        record,
        outcome=msgspec.structs.replace(record.outcome, values=()),
        usage=msgspec.structs.replace(record.usage, stdout=b"", stderr=b""),
    )
