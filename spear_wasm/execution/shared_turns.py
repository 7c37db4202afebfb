"""How the workers of a server keep to a task's `max_concurrency` that is less than one for each of them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from spear_wasm.board import Wait
from spear_wasm.locks.keys import executing
from spear_wasm.locks.turns import LOOK_AGAIN_SECONDS, Turns

if TYPE_CHECKING:
    from spear_wasm.board import Seat
    from spear_wasm.locks.file_locks import FileLocks

REST_SECONDS: Final = 2 * LOOK_AGAIN_SECONDS
"""How long a worker that has had a turn leaves it to others who wait: they look once in that time at least."""


class SharedTurns:
    """The turns of one task. Not locked: the manager's lock guards it."""

    def __init__(self, locks: FileLocks, seat: Seat, task_id: str, most: int) -> None:
        self._turns = Turns(locks, executing(task_id), most)
        self._seat = seat
        self._held: list[int] = []
        self._rests_until = 0.0

    def try_to_take(self) -> bool:
        """Take a turn for one execution; where there is none, to be asked again after LOOK_AGAIN_SECONDS."""
        turn = self._turns.try_to_take() if time.monotonic() >= self._rests_until else None
        if turn is None:
            self._seat.wait(Wait.TURN)
            return False
        self._held.append(turn)
        return True

    def give_back(self) -> None:
        """End a turn."""
        os.close(self._held.pop())
        if self._seat.others_wait(Wait.TURN):
            self._rests_until = time.monotonic() + REST_SECONDS
