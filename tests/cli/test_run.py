from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

MODULES = Path(__file__).parents[2] / "fixtures" / "wasm"
CALC, TEXT, HOSTILE = (str(MODULES / f"{name}.wasm") for name in ("calc", "text", "hostile"))


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
