"""What is there at one time, handled together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Soon: TypeAlias = Callable[[Callable[[], None]], None]
"""Has something called on the polling thread, behind what has come before."""

MOST: Final = 16
LOOKING_SECONDS: Final = 0.01
"""How long the first of them waits at most for another look."""


class Gathering(Generic[Item]):
    """Collects items that come at one time, up to `MOST`, and has them handled together. For the polling thread.

    It looks again for as long as each look finds more, and no longer than `LOOKING_SECONDS`. Of what a call needs, each
    step touches much that the next one does not, and that the processor's caches have lost when it comes round again:
    taken for several calls before the next step, all of them cost half.
    """

    def __init__(self, handle: Callable[[list[Item]], None]) -> None:
        """`handle` must neither block nor raise."""
        self._handle = handle
        self._items: list[Item] = []
        self._looks = False
        """Whether another look comes."""
        self._seen = 0
        """How many items there were when that was asked for."""
        self._until = 0.0

    def add(self, item: Item, soon: Soon) -> None:
        """One more, and a way to come back to it."""
        self._items.append(item)
        self._soon = soon
        if len(self._items) >= MOST:
            self._handle_all()
        elif not self._looks:
            self._until = time.monotonic() + LOOKING_SECONDS
            self._look_again()

    def _look_again(self) -> None:
        self._looks, self._seen = True, len(self._items)
        self._soon(self._look)

    def _look(self) -> None:
        self._looks = False
        if len(self._items) > self._seen and time.monotonic() < self._until:
            self._look_again()
        elif self._items:
            self._handle_all()

    def _handle_all(self) -> None:
        items, self._items, self._seen = self._items, [], 0
        del self._soon  # which holds what brought it
        self._handle(items)
