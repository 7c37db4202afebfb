"""wasi:http: what its fields, bodies and messages refuse, what is taken once, and that what is held is counted."""

from __future__ import annotations

from typing import Any

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.outbound.client import Response
from spear_wasm.outbound.rules import OutboundRules
from spear_wasm.wasi.preview2.guest import HttpGrant
from spear_wasm.wasi.preview2.http_answering import (
    IncomingRequest,
    OutgoingResponse,
    Request,
    ResponseOutparam,
)
from spear_wasm.wasi.preview2.http_client import MAX_REQUESTS, IncomingResponse
from spear_wasm.wasi.preview2.http_types import FIELD_OVERHEAD, MAX_FIELDS_BYTES
from spear_wasm.wit.values import Case, Err, Ok
from tests.wasi.preview2.guests import Guest, one

HTTP, SEND, STREAMS = "http/types", ("http/outgoing-handler", "handle"), "io/streams"
F, RESPONSE, REQUEST = "[method]fields.", "[method]outgoing-response.", "[method]outgoing-request."
INVALID, FORBIDDEN, IMMUTABLE = Case("invalid-syntax"), Case("forbidden"), Case("immutable")
WRITE = "[method]output-stream.write"


def new_fields(guest: Guest, *entries: tuple[str, bytes]) -> int:
    number: int = guest.ok(HTTP, "[static]fields.from-list", list(entries))
    return number


def asked(guest: Guest, **request: Any) -> int:
    """A request that the guest is called with."""
    given = {
        "method": "GET",
        "path": "/",
        "scheme": "http",
        "authority": "a.test",
        "headers": (),
        "content": b"",
    }
    return guest.held.resources.add(IncomingRequest(guest.held, Request(**{**given, **request})))


def new_response(guest: Guest) -> int:
    number: int = guest.call(HTTP, "[constructor]outgoing-response", new_fields(guest))
    return number


def answer(guest: Guest, response: Ok | Err) -> None:
    outparam = guest.held.resources.add(ResponseOutparam())
    guest.call(HTTP, "[static]response-outparam.set", outparam, response)


# --- fields -------------------------------------------------------------------------------------------------


def test_names_are_the_same_however_they_are_written() -> None:
    with one() as guest:
        fields = new_fields(guest, ("Accept", b"a"), ("X", b"b"), ("accept", b"c"))
        assert guest.call(HTTP, F + "get", fields, "ACCEPT") == [b"a", b"c"]
        assert guest.call(HTTP, F + "has", fields, "x")
        assert not guest.call(HTTP, F + "has", fields, "y")
        assert guest.call(HTTP, F + "entries", fields) == [("accept", b"a"), ("x", b"b"), ("accept", b"c")]


def test_fields_are_set_added_and_deleted() -> None:
    with one() as guest:
        fields = guest.call(HTTP, "[constructor]fields")
        guest.ok(HTTP, F + "append", fields, "a", b"1")
        guest.ok(HTTP, F + "append", fields, "A", b"2")
        guest.ok(HTTP, F + "set", fields, "b", [b"3", b"4"])
        guest.ok(HTTP, F + "set", fields, "a", [b"5"])
        copy = guest.call(HTTP, F + "clone", fields)
        guest.ok(HTTP, F + "delete", fields, "B")
        assert guest.call(HTTP, F + "entries", fields) == [("a", b"5")]
        assert guest.call(HTTP, F + "entries", copy) == [("b", b"3"), ("b", b"4"), ("a", b"5")]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("a b", b"", INVALID), ("", b"", INVALID), ("é", b"", INVALID),
     ("a", b"b\r\nc: d", INVALID), ("a", b"\0", INVALID),
     ("Host", b"a", FORBIDDEN), ("transfer-encoding", b"chunked", FORBIDDEN), ("connection", b"close", FORBIDDEN)],
)  # fmt: skip
def test_what_no_guest_may_say_is_refused(name: str, value: bytes, why: Case) -> None:
    with one() as guest:
        fields = guest.call(HTTP, "[constructor]fields")
        assert guest.err(HTTP, F + "append", fields, name, value) == why
        assert guest.err(HTTP, F + "set", fields, name, [value]) == why
        assert guest.err(HTTP, "[static]fields.from-list", [(name, value)]) == why
        assert guest.call(HTTP, F + "entries", fields) == []


def test_what_is_in_a_message_cannot_be_changed_but_in_a_copy() -> None:
    with one() as guest:
        response = guest.call(HTTP, "[constructor]outgoing-response", new_fields(guest, ("a", b"1")))
        request = asked(guest, headers=[("b", b"2")])
        for fields in (guest.call(HTTP, RESPONSE + "headers", response),
                       guest.call(HTTP, "[method]incoming-request.headers", request)):  # fmt: skip
            assert guest.err(HTTP, F + "append", fields, "c", b"3") == IMMUTABLE
            assert guest.err(HTTP, F + "delete", fields, "a") == IMMUTABLE
            guest.ok(HTTP, F + "append", guest.call(HTTP, F + "clone", fields), "c", b"3")


def test_fields_have_a_bound_for_all_that_is_held_and_none_for_what_is_dropped() -> None:
    with one() as guest:
        size = MAX_FIELDS_BYTES // 2 - FIELD_OVERHEAD - 1
        first, second = (new_fields(guest, ("a", bytes(b"x" * size))) for _ in range(2))
        with pytest.raises(GuestFault, match="header fields"):
            guest.call(HTTP, F + "clone", first)
        guest.drop("fields", second)
        guest.call(HTTP, F + "clone", first)
        guest.ok(HTTP, F + "delete", first, "a")
        new_fields(guest, ("a", bytes(b"x" * size)))


def test_fields_count_for_as_long_as_any_view_of_them_is_held() -> None:
    with one() as guest:
        size = MAX_FIELDS_BYTES // 2 - FIELD_OVERHEAD - 1
        views = []
        for _ in range(2):
            request = asked(guest, headers=[("a", b"x" * size)])
            views.append(guest.call(HTTP, "[method]incoming-request.headers", request))
            guest.drop("incoming-request", request)
        with pytest.raises(GuestFault, match="header fields"):
            new_fields(guest, ("a", b"x" * size))
        for view in views:
            guest.drop("fields", view)
        for _ in range(2):
            new_fields(guest, ("a", b"x" * size))


def test_nothing_is_counted_when_all_is_dropped() -> None:
    with one() as guest:
        response = new_response(guest)
        body = guest.ok(HTTP, RESPONSE + "body", response)
        stream = guest.ok(HTTP, "[method]outgoing-body.write", body)
        guest.ok(STREAMS, WRITE, stream, b"content")
        request = asked(guest, headers=[("a", b"1")])
        view = guest.call(HTTP, "[method]incoming-request.headers", request)
        for resource, number in (("output-stream", stream), ("outgoing-body", body), ("outgoing-response", response),
                                 ("fields", view), ("incoming-request", request)):  # fmt: skip
            guest.drop(resource, number)
        for held in (guest.held.fields, guest.held.contents, guest.held.responses):
            held.take(1, 1)


# --- the request that came ----------------------------------------------------------------------------------


def test_a_request_tells_what_was_asked() -> None:
    with one() as guest:
        request = asked(guest, method="PURGE", path="/a?b", scheme="https", authority="a.test:1")
        method = "[method]incoming-request."
        assert guest.call(HTTP, method + "method", request) == Case("other", "PURGE")
        assert guest.call(HTTP, method + "path-with-query", request) == "/a?b"
        assert guest.call(HTTP, method + "scheme", request) == Case("HTTPS")
        assert guest.call(HTTP, method + "authority", request) == "a.test:1"
        assert guest.call(HTTP, method + "method", asked(guest, method="PATCH")) == Case("patch")


def test_a_body_is_taken_once_and_outlives_its_request() -> None:
    with one() as guest:
        request = asked(guest, content=b"content")
        body = guest.ok(HTTP, "[method]incoming-request.consume", request)
        guest.err(HTTP, "[method]incoming-request.consume", request)
        guest.drop("incoming-request", request)
        stream = guest.ok(HTTP, "[method]incoming-body.stream", body)
        guest.err(HTTP, "[method]incoming-body.stream", body)
        trailers = guest.call(HTTP, "[static]incoming-body.finish", body)
        assert guest.ok(STREAMS, "[method]input-stream.read", stream, 100) == b"content"
        pollable = guest.call(HTTP, "[method]future-trailers.subscribe", trailers)
        assert guest.call("io/poll", "[method]pollable.ready", pollable)
        assert guest.call(HTTP, "[method]future-trailers.get", trailers) == Ok(Ok(None))
        assert guest.call(HTTP, "[method]future-trailers.get", trailers) == Err()


# --- the response -------------------------------------------------------------------------------------------


def test_what_is_written_before_the_response_is_set_comes_with_it() -> None:
    with one() as guest:
        response = new_response(guest)
        body = guest.ok(HTTP, RESPONSE + "body", response)
        stream = guest.ok(HTTP, "[method]outgoing-body.write", body)
        guest.ok(STREAMS, WRITE, stream, b"before, ")
        assert not guest.sandbox.output
        answer(guest, Ok(response))
        assert guest.sandbox.output == b"before, "
        guest.ok(STREAMS, WRITE, stream, b"after")
        guest.ok(HTTP, "[static]outgoing-body.finish", body, None)
        assert guest.sandbox.output == b"before, after"
        assert isinstance(guest.held.answer, OutgoingResponse)
        assert guest.held.answer.is_complete
        assert guest.err(STREAMS, WRITE, stream, b"too late") == Case("closed")


def test_a_response_that_is_not_the_answer_is_written_nowhere() -> None:
    with one() as guest:
        first, second = new_response(guest), new_response(guest)
        stream = guest.ok(HTTP, "[method]outgoing-body.write", guest.ok(HTTP, RESPONSE + "body", second))
        answer(guest, Ok(first))
        guest.ok(STREAMS, WRITE, stream, b"nobody asked")
        assert not guest.sandbox.output


def test_a_body_is_written_once_and_dropped_before_its_end_is_incomplete() -> None:
    with one() as guest:
        response = new_response(guest)
        body = guest.ok(HTTP, RESPONSE + "body", response)
        guest.err(HTTP, RESPONSE + "body", response)
        stream = guest.ok(HTTP, "[method]outgoing-body.write", body)
        guest.err(HTTP, "[method]outgoing-body.write", body)
        answer(guest, Ok(response))
        guest.drop("outgoing-body", body)
        assert guest.err(STREAMS, WRITE, stream, b"x") == Case("closed")
        assert isinstance(guest.held.answer, OutgoingResponse)
        assert not guest.held.answer.is_complete


@pytest.mark.parametrize(("status", "is_one"), [(99, False), (100, True), (999, True), (1000, False)])
def test_a_status_has_three_digits(status: int, is_one: bool) -> None:
    with one() as guest:
        response = new_response(guest)
        assert guest.call(HTTP, RESPONSE + "set-status-code", response, status) == (Ok() if is_one else Err())
        assert guest.call(HTTP, RESPONSE + "status-code", response) == (status if is_one else 200)


# --- requests of its own --------------------------------------------------------------------------------------


def test_a_request_is_made_as_it_is_said() -> None:
    with one() as guest:
        request = guest.call(HTTP, "[constructor]outgoing-request", new_fields(guest, ("a", b"1")))
        for name, value in (("method", Case("post")), ("path-with-query", "/a?b"), ("scheme", Case("HTTP")),
                            ("authority", "a.test:80")):  # fmt: skip
            guest.ok(HTTP, f"{REQUEST}set-{name}", request, value)
            assert guest.call(HTTP, REQUEST + name, request) == value
        fields = guest.call(HTTP, REQUEST + "headers", request)
        assert guest.call(HTTP, F + "entries", fields) == [("a", b"1")]


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", Case("other", "G T")), ("path-with-query", "a"), ("path-with-query", "/a b"), ("authority", "a/b"),
     ("authority", "user@a"), ("authority", "a b"), ("scheme", Case("other", "ftp"))],
)  # fmt: skip
def test_what_is_no_part_of_a_request_is_refused(name: str, value: object) -> None:
    with one() as guest:
        request = guest.call(HTTP, "[constructor]outgoing-request", new_fields(guest))
        guest.err(HTTP, f"{REQUEST}set-{name}", request, value)


def test_timeouts_of_its_own_cannot_be_had() -> None:
    with one() as guest:
        options = guest.call(HTTP, "[constructor]request-options")
        for name in ("connect-timeout", "first-byte-timeout", "between-bytes-timeout"):
            guest.err(HTTP, f"[method]request-options.set-{name}", options, 10**9)
            guest.ok(HTTP, f"[method]request-options.set-{name}", options, None)
            assert guest.call(HTTP, f"[method]request-options.{name}", options) is None


def test_what_came_back_is_held_up_to_a_bound() -> None:
    grant = HttpGrant(OutboundRules(), max_requests=1, max_response_bytes=100)
    with one(http=grant) as guest:
        held = [
            guest.held.resources.add(IncomingResponse(guest.held, Response(200, (("a", "1"),), bytes(100))))
            for _ in range(MAX_REQUESTS)
        ]
        with pytest.raises(GuestFault, match="responses"):
            IncomingResponse(guest.held, Response(200, (), b"x"))
        body = guest.ok(HTTP, "[method]incoming-response.consume", held[0])
        assert guest.call(HTTP, "[method]incoming-response.status", held[0]) == 200
        guest.drop("incoming-response", held[0])
        with pytest.raises(GuestFault, match="responses"):
            IncomingResponse(guest.held, Response(200, (), b"x"))
        guest.drop("incoming-body", body)
        IncomingResponse(guest.held, Response(200, (), b"x"))


def test_nobody_is_asked_without_a_grant_and_nothing_is_kept_of_it() -> None:
    with one() as guest:
        request = guest.call(HTTP, "[constructor]outgoing-request", new_fields(guest, ("a", b"1")))
        guest.ok(HTTP, REQUEST + "set-authority", request, "a.test")
        assert guest.err(*SEND, request, None) == Case("HTTP-request-denied")
        guest.held.fields.take(MAX_FIELDS_BYTES, MAX_FIELDS_BYTES)


def test_a_request_without_a_host_goes_nowhere() -> None:
    grant = HttpGrant(OutboundRules.parse(["*"], []), max_requests=1, max_response_bytes=1)
    with one(http=grant) as guest:
        request = guest.call(HTTP, "[constructor]outgoing-request", new_fields(guest))
        assert guest.err(*SEND, request, None) == Case("HTTP-request-URI-invalid")
