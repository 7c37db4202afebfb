"""HTTP requests on behalf of those whom we do not trust: guarded at every hop, and bounded in time."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from urllib.parse import urljoin, urlsplit

import httpcore

from spear_wasm.errors import InvalidRequest, LocationForbidden
from spear_wasm.outbound.connections import GuardedConnections
from spear_wasm.values import shown

MAX_URL_CHARS = 2048
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}
OURS_TO_SAY = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Headers about the connection, which is ours, or where it leads, which the rules decide: guests' are left out."""
NO_RESPONSE = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)
"""What is raised where nobody responds in time, or with what is no response."""
_DEFAULT_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "spear-wasm"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to send. Headers go as they are, but not along with a redirect to another host; `Host` is added.

    Of a GET redirects are followed, unless whoever sends it wants to see them.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    follows_redirects: bool = True


def is_plain(text: str, most: int) -> bool:
    """Whether a text, of at most so many characters, may be in a URL: printable ASCII without spaces."""
    return text.isascii() and text.isprintable() and " " not in text and len(text) <= most


def check_url(url: str) -> str:
    """The URL itself.

    Raises:
        InvalidRequest: it is no http or https URL in plain ASCII, or holds a user's name or password.
    """
    if not is_plain(url, MAX_URL_CHARS):
        raise InvalidRequest(f"{shown(url)} is no URL of at most {MAX_URL_CHARS} printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"{shown(url)} is no URL: {error}") from error
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise InvalidRequest(f"{shown(url)} is no http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise InvalidRequest("a URL must not hold a user's name or password: it is kept, and shown to others")
    return url


@contextlib.contextmanager
def opened(
    request: Request, connections: GuardedConnections, max_redirects: int
) -> Iterator[httpcore.Response]:
    """The response to a request, its body still to be read by `iter_stream`.

    Redirects of a GET are followed, each to where the rules allow, and never from https to http.

    Raises:
        InvalidRequest: the URL, or one that it is redirected to, is malformed, or a header is not ASCII.
        LocationForbidden: the rules do not allow it, or one that it is redirected to.
        NO_RESPONSE: there is none.
    """
    _check_headers(request.headers)
    url = request.url
    for _ in range(max_redirects + 1):
        with _hop(request, check_url(url), connections) as response:
            follows = request.follows_redirects and request.method == "GET"
            target = _redirect_of(response, url) if follows else None
            if target is None:
                yield response
                return
        if urlsplit(target).netloc != urlsplit(url).netloc:
            request = replace(request, headers={})
        url = target
    raise httpcore.RemoteProtocolError(f"more than {max_redirects} redirects")


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not (name.isascii() and value.isascii()):
            raise InvalidRequest(f"the header {shown(name)} is not ASCII")


@contextlib.contextmanager
def _hop(request: Request, url: str, connections: GuardedConnections) -> Iterator[httpcore.Response]:
    said = {name.lower() for name in request.headers}
    headers = {name: value for name, value in _DEFAULT_HEADERS.items() if name.lower() not in said}
    headers |= request.headers
    # A pool for each hop: no connection is used by those who come after, whatever rules they have.
    with (
        httpcore.ConnectionPool(ssl_context=_trust(), network_backend=connections) as pool,
        pool.stream(
            request.method, url, headers=list(headers.items()), content=request.content or None
        ) as response,
    ):
        yield response


@cache
def _trust() -> ssl.SSLContext:
    """What the system trusts; SSL_CERT_FILE and SSL_CERT_DIR name others."""
    return ssl.create_default_context()


def _redirect_of(response: httpcore.Response, url: str) -> str | None:
    locations = [value for name, value in response.headers if name.lower() == b"location"]
    if response.status not in REDIRECTS or not locations:
        return None
    try:
        target = urljoin(url, locations[0].decode("latin-1"))
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise httpcore.RemoteProtocolError(f"a redirect leads to what is no URL: {error}") from error
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise LocationForbidden("a redirect leads away from https", host=urlsplit(url).hostname or "")
    return target
