"""InvokeBatch: one function over many inputs, each of them an execution of its own."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, deque
from functools import partial
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
from spear_wasm.rpc.under_way import UnderWay
from spear_wasm.scheduling import is_at_share
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.config import BatchConfig
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.execution.manager import TaskExecutionManager
    from spear_wasm.execution.task import Task
    from spear_wasm.rpc.edge import Conversation

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
    """The batches under way.

    They take turns on the thread that reads requests, one slice each: a thread of their own would hold the interpreter
    most of the time, and each request would wait for it again and again. What else there is to be done on that thread
    is done between any two of their turns.
    """

    def __init__(self, manager: TaskExecutionManager, config: BatchConfig, slice_seconds: float) -> None:
        self.manager = manager
        self.config = config
        self._slice_seconds = slice_seconds
        self._of_task: Counter[Task] = Counter()  # the event loop's
        self._lock = threading.Lock()
        # guards: all below
        self._open: set[Batch] = set()
        """Those that `run` sees to their end."""
        self._line: dict[Batch, None] = {}
        """Those that want a turn, in order."""
        self._turn_comes = False

    def begin(self, call: Call, request: pb.InvokeBatchRequest, conversation: Conversation) -> Batch:
        """A batch of a linked task, the first of whose inputs is submitted; to be seen to its end by `run`.

        Raises:
            SpearError: what is against all of its calls; none has begun.
        """
        self._check_room(call.task)
        batch = Batch(self, call, request, conversation)
        batch.feed(0)
        return batch

    def _check_room(self, task: Task) -> None:
        under_way = self._of_task.total()
        most = self.config.max_batches
        if under_way >= most or is_at_share(self._of_task[task], most - under_way):
            raise ServerBusy(
                f"{under_way} batches are under way, {self._of_task[task]} of them of task {shown(task.name)}: "
                "the server's bound, or the task's share of it",
                retry_after=RETRY_AFTER_SECONDS,
            )

    async def run(self, batch: Batch) -> pb.InvokeBatchResponse:
        """See a batch to its end; whoever cancels this ends what runs of it."""
        self._of_task[batch.task] += 1
        try:
            with self._lock:
                self._open.add(batch)
            self.want_turn(batch)
            return await batch.response
        finally:
            self._leave(batch)
            self._of_task[batch.task] -= 1
            if not self._of_task[batch.task]:
                del self._of_task[batch.task]

    def _leave(self, batch: Batch) -> None:
        with self._lock:
            self._open.discard(batch)
            self._line.pop(batch, None)  # what was asked for through it comes all the same
        batch.close()

    def want_turn(self, batch: Batch) -> None:
        """For a batch: it has something to do. On any thread."""
        with self._lock:
            if batch in self._open:
                self._line[batch] = None
                self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        """Have the next turn come behind all else that there is to do. The lock is held."""
        if self._line and not self._turn_comes:
            self._turn_comes = True
            # One that is in the line has a conversation that has not ended.
            next(iter(self._line)).conversation.soon(self._take_turn)

    def _take_turn(self) -> None:
        """On the polling thread."""
        with self._lock:
            self._turn_comes = False
            batch = next(iter(self._line), None)
            if batch is not None:
                del self._line[batch]
        if batch is not None:
            batch.take_turn(self._slice_seconds)
        with self._lock:
            self._ask_for_turn()


class Batch:
    """The executions of one batch and their answers. Whoever has its turn owns it.

    It feeds itself: as many as `max_running` are under way at once, and of those one at most waits in the line. So
    many inputs are no more in others' way than one call, and wait here for the places that the line gives their task.
    Whatever happens on another thread is left for its next turn.
    """

    def __init__(
        self, batches: Batches, call: Call, request: pb.InvokeBatchRequest, conversation: Conversation
    ) -> None:
        self.task = call.task
        self.conversation = conversation
        self._loop = asyncio.get_running_loop()
        self.response: asyncio.Future[pb.InvokeBatchResponse] = self._loop.create_future()
        """All answers, once it is over."""
        self._manager = batches.manager
        self._call = BoundCall(structs.replace(call, in_batch=True))
        self._inputs = request.inputs
        self._config = batches.config
        self._want_turn = partial(batches.want_turn, self)
        seconds_left = conversation.time_remaining()
        self._deadline = math.inf if seconds_left is None else time.monotonic() + seconds_left
        self._response = pb.InvokeBatchResponse()
        self._answers = [self._response.answers.add() for _ in request.inputs]
        self._room = int(self._config.max_output)
        self._waiting = deque(range(len(request.inputs)))
        self._group: deque[tuple[int, Execution]] = deque()
        """Inputs that are executions already, and have not been submitted."""
        self._began = False
        self._in_line: Execution | None = None
        """The one that waits in the line, or has."""
        self._line_is_full = False
        self._unanswered = len(request.inputs)
        self._under_way: UnderWay[int] = UnderWay(batches.manager, self._on_end)
        # Written by any thread, each time in one step under the GIL; whoever does so wants a turn then.
        self._ended: deque[tuple[int, Execution]] = deque()
        self._line_may_have_room = False

    def take_turn(self, seconds: float) -> None:
        """Answer what has ended, and feed it for about so long."""
        try:
            self._take_news()
            self.feed(seconds)
        except Exception as error:  # noqa: BLE001  whoever waits for the batch is told
            self._loop.call_soon_threadsafe(self._settle, error)
        else:
            if self._can_feed:
                self._want_turn()
            elif not self._unanswered:
                self._loop.call_soon_threadsafe(self._settle, None)

    def _take_news(self) -> None:
        if self._line_may_have_room:
            self._line_is_full = self._line_may_have_room = False
        while self._ended:
            self._answer(*self._ended.popleft())

    def _settle(self, error: Exception | None) -> None:
        if self.response.done():
            return
        if error is None:
            self.response.set_result(self._response)
        else:
            self.response.set_exception(error)

    @property
    def _can_feed(self) -> bool:
        """Whether another input may be submitted now."""
        is_left = bool(self._waiting or self._group) and not self._under_way.is_closed
        return is_left and not self._is_held_up and len(self._under_way) < self._config.max_running

    @property
    def _is_held_up(self) -> bool:
        """Whether the next one would wait in the line, too."""
        in_line = self._in_line
        return self._line_is_full or (in_line is not None and in_line.status is ExecutionStatus.PENDING)

    def feed(self, seconds: float) -> None:
        """Submit inputs while there is room for them, for about so long: one group may begin just before it is over.

        Raises:
            SpearError: the first is refused, for a reason that is not its own.
        """
        until = time.monotonic() + seconds
        while self._can_feed:
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
        while group and not self._is_held_up and not self._under_way.is_closed:
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
        self._line_is_full = True
        seconds = busy.retry_after or RETRY_AFTER_SECONDS
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._go_on)

    def _go_on(self) -> None:
        """On any thread."""
        self._line_may_have_room = True
        self._want_turn()

    def _follow(self, number: int, execution: Execution) -> None:
        if not execution.done:  # else it would hold on to us
            execution.on_begin = self._want_turn
        self._in_line = execution  # it may have begun: who looks finds that, or is told by `on_begin`
        self._under_way.add(execution, number)

    def _on_end(self, number: int, execution: Execution) -> None:
        """On whatever thread ended it."""
        self._ended.append((number, execution))
        self._go_on()

    def _answer(self, number: int, execution: Execution) -> None:
        answer = self._answers[number]
        write_answer(answer, execution)
        size = answer.ByteSize()
        if size <= self._room:
            self._room -= size
            self._unanswered -= 1
        else:
            self._refuse(number, self._no_room(), execution.id)

    def _refuse(self, number: int, error: SpearError, execution_id: str = "") -> None:
        answer = self._answers[number]
        answer.CopyFrom(refusal(error, execution_id))
        self._room -= answer.ByteSize()
        self._unanswered -= 1

    def _no_room(self) -> BatchTooLarge:
        return BatchTooLarge(
            f"the answers of the batch are more than {int(self._config.max_output)} bytes, the limit",
            limit="max_output",
        )

    def close(self) -> None:
        """Begin nothing more, and end what runs of it."""
        self._under_way.close()
