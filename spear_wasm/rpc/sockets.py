"""The sockets of this process on a port, which grpcio has, and tells nothing of.

A worker that retires has to be left by its callers before its server is stopped: gRPC answers calls that reach a
server that is being stopped with CANCELLED, which no client tries again. So its listening sockets go first, by way of
the kernel, and its connections when they are as old as they may get; until then all is as ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator


def stop_listening(port: int) -> None:
    """Let no connection come in any more; those that are there stay."""
    for found in _on_port(port):
        if _listens(found):
            with contextlib.suppress(OSError):  # the same one again, by another descriptor
                found.shutdown(socket.SHUT_RDWR)


def has_connections(port: int) -> bool:
    """Whether anybody is connected."""
    return any(not _listens(found) and _is_connected(found) for found in _on_port(port))


def _on_port(port: int) -> Iterator[socket.socket]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers, not paths
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):  # noqa: PTH115  what it names is no path
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                if found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockname()[1] == port:
                    yield found


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:
        return False
    return True
