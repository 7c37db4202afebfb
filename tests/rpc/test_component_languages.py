"""Components that componentize-py and componentize-js made, over the socket: an interpreter each, of 18 and 13 MB.

Each is compiled once for all tests here, which takes seconds on a quiet machine.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import artifact_pb2
from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument
from tests.rpc.components import component
from tests.rpc.programs import named
from tests.rpc.serving import Server, code_of, context, fresh, parameters, upload_parts, value_of
from tests.web import web_server

COMPILE_SECONDS = 600
CONFIG = f"""
[compile]
max_wall_time = "{COMPILE_SECONDS}s"
max_cpu_time = "{COMPILE_SECONDS}s"

[default_limits]
max_wall_time = "60s"

[runtimes]
http_hosts = ["127.0.0.1"]
http_private_networks = ["127.0.0.0/8"]
"""


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that tasks may be granted."""
    return tmp_path_factory.mktemp("granted")


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory, granted: Path) -> Iterator[Server]:
    """A server with both components."""
    config = f'{CONFIG}readable_directories = ["{granted}"]\n'
    running = Server(tmp_path_factory.mktemp("languages"), config)
    with contextlib.closing(running):
        for name in ("python", "javascript"):
            header = artifact_pb2.UploadArtifactHeader(name=name, version="1")
            running.artifacts.UploadArtifact(upload_parts(header, component(name)), timeout=COMPILE_SECONDS)
        yield running
        assert running.stop() == 0


both = pytest.mark.parametrize("language", ["python", "javascript"])


def shop(language: str, function: str) -> str:
    return f"fixtures:{language}/shop#{function}"


def order(what: str, pieces: int, cents: int) -> dict[str, str | int]:
    return {"what": what, "pieces": pieces, "cents": cents}


@both
def test_its_functions_are_told_with_their_types(language: str, languages: Server) -> None:
    functions = {each.name: each for each in languages.artifact(language).functions}
    common = {"greet", "handle", shop(language, "total"), shop(language, "basket.add")}
    more = {"_start", "read-file", "sleep"} if language == "python" else set()
    assert functions.keys() == common | more | {shop(language, "basket")} & functions.keys()
    (orders,) = functions[shop(language, "total")].params
    assert (orders.name, orders.type) == ("orders", "list<record { what: string, pieces: u32, cents: u32 }>")
    assert [each.type for each in functions[shop(language, "total")].results] == ["result<u64, string>"]


@both
def test_it_greets(language: str, languages: Server) -> None:
    assert value_of(languages.call(language, "greet", "Zoë")) == "Hello, Zoë!"


@both
def test_lists_of_records_go_in_and_an_error_comes_out_with_its_value(
    language: str, languages: Server
) -> None:
    total = shop(language, "total")
    assert value_of(languages.call(language, total, [order("pen", 2, 150), order("ink", 1, 700)])) == 1000
    answer = languages.call(language, total, [order("pen", 0, 150)])
    assert code_of(answer) == "GUEST_ERROR"
    assert answer.result.error_message == "no pieces of pen"


@both
def test_a_resource_is_made_for_a_call_of_its_method(language: str, languages: Server) -> None:
    answer = languages.call(language, shop(language, "basket.add"), {"owner": "Ada"}, order("pen", 3, 1))
    assert value_of(answer) == 3


@both
def test_it_answers_http_requests(language: str, languages: Server) -> None:
    request: Argument = {"url": "/a?b=c", "method": "POST", "headers": {"x-name": "Ada"}}
    answer = languages.invoke(
        artifact_spec=pb.ArtifactSpec(artifact_id=language),
        function_name="handle",
        parameters=named(request=request, body=b"content"),
    )
    response = value_of(answer)
    assert response["status"] == 201
    expected = {"python": b"/a?b=c: 7 bytes\n", "javascript": b"POST /a: content"}[language]
    assert base64.b64decode(response["body"]) == expected
    assert ["content-type", "text/plain"] in response["headers"]


def test_a_program_in_python_is_run(languages: Server) -> None:
    answer = run(languages, "hello")
    assert value_of(answer) == b"hello from Python\n"
    assert value_of(run(languages, "copy", stdin="from outside")) == b"from outside"
    spec = {"environment": {"LEVEL": "task"}}
    answer = run(languages, "environment", spec=spec, context=context(environment={"CALL": "1"}))
    assert sorted(value_of(answer).split()) == [b"CALL=1", b"LEVEL=task"]


def test_a_program_in_python_that_fails_has_a_status_and_a_log(languages: Server) -> None:
    answer = run(languages, "exit", 3)
    assert code_of(answer) == "EXIT_STATUS"
    assert answer.result.exit_code == 1
    assert run(languages, "log", "what", "happened").result.stderr == b"what happened\n"


def test_a_program_in_python_that_sleeps_ends_at_its_deadline(languages: Server) -> None:
    answer = run(languages, "sleep", 600_000, context=context(timeout_ms=400))
    assert code_of(answer) == "TIMEOUT"
    assert 400 <= answer.result.execution_time_ms < 30_000


def test_an_exported_function_may_use_files_and_sleep(languages: Server, granted: Path) -> None:
    (granted / "file").write_text("kept by the operator")
    spec = {"runtime_config": {"directories": {"/data": str(granted)}}}
    assert value_of(languages.call("python", "read-file", "/data/file", spec=spec)) == "kept by the operator"
    answer = languages.call("python", "read-file", "/data/missing", spec=spec)
    assert code_of(answer) == "GUEST_ERROR"
    assert "/data/missing: " in answer.result.error_message
    assert value_of(languages.call("python", "sleep", 50)) >= 50


def test_what_is_awaited_in_javascript_parks_it(languages: Server) -> None:
    asked = {"url": "/sleep?ms=100"}
    answer = languages.call("javascript", "handle", asked)
    assert value_of(answer)["status"] == 200
    assert answer.result.execution_time_ms >= 100
    answer = languages.call("javascript", "handle", "/sleep?ms=600000", context=context(timeout_ms=400))
    assert code_of(answer) == "TIMEOUT"


def test_fetch_in_javascript_goes_where_its_task_allows(languages: Server) -> None:
    with web_server() as web:
        url = web.put("/there", b"found", 203)
        spec = {"runtime_config": {"allowed_hosts": ["127.0.0.1"]}}
        response = value_of(languages.call("javascript", "handle", f"/fetch?url={url}", spec=spec))
        assert base64.b64decode(response["body"]) == b"203: found"
        answer = languages.call("javascript", "handle", f"/fetch?url={url}")
        assert code_of(answer) == "GUEST_ERROR"
        assert "status 500" in answer.result.error_message
        assert b"app.js" in answer.result.stderr
        assert [path for path, _ in web.asked] == ["/there"]


def test_a_sandbox_in_python_may_serve_again(languages: Server) -> None:
    task, spec = fresh("task"), {"runtime_config": {"reuse": True}}
    answers = [languages.call("python", "greet", name, spec=spec, task_name=task) for name in ("A", "B")]
    assert [value_of(answer) for answer in answers] == ["Hello, A!", "Hello, B!"]
    assert answers[0].instance_id == answers[1].instance_id


def run(
    server: Server,
    *arguments: str | int,
    stdin: str | None = None,
    spec: dict[str, Any] | None = None,
    **fields: Any,
) -> pb.InvokeFunctionResponse:
    given = parameters(*arguments) + ([] if stdin is None else named(stdin=stdin))
    if spec:
        fields["task_name"] = fresh("task")
    artifact = pb.ArtifactSpec(artifact_id="python", **(spec or {}))
    return server.invoke(artifact_spec=artifact, function_name="_start", parameters=given, **fields)
