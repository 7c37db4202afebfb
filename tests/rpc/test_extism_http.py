"""HTTP requests of Extism plug-ins: where they may go, what comes back, and that they end with their plug-in."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from spear_wasm.api import function_pb2
from spear_wasm.errors import PermissionDenied
from tests.rpc.conftest import TIGHT
from tests.rpc.plugins import PLUGINS, config, message_of, words
from tests.rpc.serving import Pending, Server, code_of, context, limits, refused, until, value_of
from tests.web import Web, web_server

MOST_REQUESTS = 4
HTTP = f"""
[runtimes]
http_hosts = ["127.0.0.1", "*.allowed.test", "port.test:8080"]
http_private_networks = ["127.0.0.0/8"]
max_http_requests = {MOST_REQUESTS}
max_http_response = "1MiB"
"""
LOOPBACK = ["127.0.0.1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which plug-ins may be allowed to ask hosts on loopback."""
    running = Server(tmp_path_factory.mktemp("server"), TIGHT + HTTP)
    with contextlib.closing(running):
        for name in ("plugin", "hostile"):
            running.upload((PLUGINS / f"{name}.wasm").read_bytes(), name, "1")
        yield running
        assert running.stop() == 0


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as serving:
        yield serving


def ask(
    server: Server,
    url: str,
    function: str = "get",
    *,
    hosts: list[str] | None = None,
    memory: dict[str, int] | None = None,
    described: dict[str, Any] | None = None,
    **fields: Any,
) -> function_pb2.InvokeFunctionResponse:
    """Have a plug-in send a request to a URL."""
    spec = config(allowed_hosts=LOOPBACK if hosts is None else hosts, memory=memory or {})
    request = json.dumps({"url": url, **(described or {})})
    return server.call("plugin", function, request, spec=spec, **fields)


def answer_of(answer: function_pb2.InvokeFunctionResponse) -> tuple[int, bytes]:
    """The status and the content that came back."""
    content = value_of(answer)
    return int.from_bytes(content[:8], "little"), content[8:]


# --- what comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_plug_in_is_given_what_it_asks_for(server: Server, web: Web, size: int) -> None:
    assert answer_of(ask(server, web.put("/a", b"x" * size))) == (200, b"x" * size)


def test_a_status_that_is_no_success_is_an_answer(server: Server, web: Web) -> None:
    assert answer_of(ask(server, web.put("/a", b"nothing here", 404))) == (404, b"nothing here")


def test_a_body_and_headers_are_sent(server: Server, web: Web) -> None:
    described = {"method": "post", "headers": {"X-Token": "secret", "user-agent": "plug-in"}}
    assert answer_of(ask(server, web.put("/a", b"got it"), "post", described=described)) == (200, b"got it")
    assert web.bodies == [b"a body"]
    (headers,) = web.headers
    assert (headers["X-Token"], headers["user-agent"]) == ("secret", "plug-in")
    assert "User-Agent" not in headers


def test_headers_come_back_by_their_names_in_lower_case(server: Server, web: Web) -> None:
    headers = json.loads(value_of(ask(server, web.put("/a", b"12345"), "headers")))
    assert headers["content-length"] == "5"
    assert set(headers) == {"content-length", "server", "date"}


def test_who_asked_nothing_has_no_status_and_no_headers(server: Server) -> None:
    assert value_of(server.call("plugin", "unasked")) == bytes(16)


def test_a_redirect_is_followed(server: Server, web: Web) -> None:
    assert answer_of(ask(server, web.redirect("/a", web.put("/b", b"moved")))) == (200, b"moved")


@pytest.mark.parametrize("name", ["Host", "host", "Content-Length", "Transfer-Encoding", "Connection"])
def test_what_is_about_the_connection_is_not_the_plug_ins_to_say(server: Server, web: Web, name: str) -> None:
    described = {"method": "POST", "headers": {name: "7"}}
    assert answer_of(ask(server, web.put("/a", b"fine"), "post", described=described)) == (200, b"fine")
    assert web.asked == [("/a", f"127.0.0.1:{web.port}")]
    assert web.bodies == [b"a body"]


# --- where requests may go ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [["*"], ["*.test"], ["example.com"], ["127.0.0.1", "127.0.0.2"], ["port.test"], ["port.test:80"]],
)
def test_a_task_is_allowed_no_more_than_the_operator_allows(server: Server, hosts: list[str]) -> None:
    refused(PermissionDenied, lambda: ask(server, "http://127.0.0.1/", hosts=hosts))


@pytest.mark.parametrize(
    "hosts",
    [
        ["127.0.0.1:80"],
        ["allowed.test.allowed.test"],
        ["*.allowed.test"],
        ["*.more.allowed.test"],
        ["port.test:8080"],
    ],
)
def test_a_task_may_be_allowed_less(server: Server, hosts: list[str]) -> None:
    assert "none of the hosts" in message_of(ask(server, "http://127.0.0.1:9/", hosts=hosts))


def test_a_task_that_names_no_hosts_asks_none(server: Server, web: Web) -> None:
    assert "none of the hosts" in message_of(ask(server, web.put("/a", b"content"), hosts=[]))
    assert web.asked == []


def test_a_redirect_leads_nowhere_else(server: Server, web: Web) -> None:
    url = web.redirect("/a", web.url("/b", "localhost"))
    assert "none of the hosts" in message_of(ask(server, url))
    assert [path for path, _ in web.asked] == ["/a"]


def test_a_host_that_does_not_answer_is_told(server: Server) -> None:
    assert "request of the plug-in failed" in message_of(ask(server, "http://127.0.0.1:9/"))


def test_an_address_that_is_not_public_is_not_asked_unless_its_network_is_allowed(
    tmp_path: Any, web: Web
) -> None:
    with contextlib.closing(Server(tmp_path, '[runtimes]\nhttp_hosts = ["127.0.0.1"]')) as server:
        server.upload((PLUGINS / "plugin.wasm").read_bytes(), "plugin", "1")
        assert "not public" in message_of(ask(server, web.put("/a", b"content")))
    assert web.asked == []


# --- requests that are none -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "described",
    [
        {"url": "file:///etc/passwd"},
        {"url": "http://user:password@127.0.0.1/"},
        {"url": "http://127.0.0.1/\r\nX: y"},
        {"url": "http://" + "x" * 5000},
        {"url": ""},
        {"method": "CONNECT"},
        {"method": "GET /x HTTP/1.1\r\n"},
        {"headers": {"X": "y\r\nZ: a"}},
        {"headers": {"X\r\nZ": "y"}},
        {"headers": {"X": "\u2603"}},
        {"headers": {"X": 5}},
        {"headers": {"X": "y" * 70_000}},
        {"method": 5},
        {"url": 5},
    ],
)
def test_a_request_that_is_none_is_the_plug_ins_failure(
    server: Server, web: Web, described: dict[str, Any]
) -> None:
    assert "request of the plug-in" in message_of(ask(server, web.put("/a", b"content"), described=described))
    assert web.asked == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'{"url":' + b"[" * 30_000])
def test_a_request_that_is_no_json_is_the_plug_ins_failure(server: Server, content: bytes) -> None:
    assert "malformed" in message_of(
        server.call("plugin", "get", content, spec=config(allowed_hosts=LOOPBACK))
    )


@pytest.mark.parametrize("numbers", [(1, 0), (1040, 1), (1040, 2**63)])
def test_a_request_or_a_body_that_is_no_block_is_the_plug_ins_failure(
    server: Server, numbers: tuple[int, int]
) -> None:
    content = b'{"url":"http://127.0.0.1:9/"}'
    answer = server.call("hostile", "request_at", words(*numbers) + content)
    assert message_of(answer)


def test_a_body_above_the_output_limit_is_not_sent(server: Server, web: Web) -> None:
    answer = ask(server, web.put("/a", b"content"), "post", limits=limits(max_output_bytes=5))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert web.asked == []


# --- too much, too slow ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "size"), [(1000, 1001), (0, 1), (None, (1 << 20) + 1)])
def test_a_response_above_its_bound_is_not_taken(
    server: Server, web: Web, bound: int | None, size: int
) -> None:
    memory = {} if bound is None else {"max_http_response_bytes": bound}
    assert "larger than" in message_of(ask(server, web.put("/a", bytes(size)), memory=memory))
    most = (1 << 20) - 1000 if bound is None else bound
    assert answer_of(ask(server, web.put("/b", bytes(most)), memory=memory)) == (200, bytes(most))


def test_an_endless_response_is_not_read_to_its_end(server: Server, web: Web) -> None:
    assert "larger than" in message_of(ask(server, web.put_endless("/a")))


def test_a_response_for_which_there_is_no_memory_is_told(server: Server, web: Web) -> None:
    url = web.put("/a", bytes(1_000_000))
    assert "no memory left" in message_of(ask(server, url, limits=limits(max_memory_bytes=1 << 19)))


@pytest.mark.parametrize("how", ["stalling", "dripping", "dripping-header"])
def test_a_plug_in_that_waits_for_an_answer_is_ended_in_time(server: Server, web: Web, how: str) -> None:
    url = {
        "stalling": lambda: web.put_stalling("/a"),
        "dripping": lambda: web.put_dripping("/a"),
        "dripping-header": lambda: web.put_dripping("/a", header_only=True),
    }[how]()
    begun = time.monotonic()
    answer = ask(server, url, context=context(timeout_ms=700))
    assert (code_of(answer), answer.result.status) == ("TIMEOUT", function_pb2.EXECUTION_STATUS_TIMEOUT)
    assert time.monotonic() - begun < 5
    assert answer.result.cpu_time_ms < 150


class Held:
    """Answers that do not come; it knows how many are waited for, and when somebody gives one up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0
        self.most = 0
        self.given_up = threading.Event()
        self.released = threading.Event()

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        request.connection.settimeout(0.01)
        while not self.released.is_set():
            with contextlib.suppress(TimeoutError):
                if not request.connection.recv(1):
                    self.given_up.set()
                    break
        with self.lock:
            self.waiting -= 1
        request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture
def held(web: Web) -> Iterator[Held]:
    answer = Held()
    web.answers["/held"] = answer
    yield answer
    answer.released.set()


@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_a_request_ends_with_its_plug_in(server: Server, web: Web, held: Held, end: str) -> None:
    timeout = 2500 if end == "timeout" else 20_000
    execution = f"http-{end}"
    asking = Pending(
        lambda: ask(server, web.url("/held"), context=context(timeout_ms=timeout, execution_id=execution))
    )
    until(lambda: held.most == 1)
    if end == "cancel":
        request = function_pb2.CancelExecutionRequest(execution_id=execution)
        server.functions.CancelExecution(request)
    assert code_of(asking.answer()) == {"timeout": "TIMEOUT", "cancel": "CANCELLED"}[end]
    assert held.given_up.wait(10)


def test_no_more_requests_are_under_way_than_may_be_and_the_others_wait(
    server: Server, web: Web, held: Held
) -> None:
    asking = [Pending(lambda: ask(server, web.url("/held"))) for _ in range(MOST_REQUESTS + 2)]
    until(lambda: held.waiting == MOST_REQUESTS)
    server.wait_for_load(MOST_REQUESTS + 2)
    assert value_of(server.call("plugin", "pass", "meanwhile")) == b"meanwhile"
    held.released.set()
    assert [answer_of(each.answer()) for each in asking] == [(200, b"")] * (MOST_REQUESTS + 2)
    assert held.most == MOST_REQUESTS


def test_who_waits_for_others_requests_is_ended_in_time_and_leaves_the_line(
    server: Server, web: Web, held: Held
) -> None:
    asking = [Pending(lambda: ask(server, web.url("/held"))) for _ in range(MOST_REQUESTS)]
    until(lambda: held.waiting == MOST_REQUESTS)
    late = ask(server, web.put("/late", b"content"), context=context(timeout_ms=200))
    assert code_of(late) == "TIMEOUT"
    held.released.set()
    for each in asking:
        each.answer()
    assert "/late" not in {path for path, _ in web.asked}
