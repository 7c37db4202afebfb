"""Before a server listens: the code of the tasks that were used last is authenticated, mapped and linked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from spear_wasm.errors import SpearError

if TYPE_CHECKING:
    from spear_wasm.execution.registration import TaskRegistration
    from spear_wasm.execution.storage import ExecutionJournal
    from spear_wasm.execution.task_registry import TaskRegistry

log = structlog.get_logger()

LONGEST_SECONDS = 0.25
"""Callers may wait for the server to come back; the tasks that are left are linked when they are called."""


def link_used_last(journal: ExecutionJournal, tasks: TaskRegistry, registration: TaskRegistration) -> None:
    """Link tasks, those first that were used last, for as long as that may take. Nothing is compiled."""
    until = time.monotonic() + LONGEST_SECONDS
    for total in sorted(journal.task_totals(), key=lambda each: -each.last_ended_at):
        if time.monotonic() >= until:
            return
        task = tasks.find(total.task_id)
        if task is not None and registration.has_code(task):
            try:
                registration.link(task, metered=task.limits.max_fuel != 0)
            except SpearError as error:  # as its next caller will hear
                log.warning("task not linked", task_id=task.id, error=error.message)
