"""Components that answer HTTP requests, over the socket: what they are asked, what they answer, what they may ask."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument, decode
from spear_wasm.errors import FunctionNotFound, InvalidRequest, PermissionDenied
from tests.rpc.components import component
from tests.rpc.conftest import TIGHT
from tests.rpc.programs import named
from tests.rpc.serving import (
    Server,
    code_of,
    context,
    fresh,
    limits,
    refused,
    until,
    value_of,
)
from tests.rpc.test_streams import Stream, content_of
from tests.web import Web, web_server

HTTP = """
[runtimes]
http_hosts = ["127.0.0.1"]
http_private_networks = ["127.0.0.0/8"]
max_http_response = "64KiB"
"""
HELLO = b"Hello, world!\n"
DENIED, REFUSED_CONNECTION, INTERNAL_ERROR = b"15", b"6", b"38"
"""Cases of the standard's error-code."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the HTTP guest in C, which may be allowed to ask hosts on loopback."""
    running = Server(tmp_path_factory.mktemp("site"), TIGHT + HTTP)
    with contextlib.closing(running):
        running.upload(component("http"), "http", "1")
        yield running
        assert running.stop() == 0


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as serving:
        yield serving


def send(server: Server, given: list[pb.FunctionParameter], **fields: Any) -> pb.InvokeFunctionResponse:
    """Call it with those parameters."""
    return server.invoke(
        artifact_spec=pb.ArtifactSpec(artifact_id="http"), function_name="handle", parameters=given, **fields
    )


def ask(
    server: Server, request: Argument, *, hosts: list[str] | None = None, **fields: Any
) -> pb.InvokeFunctionResponse:
    spec: dict[str, Any] = {"runtime_config": {"allowed_hosts": hosts}} if hosts else {}
    return server.call("http", "handle", request, spec=spec, **fields)


def body_of(answer: pb.InvokeFunctionResponse, status: int = 200) -> bytes:
    """What a request was answered with."""
    response = value_of(answer)
    assert response["status"] == status
    return base64.b64decode(response["body"])


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


# --- what it is asked and answers ---------------------------------------------------------------------------


def test_it_is_called_by_one_name_with_a_request_and_answers_with_a_response(site: Server) -> None:
    artifact = site.artifact("http")
    assert artifact.runtime_type == "component"
    (function,) = artifact.functions
    assert function.name == "handle"
    assert [(each.name, each.type) for each in function.params] == [("request", "json"), ("body", "bytes")]
    assert [each.type for each in function.results] == ["json"]


def test_it_has_no_other_function(site: Server) -> None:
    refusal = refused(FunctionNotFound, lambda: site.call("http", "_start"))
    assert "handle" in refusal.message


@pytest.mark.parametrize("request_", ["/", {}, {"url": "/"}, '{"url": "/", "method": "GET"}'])
def test_a_url_or_an_object_is_a_request(request_: Argument, site: Server) -> None:
    response = value_of(ask(site, request_))
    assert response == {
        "status": 200,
        "headers": [["content-type", "text/plain"]],
        "body": base64_of(HELLO),
    }


def test_without_parameters_it_is_asked_for_its_root(site: Server) -> None:
    assert body_of(site.call("http", "handle")) == HELLO


def test_method_authority_path_headers_and_body_reach_it_and_come_back(site: Server) -> None:
    request = {
        "url": "http://example.test:81/echo?a=b#c",
        "method": "put",
        "headers": [["X-One", "1"], ["x-two", "é"], ["X-One", "3"], ["other", "4"]],
        "body": base64_of(b"\0 bytes"),
    }
    response = value_of(ask(site, request))
    assert base64.b64decode(response["body"]) == b"PUT example.test:81/echo?a=b\n\0 bytes"
    assert response["headers"][1:] == [["x-one", "1"], ["x-two", "é"], ["x-one", "3"]]


def test_headers_may_be_an_object(site: Server) -> None:
    response = value_of(ask(site, {"url": "/echo", "headers": {"X-A": "1", "X-B": ["2", "3"]}}))
    assert sorted(response["headers"][1:]) == [["x-a", "1"], ["x-b", "2"], ["x-b", "3"]]


@pytest.mark.parametrize("content", [b"as it is \xff", "as it is", {"as": "it is"}])
def test_a_body_may_be_a_parameter_of_its_own(content: Any, site: Server) -> None:
    answer = send(site, named(request="/echo", body=content))
    expected = b'{"as":"it is"}' if isinstance(content, dict) else content
    expected = expected.encode() if isinstance(expected, str) else expected
    assert body_of(answer).partition(b"\n")[2] == expected


def test_a_large_body_goes_in_and_out(site: Server) -> None:
    content = bytes(range(256)) * 1000
    answer = send(site, named(request="/echo", body=content))
    assert body_of(answer).partition(b"\n")[2] == content


def test_the_status_is_the_guests(site: Server) -> None:
    assert body_of(ask(site, "/status?n=404"), 404) == HELLO


def test_what_it_prints_is_its_log_and_not_its_response(site: Server) -> None:
    answer = ask(site, "/print")
    assert body_of(answer) == HELLO
    assert answer.result.stderr == b"printed\n"


def test_it_may_take_its_time(site: Server) -> None:
    answer = ask(site, "/sleep?ms=120")
    assert body_of(answer) == HELLO
    assert answer.result.execution_time_ms >= 120


# --- how it fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nothing", "returned without a response"),
        ("/error", "answers with the error internal-error (of its own)"),
    ],
)
def test_who_does_not_answer_has_failed(path: str, message: str, site: Server) -> None:
    answer = ask(site, path)
    assert code_of(answer) == "GUEST_ERROR"
    assert message in answer.result.error_message


def test_an_error_comes_with_its_value(site: Server) -> None:
    answer = ask(site, "/error")
    assert decode(answer.result.result) == {"internal-error": "of its own"}


def test_a_trap_is_a_failure_that_keeps_what_was_written(site: Server) -> None:
    assert code_of(ask(site, "/trap")) == "TRAP_UNREACHABLE"
    answer = ask(site, "/half")
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert answer.result.stdout == HELLO


@pytest.mark.parametrize("path", ["/sleep?ms=60000", "/spin"])
def test_it_ends_at_its_deadline(path: str, site: Server) -> None:
    answer = ask(site, path, context=context(timeout_ms=150))
    assert code_of(answer) == "TIMEOUT"
    assert 150 <= answer.result.execution_time_ms < 10_000


def test_a_body_without_an_end_is_cut(site: Server) -> None:
    answer = ask(site, "/flood", limits=limits(max_output_bytes=10_000))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert len(answer.result.stdout) == 10_000


def test_headers_count_as_output_too(site: Server) -> None:
    request: Argument = {"url": "/echo", "headers": {"x-long": "x" * 1000}}
    assert code_of(ask(site, request, limits=limits(max_output_bytes=500))) == "OUTPUT_LIMIT"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("nowhere", "neither a path"),
        ("ftp://a/", "neither a path"),
        ("/a b", "printable ASCII"),
        (3, "malformed"),
        ({"path": "/"}, "unknown field"),
        ({"method": "G T"}, "no HTTP method"),
        ({"headers": {"a b": "c"}}, "no name of a header"),
        ({"headers": {"a": "b\r\nc: d"}}, "end of a line"),
        ({"headers": {f"a{n}": "x" * 1000 for n in range(300)}}, "bytes together"),
        ({"body": "no base64"}, "not base64"),
    ],
)
def test_what_is_no_request_is_refused(request_: Argument, words: str, site: Server) -> None:
    assert words in refused(InvalidRequest, lambda: ask(site, request_)).message


def test_parameters_that_it_does_not_have_are_refused(site: Server) -> None:
    for given in (named(url="/"), named(request="/") * 2, named(request={"body": "eA=="}, body="x")):
        refused(InvalidRequest, partial(send, site, given))


def test_variables_of_a_single_call_are_refused(site: Server) -> None:
    refused(InvalidRequest, lambda: ask(site, "/", context=context(environment={"A": "1"})))


def test_a_request_above_the_input_limit_is_refused(site: Server) -> None:
    given = named(request="/", body=b"x" * 1000)
    refusal = refused(
        InvalidRequest,
        lambda: send(site, given, limits=limits(max_input_bytes=999)),
    )
    assert refusal.metadata["limit"] == "max_input_bytes"


# --- who reads along ------------------------------------------------------------------------------------------


def test_a_body_comes_while_it_is_written(site: Server) -> None:
    stream = Stream(site.functions, "handle", "/flood", artifact="http")
    assert content_of(stream.next()).startswith(b"too much of it\n")
    stream.hang_up()
    until(lambda: site.load() == (0, 0))


def test_the_end_of_a_stream_has_the_response_without_its_body(site: Server) -> None:
    messages, final = Stream(site.functions, "handle", "/count?n=3", artifact="http").rest()
    assert b"".join(messages) == b"0\n1\n2\n"
    assert final.status == pb.EXECUTION_STATUS_COMPLETED
    assert decode(final.chunk_data) == {"status": 200, "headers": [["content-type", "text/plain"]]}


# --- sandboxes that serve again ---------------------------------------------------------------------------------


def test_a_sandbox_that_is_reused_answers_again(site: Server) -> None:
    spec = {"runtime_config": {"reuse": True}}
    task = fresh("task")
    answers = [
        site.call("http", "handle", f"/echo?{number}", spec=spec, task_name=task) for number in range(3)
    ]
    assert [body_of(answer) for answer in answers] == [
        b"GET localhost/echo?%d\n" % number for number in range(3)
    ]
    assert len({answer.instance_id for answer in answers}) == 1


# --- what it asks others ------------------------------------------------------------------------------------------


def test_it_may_ask_the_hosts_that_its_task_names(site: Server, web: Web) -> None:
    web.put("/from?a=guest", b"what is there", 203)
    answer = ask(site, f"/fetch/127.0.0.1:{web.port}", hosts=["127.0.0.1"])
    assert body_of(answer, 203) == b"what is there"


def test_without_a_grant_it_asks_nobody(site: Server, web: Web) -> None:
    web.put("/from?a=guest", b"what is there")
    assert body_of(ask(site, f"/fetch/127.0.0.1:{web.port}"), 502) == b"refused: " + DENIED
    assert not web.asked


def test_a_host_that_its_task_does_not_name_is_denied(site: Server) -> None:
    answer = ask(site, "/fetch/localhost:1", hosts=["127.0.0.1"])
    assert body_of(answer, 502) == b"failed: " + DENIED


def test_a_host_that_the_operator_did_not_allow_is_refused(site: Server) -> None:
    refusal = refused(PermissionDenied, lambda: ask(site, "/", hosts=["elsewhere.test"]))
    assert refusal.metadata["host"] == "elsewhere.test"


def test_nobody_there_is_an_error_of_which_it_is_told(site: Server) -> None:
    answer = ask(site, "/fetch/127.0.0.1:1", hosts=["127.0.0.1"])
    assert body_of(answer, 502) == b"failed: " + REFUSED_CONNECTION


def test_a_response_that_is_too_large_is_an_error_of_which_it_is_told(site: Server, web: Web) -> None:
    web.put_endless("/from?a=guest")
    answer = ask(site, f"/fetch/127.0.0.1:{web.port}", hosts=["127.0.0.1"])
    assert body_of(answer, 502) == b"failed: " + INTERNAL_ERROR


def test_a_redirect_is_the_guests_to_follow(site: Server, web: Web) -> None:
    web.redirect("/from?a=guest", web.url("/elsewhere"))
    response = value_of(ask(site, f"/fetch/127.0.0.1:{web.port}", hosts=["127.0.0.1"]))
    assert response["status"] == 302
    assert [path for path, _ in web.asked] == ["/from?a=guest"]


def test_who_waits_for_an_answer_ends_at_its_deadline(site: Server, web: Web) -> None:
    web.put_after("/from?a=guest", b"too late", web.over)
    answer = ask(site, f"/fetch/127.0.0.1:{web.port}", hosts=["127.0.0.1"], context=context(timeout_ms=200))
    assert code_of(answer) == "TIMEOUT"
    web.over.set()
