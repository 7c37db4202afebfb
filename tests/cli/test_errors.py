from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from spear_wasm import errors
from spear_wasm.client import RemoteError
from spear_wasm.errors import SpearError
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer

CALLERS = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}
SERVERS_ERRORS = [kind for kind in SpearError.by_reason.values() if not issubclass(kind, RemoteError)]


@pytest.mark.parametrize("kind", SERVERS_ERRORS, ids=lambda kind: kind.__name__)
def test_every_refusal_has_its_exit_code(server: FakeServer, cli: Cli, kind: type[SpearError]) -> None:
    server.answers["GetHealth"] = kind("it went wrong")
    result = cli("health")
    expected = {"DEADLINE_EXCEEDED": 124}.get(kind.status.name, 2 if kind.status.name in CALLERS else 3)
    hint = "try again in 10.0 s\n" if kind.status.name == "RESOURCE_EXHAUSTED" else ""
    assert (result.exit_code, result.stdout, result.stderr) == (expected, "", f"error: it went wrong\n{hint}")


def test_nobody_at_the_address_has_an_exit_code_of_its_own(cli: Cli) -> None:
    with socket.socket() as silent:  # bound, so that nobody else is there, but not listening
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = cli("health", "--addr", address)
    assert result.exit_code == 4
    assert re.match(rf"error: no server answers at {address} \(.*\)\n", result.stderr)


def test_a_busy_server_says_when_to_come_again(server: FakeServer, cli: Cli) -> None:
    server.answers["GetStats"] = errors.ServerBusy("the line is full", retry_after=0.25)
    result = cli("stats")
    assert result.exit_code == 3
    assert result.stderr == "error: the line is full\ntry again in 250.0 ms\n"


def test_a_program_gets_a_document_of_the_error(server: FakeServer, cli: Cli) -> None:
    server.answers["GetArtifact"] = errors.ArtifactNotFound("no such thing", name="calc")
    result = cli("inspect", "calc", "--format", "json")
    assert (result.exit_code, result.stderr) == (2, "")
    assert json.loads(result.stdout) == {
        "error": {
            "reason": "ARTIFACT_NOT_FOUND",
            "message": "no such thing",
            "metadata": {"name": "calc"},
            "retry_after_seconds": None,
            "exit_code": 2,
        }
    }


def test_what_a_server_says_is_escaped(server: FakeServer, cli: Cli) -> None:
    server.answers["GetHealth"] = errors.InvalidRequest("name is '\x1b[31m'")
    assert "\x1b" not in cli("health").stderr


def test_ctrl_c_is_told_from_a_guests_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spear_wasm.client.Client.health", interrupted)
    assert cli("health").exit_code == 130


def test_a_file_that_is_not_there_is_the_callers_mistake(cli: Cli, tmp_path: Path) -> None:
    assert cli("push", str(tmp_path / "nothing.wasm")).exit_code == 2


def test_help_explains_the_exit_codes(cli: Cli) -> None:
    result = cli("--help")
    assert result.exit_code == 0
    for code in (0, 1, 2, 3, 4, 124, 130):
        assert re.search(rf"^ +{code}  \w", result.stdout, re.MULTILINE)
