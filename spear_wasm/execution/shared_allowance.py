"""How the workers of a server share a bound: each claims what it uses, and some ahead, where all of them see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

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
    without. Each worker has a right to an equal part: others that have theirs leave it what it lacks. What is beyond
    its part it gets of what nobody else uses or has a right to. Ahead it claims within its part only, and only while
    nobody waits. So who is idle keeps little, and nothing from when it is asked to settle while somebody waits: who is
    not idle can have all. A claim goes with its worker.
    """

    __slots__ = ("_claim", "_kept", "_locks", "_seat", "_usual_part", "_wait", "granted")

    def __init__(self, whole: int, claim: Claim, seat: Seat, locks: FileLocks) -> None:
        super().__init__(whole)
        self._claim = claim
        self._wait = claim.wait
        self._seat = seat
        self._locks = locks
        self._usual_part = seat.share_of(whole)  # while there are as many workers as places
        self._kept = int(self._usual_part * KEPT)
        self._set(0)

    def covers(self, used: int) -> bool:
        """Whether so much may be used: it is claimed, or can be. Else this worker waits for it."""
        if used <= self.granted or self._raise_to(used):
            return True
        self._seat.wait(self._wait, owed=used <= self._part())
        return False

    def settle(self, used: int) -> None:
        """Only so much is used any more."""
        spare = self.granted - used
        # This is each call's way: the usual part is at hand, the present one is not.
        if spare and (spare > self._kept or self.granted > self._usual_part or self._others_wait()):
            self._set(min(self.granted, self._with_some_ahead(used)))  # no more: the lock is not held

    def free(self, used: int) -> int:
        """What no worker has claimed, and what this one does not use of its own."""
        return self._left_by_others() - used

    def _part(self) -> int:
        return max(1, self.whole // self._seat.board.workers)

    def _others_wait(self) -> bool:
        return self._seat.others_wait(self._wait)

    def _left_by_others(self) -> int:
        return self.whole - sum(self._seat.claims_of_others(self._claim))

    def _may_have(self, used: int) -> bool:
        part, left = self._part(), self._left_by_others()
        if used > part and self._others_wait():
            left -= sum(max(0, part - each) for each in self._seat.claims_of_others(self._claim, owed=True))
        return used <= left

    def _with_some_ahead(self, used: int) -> int:
        ahead = 0 if self._others_wait() else self._kept // 2
        return max(used, min(used + ahead, self._part(), self._left_by_others()))

    def _raise_to(self, used: int) -> bool:
        if not self._may_have(used):
            return False
        turn = self._lock()
        if turn is None:
            return False
        try:
            if not self._may_have(used):
                return False
            self._set(self._with_some_ahead(used))
            return True
        finally:
            os.close(turn)

    def _lock(self) -> int | None:
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
