"""The states of an execution and the moves between them. Pure: no clock, no lock, no guest."""

from __future__ import annotations

from spear_wasm.model import ExecutionStatus

PENDING, RUNNING = ExecutionStatus.PENDING, ExecutionStatus.RUNNING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
CANCELLED, TIMEOUT = ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT

FINAL = frozenset({COMPLETED, FAILED, CANCELLED, TIMEOUT})

TRANSITIONS: dict[ExecutionStatus, frozenset[ExecutionStatus]] = {
    # Waiting in the line. It may fail there where no sandbox can be had, and ends there unrun where its
    # budget does or its caller cancels.
    PENDING: frozenset({RUNNING, FAILED, CANCELLED, TIMEOUT}),
    # It goes back into the line, after a pause, where an attempt failed and another one is to be made.
    RUNNING: FINAL | {PENDING},
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
    TIMEOUT: frozenset(),
}


class InvalidTransition(Exception):
    """A bug of ours: an execution was moved where its state does not lead. Carries its story so far."""

    def __init__(self, story: tuple[ExecutionStatus, ...], wanted: ExecutionStatus) -> None:
        super().__init__(f"{' -> '.join(story)} does not lead to {wanted}")
        self.story = story
        self.wanted = wanted


class Lifecycle:
    """Where one execution is, and how it came there."""

    __slots__ = ("story",)

    def __init__(self) -> None:
        self.story: tuple[ExecutionStatus, ...] = (PENDING,)

    @property
    def status(self) -> ExecutionStatus:
        """The present state."""
        return self.story[-1]

    @property
    def is_final(self) -> bool:
        """Whether the execution has ended."""
        return self.story[-1] in FINAL

    def move(self, status: ExecutionStatus) -> None:
        """Go to another state.

        Raises:
            InvalidTransition: the present state does not lead there.
        """
        if status not in TRANSITIONS[self.story[-1]]:
            raise InvalidTransition(self.story, status)
        self.story += (status,)
