"""How many sandboxes may be alive at once, and how much memory they may grow to together."""

from __future__ import annotations

import threading


class Capacity:
    """A bound on sandboxes and on the bytes that they may grow to. Thread-safe; nobody waits here."""

    def __init__(self, sandboxes: int, memory_bytes: int) -> None:
        self.sandboxes = sandboxes
        self.memory_bytes = memory_bytes
        self._lock = threading.Lock()  # guards: _sandboxes_taken, _memory_taken
        self._sandboxes_taken = 0
        self._memory_taken = 0

    def try_take(self, memory_bytes: int) -> bool:
        """Take room for one sandbox that may grow to so many bytes, if there is room."""
        with self._lock:
            if (
                self._sandboxes_taken >= self.sandboxes
                or self._memory_taken + memory_bytes > self.memory_bytes
            ):
                return False
            self._sandboxes_taken += 1
            self._memory_taken += memory_bytes
            return True

    def give_back(self, memory_bytes: int) -> None:
        """Return what `try_take` gave."""
        with self._lock:
            self._sandboxes_taken -= 1
            self._memory_taken -= memory_bytes

    def resize(self, memory_bytes: int, to_bytes: int) -> None:
        """What was taken for so many bytes can no longer grow beyond fewer."""
        with self._lock:
            self._memory_taken += to_bytes - memory_bytes

    @property
    def taken(self) -> int:
        """Sandboxes that have room at present."""
        return self._sandboxes_taken

    @property
    def memory_taken(self) -> int:
        """Bytes that those sandboxes may grow to."""
        return self._memory_taken
