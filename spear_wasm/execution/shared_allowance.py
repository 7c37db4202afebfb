"""How the workers of a server share a bound: each claims what it uses, and some ahead, where all of them see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from spear_wasm.locks.keys import Key
from spear_wasm.scheduling import Allowance

if TYPE_CHECKING:
    from spear_wasm.board import Claim, Seat
    from spear_wasm.locks.file_locks import FileLocks

KEPT_OF_A_PART: Final = 8
"""So much of an equal part stays claimed at most while it is not used: a lock costs some microseconds."""
TRIES: Final = 3


class SharedAllowance(Allowance):
    """What one worker has claimed. Not locked: the manager's lock guards it.

    Claims are raised under a lock between processes, so that all of them together never exceed the whole, and lowered
    without. Somebody who is idle keeps little, so that one who is not can have nearly all; but who has more than an
    equal part takes no more while others wait, and lets go of what ends. A claim goes with its worker.
    """

    __slots__ = ("_claim", "_kept", "_locks", "_part", "_seat", "granted")

    def __init__(self, whole: int, claim: Claim, seat: Seat, locks: FileLocks) -> None:
        super().__init__(whole)
        self._claim = claim
        self._seat = seat
        self._locks = locks
        self._part = seat.share_of(whole)
        self._kept = self._part // KEPT_OF_A_PART
        self._set(0)

    def covers(self, used: int) -> bool:
        """Whether so much may be used: it is claimed, or can be."""
        return used <= self.granted or self._raise_to(used)

    def settle(self, used: int) -> None:
        """Only so much is used any more."""
        if self.granted > self._part and self._seat.others_wait:
            self._set(max(used, self._part))
        elif self.granted - used > self._kept:
            self._set(self._with_some_ahead(used))

    def free(self, used: int) -> int:
        """What no worker has claimed, and what this one does not use of its own."""
        return self._claimable - used

    @property
    def _claimable(self) -> int:
        return self.whole - self._seat.claimed_by_others(self._claim)

    def _raise_to(self, used: int) -> bool:
        if used > self._claimable or (self.granted >= self._part and self._seat.others_wait):
            return False
        for _ in range(TRIES):
            turn = self._locks.try_to_hold(Key.CLAIMING)
            if turn is not None:
                break
            os.sched_yield()
        else:  # nobody holds it for long; but one that is stopped while it does must not stop the others
            return False
        try:
            claimable = self._claimable
            if used > claimable:
                return False
            self._set(min(claimable, self._with_some_ahead(used)))
            return True
        finally:
            os.close(turn)

    def _with_some_ahead(self, used: int) -> int:
        return max(used, min(used + self._kept // 2, self._part))

    def _set(self, granted: int) -> None:
        self.granted = granted
        self._seat.claim(self._claim, granted)
