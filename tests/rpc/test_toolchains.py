"""The same program from several toolchains, over the socket: what it is told, what it answers, and how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from spear_wasm.api import function_pb2 as pb
from tests.rpc.programs import program, run
from tests.rpc.serving import Server, code_of, context, limits, until, value_of
from tests.rpc.test_streams import Stream, content_of

LANGUAGES = ("as", "cpp", "go", "rust", "zig")
PANICS = {
    "as": ("EXIT_STATUS", 255, b"as asked for"),
    "cpp": ("TRAP_UNREACHABLE", None, b""),
    "go": ("EXIT_STATUS", 2, b"panic: as asked for"),
    "rust": ("TRAP_UNREACHABLE", None, b"as asked for"),
    "zig": ("TRAP_UNREACHABLE", None, b"panic: as asked for"),
}
"""How each language ends a program that cannot go on: the code, the exit code if any, and what is in the log."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the limits that there are where none are configured: a program in Go has a large table."""
    running = Server(tmp_path_factory.mktemp("server"))
    with contextlib.closing(running):
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def greet(server: Server, language: str) -> str:
    """The program in that language, on the server."""
    name = f"greet_{language}"
    server.upload(program(name), name, "1")
    return name


def test_it_is_recognised(server: Server, greet: str) -> None:
    artifact = server.artifact(greet)
    assert artifact.runtime_type == "wasi_command"
    assert [each.name for each in artifact.functions] == ["_start"]


def test_it_has_arguments_variables_and_standard_input(server: Server, greet: str) -> None:
    answer = run(
        server, "Ada", "two words", "é", artifact=greet, stdin=b"\0" * 5000, environment={"GREETING": "hi"}
    )
    assert value_of(answer).decode() == "hi Ada\nhi two words\nhi é\n5000 bytes\n"
    assert answer.result.exit_code == 0
    assert answer.result.stderr == b""


def test_the_calls_variable_comes_before_the_tasks(server: Server, greet: str) -> None:
    answer = run(
        server, "Ada", artifact=greet, environment={"GREETING": "hi"},
        context=context(environment={"GREETING": "ahoy"}),
    )  # fmt: skip
    assert value_of(answer) == b"ahoy Ada\n0 bytes\n"


def test_its_status_is_its_exit_code(server: Server, greet: str) -> None:
    answer = run(server, artifact=greet)
    assert (code_of(answer), answer.result.exit_code) == ("EXIT_STATUS", 3)
    assert (answer.result.stdout, answer.result.stderr) == (b"", b"nobody to greet\n")


def test_it_sleeps_and_costs_nothing_meanwhile(server: Server, greet: str) -> None:
    answer = run(server, "Ada", artifact=greet, context=context(environment={"DOZE": "1000"}))
    assert value_of(answer) == b"hello Ada\n0 bytes\n"
    assert answer.result.execution_time_ms >= 1000
    assert answer.result.cpu_time_ms < 200


def test_it_ends_at_its_deadline_while_it_sleeps(server: Server, greet: str) -> None:
    answer = run(
        server, "Ada", artifact=greet, context=context(timeout_ms=1000, environment={"DOZE": "60000"})
    )
    assert (code_of(answer), answer.result.status) == ("TIMEOUT", pb.EXECUTION_STATUS_TIMEOUT)
    assert answer.result.stdout == b"hello Ada\n0 bytes\n"


def test_it_ends_when_its_caller_hangs_up(server: Server, greet: str) -> None:
    variables = context(environment={"DOZE": "60000"})
    stream = Stream(server.functions, "_start", "Ada", artifact=greet, context=variables)
    assert content_of(stream.next()).startswith(b"hello Ada")
    stream.hang_up()
    until(lambda: server.load() == (0, 0))


def test_what_it_prints_is_bounded(server: Server, greet: str) -> None:
    answer = run(server, "Ada", artifact=greet, limits=limits(max_output_bytes=5))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert answer.result.stdout == b"hello"
    assert answer.result.output_truncated


def test_one_that_cannot_go_on_ends_as_its_language_has_it(server: Server, greet: str, language: str) -> None:
    answer = run(server, "Ada", artifact=greet, context=context(environment={"PANIC": "1"}))
    code, exit_code, said = PANICS[language]
    assert code_of(answer) == code
    assert (answer.result.exit_code if answer.result.HasField("exit_code") else None) == exit_code
    assert answer.result.stdout == b"hello Ada\n0 bytes\n"
    assert said in answer.result.stderr
