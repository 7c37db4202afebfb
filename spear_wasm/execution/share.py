"""What a task has had of the processors, so that its turns can be weighed against other tasks'."""

from __future__ import annotations


class Share:
    """The time that the guests of one task have used together. The executor's lock guards it.

    `latest` is the virtual time of the task's guest that ran last, where its next newcomer begins.
    """

    __slots__ = ("latest", "virtual_time")

    def __init__(self) -> None:
        self.virtual_time = 0
        self.latest = 0
