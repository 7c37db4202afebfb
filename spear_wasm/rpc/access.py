"""Who may come in: on which addresses the server listens, with which certificate, and which tokens open it.

Without tokens nothing is checked: calls cost then what they cost without this module.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health

from spear_wasm.addresses import is_loopback
from spear_wasm.config import ServerConfig
from spear_wasm.errors import AccessDenied, ConfigurationError
from spear_wasm.rpc.status import refuse

if TYPE_CHECKING:
    from spear_wasm.rpc.edge.core import Rpc

log = structlog.get_logger()

FileState: TypeAlias = tuple[int, int, int]

MIN_TOKEN_CHARS = 16
LOOK_EVERY = 1.0
"""Seconds between looks at whether the file of tokens has changed."""
OPEN_TO_ALL = f"/{health.SERVICE_NAME}/"
"""Health checks come from machinery that has no token, and tell no more than whether the server serves."""


def check_openness(address: str, config: ServerConfig, *, insecure: bool) -> None:
    """Refuse to serve others than this machine in the clear, or without looking at who they are.

    Raises:
        ConfigurationError: the address is not one of loopback, and neither what it takes nor `insecure` is set.
    """
    if insecure or is_loopback(address) or (config.tls_cert and config.authenticates):
        return
    raise ConfigurationError(
        f"{address} can be reached from other machines: that takes TLS (--tls-cert, --tls-key) and a token "
        "(--token-file) or clients' certificates (--tls-client-ca); --insecure serves without",
        keys="server.tls_cert, server.tls_key, server.token_file, server.tls_client_ca",
    )


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """What the server shows and asks for in TLS; None where it speaks in the clear.

    Raises:
        ConfigurationError: a file cannot be read, or is not what it should be.
    """
    if not config.tls_cert:
        return None
    cert, key = (
        _content_of(key, path) for key, path in (("tls_cert", config.tls_cert), ("tls_key", config.tls_key))
    )
    authority = _content_of("tls_client_ca", config.tls_client_ca) if config.tls_client_ca else None
    _check_pair(config)
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=authority is not None
    )


def _content_of(key: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"server.{key}: {path}: {error.strerror}", keys=f"server.{key}") from error


def _check_pair(config: ServerConfig) -> None:
    """GRPC takes anything, and then answers nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"TLS: the certificate, its key and the authority must be PEM files that belong together: {error}",
            keys="server.tls_cert, server.tls_key, server.tls_client_ca",
        ) from error


class Tokens:
    """The tokens in a file, one a line; lines that begin with # are remarks. For one thread.

    When the file has changed, which is seen within a second, the new ones hold and no others. One that cannot be
    read any more changes nothing, and is logged.

    Raises:
        ConfigurationError: it cannot be read, holds no token, or one that is too short to be a secret.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._state: FileState | None = None
        self._digests: list[bytes] = []
        self._look_at = clock() + LOOK_EVERY
        self._read()

    def accept(self, token: str) -> bool:
        """Whether it is one of them. How long that takes does not tell how close it came."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_EVERY
            self._refresh()
        offered = _digest(token)
        return any([hmac.compare_digest(offered, each) for each in self._digests])  # noqa: C419  all are compared

    def _refresh(self) -> None:
        try:
            self._read()
        except ConfigurationError as error:
            log.warning("tokens not read again", error=error.message)

    def _read(self) -> None:
        try:
            state = _state_of(self._path)
            if state == self._state:
                return
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"server.token_file: {self._path}: {error}", keys="server.token_file"
            ) from error
        tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not tokens or any(len(token) < MIN_TOKEN_CHARS for token in tokens):
            raise ConfigurationError(
                f"server.token_file: {self._path} must hold a token a line, of {MIN_TOKEN_CHARS} characters or more",
                keys="server.token_file",
            )
        self._digests = [_digest(token) for token in tokens]
        self._state = state


def _state_of(path: Path) -> FileState:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class TokenCheck:
    """Lets in who brings `authorization: Bearer TOKEN`; health checks need none."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, rpc: Rpc) -> bool:
        """Whether an RPC may go on; one that may not is refused before anything of its request is read."""
        if rpc.method.startswith(OPEN_TO_ALL) or self._accept(rpc):
            return True
        refuse(
            rpc,
            AccessDenied(
                "this server answers who brings one of its tokens, in the metadata `authorization: Bearer TOKEN`"
            ),
        )
        return False

    def _accept(self, rpc: Rpc) -> bool:
        for key, value in rpc.metadata:
            if key == "authorization":
                scheme, _, token = str(value).partition(" ")
                return scheme.lower() == "bearer" and self._tokens.accept(token.strip())
        return False
