from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from spear_wasm.cli import commands
from tests.cli.fake_server import FakeServer, fake_server

Cli: TypeAlias = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def cli(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line; against the fake server where the test has one."""
    if "server" in request.fixturenames:
        monkeypatch.setenv("SPEAR_WASM_ADDR", request.getfixturevalue("server").address)

    def run(*words: str, stdin: bytes = b"") -> Result:
        result = CliRunner().invoke(commands, words, input=stdin, prog_name="spear-wasm")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return run
