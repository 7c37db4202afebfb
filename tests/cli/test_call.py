from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue, Int64Value, StringValue

from spear_wasm.client.stubs import function_pb2
from spear_wasm.client.values import decode
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer


def sent(server: FakeServer) -> list[Any]:
    return [decode(parameter.value) for parameter in server.request.parameters]


def test_the_result_alone_is_on_standard_output(server: FakeServer, cli: Cli) -> None:
    server.answers_with(
        Int64Value(value=3), stderr=b"counting\n", cpu_time_ms=1.5, execution_time_ms=2, fuel_used=1234,
        memory_used_bytes=65536,
    )  # fmt: skip
    result = cli("call", "calc:1", "add", "1", "2")
    assert result.exit_code == 0
    assert result.stdout == "3\n"
    assert result.stderr == (
        "counting\ncpu 1.5 ms · wall 2.0 ms · queue 0 us · peak memory 64 KiB · fuel 1,234\n"
    )
    assert server.request.artifact_spec == function_pb2.ArtifactSpec(artifact_id="calc", version="1")
    assert server.request.function_name == "add"


@pytest.mark.parametrize(
    "arguments",
    [["1", "2"], ["-1", "-0.5e3"], ["-1", "--", "-x", "--timeout"], ["1e400", "true", "", "null", "9" * 40]],
)
def test_arguments_are_sent_as_the_text_they_are(server: FakeServer, cli: Cli, arguments: list[str]) -> None:
    server.answers_with()
    assert cli("call", "calc", "f", *arguments).exit_code == 0
    assert sent(server) == [argument for argument in arguments if argument != "--"]
    assert all(parameter.value.Is(StringValue.DESCRIPTOR) for parameter in server.request.parameters)
    assert all(not parameter.type and not parameter.name for parameter in server.request.parameters)


def test_bytes_that_are_no_text_are_sent_as_bytes(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    cli("call", "text", "echo", b"a\xff".decode(errors="surrogateescape"))
    assert sent(server) == [b"a\xff"]


def test_options_may_stand_between_negative_numbers(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    cli("call", "calc", "add", "-1", "--timeout", "2s", "-2", "-pname=-3")
    assert [(parameter.name, decode(parameter.value)) for parameter in server.request.parameters] == [
        ("", "-1"),
        ("", "-2"),
        ("name", "-3"),
    ]


def test_a_program_is_meant_where_no_function_is_named(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    assert cli("call", "report", "--env", "LEVEL=2").exit_code == 0
    assert server.request.function_name == "_start"
    assert dict(server.request.context.environment) == {"LEVEL": "2"}


def test_a_program_has_arguments_and_standard_input(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    assert cli("call", "report", "_start", "2026", "--stdin", stdin=b"\0").exit_code == 0
    assert [(each.name, decode(each.value)) for each in server.request.parameters] == [
        ("", "2026"), ("stdin", b"\0"),
    ]  # fmt: skip


@pytest.mark.parametrize("stdin", [False, True])
def test_of_a_program_the_first_word_is_its_first_argument(server: FakeServer, cli: Cli, stdin: bool) -> None:
    server.functions = ("_start",)
    server.answers_with()
    assert cli("call", "report", "2026", "-7", *["--stdin"] * stdin, stdin=b"\0").exit_code == 0
    assert server.request.function_name == "_start"
    assert sent(server) == ["2026", "-7", b"\0"][: 2 + stdin]


def test_what_is_the_name_of_a_function_is_none_of_a_programs_arguments(server: FakeServer, cli: Cli) -> None:
    server.functions = ("_start", "count_vowels")
    server.answers_with()
    cli("call", "vowels", "count_vowels", "hello")
    assert (server.request.function_name, sent(server)) == ("count_vowels", ["hello"])


def test_what_a_program_printed_is_shown_once(server: FakeServer, cli: Cli) -> None:
    server.answers_with(BytesValue(value=b"printed\n"), stdout=b"printed\n", exit_code=0)
    result = cli("call", "report")
    assert result.stdout == "printed\n"
    assert result.stderr.startswith("cpu ")


@pytest.mark.parametrize(
    ("document", "positional", "named"),
    [
        ("[1, 2.5, true, null]", [1, 2.5, True, None], {}),
        ('{"divisor": 2, "dividend": 84}', [], {"divisor": 2, "dividend": 84}),
        ("18446744073709551615", [2**64 - 1], {}),
        ('"text"', ["text"], {}),
        ('[{"deep": [1]}]', [{"deep": [1]}], {}),
    ],
)
def test_json_input_is_by_position_or_by_name(
    server: FakeServer, cli: Cli, document: str, positional: list[Any], named: dict[str, Any]
) -> None:
    server.answers_with()
    assert cli("call", "calc", "f", "-i", document).exit_code == 0
    values = [(parameter.name, decode(parameter.value)) for parameter in server.request.parameters]
    assert values == [("", value) for value in positional] + list(named.items())


def test_standard_input_is_one_argument_byte_for_byte(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    cli("call", "text", "upper", "--stdin", stdin=b"a\r\n\xff\0")
    assert sent(server) == [b"a\r\n\xff\0"]


def test_limits_and_timeout_are_sent_in_the_units_of_the_wire(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    cli(
        "call", "calc", "f", "--timeout", "1.5s", "--fuel", "18446744073709551615", "--max-memory", "64MiB",
        "--max-cpu-time", "250ms",
    )  # fmt: skip
    assert server.request.context.timeout_ms == 1500
    assert server.request.limits == function_pb2.ResourceLimits(
        max_fuel=2**64 - 1, max_memory_bytes=64 << 20, max_cpu_time_ms=250
    )


@pytest.mark.parametrize("mode", [(), ("--async",), ("--stream",)])
def test_retries_are_asked_for(server: FakeServer, cli: Cli, mode: tuple[str, ...]) -> None:
    server.answers_with()
    server.emits()
    cli("call", "calc", "f", "--retries", "3", *mode)
    assert server.request.context.max_retries == 3


@pytest.mark.parametrize(
    "words",
    [
        ("--fule", "3"),
        ("--retries", "-1"),
        ("-x",),
        ("--timeout", "soon"),
        ("--timeout", "0"),
        ("--max-memory", "0"),
        ("--max-memory", "lots"),
        ("--fuel", "0"),
        ("--fuel", "-1"),
        ("-i", "{"),
        ("-i", "[" * 100_000),
        ("-i", "[]", "--stdin"),
        ("1", "-i", "[]"),
        ("1", "--stdin"),
        ("-p", "name"),
        ("-p", "=1"),
        ("-p", "a=1", "-p", "a=2"),
        ("-i", '{"a": 1}', "-p", "a=2"),
        ("--format", "xml"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_the_callers_mistake(
    server: FakeServer, cli: Cli, words: tuple[str, ...]
) -> None:
    assert cli("call", "calc", "f", *words).exit_code == 2
    assert not server.requests


def test_an_integer_beyond_64_bits_is_the_callers_mistake(server: FakeServer, cli: Cli) -> None:
    result = cli("call", "calc", "f", "-i", str(2**64))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "64 bits" in result.stderr


@pytest.mark.parametrize("word", ["calc", "f"])
def test_names_that_are_not_utf8_are_the_callers_mistake(cli: Cli, word: str) -> None:
    words = ["\udcff" if each == word else each for each in ("calc", "f")]
    result = cli("call", *words)
    assert result.exit_code == 2
    assert "is not UTF-8" in result.stderr


@pytest.mark.parametrize(
    ("error_code", "exit_code"),
    [
        ("TRAP_UNREACHABLE", 1),
        ("OUT_OF_FUEL", 1),
        ("MEMORY_LIMIT", 1),
        ("GUEST_ERROR", 1),
        ("TIMEOUT", 124),
        ("CPU_TIME_EXCEEDED", 124),
        ("INSTANCE_FAILED", 3),
        ("WORKER_LOST", 3),
        ("OF_A_NEWER_SERVER", 1),
    ],
)
def test_the_exit_code_says_who_failed(server: FakeServer, cli: Cli, error_code: str, exit_code: int) -> None:
    server.fails_with(error_code, "it ended", trap_frames=["inner", "outer"])
    result = cli("call", "hostile", "f")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith(f"{error_code}: it ended\n  at inner\n  at outer\ncpu ")


def test_nothing_that_a_guest_says_reaches_a_terminal_unescaped(server: FakeServer, cli: Cli) -> None:
    server.fails_with(
        "TRAP_UNREACHABLE", "\x1b]0;owned\x07", stderr=b"\x1b[2J\xff\x9b\n", stdout="\u202egnp".encode(),
        trap_frames=["\x1b[31mframe\nerror: forged", "[bold]markup[/bold]"],
    )  # fmt: skip
    result = cli("call", "hostile", "f")
    assert set(result.output) & {"\x1b", "\x07", "\x9b", "\u202e"} == set()
    assert "\\x1b[31mframe\\nerror: forged" in result.stderr
    assert "[bold]markup[/bold]" in result.stderr
    assert "\\u202egnp" in result.stderr


# --- the value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"plain\n", b"\x89PNG\r\n\0\xff", b""])
def test_bytes_are_piped_on_as_they_are(server: FakeServer, cli: Cli, value: bytes) -> None:
    server.answers_with(BytesValue(value=value))
    assert cli("call", "text", "f").stdout_bytes == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Int64Value(value=-(2**63)), "-9223372036854775808\n"),
        (DoubleValue(value=0.1), "0.1\n"),
        (DoubleValue(value=float("-inf")), "-inf\n"),
        (StringValue(value="täxt"), "täxt\n"),
        (ListValue(), "[]\n"),
        (None, ""),
    ],
)
def test_other_values_are_lines_of_text(server: FakeServer, cli: Cli, value: Any, shown: str) -> None:
    server.answers_with(value)
    assert cli("call", "calc", "f").stdout == shown


def test_a_result_can_go_to_a_file(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.answers_with(BytesValue(value=b"\x89PNG"))
    file = tmp_path / "picture.png"
    result = cli("call", "mandelbrot", "render", "-o", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert file.read_bytes() == b"\x89PNG"


def test_a_guest_that_failed_leaves_the_file_alone(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.fails_with("GUEST_ERROR")
    file = tmp_path / "picture.png"
    file.write_bytes(b"old")
    assert cli("call", "mandelbrot", "render", "-o", str(file)).exit_code == 1
    assert file.read_bytes() == b"old"


def test_a_file_that_cannot_be_written_is_the_callers_mistake(
    server: FakeServer, cli: Cli, tmp_path: Path
) -> None:
    server.answers_with(Int64Value(value=3))
    result = cli("call", "calc", "add", "-o", str(tmp_path / "nowhere" / "result"))
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


def test_a_program_gets_one_document_and_nothing_else(server: FakeServer, cli: Cli) -> None:
    server.answers_with(BytesValue(value=b"\xff\0"), stderr=b"log\x1b", cpu_time_ms=1.5, fuel_used=2**64 - 1)
    result = cli("call", "text", "f", "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert base64.b64decode(document["value"]) == b"\xff\0"
    assert document["value_type"] == "bytes"
    assert document["logs"] == "log\x1b"
    assert (document["ok"], document["status"], document["error_code"]) == (True, "COMPLETED", None)
    assert (document["cpu_time_ms"], document["fuel_used"]) == (1.5, 2**64 - 1)
    assert "\x1b" not in result.stdout


def test_a_program_gets_a_document_of_a_failure_too(server: FakeServer, cli: Cli) -> None:
    server.fails_with("OUT_OF_FUEL", "empty", trap_frames=["f"])
    result = cli("call", "calc", "f", "--format", "json")
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert (document["ok"], document["error_code"], document["trap_frames"]) == (False, "OUT_OF_FUEL", ["f"])


def test_numbers_that_json_does_not_have_are_text(server: FakeServer, cli: Cli) -> None:
    server.answers_with(DoubleValue(value=float("inf")))
    document = json.loads(cli("call", "calc", "f", "--format", "json").stdout)
    assert (document["value"], document["value_type"]) == ("Infinity", "float")
