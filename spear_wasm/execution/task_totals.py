"""How many executions each task has had, from one run of the server to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from concurrent.futures import Future

    from spear_wasm.execution.execution_registry import ExecutionRegistry
    from spear_wasm.execution.storage import ExecutionJournal
    from spear_wasm.execution.task import TaskTotal
    from spear_wasm.execution.task_registry import TaskRegistry


class TaskTotals:
    """Brings tasks' counts from the disk and back. The journal counts by itself what is kept there."""

    def __init__(self, journal: ExecutionJournal, executions: ExecutionRegistry, tasks: TaskRegistry) -> None:
        self._journal = journal
        self._executions = executions
        self._tasks = tasks

    def recall(self) -> None:
        """Tell tasks what they have done in earlier runs of the server; for its start."""
        totals = self._journal.task_totals()
        there = {task.id: task for task in self._tasks.all()}
        forget_gone(self._journal, totals, there)
        for total in totals:
            task = there.get(total.task_id)
            if task is not None:
                task.count_end(total.last_status, total.last_ended_at, total.ended)

    def keep(self) -> None:
        """Have the disk count what tasks have done that is not kept there. For now and then, and the end."""
        totals = self._executions.take_uncounted(self._tasks.all())

        def on_written(written: Future[None]) -> None:
            for total in totals if written.exception() is not None else ():
                task = self._tasks.find(total.task_id)
                if task is not None:
                    self._executions.return_uncounted(task, total.ended)

        if totals:
            self._journal.add_totals(totals).add_done_callback(on_written)


def forget_gone(
    journal: ExecutionJournal, totals: Iterable[TaskTotal], there: Container[str]
) -> Future[None]:
    """Forget what tasks have done that are not there any more."""
    return journal.forget_totals([total.task_id for total in totals if total.task_id not in there])
