"""Requests to real servers on loopback, which is a private network: what is allowed there is allowed by name."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import pytest
import trustme

from spear_wasm.errors import InvalidRequest, LocationForbidden
from spear_wasm.outbound import http
from spear_wasm.outbound.connections import Deadline, GuardedConnections
from spear_wasm.outbound.http import Request, check_url, opened
from spear_wasm.outbound.rules import OutboundRules
from tests.web import Web, web_server

LOOPBACK = OutboundRules.parse(["127.0.0.1", "allowed.test"], ["127.0.0.0/8"])
AMPLE = 30.0


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as serving:
        yield serving


def get(url: str, rules: OutboundRules = LOOPBACK, *, seconds: float = AMPLE, redirects: int = 3) -> bytes:
    connections = GuardedConnections(rules, Deadline(seconds))
    with opened(Request(url, headers={"X-Token": "secret"}), connections, redirects) as response:
        return b"".join(response.iter_stream())


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names lead to these addresses, look-up by look-up. Returns the names that are looked up."""
    coming, asked = iter(answers), list[str]()
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host[0].isdigit():
            return real(host, port, *rest, **more)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(coming)]

    monkeypatch.setattr("spear_wasm.outbound.connections.socket.getaddrinfo", look_up)
    return asked


def test_what_is_there_is_given(web: Web) -> None:
    assert get(web.put("/a", b"content")) == b"content"


def test_a_host_that_is_not_allowed_is_not_even_looked_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve(monkeypatch)
    with pytest.raises(LocationForbidden, match="none of the hosts"):
        get(web.url("/a", "other.test"))
    assert asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_a_host_that_is_allowed_may_not_lead_to_private_addresses(
    web: Web, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolve(monkeypatch, [address])
    with pytest.raises(LocationForbidden, match="not public"):
        get(web.url("/a", "allowed.test"), OutboundRules.parse(["allowed.test"], []))
    assert web.asked == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::1]"])
def test_other_spellings_of_loopback_lead_there_as_little(web: Web, host: str) -> None:
    with pytest.raises(LocationForbidden):
        get(web.url("/a", host), OutboundRules.parse(["*"], []))
    assert web.asked == []


def test_the_address_that_was_checked_is_connected_to_and_the_name_not_looked_up_again(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/a", b"content")
    asked = resolve(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert get(web.url("/a", "allowed.test")) == b"content"
    assert asked == ["allowed.test"]
    assert web.asked == [("/a", f"allowed.test:{web.port}")]


def test_addresses_that_are_not_allowed_are_passed_over(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.put("/a", b"content")
    resolve(monkeypatch, ["10.0.0.1", "127.0.0.1"])
    assert get(web.url("/a", "allowed.test")) == b"content"


def test_the_next_address_is_tried_where_one_does_not_answer(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/a", b"content")
    resolve(monkeypatch, ["127.0.0.9", "127.0.0.1"])  # nobody listens on the first
    assert get(web.url("/a", "allowed.test")) == b"content"


@pytest.mark.parametrize("status", sorted(http.REDIRECTS))
def test_redirects_are_followed(web: Web, status: int) -> None:
    web.put("/b", b"content")
    assert get(web.redirect("/a", "/b", status)) == b"content"


@pytest.mark.parametrize("target", ["http://other.test/", "http://169.254.169.254/", "http://10.0.0.1/"])
def test_a_redirect_leads_nowhere_that_is_not_allowed(web: Web, target: str) -> None:
    with pytest.raises(LocationForbidden):
        get(web.redirect("/a", target))


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://user:pass@127.0.0.1/", "gopher:"]
)
def test_a_redirect_leads_to_no_other_kind_of_place(web: Web, target: str) -> None:
    with pytest.raises(InvalidRequest):
        get(web.redirect("/a", target))


def test_each_redirect_is_looked_up_and_checked_anew(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    web.redirect("/a", web.url("/b", "allowed.test"))
    with pytest.raises(LocationForbidden):
        get(web.url("/a", "allowed.test"))
    assert [path for path, _ in web.asked] == ["/a"]


def test_redirects_come_to_an_end(web: Web) -> None:
    with pytest.raises(httpcore.RemoteProtocolError, match="redirects"):
        get(web.redirect("/a", "/a"), redirects=3)
    assert len(web.asked) == 4


def test_headers_are_for_the_host_that_they_were_given_for(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.1"])
    web.redirect("/a", "/b")
    web.redirect("/b", web.url("/c", "allowed.test"))
    web.put("/c", b"")
    get(web.url("/a"))
    assert ["X-Token" in headers for headers in web.headers] == [True, True, False]


@pytest.mark.parametrize("where", ["headers", "body", "stalled"])
def test_who_is_slow_is_cut_off_however_often_a_byte_comes(web: Web, where: str) -> None:
    kinds: dict[str, Callable[[], str]] = {
        "headers": lambda: web.put_dripping("/a", header_only=True),
        "body": lambda: web.put_dripping("/a"),
        "stalled": lambda: web.put_stalling("/a", b"some"),
    }
    started = time.monotonic()
    with pytest.raises(httpcore.ReadTimeout):
        get(kinds[where](), seconds=0.3)
    assert 0.3 <= time.monotonic() - started < 10


def test_what_is_cut_short_is_no_content(web: Web) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        get(web.put_cut_short("/a", b"half"))


def test_a_cut_ends_what_is_under_way(web: Web) -> None:
    connections = GuardedConnections(LOOPBACK, Deadline(AMPLE))
    with opened(Request(web.put_stalling("/a", b"some")), connections, 0) as response:
        parts = response.iter_stream()
        assert next(parts) == b"some"
        threading.Timer(0.01, connections.cut).start()
        with pytest.raises((httpcore.NetworkError, httpcore.ProtocolError)):
            list(parts)


def test_after_a_cut_nothing_comes_through(web: Web) -> None:
    connections = GuardedConnections(LOOPBACK, Deadline(AMPLE))
    connections.cut()
    with (
        pytest.raises((httpcore.NetworkError, httpcore.ProtocolError)),
        opened(Request(web.put("/a", b"some")), connections, 0),
    ):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/a",
        "http:///a",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com/a b",
        "http://example.com/\r\nX: y",
        "http://exämple.com/",
        "http://[::1/",
        "http://example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that this process trusts."""
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    monkeypatch.setattr(http, "_trust", lambda: trust)
    return authority


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_https_is_for_whom_the_certificate_names(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, ["127.0.0.1"])
    with web_server(tls_for(authority, "allowed.test")) as web:
        web.put("/a", b"content")
        assert get(web.url("/a", "allowed.test")) == b"content"
        with pytest.raises(httpcore.ConnectError, match="certificate"):
            get(web.url("/a", "127.0.0.1"))


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    with (
        web_server(tls_for(trustme.CA(), "127.0.0.1")) as web,
        pytest.raises(httpcore.ConnectError, match="certificate"),
    ):
        get(web.put("/a", b"content"))


def test_no_redirect_leads_from_https_to_http(authority: trustme.CA, web: Web) -> None:
    with (
        web_server(tls_for(authority, "127.0.0.1")) as secure,
        pytest.raises(LocationForbidden, match="https"),
    ):
        get(secure.redirect("/a", web.put("/b", b"content")))
    assert web.asked == []


def test_a_server_that_never_shakes_hands_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(httpcore.TimeoutException):
        get(f"https://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
