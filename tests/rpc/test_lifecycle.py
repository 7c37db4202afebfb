"""The server's process: how it starts, how it stops, and what it says meanwhile."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest

from spear_wasm.api import artifact_pb2
from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ServerDraining
from tests.rpc.conftest import StartServer
from tests.rpc.modules import compile_bomb
from tests.rpc.serving import (
    PATIENCE,
    SERVICES,
    Server,
    code_of,
    context,
    fixture,
    launch,
    limits,
    refused,
    until,
    value_of,
)
from tests.rpc.test_executions import cancel

ONE_AT_A_TIME = '[execution]\nmax_running = 1\n[server]\nshutdown_grace = "20s"'


def stopping(server: Server) -> None:
    until(lambda: "server stopping" in server.log())


def failed_start(
    directory: Path, config: str = "", *, address: str = "127.0.0.1:0", data_dir: Path | None = None
) -> str:
    """What a server that cannot come to be says on standard error."""
    process, log = launch(directory, config, address=address, data_dir=data_dir)
    with process:
        try:
            stdout, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode > 0
    assert stdout == ""
    assert "Traceback" not in log.read_text()
    return log.read_text()


# --- the start --------------------------------------------------------------------------------------------


def test_one_line_says_where_it_listens_and_nothing_else_comes(start_server: StartServer) -> None:
    server = start_server()
    host, _, port = server.address.partition(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    server.upload(fixture("text"), "text")
    server.call("text", "log_and_fail", b"to the log")
    assert server.stop() == 0
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""


def test_it_answers_once_it_has_said_so(start_server: StartServer) -> None:
    assert start_server().health().healthy


def test_every_line_of_the_log_is_an_event(start_server: StartServer) -> None:
    server = start_server()
    server.upload(fixture("calc"), "calc")
    answer = server.call("calc", "divide", 1, 0)
    server.stop()
    events = [json.loads(line) for line in server.log().splitlines()]
    (ended,) = (event for event in events if event["event"] == "execution ended")
    assert ended["task_id"] == answer.task_id
    assert ended["execution_id"] == answer.execution_id
    assert (ended["status"], ended["error_code"]) == ("FAILED", "TRAP_DIVIDE_BY_ZERO")
    assert ended["run_ms"] >= 0
    assert ended["queue_ms"] >= 0


def test_a_data_directory_has_one_server(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    assert str(first.data_dir) in failed_start(tmp_path / "second", data_dir=first.data_dir)
    assert first.health().healthy


def test_a_server_that_was_killed_leaves_no_lock(start_server: StartServer, tmp_path: Path) -> None:
    start_server(directory=tmp_path).close()
    assert start_server(directory=tmp_path).health().healthy


def test_a_port_has_one_server(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    complaint = failed_start(tmp_path / "second", address=first.address)
    assert f"cannot listen on {first.address}: another program has that port" in complaint


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "no.such.host.invalid:0"])
def test_an_address_that_cannot_be_is_refused_by_name(address: str, tmp_path: Path) -> None:
    assert address in failed_start(tmp_path, address=address)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("[execution]\nmax_runing = 1", "max_runing"),
        ("[execution]\nmax_running = 0", "max_running"),
        ("[execution]\nmax_running = 100_000", "sandboxes"),
        ('[default_limits]\nmax_memory = "1TiB"', "max_memory"),
        ('[default_limits]\nmax_memory = "much"', "max_memory"),
        ("[engine]\ntick = 1", "tick"),
        ('[engine]\nsandboxes = 1_000_000\n[ceiling]\nmax_memory = "64KiB"\n[default_limits]\nmax_memory = "64KiB"',
         "vm.max_map_count"),
        ("no toml", "config.toml"),
        ('[runtimes]\ndirectories = ["/does/not/exist"]', "/does/not/exist"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_wrong_is_refused_by_its_key(config: str, word: str, tmp_path: Path) -> None:
    assert word in failed_start(tmp_path, config)


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    assert "occupied" in failed_start(tmp_path, data_dir=occupied)


# --- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_cleanly(number: signal.Signals, start_server: StartServer) -> None:
    server = start_server()
    server.signal(number)
    assert server.exit_code() == 0
    assert "Traceback" not in server.log()


def test_a_server_that_stops_sees_what_runs_and_what_waits_to_its_end(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    server.task("hostile")
    running = server.call_later("hostile", "spin", context=context(execution_id="running"))
    server.wait_for_load(1)
    waiting = server.call_later("hostile", "spin_for", 12345)
    server.wait_for_load(1, 1)
    server.signal()
    stopping(server)
    cancel(server, "running", reason="enough")
    assert running.answer().result.error_message == "cancelled: 'enough'"
    assert value_of(waiting.answer()) == 12345
    assert server.exit_code() == 0
    assert "Traceback" not in server.log()


def test_a_server_that_stops_accepts_nothing_and_says_so(start_server: StartServer) -> None:
    server = start_server(ONE_AT_A_TIME)
    server.upload(fixture("hostile"), "hostile")
    running = server.call_later("hostile", "spin", context=context(execution_id="running"))
    server.wait_for_load(1)
    server.signal()
    stopping(server)
    refused(ServerDraining, lambda: server.call("hostile", "unreachable"))
    refused(ServerDraining, lambda: server.upload(fixture("calc"), "calc"))
    assert not any(server.is_serving(service) for service in ("", *SERVICES))
    cancel(server, "running")
    assert code_of(running.answer()) == "CANCELLED"
    assert server.exit_code() == 0


def test_what_does_not_end_within_the_grace_is_ended_and_told(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_running = 1\n[server]\nshutdown_grace = "200ms"')
    server.upload(fixture("hostile"), "hostile")
    server.task("hostile")
    guests = [server.call_later("hostile", "spin") for _ in range(2)]
    server.wait_for_load(1, 1)
    server.signal()
    for guest in guests:
        answer = guest.answer()
        assert code_of(answer) == "CANCELLED"
        assert answer.result.status == pb.EXECUTION_STATUS_CANCELLED
    assert server.exit_code() == 0


def test_a_second_signal_ends_what_runs_at_once(start_server: StartServer) -> None:
    server = start_server('[server]\nshutdown_grace = "1h"')
    server.upload(fixture("hostile"), "hostile")
    guest = server.call_later("hostile", "spin", context=context(timeout_ms=29_000))
    server.wait_for_load(1)
    server.signal()
    stopping(server)
    server.signal()
    assert code_of(guest.answer()) == "CANCELLED"
    assert server.exit_code() == 0


def test_a_guest_with_much_memory_does_not_hold_up_the_end(start_server: StartServer) -> None:
    server = start_server('[server]\nshutdown_grace = "100ms"')
    server.upload(fixture("hostile"), "hostile")
    spec = {"resource_limits": limits(max_memory_bytes=256 << 20)}
    guest = server.call_later("hostile", "grow_and_fill", spec=spec)
    server.wait_for_load(1)
    server.signal()
    assert code_of(guest.answer()) == "CANCELLED"
    assert server.exit_code() == 0


def test_callers_who_say_nothing_do_not_hold_up_the_end(start_server: StartServer) -> None:
    server = start_server('[artifacts]\nupload_idle_timeout = "1h"')
    silent = threading.Event()

    def parts() -> Iterator[artifact_pb2.UploadArtifactRequest]:
        yield artifact_pb2.UploadArtifactRequest(header=artifact_pb2.UploadArtifactHeader(name="slow"))
        silent.wait(PATIENCE)

    upload = server.artifacts.UploadArtifact.future(parts())
    until(lambda: bool(server.uploads_in_progress()))
    host, _, port = server.address.partition(":")
    with socket.create_connection((host, int(port))):
        assert server.stop() == 0
    assert upload.exception(PATIENCE) is not None
    silent.set()
    assert not server.uploads_in_progress()
    assert "by a bug" not in server.log()


def test_a_compilation_does_not_hold_up_the_end_nor_outlive_it(start_server: StartServer) -> None:
    server = start_server()
    upload = ThreadPoolExecutor(1).submit(
        refused, ServerDraining, lambda: server.upload(compile_bomb(), "bomb")
    )
    process = psutil.Process(server.process.pid)
    until(lambda: bool(process.children()))
    compilers = process.children()
    assert server.stop() == 0
    upload.result(PATIENCE)
    assert not any(compiler.is_running() for compiler in compilers)


def test_a_guest_that_cannot_be_stopped_does_not_outlive_the_last_moment(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(
        f'[runtimes]\ndirectories = ["{stuck_runtime(tmp_path / "runtimes")}"]\n'
        '[server]\nshutdown_grace = "100ms"\nclosing_grace = "300ms"'
    )
    server.upload(fixture("calc"), "calc")
    guest = server.call_later("calc", "answer", spec={"artifact_type": "stuck"})
    server.wait_for_load(1)
    assert server.stop() == 1
    assert "not stopped in time" in server.log()
    with pytest.raises(grpc.RpcError):
        guest.answer()


def test_the_last_moment_is_nearer_after_a_second_signal(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(
        f'[runtimes]\ndirectories = ["{stuck_runtime(tmp_path / "runtimes")}"]\n'
        '[server]\nshutdown_grace = "1h"\nclosing_grace = "300ms"'
    )
    server.upload(fixture("calc"), "calc")
    guest = server.call_later("calc", "answer", spec={"artifact_type": "stuck"})
    server.wait_for_load(1)
    server.signal()
    stopping(server)
    assert server.stop() == 1
    with pytest.raises(grpc.RpcError):
        guest.answer()


STUCK = """
import sys, threading

core = sys.modules["spear_wasm._runtimes.core.host"]


class StuckRuntime(core.CoreRuntime):
    name = "stuck"

    def preparation(self, module, settings):
        return hang


def hang(sandbox):
    threading.Event().wait()
    yield


RUNTIME = StuckRuntime()
"""


def stuck_runtime(directory: Path) -> Path:
    """A runtime like the core one whose guests hang in the host, where nothing can end them."""
    (directory / "stuck").mkdir(parents=True)
    description = 'name = "stuck"\nhost = "host.py"\n'
    (directory / "stuck" / "runtime.toml").write_text(description, encoding="utf-8")
    (directory / "stuck" / "host.py").write_text(STUCK, encoding="utf-8")
    return directory


def test_callers_find_nobody_afterwards(start_server: StartServer) -> None:
    server = start_server()
    assert server.stop() == 0
    with pytest.raises(grpc.RpcError) as caught:
        server.functions.GetHealth(pb.GetHealthRequest(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
