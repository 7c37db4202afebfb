from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

MODULES = Path(__file__).parents[2] / "fixtures" / "wasm"
CALC, TEXT, HOSTILE = (str(MODULES / f"{name}.wasm") for name in ("calc", "text", "hostile"))
PROGRAM = str(MODULES.parent / "wasi" / "program.wasm")
COMPONENTS = MODULES.parent / "components"


def test_a_function_runs_without_a_server(cli: Cli) -> None:
    result = cli("run", CALC, "add", "-1", "3")
    assert (result.exit_code, result.stdout) == (0, "2\n")
    assert result.stderr.startswith("cpu ")


def test_text_is_run_as_it_is_written(cli: Cli) -> None:
    assert (
        cli("run", str(MODULES / "calc.wat"), "divide", "-p", "divisor=2", "-p", "dividend=84").stdout
        == "42\n"
    )


def test_bytes_go_in_and_out(cli: Cli) -> None:
    assert cli("run", TEXT, "reverse", "--stdin", stdin=b"\0\xff").stdout_bytes == b"\xff\0"


@pytest.mark.parametrize("program", [PROGRAM, str(COMPONENTS / "program.wasm")])
def test_a_program_runs_with_arguments_input_and_variables(program: str, cli: Cli) -> None:
    result = cli("run", program, "arguments", "a", "b")
    assert (result.exit_code, result.stdout) == (0, "0: program\n1: arguments\n2: a\n3: b\n")
    assert result.stderr.startswith("cpu ")
    assert cli("run", program).stdout == cli("run", program, "_start").stdout == "hello\n"
    assert cli("run", program, "words", "--stdin", stdin=b"one two").stdout == "2\n"
    assert cli("run", program, "environment", "--env", "A=1", "--env", "B=").stdout == "A=1\nB=\n"


def test_a_function_of_a_component_runs_with_text_or_json(cli: Cli) -> None:
    calc = str(COMPONENTS / "calc.wasm")
    move = ("run", calc, "lab:calc/shapes#move-by")
    assert json.loads(cli(*move, '{"x": 1, "y": 2}', '{"x": 3, "y": 4}').stdout) == {"x": 4, "y": 6}
    named = '{"point": {"x": 1, "y": 2}, "by": {"x": 3, "y": 4}}'
    assert json.loads(cli(*move, "-i", named).stdout) == {"x": 4, "y": 6}
    assert cli("run", calc, "greet", "Ada").stdout == "Hello, Ada!\n"
    failed = cli("run", calc, "divide", "1", "0")
    assert (failed.exit_code, failed.stderr.splitlines()[0]) == (1, "GUEST_ERROR: division by zero")


def test_a_component_answers_a_request(cli: Cli) -> None:
    result = cli("run", str(COMPONENTS / "http.wasm"), "handle", "/status?n=404")
    assert json.loads(result.stdout)["status"] == 404


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("http", "handle(request: json, body: bytes) -> json"),
        ("program", "_start() -> bytes"),
        ("hoarder", "hoard(what: string) -> u32"),
    ],
)
def test_what_can_be_called_in_a_component_is_shown_without_a_server(
    name: str, signature: str, cli: Cli
) -> None:
    assert signature in cli("inspect", str(COMPONENTS / f"{name}.wasm")).stdout


def test_a_program_that_fails_shows_what_it_wrote(cli: Cli) -> None:
    result = cli("run", PROGRAM, "exit", "3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("leaving\nwith a status\n")
    assert "EXIT_STATUS" in result.stderr


@pytest.mark.parametrize(
    ("words", "exit_code", "error_code"),
    [
        ((CALC, "divide", "1", "0"), 1, "TRAP_DIVIDE_BY_ZERO"),
        ((HOSTILE, "spin", "--timeout", "50ms"), 124, "TIMEOUT"),
        ((HOSTILE, "spin", "--max-cpu-time", "50ms"), 124, "CPU_TIME_EXCEEDED"),
        ((HOSTILE, "spin", "--fuel", "1000"), 1, "OUT_OF_FUEL"),
        ((str(MODULES / "big_memory.wasm"), "pages", "--max-memory", "1MiB"), 1, "MEMORY_LIMIT"),
    ],
)
def test_limits_hold_and_failures_are_told_apart(
    cli: Cli, words: tuple[str, ...], exit_code: int, error_code: str
) -> None:
    result = cli("run", *words, "--format", "json")
    assert result.exit_code == exit_code
    assert json.loads(result.stdout)["error_code"] == error_code


@pytest.mark.parametrize(
    "words",
    [("nothing",), ("add", "1"), ("add", "1", "x"), ("add", "1", "2", "--max-memory", "1TiB")],
)
def test_what_cannot_be_run_is_the_callers_mistake(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli("run", CALC, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
