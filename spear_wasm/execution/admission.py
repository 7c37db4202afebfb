"""Who is let in, who waits, and who begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_wasm.errors import ServerBusy
from spear_wasm.scheduling import InstanceScheduler, Verdict, is_at_share
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.config import TaskExecutionManagerConfig
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.task import Task
    from spear_wasm.scheduling import Room

RETRY_AFTER_SECONDS = 0.1
"""The hint given where nothing has ended yet that a better one could be made from."""


class Admission:
    """The executions that wait, and the room of those that have begun. Not locked: the manager's lock guards it.

    They wait in the line, or beside it: held until they are released, or in the pause between two attempts. Wherever
    they do, they count against `max_pending`, and against their task's share of that. `look_again` is called where one
    waits for what another worker may have; `average_run_seconds` tells how long executions have taken so far.
    """

    def __init__(
        self,
        config: TaskExecutionManagerConfig,
        room: Room,
        look_again: Callable[[], None],
        average_run_seconds: Callable[[], float],
    ) -> None:
        self._look_again = look_again
        self._average_run_seconds = average_run_seconds
        self._most_waiting = config.max_pending
        self._line: InstanceScheduler[Execution] = InstanceScheduler()
        self._held: set[Execution] = set()
        self._pausing: set[Execution] = set()
        self._room = room

    # Who is let in

    def refuse_if_full(self, task: Task | None) -> None:
        """Refuse another execution of a task, or of whichever, where too many wait.

        Raises:
            ServerBusy: they do.
        """
        waiting = len(self._line) + len(self._held) + len(self._pausing)
        if waiting >= self._most_waiting:
            raise ServerBusy(
                f"{waiting} executions wait already, the server's bound",
                retry_after=self._retry_after(),
            )
        if task is not None and is_at_share(task.waiting, self._most_waiting - waiting):
            raise ServerBusy(
                f"{task.waiting} executions of task {shown(task.name)} wait already, its share of the line",
                retry_after=self._retry_after(),
            )

    def _retry_after(self) -> float:
        """About the time in which a quarter of the line will have gone, going by how long runs have taken."""
        estimate = self._average_run_seconds() * len(self._line) / 4 / max(1, self._room.places_taken)
        return min(max(RETRY_AFTER_SECONDS, estimate), 10.0)

    # Who waits

    def join_line(self, execution: Execution) -> None:
        """Wait for a turn."""
        self._line.add(execution.task, execution, deadline=execution.deadline, priority=execution.priority)

    def hold(self, execution: Execution) -> None:
        """Wait for a release."""
        self._held.add(execution)

    def release(self, execution: Execution) -> bool:
        """Hold an execution no longer; whether it was held."""
        return _taken_from(self._held, execution)

    def pause(self, execution: Execution) -> None:
        """Wait between two attempts."""
        self._pausing.add(execution)

    def end_pause(self, execution: Execution) -> bool:
        """Whether an execution was in a pause."""
        return _taken_from(self._pausing, execution)

    def leave(self, execution: Execution) -> bool:
        """Wait neither in the line nor in a pause any more; whether the execution did."""
        return self.end_pause(execution) or self._line.remove(execution.task, execution)

    def in_pauses(self) -> list[Execution]:
        """Those between two attempts."""
        return list(self._pausing)

    # Who begins

    def begins_at_once(self, execution: Execution) -> bool:
        """Whether an execution may begin without waiting; it has its room then."""
        return not len(self._line) and self._judge(execution) is Verdict.START

    def next(self) -> Execution | None:
        """The execution whose turn it is, if one may begin now; it has its room."""
        return self._line.take_next(self._judge)

    def _judge(self, execution: Execution) -> Verdict:
        task = execution.task
        if task.holding.places >= task.most_at_once:
            return Verdict.TASK_IS_FULL
        verdict = self._room.try_take(task.holding, execution.memory_reserved, execution.priority)
        if verdict is Verdict.START and task.turns is not None and not task.turns.try_to_take():
            self._room.give_back(task.holding, execution.memory_reserved, execution.priority)
            verdict = Verdict.TASK_IS_FULL
        if verdict is not Verdict.START:
            self._look_again()
        return verdict

    def give_back_room(self, execution: Execution) -> None:
        """Others may have the room of one that began."""
        self._room.give_back(execution.task.holding, execution.memory_reserved, execution.priority)
        if execution.task.turns is not None:
            execution.task.turns.give_back()

    def settle(self) -> None:
        """Other workers may have the room that nobody uses here."""
        self._room.settle()

    # How many

    @property
    def in_line(self) -> int:
        """Executions that wait for a turn."""
        return len(self._line)

    @property
    def pending(self) -> int:
        """Executions that wait for a turn or in a pause."""
        return len(self._line) + len(self._pausing)

    @property
    def running(self) -> int:
        """Executions that have room."""
        return self._room.places_taken

    @property
    def fullness(self) -> float:
        """How much of the line is taken, 0.0 to 1.0."""
        return len(self._line) / self._most_waiting

    @property
    def is_idle(self) -> bool:
        """Whether nothing has room, nor waits for it."""
        return not self._room.places_taken and not len(self._line)


def _taken_from(waiting: set[Execution], execution: Execution) -> bool:
    was_there = execution in waiting
    waiting.discard(execution)
    return was_there
