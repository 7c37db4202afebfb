"""`call --stream`: what a guest emits goes to standard output as it comes, all else aside."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value

from spear_wasm.cli.output import Output
from spear_wasm.cli.streaming import show_messages
from spear_wasm.client.stubs import function_pb2
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer


def test_messages_are_on_standard_output_as_they_are_and_the_end_is_not(server: FakeServer, cli: Cli) -> None:
    server.emits(b"one\n", b"\xff\0", value=Int32Value(value=2), stderr=b"counting\n", cpu_time_ms=1.5)
    result = cli("call", "emitter", "emit", "--stream", "2")
    assert result.exit_code == 0
    assert result.stdout_bytes == b"one\n\xff\0"
    assert result.stderr == ("counting\nresult: 2\ncpu 1.5 ms · wall < 1 ms · queue 0 us\n")
    assert server.request.execution_mode == function_pb2.EXECUTION_MODE_STREAM


def test_as_json_there_is_a_line_for_each_message_and_one_for_the_end(server: FakeServer, cli: Cli) -> None:
    server.emits(b"one", b"\xff", value=Int32Value(value=2))
    lines = cli("call", "emitter", "emit", "--stream", "--format", "json").stdout.splitlines()
    first, second, end = map(json.loads, lines)
    assert [base64.b64decode(line["message"]) for line in (first, second)] == [b"one", b"\xff"]
    assert (end["result"]["ok"], end["result"]["value"], end["result"]["execution_id"]) == (True, 2, "exec-1")


def test_a_guest_that_fails_after_some_messages_fails_the_command(server: FakeServer, cli: Cli) -> None:
    failed = function_pb2.EXECUTION_STATUS_FAILED
    server.emits(b"one", status=failed, error_code="TRAP_UNREACHABLE", error_message="it gave up")
    result = cli("call", "emitter", "emit", "--stream")
    assert result.exit_code == cli_exit_code_of_a_failed_call(server, cli)
    assert result.stdout == "one"
    assert "TRAP_UNREACHABLE: it gave up" in result.stderr


def cli_exit_code_of_a_failed_call(server: FakeServer, cli: Cli) -> int:
    server.fails_with("TRAP_UNREACHABLE")
    return cli("call", "emitter", "emit").exit_code


def test_the_result_may_go_to_a_file(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.emits(b"one", value=BytesValue(value=b"\xfe"))
    result = cli("call", "emitter", "emit", "--stream", "-o", str(tmp_path / "result"))
    assert (tmp_path / "result").read_bytes() == b"\xfe"
    assert result.stdout == "one"
    assert "result:" not in result.stderr


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ([b"a\x1b[31m", b"b"], "a\\x1b[31mb\n"),
        (["é".encode()[:1], "é".encode()[1:] + b"\n"], "é\n"),
        ([b"cut \xc3"], "cut \\xc3\n"),
        ([b"line\n", b""], "line\n"),
        ([], ""),
    ],
)
def test_nothing_in_messages_can_act_on_a_terminal(
    capsys: pytest.CaptureFixture[str], messages: list[bytes], shown: str
) -> None:
    output = Output(json=False)
    output.is_terminal = True
    show_messages(output, messages)
    assert capsys.readouterr().out == shown
