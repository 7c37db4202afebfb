"""Components that use WASI preview 2, over the socket: what they may hold, and how they end.

Programs are asked the same as programs for preview 1: see test_wasi_command.py and test_wasi_files.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest, UnlinkableArtifact
from spear_wasm.wasi.guest import MAX_DESCRIPTORS
from spear_wasm.wasi.preview2.http_client import MAX_REQUESTS
from tests.rpc.components import component
from tests.rpc.conftest import TIGHT
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    context,
    limits,
    parameters,
    refused,
    value_of,
)
from tests.web import web_server

PREOPENED = "/d"


class Hoard:
    """A server with the component that holds as much as it can, and a directory for it."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.config: dict[str, Any] = {"writable_directories": {PREOPENED: str(directory)}}

    def call(self, function: str, argument: str | int, **fields: Any) -> pb.InvokeFunctionResponse:
        spec = {"runtime_config": {**self.config, **fields.pop("config", {})}}
        return self.server.call("hoarder", function, argument, spec=spec, **fields)


@pytest.fixture(scope="module")
def hoard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hoard]:
    directory = tmp_path_factory.mktemp("granted")
    config = f"""{TIGHT}
[runtimes]
writable_directories = ["{directory}"]
http_hosts = ["127.0.0.1"]
http_private_networks = ["127.0.0.0/8"]
"""
    running = Server(tmp_path_factory.mktemp("hoard"), config)
    with contextlib.closing(running):
        running.upload(component("hoarder"), "hoarder", "1")
        yield Hoard(running, directory)
        assert running.stop() == 0


# --- what it may hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "bound"),
    [
        ("timers", "1024 resources"),
        ("pollables", "1024 resources"),
        ("outputs", "1024 resources"),
        ("fields", "1024 resources"),
        ("values", "bytes of header fields"),
        ("empty values", "bytes of header fields"),
        ("clones", "bytes of header fields"),
        ("contents", "bytes of messages to send"),
    ],
)
def test_what_it_holds_has_a_bound(what: str, bound: str, hoard: Hoard) -> None:
    answer = hoard.call("hoard", what)
    assert code_of(answer) == "GUEST_ERROR"
    assert bound in answer.result.error_message


@pytest.mark.parametrize(("what", "others"), [("files", 2), ("streams", 2), ("entries", 1)])
def test_of_what_is_open_on_the_host_it_has_as_much_as_any_guest(
    what: str, others: int, hoard: Hoard
) -> None:
    assert value_of(hoard.call("hoard", what)) == MAX_DESCRIPTORS - others


def test_directories_that_it_asks_for_again_and_again_count(hoard: Hoard) -> None:
    answer = hoard.call("hoard", "directories")
    assert code_of(answer) == "INSTANCE_FAILED"
    assert "what the task grants cannot be had" in answer.result.error_message


def test_requests_that_nobody_answers_have_a_bound_and_end_with_it(hoard: Hoard) -> None:
    with web_server() as web:
        web.put_after("/", b"never", web.over)
        answer = hoard.call(
            "hoard", f"requests 127.0.0.1:{web.port}", config={"allowed_hosts": ["127.0.0.1"]}
        )
        assert value_of(answer) == MAX_REQUESTS
        web.over.set()


# --- how functions are not meant --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("poll nothing", "list of pollables is empty"),
        ("write much", "bytes to a stream at once"),
        ("write zeroes", "bytes to a stream at once"),
        ("random", "random bytes at once"),
    ],
)
def test_what_the_standard_lets_a_host_trap_is_the_guests_end(what: str, words: str, hoard: Hoard) -> None:
    answer = hoard.call("misuse", what)
    assert code_of(answer) == "GUEST_ERROR"
    assert words in answer.result.error_message


def test_a_list_of_more_pollables_than_the_engine_lends_is_the_guests_end(hoard: Hoard) -> None:
    answer = hoard.call("misuse", "poll much")
    assert code_of(answer) == "TRAP_OTHER"
    assert "handle" in answer.result.error_message


# --- how it ends ------------------------------------------------------------------------------------------


def test_an_exported_function_sleeps_as_long_as_it_asks_for(hoard: Hoard) -> None:
    answer = hoard.call("sleep", 120)
    assert answer.success
    assert answer.result.execution_time_ms >= 120


def test_an_exported_function_that_sleeps_ends_at_its_deadline(hoard: Hoard) -> None:
    answer = hoard.call("sleep", 2**40, context=context(timeout_ms=1200))
    assert code_of(answer) == "TIMEOUT"
    assert answer.result.cpu_time_ms < 100


def test_who_sleeps_is_gone_when_its_caller_is(hoard: Hoard) -> None:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="hoarder"),
        function_name="sleep",
        parameters=parameters(2**40),
    )
    call = hoard.server.functions.InvokeFunction.future(request, timeout=PATIENCE)
    hoard.server.wait_for_load(1)
    call.cancel()
    hoard.server.wait_for_load(0)


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_an_exit_of_an_exported_function_has_its_status(status: int, hoard: Hoard) -> None:
    answer = hoard.call("leave", status)
    assert answer.success == (status == 0)
    assert answer.result.exit_code == status
    assert answer.result.error_code == ("EXIT_STATUS" if status else "")


def test_it_is_out_of_fuel_like_any_other(hoard: Hoard) -> None:
    answer = hoard.call("hoard", "timers", limits=limits(max_fuel=10_000))
    assert code_of(answer) == "OUT_OF_FUEL"


# --- what is refused --------------------------------------------------------------------------------------


def test_an_argument_of_a_program_is_text(server: Server) -> None:
    server.upload(component("program"), "program-component", "1")
    refusal = refused(
        InvalidRequest, lambda: server.call("program-component", "_start", "arguments", b"\xff")
    )
    assert "UTF-8" in refusal.message


def test_a_sandbox_that_is_reused_runs_no_program(server: Server) -> None:
    server.upload(component("program"), "program-component", "1")
    refusal = refused(
        InvalidRequest,
        lambda: server.call("program-component", "_start", spec={"runtime_config": {"reuse": True}}),
    )
    assert refusal.metadata["key"] == "reuse"


def test_an_import_that_nobody_has_is_refused_at_upload_with_what_comes_nearest(server: Server) -> None:
    unknown = component("program").replace(b"wasi:cli/terminal-stdin@", b"wasi:cli/terminal-stdon@")
    refusal = refused(UnlinkableArtifact, lambda: server.upload(unknown, "unknown"))
    assert "wasi:cli/terminal-stdon" in refusal.message
    assert "did you mean wasi:cli/terminal-stdin" in refusal.message


def test_one_version_of_the_standard_is_as_good_as_another(server: Server) -> None:
    server.upload(component("program").replace(b"@0.2.12", b"@0.2.99"), "newer")
    assert value_of(server.call("newer", "_start")) == b"hello\n"
