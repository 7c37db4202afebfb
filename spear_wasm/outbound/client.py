"""HTTP requests for those who must not wait for them: each is sent by a thread that does nothing else meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import httpcore

from spear_wasm.errors import InvalidRequest, LocationForbidden
from spear_wasm.outbound.connections import GuardedConnections
from spear_wasm.outbound.http import NO_RESPONSE, Request, opened

MAX_REDIRECTS = 5
_FAILURES = (InvalidRequest, LocationForbidden, UnicodeError, *NO_RESPONSE)


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Names of headers are in lower case, and may be there several times."""

    status: int
    headers: tuple[tuple[str, str], ...]
    content: bytes


class ExchangeFailed(Exception):
    """There is no response; the message says why, in words for whoever asked, and `__cause__` is what went wrong."""


class Exchange:
    """A request and what comes of it: a response of at most `max_bytes`, or none.

    `on_end` is called when that is known, on the thread that found out.
    """

    def __init__(
        self,
        request: Request,
        connections: GuardedConnections,
        max_bytes: int,
        on_end: Callable[[], None],
    ) -> None:
        self._request = request
        self._connections = connections
        self._max_bytes = max_bytes
        self._on_end = on_end
        self._result: Response | Exception | None = None

    def run(self) -> None:
        """Send the request, and wait for what comes of it."""
        try:
            with opened(self._request, self._connections, MAX_REDIRECTS) as response:
                content = _within(self._max_bytes, response.iter_stream())
                self._result = Response(response.status, _read_headers(response), content)
        except _FAILURES as error:
            self._result = ExchangeFailed(str(error) or type(error).__name__)
            self._result.__cause__ = error
        except Exception as error:  # noqa: BLE001  whoever asked must hear of a bug of ours, too, not wait for ever
            self._result = error
        self._on_end()

    def result(self) -> Response:
        """What came of it; it must have ended.

        Raises:
            ExchangeFailed: nothing.
        """
        assert self._result is not None
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def cut(self) -> None:
        """Nobody wants to know any more: end it, from any thread."""
        self._connections.cut()


class HttpClient:
    """Runs exchanges on at most so many threads; further ones wait in a line. There are only as many as have work.

    A thread that looks up a name cannot be interrupted, and counts until the system's resolver answers.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._lock = threading.Lock()  # guards: _line, _threads
        self._line: deque[Exchange] = deque()
        self._threads = 0

    def begin(self, exchange: Exchange) -> None:
        """Run it as soon as a thread is free."""
        with self._lock:
            self._line.append(exchange)
            is_more = self._threads < self._max_threads
            self._threads += is_more
        if is_more:
            # A daemon: one that is caught in a look-up must not keep the process.
            threading.Thread(target=self._work, name="http", daemon=True).start()

    def end(self, exchange: Exchange) -> None:
        """Run it no further, nor begin with it; harmless when it is over."""
        with self._lock, contextlib.suppress(ValueError):  # it has left the line
            self._line.remove(exchange)
        exchange.cut()

    def _work(self) -> None:
        while (exchange := self._next()) is not None:
            exchange.run()

    def _next(self) -> Exchange | None:
        with self._lock:
            if self._line:
                return self._line.popleft()
            self._threads -= 1
            return None


@cache
def shared_client(max_requests: int) -> HttpClient:
    """What sends the requests of all guests of this process."""
    return HttpClient(max_requests)


def _within(most: int, chunks: Iterable[bytes]) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > most:
            raise httpcore.RemoteProtocolError(f"the response is larger than {most} bytes")
    return bytes(content)


def _read_headers(response: httpcore.Response) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers
    )
