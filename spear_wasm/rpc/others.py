"""What the other workers of a server are asked for. A process that serves alone has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from spear_wasm.execution.listing import ActiveExecution
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.execution.task import TaskCount
from spear_wasm.rpc.figures import WorkerFigures

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable

    from spear_wasm.api import function_pb2_grpc
    from spear_wasm.execution.listing import Wanted

Answer = TypeVar("Answer")

PEER_SECONDS = 2.0
"""What a worker has to answer another one in, where nothing is waited for."""


class Listing(msgspec.Struct, frozen=True):
    """Executions of one worker: those that wait or run, and those that it remembers."""

    active: list[ActiveExecution]
    ended: list[ExecutionRecord]

    def all(self) -> list[ActiveExecution | ExecutionRecord]:
        """Both, in no order."""
        return [*self.active, *self.ended]


class Retirement(msgspec.Struct, frozen=True):
    """That a task is to be deleted: what `TaskExecutionManager.retire` is told."""

    task_id: str
    force: bool
    forget_records: bool


class Reports(msgspec.Struct, frozen=True):
    """Figures of other workers, and the numbers of those that gave none in time."""

    figures: list[WorkerFigures]
    silent: list[int]


class Others(Protocol):
    """The other workers. For the event loop's thread; where one does not answer, WorkerSilent is raised."""

    async def answer(
        self,
        here: Callable[[], Awaitable[Answer]],
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer:
        """What `here` gives, or, where that raises ExecutionElsewhere, whoever has the execution."""
        ...

    async def of_holder(
        self,
        execution_id: str,
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer | None:
        """What another worker answers that has an execution; None where this one has it, or nobody."""
        ...

    async def page(self, wanted: Wanted, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """What they have of a list: as `TaskExecutionManager.page`."""
        ...

    async def newest_of(self, task_id: str, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """A task's executions that wait or run there, and the newest that ended."""
        ...

    async def counts(self) -> list[TaskCount] | None:
        """What tasks have done and do, as far as the disk does not know; None where the tasks know it all."""
        ...

    async def reports(self, hours: int) -> Reports:
        """Their figures; this is what nobody is waited for long."""
        ...

    async def retire(self, retirement: Retirement) -> set[str]:
        """Have them accept nothing more for a task; the ids of the executions that were forgotten with it.

        Raises:
            TaskBusy: it has executions on one of them, and that is not what was wanted; they accept as before.
        """
        ...

    async def reinstate(self, task_id: str) -> None:
        """The task is not deleted after all."""
        ...


class NoOthers:
    """There are none."""

    async def answer(
        self,
        here: Callable[[], Awaitable[Answer]],
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer:
        """What is here."""
        return await here()

    async def of_holder(
        self,
        execution_id: str,
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer | None:
        """Nobody has it."""
        return None

    async def page(self, wanted: Wanted, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """They have nothing."""
        return []

    async def newest_of(self, task_id: str, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """They have nothing."""
        return []

    async def counts(self) -> list[TaskCount] | None:
        """The tasks know it all."""
        return None

    async def reports(self, hours: int) -> Reports:
        """There are none."""
        return Reports([], [])

    async def retire(self, retirement: Retirement) -> set[str]:
        """Nobody accepts anything."""
        return set()

    async def reinstate(self, task_id: str) -> None:
        """Nobody does anything about it."""


async def last_of(parts: AsyncIterable[Answer]) -> Answer | None:
    """The last part of a stream."""
    last = None
    async for part in parts:
        last = part
    return last
