"""Whoever follows runtimes/README.md has a runtime of their own."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from spear_wasm.errors import InvalidRequest, UnlinkableArtifact
from tests.rpc.conftest import StartServer
from tests.rpc.serving import Server, code_of, limits, refused, value_of

README = Path(__file__).parents[2] / "runtimes" / "README.md"


def code_blocks() -> dict[str, list[str]]:
    """What the README has the reader write, by language."""
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for language, content in re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        blocks[language].append(content)
    return blocks


BLOCKS = code_blocks()
(COUNTDOWN,) = BLOCKS["wat"]


@pytest.fixture
def extended(tmp_path: Path, start_server: StartServer) -> Server:
    """A server as the README makes one."""
    announcement, config = BLOCKS["toml"]
    (host,) = BLOCKS["python"]
    folder = tmp_path / "more" / "tutorial"
    folder.mkdir(parents=True)
    (folder / "runtime.toml").write_text(announcement, encoding="utf-8")
    (folder / "host.py").write_text(host, encoding="utf-8")
    return start_server(config.replace('"more"', f'"{tmp_path / "more"}"'))


def test_its_guests_are_found_by_their_imports_and_run(extended: Server) -> None:
    extended.upload(bytes(wat2wasm(COUNTDOWN)), "countdown")
    assert extended.artifact("countdown").runtime_type == "tutorial"
    answer = extended.call("countdown", "main")
    assert value_of(answer) == 42
    assert answer.result.stderr == b"3\n2\n1\n"


def test_limits_hold_for_its_guests_too(extended: Server) -> None:
    endless = COUNTDOWN.replace("(br_if $again (local.get $n))", "(br $again)")
    extended.upload(bytes(wat2wasm(endless)), "endless")
    answer = extended.call(
        "endless",
        "main",
        spec={"max_execution_timeout_ms": 1000, "resource_limits": limits(max_log_bytes=100)},
    )
    assert code_of(answer) == "TIMEOUT"
    assert answer.result.output_truncated


def test_what_it_refuses_is_refused(extended: Server) -> None:
    extended.upload(bytes(wat2wasm(COUNTDOWN)), "countdown")
    refused(InvalidRequest, lambda: extended.call("countdown", "main", 7))
    near = COUNTDOWN.replace('"print"', '"prnt"')
    refusal = refused(UnlinkableArtifact, lambda: extended.upload(bytes(wat2wasm(near)), "near"))
    assert "did you mean env.print?" in refusal.message
