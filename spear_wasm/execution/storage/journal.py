"""Executions that are kept: what was accepted to be done whatever happens, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, cast

import msgspec

from spear_wasm.errors import ExecutionExists
from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.task import TaskTotal
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionMode, Json, Parameter
from spear_wasm.values import shown


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
    environment: dict[str, str] = {}

    def given(self) -> list[Parameter]:
        """The parameters as a call has them."""
        return [Parameter(*parameter) for parameter in self.parameters]

    def packed(self) -> bytes:
        """The same as bytes."""
        return msgspec.msgpack.encode(self)


_CALLS = msgspec.msgpack.Decoder(StoredCall)


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
    """What is kept under an execution id; no record where there is no outcome yet, and `worker` has to see to it."""

    digest: bytes
    record: ExecutionRecord | None
    worker: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long outcomes are kept: the newest so many, of so many bytes together, no older than so long."""

    most: int
    most_bytes: int
    seconds: float


class ExecutionJournal(Protocol):
    """Where durable executions are kept. Thread-safe.

    It is one worker's: what it accepts that one has to do. A server that serves alone is worker 0.

    A write is a future that is done when nothing can undo it, on whatever thread; it fails with JournalFailed where
    that could not be, and then nothing of it was written. Writes take effect in the order in which they are asked
    for. Reads block, and raise JournalFailed.
    """

    def accept(self, accepted: Accepted) -> Future[None]:
        """Keep an execution that is to be done. Fails with ExecutionExists where its id is kept already."""
        ...

    def started(self, execution_id: str) -> Future[None]:
        """Count an attempt that is about to begin."""
        ...

    def ended(self, record: ExecutionRecord) -> Future[None]:
        """Keep the one outcome of an execution; a second one changes nothing."""
        ...

    def take_over(self, gone: int, part: int, parts: int) -> Future[list[Unfinished]]:
        """Have this worker to do what one left that is gone: of so many parts one, in order of creation.

        What an earlier run of the server has left, whichever worker, is left by 0.
        """
        ...

    def forget_task(self, task_id: str) -> Future[list[str]]:
        """Forget the outcomes of a task's executions; the result is their ids."""
        ...

    def add_totals(self, totals: Collection[TaskTotal]) -> Future[None]:
        """Count executions that are not kept here."""
        ...

    def forget_totals(self, task_ids: Collection[str]) -> Future[None]:
        """Forget how many executions of these tasks have ended."""
        ...

    def prune(self) -> None:
        """Forget what need not be kept any longer. To be called now and then."""
        ...

    def find(self, execution_id: str) -> Kept | None:
        """What is kept under an id, with all that the execution gave."""
        ...

    def holds(self, execution_id: str) -> bool:
        """Whether anything is kept under an id, or may be. Waits for no disk."""
        ...

    def page(self, wanted: Wanted, limit: int) -> list[ExecutionRecord]:
        """Outcomes in order of creation, without what the executions gave and wrote."""
        ...

    def newest_of(self, task_id: str, limit: int) -> list[ExecutionRecord]:
        """A task's newest outcomes, newest first, as `page` has them."""
        ...

    def task_totals(self, task_id: str = "") -> list[TaskTotal]:
        """What has ended of each task, or of one, ever: what was kept here, and what was added."""
        ...

    def last_sequence(self) -> int:
        """The highest sequence number that is kept, or 0."""
        ...

    def close(self) -> None:
        """Write what is left and let go of the database."""
        ...


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
