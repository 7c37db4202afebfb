"""What a guest emits, on its way to whoever reads along: a bounded line of messages between two sides."""

from __future__ import annotations

import threading
from collections.abc import Callable

from spear_wasm.engine.wait import Wait


class MessageStream:
    """The messages of one execution that have not been read yet, at most so many and so many bytes together.

    The guest's side asks `room_for` a message, waits where it must, and `put`s it. The reader's side is told by
    its listener that something is there, and `take`s until nothing is. Where the guest waits, it is woken when
    half of all has been read: not for every message. Once it has `begun`, what was put cannot be taken back.
    """

    __slots__ = (
        "_bytes", "_listener", "_lock", "_max_messages", "_messages", "_wait", "_wanted", "begun", "largest",
    )  # fmt: skip

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.largest = max_bytes
        self.begun = False
        self._max_messages = max_messages
        self._lock = threading.Lock()  # guards: all below
        # A list, though it is taken from its front: it is short, and a deque is large while it is empty.
        self._messages: list[bytes] = []
        self._bytes = 0
        self._wait: Wait | None = None
        self._wanted = 0
        self._listener: Callable[[], None] | None = None

    def room_for(self, size: int) -> Wait | None:
        """What to wait for before a message of that size, at most `largest`; None where there is room."""
        with self._lock:
            if len(self._messages) < self._max_messages and self._bytes + size <= self.largest:
                return None
            self._wait, self._wanted = Wait(), size
            return self._wait

    def put(self, message: bytes) -> None:
        """Add a message for which there is room."""
        self.begun = True
        with self._lock:
            listener = None if self._messages else self._listener
            self._messages.append(message)
            self._bytes += len(message)
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call back whenever the first message is put after all were taken, on the thread that runs the guest."""
        with self._lock:
            self._listener = listener

    def take(self) -> bytes | None:
        """The next message; None where nothing is there."""
        wait = None
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.pop(0)
            self._bytes -= len(message)
            if self._wait is not None and self._has_emptied():
                wait, self._wait = self._wait, None
        if wait is not None:
            wait.end()
        return message

    def close(self) -> None:
        """Nobody reads any more: forget what is left. Whoever closes it ends the guest, too."""
        with self._lock:
            self._messages.clear()
            self._bytes = 0
            self._listener = None

    def _has_emptied(self) -> bool:
        half_read = len(self._messages) <= self._max_messages // 2 and self._bytes <= self.largest // 2
        return half_read and self._bytes + self._wanted <= self.largest
