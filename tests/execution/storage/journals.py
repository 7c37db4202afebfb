"""What tests of journals keep there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from spear_wasm.execution.listing import Wanted
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.storage import Accepted, ExecutionJournal, Retention, StoredCall, Unfinished
from spear_wasm.limits import UNSAID
from spear_wasm.model import ExecutionMode, ExecutionStatus, Outcome, TypedValue, Usage
from tests.execution.fake_fibers import PATIENCE

PLENTY = Retention(most=1000, most_bytes=1 << 30, seconds=3600)
NOW = 1_000_000.0
CALL = StoredCall(
    "add", ExecutionMode.ASYNC, [], UNSAID, 0, force_new_instance=False, priority=5, max_retries=0
)

Open = Callable[..., ExecutionJournal]


class SettableClock:
    """Seconds since the epoch, which stand still."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def done(write: Future[Any]) -> Any:
    return write.result(PATIENCE)


def accepted(number: int, task: str = "task", call: StoredCall = CALL) -> Accepted:
    return Accepted(f"exec-{number}", task, number, b"digest", call.packed())


def record(
    number: int, task: str = "task", *, at: float = NOW, values: tuple[TypedValue, ...] = (), **outcome: Any
) -> ExecutionRecord:
    return ExecutionRecord(
        f"exec-{number}", task, "add", ExecutionMode.ASYNC, number, "sandbox", at, at, 0.5, 0.25,
        Outcome(outcome.pop("status", ExecutionStatus.COMPLETED), values, **outcome),
        Usage(cpu_ns=7, fuel=9, stdout=b"out", stderr=b"err\xff"),
    )  # fmt: skip


def keep(journal: ExecutionJournal, *records: ExecutionRecord) -> None:
    for each in records:
        journal.accept(accepted(each.sequence, each.task_id))
        done(journal.ended(each))


def unfinished(journal: ExecutionJournal) -> list[Unfinished]:
    """What the journal of a server that serves alone has yet to be done."""
    left: list[Unfinished] = done(journal.take_over(0, 0, 1))
    return left


def kept(journal: ExecutionJournal, **wanted: Any) -> list[int]:
    return [each.sequence for each in journal.page(Wanted(**wanted), 1000)]
