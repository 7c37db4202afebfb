"""Requests on threads of their own: how many there are, and what becomes of those nobody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from spear_wasm.outbound.client import Exchange, ExchangeFailed, HttpClient, Response
from spear_wasm.outbound.connections import Deadline, GuardedConnections
from spear_wasm.outbound.http import Request
from spear_wasm.outbound.rules import OutboundRules
from tests.web import Web, web_server

LOOPBACK = OutboundRules.parse(["127.0.0.1"], ["127.0.0.0/8"])
PATIENCE = 10.0


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as serving:
        yield serving


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def own_threads() -> int:
    return sum(thread.name == "http" for thread in threading.enumerate())


class Asked:
    """An exchange, and whether it has ended."""

    def __init__(self, url: str, *, max_bytes: int = 1000, seconds: float = 30.0) -> None:
        self.ended = threading.Event()
        connections = GuardedConnections(LOOPBACK, Deadline(seconds))
        self.exchange = Exchange(Request(url), connections, max_bytes, self.ended.set)

    def response(self) -> Response:
        assert self.ended.wait(PATIENCE)
        return self.exchange.result()


def test_a_response_comes_with_its_status_and_headers(web: Web) -> None:
    asked = Asked(web.put("/a", b"content", 201))
    HttpClient(1).begin(asked.exchange)
    response = asked.response()
    assert (response.status, response.content) == (201, b"content")
    assert dict(response.headers)["content-length"] == "7"


@pytest.mark.parametrize(
    ("path", "message"), [("/short", "without sending complete"), ("/long", "larger than 1000 bytes")]
)
def test_why_there_is_no_response_is_told(web: Web, path: str, message: str) -> None:
    web.put_cut_short("/short", b"content")
    web.put("/long", bytes(1001))
    asked = Asked(web.url(path))
    HttpClient(1).begin(asked.exchange)
    with pytest.raises(ExchangeFailed, match=message):
        asked.response()


def test_time_that_is_up_is_told(web: Web) -> None:
    asked = Asked(web.put_stalling("/a"), seconds=0.1)
    HttpClient(1).begin(asked.exchange)
    with pytest.raises(ExchangeFailed):
        asked.response()


def test_a_bug_reaches_whoever_asked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear_wasm.outbound.client.opened", None)
    asked = Asked(web.put("/a", b"content"))
    HttpClient(1).begin(asked.exchange)
    with pytest.raises(TypeError):
        asked.response()


def test_threads_are_as_many_as_have_work_and_then_gone(web: Web) -> None:
    client, go_on = HttpClient(2), threading.Event()
    web.put_after("/a", b"content", go_on)
    all_asked = [Asked(web.url("/a")) for _ in range(5)]
    for asked in all_asked:
        client.begin(asked.exchange)
    until(lambda: len(web.asked) == 2)
    until(lambda: own_threads() == 2)
    go_on.set()
    assert [asked.response().content for asked in all_asked] == [b"content"] * 5
    until(lambda: own_threads() == 0)


def test_what_nobody_waits_for_any_more_is_not_begun(web: Web) -> None:
    client, go_on = HttpClient(1), threading.Event()
    web.put_after("/first", b"content", go_on)
    web.put("/last", b"content")
    first, given_up, last = (Asked(web.url(path)) for path in ("/first", "/given-up", "/last"))
    for asked in (first, given_up, last):
        client.begin(asked.exchange)
    client.end(given_up.exchange)
    client.end(given_up.exchange)
    go_on.set()
    assert last.response().content == b"content"
    assert [path for path, _ in web.asked] == ["/first", "/last"]


def test_what_is_under_way_is_cut_off(web: Web) -> None:
    client = HttpClient(1)
    asked = Asked(web.put_stalling("/a"))
    client.begin(asked.exchange)
    until(lambda: bool(web.asked))
    client.end(asked.exchange)
    with pytest.raises(ExchangeFailed):
        asked.response()
