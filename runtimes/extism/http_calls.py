"""HTTP for plug-ins: requests as they describe them in JSON, to hosts that their task names, and the answers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import msgspec

from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.model import ErrorCode
from spear_wasm.outbound.client import Exchange, ExchangeFailed, Response, shared_client
from spear_wasm.outbound.connections import Deadline, GuardedConnections
from spear_wasm.outbound.http import OURS_TO_SAY, Request
from spear_wasm.values import shown

from .plugin import Plugin, plugin_of, read_block

MAX_REQUEST_BYTES = 64 << 10
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestedByPlugin(msgspec.Struct):
    """A request as plug-ins describe it."""

    url: str
    method: str | None = None
    headers: dict[str, str] | None = None


def http_request(
    sandbox: AccompaniedSandbox, request: int, length: int, body: int, body_length: int
) -> Generator[Wait, None, int]:
    """Send a request and wait for the answer; the size of its body, which is handed over."""
    plugin = plugin_of(sandbox)
    plugin.response = None
    wanted = _read_request(sandbox, (request, length), (body, body_length))
    deadline = Deadline(sandbox.limits.max_wall_time_ms / 1000)
    answered = Wait()
    settings = plugin.settings
    exchange = Exchange(
        wanted,
        GuardedConnections(settings.rules, deadline),
        settings.max_http_response_bytes,
        answered.end,
    )
    client = shared_client(settings.max_http_requests)
    client.begin(exchange)
    try:
        yield answered
        response = _response_to(exchange)
    finally:
        client.end(exchange)
    plugin.response = replace(response, content=b"")
    return plugin.hand_over(response.content)


def _response_to(exchange: Exchange) -> Response:
    try:
        return exchange.result()
    except ExchangeFailed as failure:
        raise GuestFault(ErrorCode.GUEST_ERROR, f"an HTTP request of the plug-in failed: {failure}") from None


def _read_request(sandbox: AccompaniedSandbox, request: tuple[int, int], body: tuple[int, int]) -> Request:
    if request[1] & 0xFFFFFFFF > MAX_REQUEST_BYTES:
        raise _malformed(f"it is longer than {MAX_REQUEST_BYTES} bytes without its body")
    if body[1] & 0xFFFFFFFF > sandbox.limits.max_output_bytes:
        raise GuestFault(
            ErrorCode.OUTPUT_LIMIT,
            f"the body of a request is {body[1] & 0xFFFFFFFF} bytes; the limit is {sandbox.limits.max_output_bytes}",
        )
    described = _decode(read_block(sandbox, "the request", *request))
    method = (described.method or "GET").upper()
    if method not in METHODS:
        raise _malformed(f"its method is {shown(method)}, none of {', '.join(sorted(METHODS))}")
    headers = {
        name: value for name, value in (described.headers or {}).items() if name.lower() not in OURS_TO_SAY
    }
    return Request(described.url, method, headers, read_block(sandbox, "the request's body", *body))


def _decode(content: bytes) -> RequestedByPlugin:
    try:
        return msgspec.json.decode(content, type=RequestedByPlugin)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(shown(str(error), 200)) from None


def _malformed(why: str) -> GuestFault:
    return GuestFault(ErrorCode.GUEST_ERROR, f"an HTTP request of the plug-in is malformed: {why}")


def http_status_code(sandbox: AccompaniedSandbox) -> int:
    """The status of the last response; 0 where there is none."""
    response = plugin_of(sandbox).response
    return 0 if response is None else response.status


def http_headers(sandbox: AccompaniedSandbox) -> int:
    """The headers of the last response as a JSON object, which is handed over."""
    plugin: Plugin = plugin_of(sandbox)
    if plugin.response is None:
        return plugin.hand_over(None)
    headers: dict[str, str] = {}
    for name, value in plugin.response.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return plugin.hand_over(msgspec.json.encode(headers))
