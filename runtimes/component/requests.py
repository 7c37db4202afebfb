"""HTTP requests as callers describe them, and guests' responses as callers get them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import msgspec

from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import Parameter
from spear_wasm.outbound.http import is_plain
from spear_wasm.values import check_type_name, shown, to_bytes
from spear_wasm.wasi.preview2.http_answering import Request
from spear_wasm.wasi.preview2.http_types import MAX_FIELDS_BYTES, TOKEN, Field, size_of

REQUEST, BODY = "request", "body"
MAX_URL_CHARS = 8192
AUTHORITY = "localhost"
"""Of a request whose URL is a path alone."""
Headers = dict[str, str | list[str]] | list[tuple[str, str]]


class AskedByCaller(msgspec.Struct, forbid_unknown_fields=True):
    """A request as callers describe it; `body` is base64, as bytes within JSON are."""

    url: str = "/"
    method: str = "GET"
    headers: Headers = msgspec.field(default_factory=list)
    body: str | None = None


def read_request(parameters: Sequence[Parameter], limits: Limits) -> Request:
    """The request in a call's parameters: `request`, and its content in `body` where it is not in there.

    Raises:
        InvalidRequest: they are none, or above max_input_bytes.
    """
    given = _by_name(parameters)
    asked = _asked(given.get(REQUEST))
    request = _checked(asked, _content(asked, given.get(BODY)))
    size = (
        len(request.content) + len(asked.url) + sum(len(name) + len(value) for name, value in request.headers)
    )
    limits.check_input(size, "the request is")
    return request


def _by_name(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    given = {parameter.name or REQUEST: parameter for parameter in parameters}
    if len(given) < len(parameters) or not given.keys() <= {REQUEST, BODY}:
        raise InvalidRequest(
            f"an HTTP guest takes the parameters {REQUEST} and {BODY}, each once; given are "
            f"{shown(', '.join(each.name or '(unnamed)' for each in parameters), 300)}"
        )
    return given


def _asked(parameter: Parameter | None) -> AskedByCaller:
    if parameter is None:
        return AskedByCaller()
    check_type_name(parameter, REQUEST)
    value = parameter.value
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return AskedByCaller(url=value)
    try:
        if isinstance(value, str | bytes):
            return msgspec.json.decode(value, type=AskedByCaller)
        return msgspec.convert(value, type=AskedByCaller)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidRequest(
            f"the request is malformed: {shown(str(error), 300)}; it is a URL, or an object with url, method, headers "
            "and body"
        ) from None


def _content(asked: AskedByCaller, body: Parameter | None) -> bytes:
    if body is not None:
        if asked.body is not None:
            raise InvalidRequest(f"{REQUEST} has a body, and {BODY} is given, too")
        return to_bytes(body, BODY)
    try:
        return base64.b64decode(asked.body or "", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{REQUEST}.body is not base64; text goes into the parameter {BODY} as it is"
        ) from None


def _checked(asked: AskedByCaller, content: bytes) -> Request:
    if not TOKEN.fullmatch(asked.method):
        raise InvalidRequest(f"{shown(asked.method)} is no HTTP method")
    scheme, authority, path = _split(asked.url)
    headers = list(_fields(asked.headers))
    if sum(size_of(*each) for each in headers) > MAX_FIELDS_BYTES:
        raise InvalidRequest(f"the headers of a request may have {MAX_FIELDS_BYTES} bytes together")
    return Request(asked.method.upper(), path, scheme, authority, headers, content)


def _split(url: str) -> tuple[str, str, str]:
    if not is_plain(url, MAX_URL_CHARS):
        raise InvalidRequest(f"{shown(url)} is no URL of at most {MAX_URL_CHARS} printable ASCII characters")
    if url.startswith("/"):
        return "http", AUTHORITY, url.partition("#")[0]
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidRequest(f"{shown(url)} is no URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InvalidRequest(f"{shown(url)} is neither a path (/…) nor an http:// or https:// URL")
    query = f"?{parts.query}" if parts.query else ""
    return parts.scheme, parts.netloc, f"{parts.path or '/'}{query}"


def _fields(headers: Headers) -> Iterator[Field]:
    pairs = headers.items() if isinstance(headers, dict) else headers
    for name, values in pairs:
        if not TOKEN.fullmatch(name):
            raise InvalidRequest(f"{shown(name)} is no name of a header")
        for value in [values] if isinstance(values, str) else values:
            if set(value) & set("\r\n\0"):
                raise InvalidRequest(f"the header {shown(name)} holds the end of a line, or a zero")
            yield name.lower(), value.encode()


def response_document(status: int, headers: Sequence[Field], content: bytes | None) -> bytes:
    """A response as JSON; without a body where its reader has had that."""
    document: dict[str, object] = {
        "status": status,
        "headers": [(name, value.decode("utf-8", "replace")) for name, value in headers],
    }
    if content is not None:
        document[BODY] = base64.b64encode(content).decode()
    return msgspec.json.encode(document)
