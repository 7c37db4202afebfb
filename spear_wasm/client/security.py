"""How a client tells that it speaks with the right server, and proves that it may."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from spear_wasm.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Tls:
    """What a client needs to speak TLS.

    Args:
        authority: a PEM file with the authorities that the server's certificate may be signed by; those that gRPC
            comes with, unless it is given.
        certificate: a PEM file with the client's own certificate, for servers that ask for it, and
        key: the one with its key.
        server_name: the name that the server's certificate must bear, where it is not that in the address.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC.

        Raises:
            ConfigurationError: a file cannot be read, or a certificate comes without its key.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("a client's certificate and its key come together or not at all")
        return grpc.ssl_channel_credentials(*map(_content_of, (self.authority, self.key, self.certificate)))


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata by which a call brings a token; none for an empty one.

    Raises:
        ConfigurationError: it is none that could be sent.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError("a token is made of printable ASCII characters without spaces")
    return (("authorization", f"Bearer {token}"),)


def _content_of(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
