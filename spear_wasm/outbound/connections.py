"""Connections that lead where the rules allow, and end in time.

A name is looked up once, what it means is checked, and the very address that was checked is connected to. To look
it up a second time would let its owner answer differently (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from ipaddress import ip_address

import httpcore

from spear_wasm.errors import LocationForbidden
from spear_wasm.outbound.rules import OutboundRules

CONNECT_SECONDS = 10.0
"""What one address has to answer in, before the next is tried."""


class Deadline:
    """A moment by which something has to have happened."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def remaining(self, at_most: float | None = None) -> float:
        """Seconds that are left, always above 0.

        Raises:
            httpcore.ReadTimeout: there are none.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left if at_most is None else min(left, at_most)


class GuardedConnections(httpcore.NetworkBackend):
    """Where an HTTP client gets its connections from. Whatever is done on them has to end by the deadline.

    Looking up a name takes as long as the system's resolver lets it. `cut` ends what is under way, from any thread.
    """

    def __init__(self, rules: OutboundRules, deadline: Deadline) -> None:
        self._rules = rules
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()
        self._lock = threading.Lock()  # guards: _streams, _is_cut
        self._streams: list[_TimedStream] = []
        self._is_cut = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the deadline counts
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a host that the rules allow, at an address that they allow.

        Raises:
            LocationForbidden: they do not.
            httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.ReadTimeout: nobody answers there in time.
        """
        failed: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self._allowed_addresses(host, port):
            seconds = self._deadline.remaining(CONNECT_SECONDS)
            try:
                stream = self._plain.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return self._watched(_TimedStream(stream, self._deadline))
        assert failed is not None
        raise failed

    def _allowed_addresses(self, host: str, port: int) -> list[str]:
        self._check_host(host, port)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        allowed = [str(entry[4][0]) for entry in found if self._allows(str(entry[4][0]))]
        if not allowed:
            raise LocationForbidden(
                f"{host} is at an address that is not public; the operator may allow its network",
                host=host,
            )
        return allowed

    def _check_host(self, host: str, port: int) -> None:
        if not self._rules.allow_host(host, port):
            raise LocationForbidden(f"{host}:{port} is none of the hosts that are allowed", host=host)

    def _allows(self, address: str) -> bool:
        # An address with a zone (%eth0) is one of a link, which is not public anyway.
        return "%" not in address and self._rules.allow_address(ip_address(address))

    def _watched(self, stream: _TimedStream) -> _TimedStream:
        with self._lock:
            self._streams.append(stream)
            is_cut = self._is_cut
        if is_cut:
            stream.cut()
        return stream

    def cut(self) -> None:
        """Break all connections off, also those that are still to be made."""
        with self._lock:
            self._is_cut = True
            streams = tuple(self._streams)
        for stream in streams:
            stream.cut()


class _TimedStream(httpcore.NetworkStream):
    """A stream on which everything has to have happened by a deadline, however little at a time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: each of them has what is left then.
        for start in range(0, len(buffer), 1 << 16):
            self._stream.write(buffer[start : start + (1 << 16)], self._deadline.remaining(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        # Encrypted or not, `cut` reaches it: the stream stays this one.
        self._stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining(timeout))
        return self

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

    def cut(self) -> None:
        """End reads and writes that are under way, from another thread."""
        connection = self._stream.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it has ended already
            connection.shutdown(socket.SHUT_RDWR)
