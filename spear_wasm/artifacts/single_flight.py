"""Work that several callers want at once is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """The first caller for a key does the work; those who come meanwhile get its result or its error.

    Nothing is remembered: whoever comes after the work has ended does it again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _flights
        self._flights: dict[Key, Future[Result]] = {}

    def do(self, key: Key, work: Callable[[], Result]) -> Result:
        """The result of `work`, done by us or by the caller who was first."""
        with self._lock:
            flight = self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if first:
            self._perform(key, flight, work)
        return flight.result()

    def _perform(self, key: Key, flight: Future[Result], work: Callable[[], Result]) -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  whatever it is, the first caller raises it, and none hangs
            self._land(key)
            flight.set_exception(error)
        else:
            self._land(key)
            flight.set_result(result)

    def _land(self, key: Key) -> None:
        with self._lock:
            del self._flights[key]
