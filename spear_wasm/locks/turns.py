"""Turns that all processes of a server take: so many at once have one, whichever of them they are in."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from spear_wasm.locks.file_locks import FileLocks

LOOK_AGAIN_SECONDS = 0.02


class Turns:
    """`most` at once, by the locks from `first_key` on. Thread-safe; who dies has none any more."""

    def __init__(self, locks: FileLocks, first_key: int, most: int) -> None:
        self._locks = locks
        self._keys = range(first_key, first_key + most)
        self._closing = threading.Event()

    def try_to_take(self) -> int | None:
        """A turn, which `os.close` ends; None where none can be had now."""
        found = (self._locks.try_to_hold(key) for key in self._keys)
        return next((descriptor for descriptor in found if descriptor is not None), None)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a turn, and have it; once `close` was called, nobody waits, or has any."""
        turn = self.try_to_take()
        while turn is None and not self._closing.wait(LOOK_AGAIN_SECONDS):
            turn = self.try_to_take()
        try:
            yield
        finally:
            if turn is not None:
                os.close(turn)

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closing.set()
