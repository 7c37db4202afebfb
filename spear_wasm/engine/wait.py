"""What a guest waits for in a host call of ours, and who is told when that has come."""

from __future__ import annotations

from collections.abc import Callable


class Wait:
    """Something that will be over one day, once: room in a buffer, an answer, a time.

    Whoever knows of it calls `end`, on any thread. A guest that waits holds no thread meanwhile and costs no CPU;
    its deadline and its cancellation end it where it is. Where `until` is set, a time.monotonic() value, whoever
    runs the guest ends it then, unless it is over before. It is read once, when the guest begins to wait.
    """

    __slots__ = ("_callback", "over", "until")

    def __init__(self, until: float | None = None) -> None:
        self.until = until
        # Whoever ends it writes `over`, then reads `_callback`; whoever listens writes `_callback`, then reads
        # `over`. Whichever comes second sees the other. Each is one step under the GIL.
        self.over = False
        self._callback: Callable[[], None] | None = None

    def end(self) -> None:
        """It is over."""
        self.over = True
        if self._callback is not None:
            self._callback()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back when it is over, at once if it is; where both come together, twice."""
        self._callback = callback
        if self.over:
            callback()


def turn_of_others() -> Wait:
    """What a guest waits for that lets the others have their turns, and wants to go on itself."""
    wait = Wait()
    wait.end()
    return wait
