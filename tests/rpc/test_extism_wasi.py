"""Extism plug-ins that have a C library, and so WASI: what of the world they see, and how they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.errors import InvalidRequest, PermissionDenied
from tests.rpc.conftest import TIGHT
from tests.rpc.plugins import PLUGINS, config, message_of, numbers_of
from tests.rpc.serving import Server, code_of, context, limits, parameters, refused, value_of


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory to read in, and one to write in; each has a file."""
    readable, writable = tmp_path_factory.mktemp("readable"), tmp_path_factory.mktemp("writable")
    for root in (readable, writable):
        (root / "file").write_text(f"in {root.name[:8]}")
        (root / "below").mkdir()
        (root / "below" / "deep").write_text("deep")
    return readable, writable


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, roots: tuple[Path, Path]) -> Iterator[Server]:
    """A server on which plug-ins may be allowed to see two directories."""
    readable, writable = roots
    allowed = f'[runtimes]\nreadable_directories = ["{readable}"]\nwritable_directories = ["{writable}"]\n'
    running = Server(tmp_path_factory.mktemp("server"), TIGHT + allowed)
    with contextlib.closing(running):
        running.upload((PLUGINS / "libc.wasm").read_bytes(), "libc", "1")
        yield running
        assert running.stop() == 0


def test_a_plug_in_with_a_c_library_answers(server: Server) -> None:
    assert value_of(server.call("libc", "greet", "world")) == b"Hello, world! 42"


def test_what_it_prints_is_beside_its_answer(server: Server) -> None:
    answer = server.call("libc", "print", "words")
    assert value_of(answer) == b""
    assert (answer.result.stdout, answer.result.stderr) == (b"out words\n", b"err words\n")


def test_what_it_prints_is_bounded(server: Server) -> None:
    answer = server.call("libc", "print", "x" * 10_000, limits=limits(max_output_bytes=5000))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert len(answer.result.stdout) <= 5000


def test_it_has_no_environment(server: Server) -> None:
    assert numbers_of(server.call("libc", "surroundings")) == (0,)


def test_it_sees_no_files(server: Server, roots: tuple[Path, Path]) -> None:
    for path in ("/etc/passwd", "file", str(roots[0] / "file"), "../../etc/passwd"):
        assert "cannot open" in message_of(server.call("libc", "read_file", path))


@pytest.mark.parametrize("prefix", ["ro:", ""])
def test_it_reads_in_the_paths_that_it_is_allowed(
    server: Server, roots: tuple[Path, Path], prefix: str
) -> None:
    _, writable = roots
    spec = config(allowed_paths={f"{prefix}{writable}": "/data"})
    assert value_of(server.call("libc", "read_file", "/data/file", spec=spec)) == b"in writable"
    assert value_of(server.call("libc", "read_file", "/data/below/deep", spec=spec)) == b"deep"
    for path in ("/data/../file", "/data/none", "/file", "/data/below/../../../etc/passwd"):
        assert "cannot open" in message_of(server.call("libc", "read_file", path, spec=spec))


def test_it_writes_where_it_is_allowed_to_and_nowhere_else(server: Server, roots: tuple[Path, Path]) -> None:
    readable, writable = roots
    spec = config(allowed_paths={f"ro:{readable}": "/in", str(writable / "below"): "/out"})
    assert value_of(server.call("libc", "write_file", "/out/new", spec=spec)) == b"ok"
    assert (writable / "below" / "new").read_text() == "written"
    for path in ("/in/new", "/in/file", "/out/../new"):
        assert "cannot write" in message_of(server.call("libc", "write_file", path, spec=spec))
    assert not (readable / "new").exists()
    assert (readable / "file").read_text() == "in readable"


@pytest.mark.parametrize("path", ["/etc", "ro:/etc", "{readable}", "ro:{readable}/..", "ro:", "\0"])
def test_a_path_that_the_operator_did_not_allow_is_refused(
    server: Server, roots: tuple[Path, Path], path: str
) -> None:
    asked = {path.format(readable=roots[0]): "/data"}
    refused(PermissionDenied, lambda: server.call("libc", "greet", "you", spec=config(allowed_paths=asked)))


@pytest.mark.parametrize(
    "asked",
    [
        {"ro:{readable}/file": "/data"},
        {"ro:{readable}": "/data", "{writable}": "/data"},
        {"ro:{readable}": 5},
        {f"ro:{{readable}}/{'./' * number}": f"/{number}" for number in range(17)},
    ],
)
def test_paths_that_make_no_sense_are_refused(
    server: Server, roots: tuple[Path, Path], asked: dict[str, Any]
) -> None:
    readable, writable = roots
    paths = {path.format(readable=readable, writable=writable): name for path, name in asked.items()}
    refused(InvalidRequest, lambda: server.call("libc", "greet", "you", spec=config(allowed_paths=paths)))


@pytest.mark.parametrize("status", [1, 255, 256, -1])
def test_an_exit_with_a_status_is_its_outcome(server: Server, status: int) -> None:
    answer = server.call("libc", "leave", str(status))
    assert (code_of(answer), answer.result.exit_code) == ("EXIT_STATUS", status)


def test_an_exit_that_says_that_all_is_well_is_a_success_with_its_output(server: Server) -> None:
    answer = server.call("libc", "leave", "0")
    assert (value_of(answer), answer.result.exit_code) == (b"goodbye", 0)


def test_an_error_is_one_however_the_plug_in_exits(server: Server) -> None:
    assert message_of(server.call("libc", "leave_complaining")) == "not so well"


def test_a_plug_in_that_sleeps_is_ended_in_time_and_costs_nothing_meanwhile(server: Server) -> None:
    begun = time.monotonic()
    answer = server.call("libc", "doze", "20000", context=context(timeout_ms=1200))
    assert (code_of(answer), answer.result.status) == ("TIMEOUT", function_pb2.EXECUTION_STATUS_TIMEOUT)
    assert time.monotonic() - begun < 5
    assert answer.result.cpu_time_ms < 100
    assert value_of(server.call("libc", "doze", "1")) == b"slept"


def test_a_reused_sandbox_keeps_what_it_has_open(server: Server, roots: tuple[Path, Path]) -> None:
    spec = config(reuse=True, allowed_paths={f"ro:{roots[0]}": "/data"})
    task = server.call("libc", "greet", "you", spec=spec).task_id
    for _ in range(5):
        asked: dict[str, Any] = {"function_name": "read_file", "parameters": parameters("/data/file")}
        assert value_of(server.invoke(task_id=task, **asked)) == b"in readable"


def test_wasi_is_there_in_a_start_function(server: Server) -> None:
    module = wat_to_wasm("""(module
      (import "extism:host/env" "output_set" (func $output (param i64 i64)))
      (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
      (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
      (import "wasi_snapshot_preview1" "clock_time_get"
        (func $clock (param i32 i64 i32) (result i32)))
      (memory (export "memory") 1)
      (func $start
        (drop (call $alloc (i64.const 8)))
        (i32.store (i32.const 16) (call $clock (i32.const 0) (i64.const 0) (i32.const 8))))
      (start $start)
      (func (export "started") (result i32) (local $block i64)
        (local.set $block (call $alloc (i64.const 8)))
        (call $store (local.get $block) (i64.load (i32.const 8)))
        (call $output (local.get $block) (i64.const 8))
        (i32.load (i32.const 16))))""")
    server.upload(module, "starting")
    (started,) = numbers_of(server.call("starting", "started"))
    assert abs(started / 1e9 - time.time()) < 60
