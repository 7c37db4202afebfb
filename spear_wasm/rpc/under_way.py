"""What an RPC has begun and has yet to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.manager import TaskExecutionManager

Place = TypeVar("Place")
GONE = "the caller went away"


class UnderWay(Generic[Place]):
    """The executions of one RPC that have not ended, and where the answer to each has its place. Thread-safe."""

    def __init__(self, manager: TaskExecutionManager, on_end: Callable[[Place, Execution], None]) -> None:
        """`on_end` is called on whatever thread ends an execution; for none once this is closed."""
        self._manager = manager
        self._on_end = on_end
        self._lock = threading.Lock()  # guards: all below
        self._places: dict[Execution, Place] = {}
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._places)

    def add(self, execution: Execution, place: Place) -> None:
        """One more, which has been accepted; it is ended at once where this is closed."""
        with self._lock:
            is_wanted = not self.is_closed
            if is_wanted:
                self._places[execution] = place
        if is_wanted:
            execution.add_done_callback(self._ended)
        else:
            self._manager.cancel(execution, GONE)

    def _ended(self, execution: Execution) -> None:
        with self._lock:
            place = self._places.pop(execution, None)
        if place is not None:
            self._on_end(place, execution)

    def close(self) -> None:
        """End them: nobody waits for them any more."""
        with self._lock:
            self.is_closed = True
            places, self._places = self._places, {}
        for execution in places:
            self._manager.cancel(execution, GONE)
