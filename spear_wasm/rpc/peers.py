"""The other workers of a server, as one of them sees and asks them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import ExecutionElsewhere, ServerDraining, WorkerSilent
from spear_wasm.execution.ids import worker_in
from spear_wasm.rpc import inside
from spear_wasm.rpc.others import PEER_SECONDS, Reports
from spear_wasm.rpc.status import error_of
from spear_wasm.rpc.waiting import LOOK_AGAIN_SECONDS, in_thread, is_kept, look_again

if TYPE_CHECKING:
    from spear_wasm.execution.listing import ActiveExecution, Wanted
    from spear_wasm.execution.records import ExecutionRecord
    from spear_wasm.execution.task import TaskCount
    from spear_wasm.host import Host
    from spear_wasm.rpc.inside import Question
    from spear_wasm.rpc.others import Listing, Retirement

Answer = TypeVar("Answer")
Asked = TypeVar("Asked")
Told = TypeVar("Told")


def door(folder: int, worker: int) -> str:
    """The address on which a worker hears the others.

    By way of the folder's descriptor: the path of a data directory may be longer than a socket's address may be.
    """
    return f"unix:/proc/self/fd/{folder}/{worker}.sock"


class Peer:
    """Another worker."""

    def __init__(self, address: str, options: list[tuple[str, int]]) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stubs: dict[str, Callable[..., Awaitable[Any]]] = {}

    @cached_property
    def functions(self) -> function_pb2_grpc.FunctionServiceAsyncStub:
        """Its service, which answers for itself alone."""
        return function_pb2_grpc.FunctionServiceStub(self._channel)

    def ask(self, question: Question[Asked, Told], asked: Asked) -> Awaitable[Told]:
        """What it answers, within PEER_SECONDS."""
        stub = self._stubs.get(question.name)
        if stub is None:
            stub = self._stubs[question.name] = question.stub(self._channel)
        return stub(asked, timeout=PEER_SECONDS)

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


class Peers:
    """All of them; those that the supervisor has noted as serving. See `Others` for what they are asked."""

    def __init__(self, host: Host, doors: int, options: list[tuple[str, int]]) -> None:
        self._host = host
        self._doors = doors
        self._options = [
            *options,
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        self._seats = [seat for seat in host.seat.board.seats() if seat.number != host.seat.number]
        self._peers: dict[int, Peer] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="spear-peers")

    async def close(self) -> None:
        """Hang up on all of them."""
        for peer in self._peers.values():
            await peer.close()
        self._threads.shutdown()

    def _numbers(self) -> list[int]:
        return [seat.worker for seat in self._seats if seat.answers]

    def _peer(self, number: int) -> Peer:
        peer = self._peers.get(number)
        if peer is None:
            there = set(self._numbers())
            for gone in self._peers.keys() - there:
                _in_background(self._peers.pop(gone).close())
            peer = self._peers[number] = Peer(door(self._doors, number), self._options)
        return peer

    # Executions

    async def answer(
        self,
        here: Callable[[], Awaitable[Answer]],
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer:
        """What `here` gives, or, where that raises ExecutionElsewhere, whoever has the execution."""
        while True:
            try:
                return await here()
            except ExecutionElsewhere as elsewhere:
                found = await self._try(int(elsewhere.metadata["worker"]), there)
            if found is not None:
                return found
            await look_again(self._host.manager)

    async def of_holder(
        self,
        execution_id: str,
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer | None:
        """What another worker answers that has an execution; None where this one has it, or nobody."""
        while (holder := await self._holder_of(execution_id)) is not None:
            found = await self._try(holder, there)
            if found is not None:
                return found
            await look_again(self._host.manager)
        return None

    async def _holder_of(self, execution_id: str) -> int | None:
        """Another worker, or whoever will have taken it over from one that is gone."""
        host = self._host
        durable = host.durable.open(execution_id)
        if durable is not None and await is_kept(durable):
            return None
        if host.executions.find(execution_id) is not None:
            return None
        kept = await in_thread(self._threads, lambda: host.durable.journal.find(execution_id))
        if kept is not None:
            return kept.worker if kept.record is None else None
        maker = worker_in(execution_id)
        if maker:
            return maker if maker in self._numbers() else None
        known = await self._gather(inside.KNOWS, execution_id)
        return next((number for number, knows in known.items() if knows), None)

    async def _try(
        self,
        number: int,
        there: Callable[[function_pb2_grpc.FunctionServiceAsyncStub], Awaitable[Answer]],
    ) -> Answer | None:
        """What a worker answers; None where it is not there any more, or does not have what it had."""
        if number not in self._numbers():
            return None
        try:
            return await there(self._peer(number).functions)
        except grpc.aio.AioRpcError as failed:
            error = error_of(failed)
            if isinstance(error, ServerDraining | ExecutionElsewhere):
                return None
            if error is not None:
                raise error from None
            if failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _silent(number) from None
            return None

    async def page(self, wanted: Wanted, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """What they have of a list."""
        return _all_of(await self._gather(inside.PAGE, inside.Page(wanted, limit)))

    async def newest_of(self, task_id: str, limit: int) -> list[ActiveExecution | ExecutionRecord]:
        """A task's executions that wait or run there, and the newest that ended."""
        return _all_of(await self._gather(inside.NEWEST, inside.Newest(task_id, limit)))

    # Tasks and figures

    async def counts(self) -> list[TaskCount] | None:
        """What tasks have done and do there."""
        told = await self._gather(inside.COUNTS, None)
        return [count for counts in told.values() for count in counts]

    async def reports(self, hours: int) -> Reports:
        """Their figures; nobody is waited for much longer than PEER_SECONDS."""
        told = await self._ask_all(inside.REPORT, hours)
        figures = [each for each in told.values() if not isinstance(each, BaseException)]
        return Reports(figures, [number for number, each in told.items() if isinstance(each, BaseException)])

    async def retire(self, retirement: Retirement) -> set[str]:
        """Have them accept nothing more for a task; the ids of the executions that were forgotten with it."""
        try:
            forgotten = await self._gather(inside.RETIRE, retirement)
        except BaseException:
            await asyncio.shield(self.reinstate(retirement.task_id))
            raise
        return {execution_id for ids in forgotten.values() for execution_id in ids}

    async def reinstate(self, task_id: str) -> None:
        """The task is not deleted after all."""
        await self._ask_all(inside.REINSTATE, task_id)

    # Asking

    async def _gather(self, question: Question[Asked, Told], asked: Asked) -> dict[int, Told]:
        """What each of them answers; all have answered, or failed to, when this is over."""
        answers: dict[int, Told] = {}
        for number, answer in (await self._ask_all(question, asked)).items():
            if isinstance(answer, BaseException):
                raise answer
            answers[number] = answer
        return answers

    async def _ask_all(
        self, question: Question[Asked, Told], asked: Asked
    ) -> dict[int, Told | BaseException]:
        """What each that has not died answers, or why it does not."""
        numbers = self._numbers()
        asking = [self._ask(number, question, asked) for number in numbers]
        found = await asyncio.gather(*asking, return_exceptions=True)
        return {
            number: answer
            for number, answer in zip(numbers, found, strict=True)
            if not isinstance(answer, _Gone)
        }

    async def _ask(self, number: int, question: Question[Asked, Told], asked: Asked) -> Told:
        """A worker's answer.

        Raises:
            _Gone: it has died.
            WorkerSilent: it does not answer in time, though it has not.
            SpearError: what it refuses.
        """
        give_up_at = asyncio.get_running_loop().time() + PEER_SECONDS
        while True:
            try:
                return await self._peer(number).ask(question, asked)
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
                if error is not None:
                    raise error from None
            if number not in self._numbers():
                raise _Gone
            # A worker that has been killed is noted by the supervisor a moment later.
            if asyncio.get_running_loop().time() >= give_up_at:
                raise _silent(number)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


class _Gone(Exception):
    """A worker that was to be asked has died."""


def _silent(number: int) -> WorkerSilent:
    return WorkerSilent(f"worker {number} does not answer", worker=number)


def _all_of(told: dict[int, Listing]) -> list[ActiveExecution | ExecutionRecord]:
    return [each for listing in told.values() for each in listing.all()]


_background: set[asyncio.Task[None]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
