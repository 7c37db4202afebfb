"""How many bytes may be on disk: what is stored, and what uploads have written so far."""

from __future__ import annotations

import threading
from collections.abc import Callable

from spear_wasm.errors import StorageFull
from spear_wasm.units import format_size


class DiskBudget:
    """Bytes taken, never more than `limit`.

    `elsewhere` measures bytes that count too but are not taken here (compiled code, whose size is known once it
    is there): whoever adds to them asks `check` afterwards, and takes them away again where they are refused.
    """

    def __init__(self, limit: int, elsewhere: Callable[[], int]) -> None:
        self._limit = limit
        self._elsewhere = elsewhere
        self._lock = threading.Lock()  # guards: _taken
        self._taken = 0

    def take(self, count: int) -> None:
        """Take `count` bytes, which `give_back` returns.

        Raises:
            StorageFull: there is no room for them; nothing is taken.
        """
        elsewhere = self._elsewhere()
        with self._lock:
            self._refuse(self._taken + elsewhere + count)
            self._taken += count

    def take_unasked(self, count: int) -> None:
        """Count bytes that are on disk already, room or not."""
        with self._lock:
            self._taken += count

    def give_back(self, count: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self._taken -= count

    def check(self, count: int) -> None:
        """StorageFull if there is no room for `count` bytes now; takes nothing."""
        self._refuse(self.taken() + count)

    def taken(self) -> int:
        """Bytes on disk now."""
        elsewhere = self._elsewhere()
        with self._lock:
            return self._taken + elsewhere

    def _refuse(self, wanted: int) -> None:
        if wanted > self._limit:
            raise StorageFull(
                f"{format_size(wanted)} would be on disk, above the server's bound of "
                f"{format_size(self._limit)}; delete artifacts that are not needed",
                limit=self._limit,
            )
