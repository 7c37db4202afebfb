"""wasi:http/types, the half that answers: the request that a guest is called with, and its response."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from spear_wasm.engine.wait import Wait
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.http_messages import IncomingMessage, OutgoingMessage, Received
from spear_wasm.wasi.preview2.http_types import ERROR_CODE, HTTP, METHOD, METHOD_NAMES, SCHEME, Field, Fields
from spear_wasm.wit.values import Case, Err, Ok, WitValue

STATUSES = range(100, 1000)


@dataclass(frozen=True, slots=True)
class Request:
    """What a guest is asked. Names of headers are in lower case."""

    method: str
    path: str
    scheme: str
    authority: str
    headers: Sequence[Field]
    content: bytes


class IncomingRequest(IncomingMessage):
    """wasi:http/types' `incoming-request`."""

    def __init__(self, guest: ComponentGuest, request: Request) -> None:
        super().__init__(Fields(guest.fields, request.headers), Received(request.content))
        self.request = request


class ResponseOutparam:
    """wasi:http/types' `response-outparam`: where the response goes, once."""

    def close(self) -> None:
        """The guest does not answer."""


class OutgoingResponse(OutgoingMessage):
    """wasi:http/types' `outgoing-response`."""

    status = 200


def method_case(name: str) -> Case:
    """The method of that name."""
    return Case(name.lower()) if name.lower() in METHOD_NAMES else Case("other", name)


_SELF = "self: borrow<incoming-request>"


@HTTP.function("[method]incoming-request.method", f"func({_SELF}) -> {METHOD}")
def method(guest: ComponentGuest, number: int) -> WitValue:
    return method_case(_request(guest, number).method)


@HTTP.function("[method]incoming-request.path-with-query", f"func({_SELF}) -> option<string>")
def path_with_query(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).path


@HTTP.function("[method]incoming-request.scheme", f"func({_SELF}) -> option<{SCHEME}>")
def scheme(guest: ComponentGuest, number: int) -> WitValue:
    return Case(_request(guest, number).scheme.upper())


@HTTP.function("[method]incoming-request.authority", f"func({_SELF}) -> option<string>")
def authority(guest: ComponentGuest, number: int) -> WitValue:
    return _request(guest, number).authority


def _request(guest: ComponentGuest, number: int) -> Request:
    return guest.resources.get(number, IncomingRequest).request


_RESPONSE = "self: borrow<outgoing-response>"


@HTTP.function("[constructor]outgoing-response", "func(headers: own<fields>) -> own<outgoing-response>")
def new_response(guest: ComponentGuest, headers: int) -> WitValue:
    return guest.resources.add(OutgoingResponse(guest, guest.resources.take(headers, Fields)))


@HTTP.function("[method]outgoing-response.status-code", f"func({_RESPONSE}) -> u16")
def status_code(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.get(number, OutgoingResponse).status


@HTTP.function("[method]outgoing-response.set-status-code", f"func({_RESPONSE}, status-code: u16) -> result")
def set_status_code(guest: ComponentGuest, number: int, status: int) -> WitValue:
    if status not in STATUSES:
        return Err()
    guest.resources.get(number, OutgoingResponse).status = status
    return Ok()


@HTTP.waiting(
    "[static]response-outparam.set",
    f"func(param: own<response-outparam>, response: result<own<outgoing-response>, {ERROR_CODE}>)",
)
def set_response(guest: ComponentGuest, param: int, answer: Ok | Err) -> Generator[Wait, None, WitValue]:
    guest.resources.take(param, ResponseOutparam)
    if isinstance(answer, Err):
        assert isinstance(answer.value, Case)
        guest.answer = answer.value
        return None
    assert isinstance(answer.value, int)
    guest.answer = response = guest.resources.take(answer.value, OutgoingResponse)
    if response.content is not None:
        # What is written of it goes to the caller from now on.
        yield from response.content.pour_into(guest.printed)
    return None


HTTP_ANSWERING = (HTTP,)
