"""The port that all workers listen on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from spear_wasm.errors import ConfigurationError


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Keep a port for the workers, who listen there with SO_REUSEPORT; which one, where `port` is 0.

    It is kept by sockets that are bound and never listen: so no other program gets the port, not even another server
    of ours, and no connection ever waits where nobody takes it.

    Raises:
        ConfigurationError: it cannot be had.
    """
    with contextlib.ExitStack() as kept:
        try:
            for family, _, _, _, address in socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                holder = kept.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if family == socket.AF_INET6:
                    holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind((address[0], port, *address[2:]))
                # Only now: a port that others listen on is refused, and our workers are let in.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = holder.getsockname()[1]
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        yield port
