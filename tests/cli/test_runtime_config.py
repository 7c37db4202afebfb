"""--set, --dir, --writable-dir and --task: what task is called, and with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from spear_wasm.cli.runtime_config import runtime_config_of
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, artifact

FILES = str(Path(__file__).parents[2] / "fixtures" / "wasi" / "files.wasm")
PROGRAM = FILES.replace("files", "program")


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("reuse=true", {"reuse": True}),
        ("ready_sandboxes=2", {"ready_sandboxes": 2}),
        ("scratch=1MiB", {"scratch": "1MiB"}),
        ("argv0=a=b", {"argv0": "a=b"}),
        ('argv0="7"', {"argv0": "7"}),
        ("argv0=", {"argv0": ""}),
        ('allowed_hosts=["a.example"]', {"allowed_hosts": ["a.example"]}),
        ("config.greeting=Good day", {"config": {"greeting": "Good day"}}),
        ("directories./a.b/c=/srv", {"directories": {"/a.b/c": "/srv"}}),
        ("x=" + "[" * 100_000, {"x": "[" * 100_000}),
    ],
)
def test_a_setting_is_json_or_else_text(text: str, config: dict[str, Any]) -> None:
    assert runtime_config_of([text], [], []) == config


def test_settings_and_directories_come_together() -> None:
    settings = ['memory={"max_pages": 9}', "memory.max_var_bytes=0", "reuse=true"]
    assert runtime_config_of(settings, ["/data", "/srv::/in"], [".::/out"]) == {
        "memory": {"max_pages": 9, "max_var_bytes": 0},
        "reuse": True,
        "directories": {"/data": "/data", "/in": "/srv"},
        "writable_directories": {"/out": "."},
    }


@pytest.mark.parametrize("mode", [(), ("--async",), ("--stream",)])
def test_a_config_makes_a_task_of_its_own_for_each_artifact(
    server: FakeServer, cli: Cli, mode: tuple[str, ...]
) -> None:
    server.answers["GetArtifact"] = artifact("calc", "3")
    server.answers_with()
    server.emits()
    assert cli("call", "calc", "--set", "reuse=true", *mode).exit_code == 0
    looked_up, request = server.requests
    assert looked_up.reference == "calc"
    assert MessageToDict(request.artifact_spec.runtime_config) == {"reuse": True}
    assert (request.artifact_spec.artifact_id, request.artifact_spec.version) == ("calc", "3")
    assert request.task_name.startswith("calc:3#")


def test_a_task_has_the_name_that_it_is_given(server: FakeServer, cli: Cli) -> None:
    server.answers_with()
    cli("call", "calc", "f", "--set", "reuse=true", "--task", "kept")
    assert server.request.task_name == "kept"


@pytest.mark.parametrize(
    "words",
    [
        ("--set", "reuse"),
        ("--set", "=true"),
        ("--set", "reuse=true", "--set", "reuse=false"),
        ("--set", "config=1", "--set", "config.a=b"),
        ("--set", "config.a=b", "--set", "config={}"),
        ("--dir", "/a::/x", "--dir", "/b::/x"),
        ("--set", "directories=1", "--dir", "/b"),
    ],
)
def test_settings_that_contradict_themselves_are_the_callers_mistake(
    server: FakeServer, cli: Cli, words: tuple[str, ...]
) -> None:
    result = cli("call", "calc", "f", *words)
    assert result.exit_code == 2
    assert words[-2] in result.stderr
    assert not server.requests


def test_who_runs_a_program_here_grants_it_what_it_has(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "letter").write_text("dear")
    granted = ("--dir", f"{tmp_path}/in::/in", "--writable-dir", f"{tmp_path}/out::/out")
    assert cli("run", FILES, "show", "/in/letter", *granted).stdout == "dear"
    assert cli("run", FILES, "fill", "/out/answer", "9", *granted).stdout == "9\n"
    assert (tmp_path / "out" / "answer").stat().st_size == 9
    refused = cli("run", FILES, "fill", "/in/answer", "9", *granted)
    assert (refused.exit_code, (tmp_path / "in" / "answer").exists()) == (1, False)
    assert cli("run", FILES, "show", f"{tmp_path}/in/letter").exit_code == 1
    assert cli("run", FILES, "fill", "/tmp/answer", "9", "--set", "scratch=1KiB").exit_code == 0


def test_a_program_runs_as_it_is_set(cli: Cli) -> None:
    assert cli("run", PROGRAM, "arguments", "--set", "argv0=report").stdout.startswith("0: report\n")
    result = cli("run", PROGRAM, "arguments", "--set", "argv=report", "--format", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["metadata"]["key"] == "argv"
