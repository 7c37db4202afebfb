"""Answers that their callers have not taken yet."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Answered = TypeVar("Answered")


class Unread(Generic[Answered]):
    """Whose answers gRPC keeps until they are read, and how large those are. Thread-safe.

    No more than `most` bytes are kept for long, and always one answer however large: where there is no room for the
    newest, those that have waited longest have to go.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards: all below
        self._sizes: dict[Answered, int] = {}  # those that have waited longest first
        self._bytes = 0

    def add(self, answered: Answered, size: int) -> list[Answered]:
        """One more answer waits; those that have to go for it, and are counted no more."""
        leaving = []
        with self._lock:
            self._bytes += size
            while self._bytes > self._most and self._sizes:
                oldest = next(iter(self._sizes))
                self._bytes -= self._sizes.pop(oldest)
                leaving.append(oldest)
            self._sizes[answered] = size
        return leaving

    def remove(self, answered: Answered) -> None:
        """It was taken, or nobody is there any more who could take it."""
        with self._lock:
            self._bytes -= self._sizes.pop(answered, 0)
