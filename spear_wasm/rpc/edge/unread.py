"""Answers that their callers have not taken yet."""

from __future__ import annotations

import threading


class Unread:
    """Bytes of answers that gRPC keeps until their callers read, never more than `most`. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards: _bytes
        self._bytes = 0

    def try_add(self, size: int) -> bool:
        """Whether there is room for so many more; `remove` gives it back."""
        with self._lock:
            has_room = self._bytes + size <= self._most
            if has_room:
                self._bytes += size
            return has_room

    def remove(self, size: int) -> None:
        """So many were taken, or nobody is there any more who could."""
        with self._lock:
            self._bytes -= size
