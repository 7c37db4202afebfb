"""InvokeBatch: one function over many inputs, each of them an execution of its own."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from msgspec import structs

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import BatchTooLarge, InvalidRequest, ServerBusy, SpearError
from spear_wasm.execution.execution import BoundCall
from spear_wasm.model import ExecutionStatus
from spear_wasm.rpc.convert import parameters_from
from spear_wasm.rpc.executions import write_answer
from spear_wasm.rpc.invocations import check_invocation
from spear_wasm.rpc.refusals import refusal
from spear_wasm.scheduling import is_at_share
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.config import BatchConfig
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.task import Task

RETRY_AFTER_SECONDS = 1.0
GROUP = 16
"""Inputs that take each step together."""
REFUSAL_BYTES = 512
"""More than an answer has that says that its batch has no room for it."""


def check_batch(request: pb.InvokeBatchRequest, config: BatchConfig) -> None:
    """Refuse what makes no sense for InvokeBatch, whatever the task.

    Raises:
        InvalidRequest: which field it is, and why.
        BatchTooLarge: it has more inputs, or more bytes, than one may have.
    """
    call, count = request.call, len(request.inputs)
    if not count:
        raise InvalidRequest("inputs is empty; a batch needs one at least")
    if count > config.max_inputs:
        raise BatchTooLarge(
            f"the batch has {count} inputs; the limit is {config.max_inputs}", limit="max_inputs"
        )
    if (size := request.ByteSize()) > config.max_input:
        raise BatchTooLarge(
            f"the batch is {size} bytes; the limit is {int(config.max_input)}", limit="max_input"
        )
    check_invocation(call)
    if call.execution_mode == pb.EXECUTION_MODE_ASYNC:
        raise InvalidRequest("call.execution_mode is ASYNC; the calls of a batch are SYNC")
    for name, given in (
        ("parameters", call.parameters),
        ("execution_id", call.execution_id),
        ("context.execution_id", call.context.execution_id),
    ):
        if given:
            raise InvalidRequest(f"call.{name} is for one call; in a batch leave it empty")


class Batches:
    """The batches under way. For the event loop's thread.

    They take turns on it: between any two of their slices whatever else is to be done is done.
    """

    def __init__(self, manager: TaskExecutionManager, config: BatchConfig, slice_seconds: float) -> None:
        self._manager = manager
        self._config = config
        self._slice_seconds = slice_seconds
        self._turns = asyncio.Lock()
        self._of_task: Counter[Task] = Counter()

    def begin(self, call: Call, request: pb.InvokeBatchRequest, seconds_left: float | None) -> Batch:
        """A batch of a linked task, the first of whose inputs is submitted; to be seen to its end by `run`.

        Raises:
            SpearError: what is against all of its calls; none has begun.
        """
        self._check_room(call.task)
        batch = Batch(self._manager, call, request, self._config, seconds_left)
        batch.feed(0)
        return batch

    def _check_room(self, task: Task) -> None:
        under_way = self._of_task.total()
        if under_way >= self._config.max_batches or is_at_share(
            self._of_task[task], self._config.max_batches - under_way
        ):
            raise ServerBusy(
                f"{under_way} batches are under way, {self._of_task[task]} of them of task {shown(task.name)}: "
                "the server's bound, or the task's share of it",
                retry_after=RETRY_AFTER_SECONDS,
            )

    async def run(self, batch: Batch) -> pb.InvokeBatchResponse:
        """See a batch to its end; whoever cancels this ends what runs of it."""
        self._of_task[batch.task] += 1
        try:
            while not batch.is_over:
                if batch.can_feed:
                    async with self._turns:
                        await asyncio.sleep(0)
                        batch.feed(self._slice_seconds)
                else:
                    await batch.news()
        finally:
            batch.close()
            self._of_task[batch.task] -= 1
            if not self._of_task[batch.task]:
                del self._of_task[batch.task]
        return batch.response()


class Batch:
    """The executions of one batch and their answers.

    It feeds itself: as many as `max_running` are under way at once, and of those one at most waits in the line. So
    many inputs are no more in others' way than one call, and wait here for the places that the line gives their task.
    """

    def __init__(
        self,
        manager: TaskExecutionManager,
        call: Call,
        request: pb.InvokeBatchRequest,
        config: BatchConfig,
        seconds_left: float | None,
    ) -> None:
        self.task = call.task
        self._manager = manager
        self._call = BoundCall(structs.replace(call, in_batch=True))
        self._inputs = request.inputs
        self._config = config
        self._deadline = math.inf if seconds_left is None else time.monotonic() + seconds_left
        self._response = pb.InvokeBatchResponse()
        self._answers = [self._response.answers.add() for _ in request.inputs]
        self._room = int(config.max_output)
        self._waiting = deque(range(len(request.inputs)))
        self._group: deque[tuple[int, Execution]] = deque()
        """Inputs that are executions already, and have not been submitted."""
        self._began = False
        self._under_way: dict[Execution, int] = {}
        self._held_up = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    @property
    def can_feed(self) -> bool:
        """Whether another input may be submitted now."""
        waits = self._waiting or self._group
        return bool(waits) and not self._held_up and len(self._under_way) < self._config.max_running

    @property
    def is_over(self) -> bool:
        """Whether every input has its answer."""
        return not self._waiting and not self._group and not self._under_way

    async def news(self) -> None:
        """Wait until an execution has ended, or it is time to try again."""
        await self._news.wait()
        self._news.clear()

    def feed(self, seconds: float) -> None:
        """Submit inputs for about so long, at most twice as long, and while there is room for them.

        Raises:
            SpearError: the first is refused, for a reason that is not its own.
        """
        until = time.monotonic() + seconds
        while self.can_feed:
            self._group = self._group or self._next_group()
            for number, execution in self._submit(time.monotonic() + seconds):
                self._answer(number, execution)
            if time.monotonic() >= until:
                break

    def _next_group(self) -> deque[tuple[int, Execution]]:
        """Some of the inputs that wait, as executions; those that are none are refused.

        Each step is done for all of a group before the next one: coming back to it with cold caches for each of them
        costs a fifth more.
        """
        group: deque[tuple[int, Execution]] = deque()
        size = GROUP if self._began else 1  # the first may be refused for all
        size = min(size, len(self._waiting), self._config.max_running - len(self._under_way))
        for _ in range(size):
            number = self._waiting.popleft()
            try:
                if self._room < 0:
                    raise self._no_room()
                execution = self._call.execution(parameters_from(self._inputs[number].parameters))
            except SpearError as error:
                self._refuse(number, error)
            else:
                group.append((number, execution))
        return group

    def _submit(self, until: float) -> list[tuple[int, Execution]]:
        """Submit the group from its front while there is time, and none waits in the line; which of it have ended."""
        group, ended = self._group, []
        while group and not self._held_up:
            number, execution = group[0]
            execution.begin_budget(self._deadline)
            try:
                self._manager.accept(execution, on_the_spot=True)
            except ServerBusy as busy:
                self._wait_outside(busy)
                break
            except SpearError as error:
                if not self._began:
                    raise
                self._refuse(number, error)
            else:
                if execution.done:
                    ended.append((number, execution))
                else:
                    self._follow(number, execution)
            self._began = True
            group.popleft()
            if time.monotonic() >= until:
                break
        return ended

    def _wait_outside(self, busy: ServerBusy) -> None:
        """The line has no place: it is asked again when one of the batch's has ended, or after a while."""
        if not self._began:
            raise busy
        self._held_up = True
        self._loop.call_later(busy.retry_after or RETRY_AFTER_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._held_up = False
        self._news.set()

    def _follow(self, number: int, execution: Execution) -> None:
        self._under_way[execution] = number
        execution.on_begin = self._on_begin
        # While it waits in the line the next one would, too. Asked last: whoever begins it looks for `on_begin` then.
        self._held_up = execution.status is ExecutionStatus.PENDING
        execution.add_done_callback(self._on_end)

    def _on_begin(self) -> None:
        """On whatever thread begins it."""
        self._loop.call_soon_threadsafe(self._go_on)

    def _on_end(self, execution: Execution) -> None:
        """On whatever thread ended it."""
        self._loop.call_soon_threadsafe(self._ended, execution)

    def _ended(self, execution: Execution) -> None:
        number = self._under_way.pop(execution, None)
        if number is not None:
            self._answer(number, execution)
            self._go_on()

    def _answer(self, number: int, execution: Execution) -> None:
        answer = self._answers[number]
        write_answer(answer, execution)
        size = answer.ByteSize()
        if size <= self._room:
            self._room -= size
        else:
            self._refuse(number, self._no_room(), execution.id)

    def _refuse(self, number: int, error: SpearError, execution_id: str = "") -> None:
        answer = self._answers[number]
        answer.CopyFrom(refusal(error, execution_id))
        self._room -= answer.ByteSize()

    def _no_room(self) -> BatchTooLarge:
        return BatchTooLarge(
            f"the answers of the batch are more than {int(self._config.max_output)} bytes, the limit",
            limit="max_output",
        )

    def close(self) -> None:
        """End what runs of it."""
        under_way, self._under_way = self._under_way, {}
        for execution in under_way:
            self._manager.cancel(execution, "the caller went away")

    def response(self) -> pb.InvokeBatchResponse:
        """All answers, once it is over."""
        return self._response
