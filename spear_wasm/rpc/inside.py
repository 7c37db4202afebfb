"""What the workers of a server ask each other, over sockets that nobody else can reach.

Beside the questions here each answers the calls of `FunctionService` there, for itself alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import msgspec

from spear_wasm.execution.execution import Execution
from spear_wasm.execution.listing import Wanted, as_active
from spear_wasm.execution.records import ExecutionRecord, without_payload
from spear_wasm.execution.task import TaskCount
from spear_wasm.rpc.figures import Figures, WorkerFigures
from spear_wasm.rpc.others import Listing, Retirement
from spear_wasm.rpc.status import reporting_errors

if TYPE_CHECKING:
    from spear_wasm.execution.listing import Listed
    from spear_wasm.host import Host
    from spear_wasm.rpc.durable_calls import DurableCalls

Asked = TypeVar("Asked")
Told = TypeVar("Told")
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "spear_wasm.Worker"


class Page(msgspec.Struct, frozen=True):
    """Which executions are wanted for a list, and how many of those that ended."""

    wanted: Wanted
    limit: int


class Newest(msgspec.Struct, frozen=True):
    """Of which task the newest executions are wanted, and how many."""

    task_id: str
    limit: int


@dataclass(frozen=True)
class Question(Generic[Asked, Told]):
    """Something that a worker can be asked: a method of a service whose messages are msgpack."""

    name: str
    asked: Any
    told: type[Told]

    def handler(
        self, method: Callable[[Asked, Context], Awaitable[Told]]
    ) -> tuple[str, grpc.RpcMethodHandler[Any, Any]]:
        """How a server answers it, by its name."""
        return self.name, grpc.unary_unary_rpc_method_handler(
            method,
            request_deserializer=msgspec.msgpack.Decoder(self.asked).decode,
            response_serializer=msgspec.msgpack.encode,
        )

    def stub(self, channel: grpc.aio.Channel) -> Callable[..., Awaitable[Told]]:
        """How it is asked."""
        asking: Callable[..., Awaitable[Told]] = channel.unary_unary(
            f"/{SERVICE}/{self.name}",
            request_serializer=msgspec.msgpack.encode,
            response_deserializer=msgspec.msgpack.Decoder(self.told).decode,
        )
        return asking


KNOWS: Question[str, bool] = Question("Knows", str, bool)
"""Whether it has an execution of that id, or remembers it."""
PAGE: Question[Page, Listing] = Question("Page", Page, Listing)
NEWEST: Question[Newest, Listing] = Question("Newest", Newest, Listing)
COUNTS: Question[None, list[TaskCount]] = Question("Counts", None, list[TaskCount])
REPORT: Question[int, WorkerFigures] = Question("Report", int, WorkerFigures)
RETIRE: Question[Retirement, set[str]] = Question("Retire", Retirement, set[str])
REINSTATE: Question[str, None] = Question("Reinstate", str, type(None))


class Inside:
    """Answers the other workers. For the event loop's thread."""

    def __init__(self, host: Host, figures: Figures, durable_calls: DurableCalls) -> None:
        self._host = host
        self._durable_calls = durable_calls
        self._figures = figures

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        handlers = (
            KNOWS.handler(self.knows),
            PAGE.handler(self.page),
            NEWEST.handler(self.newest),
            COUNTS.handler(self.counts),
            REPORT.handler(self.report),
            RETIRE.handler(self.retire),
            REINSTATE.handler(self.reinstate),
        )
        return grpc.method_handlers_generic_handler(SERVICE, dict(handlers))

    @reporting_errors
    async def knows(self, execution_id: str, context: Context) -> bool:
        """Whether an execution is here."""
        host = self._host
        return host.durable.open(execution_id) is not None or host.executions.find(execution_id) is not None

    @reporting_errors
    async def page(self, page: Page, context: Context) -> Listing:
        """Executions for a list."""
        return _listing(await self._durable_calls.page_in_memory(page.wanted, page.limit))

    @reporting_errors
    async def newest(self, newest: Newest, context: Context) -> Listing:
        """The newest executions of a task."""
        task = self._host.tasks.find(newest.task_id)
        if task is None:
            return Listing([], [])
        return _listing(await self._durable_calls.newest_in_memory(task, newest.limit))

    @reporting_errors
    async def counts(self, _: None, context: Context) -> list[TaskCount]:
        """What tasks have done and do here."""
        return self._host.executions.counts(self._host.tasks.all())

    @reporting_errors
    async def report(self, hours: int, context: Context) -> WorkerFigures:
        """Figures."""
        return self._figures.read(hours)

    @reporting_errors
    async def retire(self, retirement: Retirement, context: Context) -> set[str]:
        """Accept nothing more for a task that is to be deleted."""
        return await asyncio.to_thread(self._retire, retirement)

    def _retire(self, retirement: Retirement) -> set[str]:
        self._host.registration.catch_up()
        task = self._host.tasks.find(retirement.task_id)
        if task is None:
            return set()
        return self._host.retire_task(task, force=retirement.force, forget_records=retirement.forget_records)

    @reporting_errors
    async def reinstate(self, task_id: str, context: Context) -> None:
        """Accept calls of a task again."""
        task = self._host.tasks.find(task_id)
        if task is not None:
            self._host.manager.reinstate(task)


def _listing(found: list[Listed]) -> Listing:
    active = [as_active(each) for each in found if isinstance(each, Execution)]
    ended = [without_payload(each) for each in found if isinstance(each, ExecutionRecord)]
    return Listing(active, ended)
