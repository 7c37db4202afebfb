"""What tasks have done and do: in a process that serves alone its tasks know; workers put together what each knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_wasm.rpc import convert
from spear_wasm.rpc.convert import STATUS_OF, saturated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spear_wasm.api import function_pb2 as pb
    from spear_wasm.execution.task import Task, TaskCount, TaskTotal


class KnownByTasks:
    """Tasks know it themselves."""

    def info(self, task: Task, *, details: bool) -> pb.TaskInfo:
        """A task for lists."""
        return convert.task_info(task, details=details)


class TaskCounts:
    """What the disk knows of tasks, and what workers do that it does not."""

    def __init__(self, totals: Iterable[TaskTotal], counts: Iterable[TaskCount]) -> None:
        self._totals = {total.task_id: total for total in totals}
        self._counts: dict[str, list[TaskCount]] = {}
        for count in counts:
            self._counts.setdefault(count.task_id, []).append(count)

    def info(self, task: Task, *, details: bool) -> pb.TaskInfo:
        """A task for lists."""
        info = convert.task_info(task, details=details)
        counts, total = self._counts.get(task.id, []), self._totals.get(task.id)
        ends = [(each.last_ended_at, each.last_status) for each in counts if each.last_status is not None]
        ended = sum(each.uncounted for each in counts)
        if total is not None:
            ended += total.ended
            ends.append((total.last_ended_at, total.last_status))
        info.execution_count = saturated(ended)
        info.running_executions = saturated(sum(each.running for each in counts))
        info.pending_executions = saturated(sum(each.waiting for each in counts))
        if ends:
            last_ended_at, last_status = max(ends, key=lambda end: end[0])
            info.last_status = STATUS_OF[last_status]
            info.updated_at = max(task.record.created_at, int(last_ended_at * 1000))
        return info
