"""wasi:http/types, the half that asks, and wasi:http/outgoing-handler: requests of a guest's own.

They go where the task allows it, as those of plug-ins do; see `spear_wasm.outbound`. Nothing is allowed unless it is
said.
"""

from __future__ import annotations

import httpcore

from spear_wasm.engine.wait import Wait
from spear_wasm.errors import LocationForbidden
from spear_wasm.outbound.client import Exchange, ExchangeFailed, Response, shared_client
from spear_wasm.outbound.connections import Deadline, GuardedConnections
from spear_wasm.outbound.http import OURS_TO_SAY, Request, is_plain
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.http_messages import (
    Content,
    IncomingMessage,
    OutgoingBody,
    OutgoingMessage,
    Received,
)
from spear_wasm.wasi.preview2.http_types import ERROR_CODE, HTTP, METHOD, SCHEME, TOKEN, Fields
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wasi.preview2.poll import Awaiting
from spear_wasm.wit.values import Case, Err, Ok, WitValue

OUTGOING_HANDLER = Interface("wasi:http/outgoing-handler")

MAX_REQUESTS = 8
"""That a guest may have under way, or not have asked for the response of; of what came back it holds as much."""
MAX_PATH_CHARS = 2048
DENIED = Case("HTTP-request-denied")


class OutgoingRequest(OutgoingMessage):
    """wasi:http/types' `outgoing-request`."""

    def __init__(self, guest: ComponentGuest, fields: Fields) -> None:
        super().__init__(guest, fields)
        self.method = Case("get")
        self.path: str | None = None
        self.scheme: Case | None = None
        self.authority: str | None = None
        self.future: FutureResponse | None = None

    def _body_of(self, content: Content) -> OutgoingBody:
        return RequestBody(content, self)

    @property
    def url(self) -> str:
        """Where it goes."""
        scheme = "https" if self.scheme is None else str(self.scheme.payload or self.scheme.name).lower()
        return f"{scheme}://{self.authority}{self.path or '/'}"


class RequestBody(OutgoingBody):
    """The body of a request, which is sent when it is all there."""

    def __init__(self, content: Content, request: OutgoingRequest) -> None:
        super().__init__(content)
        self._request = request

    def finish(self) -> None:
        """The request goes."""
        super().finish()
        if self._request.future is not None:
            self._request.future.begin()

    def close(self) -> None:
        """The request does not go."""
        super().close()
        if self._request.future is not None:
            self._request.future.fail(Case("HTTP-protocol-error"))


class RequestOptions:
    """wasi:http/types' `request-options`: none of them can be had. What bounds a request is its guest's deadline."""

    def close(self) -> None:
        """There is nothing to give back."""


class IncomingResponse(IncomingMessage):
    """wasi:http/types' `incoming-response`."""

    def __init__(self, guest: ComponentGuest, response: Response) -> None:
        guest.responses.take(len(response.content), MAX_REQUESTS * guest.http.max_response_bytes)
        fields = Fields(guest.fields, ((name, value.encode("latin-1")) for name, value in response.headers))
        super().__init__(fields, Received(response.content, guest.responses))
        self.status = response.status


class FutureResponse:
    """wasi:http/types' `future-incoming-response`: a request, and what comes of it."""

    def __init__(self, guest: ComponentGuest, request: OutgoingRequest) -> None:
        self.over = Wait()
        self.is_told = False
        self._guest = guest
        self._request = request
        self._client = shared_client(guest.http.max_requests)
        self._exchange: Exchange | None = None
        self._failure: Case | None = None
        request.future = self
        if request.is_complete:
            self.begin()

    def begin(self) -> None:
        """Send the request."""
        deadline = Deadline(self._guest.max_seconds)
        connections = GuardedConnections(self._guest.http.rules, deadline)
        request = _sent(self._request)
        self._exchange = Exchange(request, connections, self._guest.http.max_response_bytes, self.over.end)
        self._client.begin(self._exchange)

    def fail(self, code: Case) -> None:
        """Nothing comes of it."""
        self._failure = code
        self.over.end()

    def result(self) -> Response | Case:
        """What came of it, now that it is over."""
        if self._exchange is None:
            assert self._failure is not None
            return self._failure
        try:
            return self._exchange.result()
        except ExchangeFailed as failure:
            return _code_of(failure)

    def close(self) -> None:
        """Nobody wants to know any more."""
        self._request.future = None
        self._request.close()
        if self._exchange is not None:
            self._client.end(self._exchange)


def _sent(request: OutgoingRequest) -> Request:
    headers: dict[str, str] = {}
    for name, value in request.fields.entries:
        if name not in OURS_TO_SAY:
            text = value.decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
    content = b"" if request.content is None else request.content.take()
    method = str(request.method.payload or request.method.name).upper()
    return Request(request.url, method, headers, content, follows_redirects=False)


def _code_of(failure: ExchangeFailed) -> Case:
    match failure.__cause__:
        case LocationForbidden():
            return DENIED
        case httpcore.ConnectError():
            return Case("connection-refused")
        case httpcore.TimeoutException():
            return Case("connection-timeout")
        case _:
            return Case("internal-error", str(failure))


_SELF = "self: borrow<outgoing-request>"


@HTTP.function("[constructor]outgoing-request", "func(headers: own<fields>) -> own<outgoing-request>")
def new_request(guest: ComponentGuest, headers: int) -> WitValue:
    return guest.resources.add(OutgoingRequest(guest, guest.resources.take(headers, Fields)))


@HTTP.function("[method]outgoing-request.method", f"func({_SELF}) -> {METHOD}")
def method(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).method


@HTTP.function("[method]outgoing-request.set-method", f"func({_SELF}, method: {METHOD}) -> result")
def set_method(guest: ComponentGuest, number: int, wanted: Case) -> WitValue:
    if not TOKEN.fullmatch(str(wanted.payload or wanted.name)):
        return Err()
    _request(guest, number).method = wanted
    return Ok()


@HTTP.function("[method]outgoing-request.path-with-query", f"func({_SELF}) -> option<string>")
def path_with_query(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).path


@HTTP.function(
    "[method]outgoing-request.set-path-with-query",
    f"func({_SELF}, path-with-query: option<string>) -> result",
)
def set_path_with_query(guest: ComponentGuest, number: int, path: str | None) -> WitValue:
    if path is not None and not (path.startswith(("/", "?")) and is_plain(path, MAX_PATH_CHARS)):
        return Err()
    _request(guest, number).path = path
    return Ok()


@HTTP.function("[method]outgoing-request.scheme", f"func({_SELF}) -> option<{SCHEME}>")
def scheme(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).scheme


@HTTP.function("[method]outgoing-request.set-scheme", f"func({_SELF}, scheme: option<{SCHEME}>) -> result")
def set_scheme(guest: ComponentGuest, number: int, wanted: Case | None) -> WitValue:
    if wanted is not None and wanted.payload is not None:
        return Err()  # there are two that we know
    _request(guest, number).scheme = wanted
    return Ok()


@HTTP.function("[method]outgoing-request.authority", f"func({_SELF}) -> option<string>")
def authority(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).authority


@HTTP.function(
    "[method]outgoing-request.set-authority", f"func({_SELF}, authority: option<string>) -> result"
)
def set_authority(guest: ComponentGuest, number: int, wanted: str | None) -> WitValue:
    if wanted is not None and (not is_plain(wanted, MAX_PATH_CHARS) or set(wanted) & set("/?#@")):
        return Err()
    _request(guest, number).authority = wanted
    return Ok()


def _request(guest: ComponentGuest, number: int) -> OutgoingRequest:
    return guest.resources.get(number, OutgoingRequest)


@HTTP.function("[constructor]request-options", "func() -> own<request-options>")
def new_options(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(RequestOptions())


def _not_said(_guest: ComponentGuest, _number: int) -> WitValue:
    return None


def _refused(_guest: ComponentGuest, _number: int, duration: int | None) -> WitValue:
    return Ok() if duration is None else Err()


for _timeout in ("connect-timeout", "first-byte-timeout", "between-bytes-timeout"):
    HTTP.function(
        f"[method]request-options.{_timeout}", "func(self: borrow<request-options>) -> option<u64>"
    )(_not_said)
    HTTP.function(
        f"[method]request-options.set-{_timeout}",
        "func(self: borrow<request-options>, duration: option<u64>) -> result",
    )(_refused)


@OUTGOING_HANDLER.function(
    "handle",
    "func(request: own<outgoing-request>, options: option<own<request-options>>) -> "
    f"result<own<future-incoming-response>, {ERROR_CODE}>",
)
def handle(guest: ComponentGuest, number: int, options: int | None) -> WitValue:
    request = guest.resources.take(number, OutgoingRequest)
    if options is not None:
        guest.resources.take(options, RequestOptions)
    refusal = _refusal(guest, request)
    if refusal is not None:
        request.close()
        return Err(refusal)
    return Ok(guest.resources.add(FutureResponse(guest, request)))


def _refusal(guest: ComponentGuest, request: OutgoingRequest) -> Case | None:
    if not guest.http.rules.hosts:
        return DENIED
    if not request.authority:
        return Case("HTTP-request-URI-invalid")
    if guest.resources.count(FutureResponse) >= MAX_REQUESTS:
        return Case("connection-limit-reached")
    return None


_FUTURE = "self: borrow<future-incoming-response>"


@HTTP.function("[method]future-incoming-response.subscribe", f"func({_FUTURE}) -> own<pollable>")
def subscribe(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.add(Awaiting(guest.resources.get(number, FutureResponse).over))


@HTTP.function(
    "[method]future-incoming-response.get",
    f"func({_FUTURE}) -> option<result<result<own<incoming-response>, {ERROR_CODE}>>>",
)
def get(guest: ComponentGuest, number: int) -> WitValue:
    future = guest.resources.get(number, FutureResponse)
    if not future.over.over:
        return None
    if future.is_told:
        return Err()
    future.is_told = True
    result = future.result()
    if isinstance(result, Case):
        return Ok(Err(result))
    return Ok(Ok(guest.resources.add(IncomingResponse(guest, result))))


_RESPONSE = "self: borrow<incoming-response>"


@HTTP.function("[method]incoming-response.status", f"func({_RESPONSE}) -> u16")
def status(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.get(number, IncomingResponse).status


HTTP_CLIENT = (HTTP, OUTGOING_HANDLER)
