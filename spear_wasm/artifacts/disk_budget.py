"""How many bytes may be on disk: artifacts, their machine code, and what uploads have written so far."""

from __future__ import annotations

from spear_wasm.board import Account, Seat
from spear_wasm.errors import StorageFull
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key
from spear_wasm.units import format_size


class DiskBudget:
    """Bytes taken by all processes of the server, never more than `limit`.

    Who adds to the machine code holds Key.ROOM, counts the bytes on the board, then asks `check`, and counts them no
    longer where they are refused.
    """

    def __init__(self, limit: int, seat: Seat, locks: FileLocks) -> None:
        self._limit = limit
        self._seat = seat
        self._locks = locks

    def take(self, count: int) -> None:
        """Take `count` bytes for an upload, which `give_back` or `keep` ends.

        Raises:
            StorageFull: there is no room for them; nothing is taken.
        """
        with self._locks.held(Key.ROOM):
            self._refuse(self.taken() + count)
            self._seat.count(Account.UPLOADS, count)

    def give_back(self, count: int) -> None:
        """Return bytes that were taken."""
        self._seat.count(Account.UPLOADS, -count)

    def keep(self, count: int) -> None:
        """What was taken for an upload is an artifact's from now on."""
        self._seat.count(Account.ARTIFACTS, count)
        self._seat.count(Account.UPLOADS, -count)

    def count_artifacts(self, growth: int) -> None:
        """Artifacts are found to be there, room or not, or have gone."""
        self._seat.count(Account.ARTIFACTS, growth)

    def check(self, count: int) -> None:
        """StorageFull if there is no room for `count` bytes now; takes nothing."""
        self._refuse(self.taken() + count)

    def taken(self) -> int:
        """Bytes on disk now."""
        return sum(map(self._seat.total, Account))

    def _refuse(self, wanted: int) -> None:
        if wanted > self._limit:
            raise StorageFull(
                f"{format_size(wanted)} would be on disk, above the server's bound of "
                f"{format_size(self._limit)}; delete artifacts that are not needed",
                limit=self._limit,
            )
