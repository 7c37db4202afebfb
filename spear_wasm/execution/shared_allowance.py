"""How the workers of a server share a bound: each claims what it uses, and some ahead, where all of them see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from spear_wasm.board import Wait
from spear_wasm.locks.keys import Key
from spear_wasm.scheduling import Allowance

if TYPE_CHECKING:
    from spear_wasm.board import Claim, Seat
    from spear_wasm.locks.file_locks import FileLocks

KEPT: Final = 1 / 8
"""So much of an equal part stays claimed at most while it is not used: to claim takes a lock, some microseconds."""
TRIES: Final = 20


class SharedAllowance(Allowance):
    """What one worker has claimed. Not locked: the manager's lock guards it.

    Claims are raised under a lock between processes, so that all of them together never exceed the whole, and lowered
    without. Who is idle keeps little, so that who is not can have nearly all. While others wait for room nothing is
    kept, and whoever has an equal part or more leaves them what they lack of theirs. A claim goes with its worker.
    """

    __slots__ = ("_claim", "_kept", "_locks", "_seat", "granted")

    def __init__(self, whole: int, claim: Claim, seat: Seat, locks: FileLocks) -> None:
        super().__init__(whole)
        self._claim = claim
        self._seat = seat
        self._locks = locks
        self._kept = int(seat.share_of(whole) * KEPT)
        self._set(0)

    def covers(self, used: int) -> bool:
        """Whether so much may be used: it is claimed, or can be."""
        return used <= self.granted or self._raise_to(used)

    def settle(self, used: int) -> None:
        """Only so much is used any more."""
        spare = self.granted - used
        if spare > self._kept or (spare and self._seat.others_wait(Wait.ROOM)):
            self._set(used + self._ahead())

    def free(self, used: int) -> int:
        """What no worker has claimed, and what this one does not use of its own."""
        return self._left_by_others() - used

    def _left_by_others(self) -> int:
        return self.whole - sum(self._seat.claims_of_others(self._claim))

    def _lacking(self, part: int) -> int:
        """What others who wait lack of their parts."""
        return sum(max(0, part - each) for each in self._seat.claims_of_others(self._claim, Wait.ROOM))

    def _ahead(self) -> int:
        return 0 if self._seat.others_wait(Wait.ROOM) else self._kept // 2

    def _raise_to(self, used: int) -> bool:
        part = self.whole // self._seat.board.workers
        if used > self._left_by_others() - (self._lacking(part) if used > part else 0):
            return False
        try:
            turn = self._try_to_lock()
        except OSError:  # no descriptor is left, say: it waits like for anything that is used up
            return False
        if turn is None:
            return False
        try:
            left = self._left_by_others()
            if used > left:
                return False
            self._set(min(left, used + self._ahead()))
            return True
        finally:
            os.close(turn)

    def _try_to_lock(self) -> int | None:
        """Nobody holds it for long. But one that is stopped while it does must not stop the others."""
        for _ in range(TRIES):
            turn = self._locks.try_to_hold(Key.CLAIMING)
            if turn is not None:
                return turn
            os.sched_yield()
        return None

    def _set(self, granted: int) -> None:
        self.granted = granted
        self._seat.claim(self._claim, granted)
