"""Ids that nobody can guess, and what they tell."""

from __future__ import annotations

import os
import re
import threading

ID_DIGITS = 32
_BATCH_BYTES = 4096
_OF_WORKER = re.compile(f"[a-z]+-([0-9]{{1,18}})-[0-9a-f]{{{ID_DIGITS}}}")


class IdSource:
    """Ids of a kind and 128 random bits. Thread-safe; asks the system for a batch at a time.

    With the number of a `worker` they tell whose they are; with 0, which is of a process that serves alone, nothing.
    """

    def __init__(self, worker: int = 0) -> None:
        self._of_worker = f"-{worker}" if worker else ""
        self._lock = threading.Lock()  # guards: _digits, _used
        self._digits = ""
        self._used = 0

    def new(self, kind: str) -> str:
        """A new id, e.g. `exec-0123…`."""
        with self._lock:
            if self._used >= len(self._digits):
                self._digits, self._used = os.urandom(_BATCH_BYTES).hex(), 0
            start = self._used
            self._used += ID_DIGITS
            return f"{kind}{self._of_worker}-{self._digits[start : start + ID_DIGITS]}"


new_id = IdSource().new


def worker_in(made: str) -> int:
    """The worker that an id of ours tells of; 0 where it tells of none."""
    told = _OF_WORKER.fullmatch(made)
    return int(told[1]) if told is not None else 0
