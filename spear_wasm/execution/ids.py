"""Ids that nobody can guess."""

from __future__ import annotations

import os
import threading

ID_BYTES = 16
_BATCH_BYTES = 4096


class IdSource:
    """Ids of a kind and 128 random bits. Thread-safe; asks the system for a batch at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _random, _used
        self._random = b""
        self._used = 0

    def new(self, kind: str) -> str:
        """A new id, e.g. `exec-0123…`."""
        with self._lock:
            if self._used >= len(self._random):
                self._random, self._used = os.urandom(_BATCH_BYTES), 0
            start = self._used
            self._used += ID_BYTES
            return f"{kind}-{self._random[start : start + ID_BYTES].hex()}"


new_id = IdSource().new
