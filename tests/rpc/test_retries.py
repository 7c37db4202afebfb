"""Calls that begin again, for what the host failed to do and, where asked for, traps. Streams: test_keyed_streams."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest, ServerDraining
from tests.rpc.conftest import StartServer
from tests.rpc.serving import Server, code_of, context, fixture, fresh, no_disk, refused, until, value_of
from tests.rpc.test_durable import ASYNC, COMPLETED, PENDING, RUNNING, outcome, submit
from tests.rpc.test_executions import cancel, listed, status_of, wait_for
from tests.rpc.test_recovery import killed

RETRYING = {"runtime_config": {"retry_traps": True}}
SOON = 'first_backoff = "1ms"\nlongest_backoff = "2ms"'
MUCH_LATER = 'first_backoff = "25s"\nlongest_backoff = "25s"'
MODES: list[dict[str, Any]] = [{}, {"execution_id": "a key"}, {"execution_mode": ASYNC, "wait": True}]


def config(backoff: str) -> str:
    return f'[execution]\nmax_running = 1\n{backoff}\n[server]\nshutdown_grace = "100ms"'


def started(start_server: StartServer, directory: Path, backoff: str) -> Server:
    server = start_server(config(backoff), directory)
    for name in ("calc", "hostile"):
        server.upload(fixture(name), name, "1")
    return server


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


def trapping(server: Server, **fields: Any) -> pb.InvokeFunctionResponse:
    """A call that traps each time, and begins again much later."""
    asked = {"context": context(max_retries=5), "task_name": "trapping", **fields}
    return server.call("hostile", "unreachable", spec=RETRYING, **asked)


def in_a_pause(server: Server, execution_id: str) -> bool:
    result = status_of(server, execution_id).result
    return result.status == PENDING and result.HasField("started_at")


@pytest.mark.parametrize("mode", MODES)
def test_attempts_are_told_wherever_the_execution_is(
    mode: dict[str, Any], start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, SOON)
    answer = trapping(server, context=context(max_retries=2), **mode)
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert dict(answer.result.metrics) == {"attempts": "3"}
    assert status_of(server, answer.execution_id, include_result=True).result == answer.result
    (info,) = listed(server, task_id=answer.task_id).executions
    assert dict(info.metadata) == {"attempts": "3"}


def test_what_succeeds_at_once_says_nothing_of_attempts(server: Server) -> None:
    answer = server.call("calc", "answer", context=context(max_retries=2))
    assert value_of(answer) == 42
    assert not answer.result.metrics


def test_a_trap_is_final_where_the_task_does_not_ask_for_retries(server: Server) -> None:
    answer = server.call("hostile", "unreachable", context=context(max_retries=2))
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert not answer.result.metrics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("retries", [-1, 101])
def test_retries_out_of_range_are_refused(mode: dict[str, Any], retries: int, server: Server) -> None:
    refused(
        InvalidRequest, lambda: server.call("calc", "answer", context=context(max_retries=retries), **mode)
    )


def test_an_unknown_way_to_ask_for_retries_is_refused(server: Server) -> None:
    asked = {"runtime_config": {"retry_traps": "yes"}}
    refused(InvalidRequest, lambda: server.call("calc", "answer", spec=asked))


def test_an_execution_that_the_disk_did_not_let_begin_begins_again(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, 'first_backoff = "100ms"')
    spinning = server.call_later("hostile", "spin", context=context(execution_id="spinning"))
    wait_for(server, "spinning", RUNNING)
    retrying, once = (
        submit(server, "calc", "answer", context=context(max_retries=retries)).execution_id
        for retries in (100, 0)
    )
    with no_disk(server):
        cancel(server, "spinning")
        until(lambda: in_a_pause(server, retrying))
    assert code_of(spinning.answer()) == "CANCELLED"
    result = outcome(server, retrying)
    assert result.status == COMPLETED
    assert int(result.metrics["attempts"]) > 1
    assert outcome(server, once).error_code in {
        "INSTANCE_FAILED",
        "",
    }  # the disk may have been back by its turn


def test_who_cancels_in_a_pause_is_answered_at_once(start_server: StartServer, directory: Path) -> None:
    server = started(start_server, directory, MUCH_LATER)
    calling = server.call_later(
        "hostile", "unreachable", spec=RETRYING, context=context(max_retries=1, execution_id="sync")
    )
    until(lambda: in_a_pause(server, "sync"))
    server.wait_for_load(0, 1)
    assert value_of(server.call("calc", "answer")) == 42  # in the only room that there is
    assert cancel(server, "sync").final_status == pb.EXECUTION_STATUS_CANCELLED
    assert code_of(calling.answer()) == "CANCELLED"


def test_a_caller_who_goes_away_in_a_pause_ends_it(start_server: StartServer, directory: Path) -> None:
    server = started(start_server, directory, MUCH_LATER)
    # The budget is as long as the deadline, which the pause has to fit in: another who waits hangs up.
    wish = context(max_retries=1, execution_id="sync", timeout_ms=30_000)
    call = server.functions.InvokeFunction.future(
        pb.InvokeFunctionRequest(
            artifact_spec=pb.ArtifactSpec(artifact_id="hostile", **RETRYING),  # type: ignore[arg-type]
            task_name=fresh("task"),
            function_name="unreachable",
            context=wish,
        )
    )
    until(lambda: in_a_pause(server, "sync"))
    call.cancel()
    assert outcome(server, "sync").error_code == "CANCELLED"


def test_a_server_that_stops_answers_who_waits_and_leaves_the_rest_to_the_next(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory, MUCH_LATER)
    trapping(first, context=context())
    calling = first.call_later(
        "hostile",
        "unreachable",
        spec=RETRYING,
        task_name="trapping",
        context=context(max_retries=1, execution_id="sync"),
    )
    until(lambda: in_a_pause(first, "sync"))
    left = trapping(first, execution_mode=ASYNC).execution_id
    until(lambda: in_a_pause(first, left))
    assert first.stop() == 0
    answer = calling.answer()
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert not answer.result.metrics

    second = start_server(config(SOON), directory)
    result = outcome(second, left)
    assert result.error_code == "TRAP_UNREACHABLE"
    assert result.metrics["attempts"] == "6"


def test_what_still_runs_when_the_grace_is_over_begins_again_where_it_may(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory, SOON)
    running = submit(first, "hostile", "spin", context=context(max_retries=1)).execution_id
    wait_for(first, running, RUNNING)
    assert first.stop() == 0

    second = start_server(config(SOON), directory)
    wait_for(second, running, RUNNING)
    assert status_of(second, running).result.metrics["attempts"] == "2"
    assert second.stop() == 0

    third = start_server(config(SOON), directory)
    result = outcome(third, running)
    assert (result.error_code, result.metrics["attempts"]) == ("CANCELLED", "2")


def test_a_caller_with_a_key_hears_that_the_next_server_goes_on(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory, SOON)
    calling = first.call_later("hostile", "spin", execution_id="key", context=context(max_retries=1))
    wait_for(first, "key", RUNNING)
    first.signal()
    refused(ServerDraining, calling.answer)
    assert first.exit_code() == 0

    second = start_server(config(SOON), directory)
    wait_for(second, "key", RUNNING)
    cancel(second, "key")


def test_attempts_of_all_runs_of_the_server_count_together(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, MUCH_LATER)
    left = trapping(server, execution_mode=ASYNC, context=context(max_retries=1)).execution_id
    until(lambda: in_a_pause(server, left))
    server.signal(signal.SIGKILL)
    server.exit_code()
    server = start_server(config(SOON), directory)
    result = outcome(server, left)
    assert (result.error_code, result.metrics["attempts"]) == ("TRAP_UNREACHABLE", "2")
    with contextlib.suppress(grpc.RpcError):
        killed(server)
