"""What callers hear whose calls are kept on disk while the server shuts down, and what the next one makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionExists, JournalFailed, ServerDraining
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    Pending,
    Server,
    busy_disk,
    code_of,
    context,
    fixture,
    refused,
    repair_disk,
    until,
    value_of,
    wait_for_attempt,
)
from tests.rpc.test_durable import ASYNC, COMPLETED, PENDING, RUNNING, outcome, submit
from tests.rpc.test_executions import cancel, ids, listed, status_of, wait_for

LONG_GRACE = """
[execution]
max_running = 1
first_backoff = "1ms"
[server]
shutdown_grace = "20s"
"""
SHORT_GRACE = LONG_GRACE.replace("20s", "100ms")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


def started(start_server: StartServer, directory: Path, config: str) -> Server:
    server = start_server(config, directory)
    for name in ("calc", "hostile"):
        server.upload(fixture(name), name, "1")
    return server


def spinning(server: Server, **asked: Any) -> Pending:
    """A caller who waits for the end of a guest, which runs."""
    wish = context(execution_id="spinning", **asked)
    waiting = Pending(lambda: submit(server, "hostile", "spin", wait=True, context=wish))
    wait_for(server, "spinning", RUNNING)
    return waiting


def dividing(server: Server, **fields: Any) -> Pending:
    """A caller who waits for another guest, which has yet to begin."""
    asked = {"execution_mode": ASYNC, "context": context(execution_id="dividing"), **fields}
    waiting = server.call_later("calc", "divide", 84, 2, wait=True, **asked)
    until(lambda: status_of(server, "dividing").found)
    return waiting


def end_grace(server: Server, running: Pending) -> None:
    """Let the server end, though a guest still runs."""
    server.signal()
    assert code_of(running.answer()) == "CANCELLED"
    assert server.exit_code() == 0


def left(server: Server) -> bool:
    """Whether the server has left what was to be divided to the next one."""
    return "goes on when it is back" in status_of(server, "dividing").message


# --- who waits for an asynchronous call --------------------------------------------------------------------


def test_what_ends_within_the_grace_is_told_as_it_ended(start_server: StartServer, directory: Path) -> None:
    server = started(start_server, directory, LONG_GRACE)
    waiting = spinning(server, timeout_ms=3000)
    server.signal()
    assert code_of(waiting.answer()) == "TIMEOUT"
    assert server.exit_code() == 0
    again = start_server(LONG_GRACE, directory)
    assert outcome(again, "spinning") == waiting.answer().result


def test_what_has_not_begun_is_told_to_be_accepted_and_runs_at_the_next_start(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, SHORT_GRACE)
    spinning(server)
    waiting = dividing(server)
    server.wait_for_load(1, 1)
    server.signal()
    answer = waiting.answer()
    assert (answer.success, answer.result.status, answer.execution_id) == (True, PENDING, "dividing")
    assert "goes on when it is back" in answer.message
    assert server.exit_code() == 0
    assert value_of(start_server(SHORT_GRACE, directory).call("calc", "answer")) == 42


def test_what_runs_beyond_the_grace_is_told_to_be_cancelled_where_it_may_not_begin_again(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, SHORT_GRACE)
    waiting = spinning(server)
    server.signal()
    answer = waiting.answer()
    assert code_of(answer) == "CANCELLED"
    assert server.exit_code() == 0
    assert outcome(start_server(SHORT_GRACE, directory), "spinning") == answer.result


def test_what_runs_beyond_the_grace_is_told_to_be_accepted_where_it_begins_again(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, SHORT_GRACE)
    waiting = spinning(server, max_retries=1)
    server.signal()
    assert waiting.answer().result.status == PENDING
    assert server.exit_code() == 0
    again = start_server(SHORT_GRACE, directory)
    wait_for(again, "spinning", RUNNING)
    assert status_of(again, "spinning").result.metrics["attempts"] == "2"
    assert cancel(again, "spinning").final_status == pb.EXECUTION_STATUS_CANCELLED


def test_a_call_that_the_disk_has_not_taken_when_the_server_stops_is_answered_when_it_has(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, LONG_GRACE)
    running = server.call_later("hostile", "spin", context=context(timeout_ms=25_000))
    server.wait_for_load(1)
    with busy_disk(server):
        waiting = dividing(server)
        server.signal()
        until(lambda: left(server))
        assert not waiting.is_answered()
    assert waiting.answer().result.status == PENDING
    end_grace(server, running)
    assert outcome(start_server(LONG_GRACE, directory), "dividing").status == COMPLETED


def test_a_call_that_the_disk_refuses_while_the_server_stops_is_refused_and_not_kept(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, LONG_GRACE)
    running = server.call_later("hostile", "spin", context=context(timeout_ms=25_000))
    server.wait_for_load(1)
    with busy_disk(server, breaks=True):
        waiting = dividing(server)
        server.signal()
        until(lambda: left(server))
    refused(JournalFailed, waiting.answer)
    repair_disk(server)
    assert not status_of(server, "dividing").found
    end_grace(server, running)
    assert not status_of(start_server(LONG_GRACE, directory), "dividing").found


def test_an_outcome_that_the_disk_has_not_taken_when_the_server_stops_is_told_when_it_has(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, LONG_GRACE)
    waiting = spinning(server)
    wait_for_attempt(server, "spinning")
    with busy_disk(server):
        cancel(server, "spinning", force=True)
        server.wait_for_load(0)
        server.signal()
        until(lambda: "server stopping" in server.log())
        assert not waiting.is_answered()
    answer = waiting.answer()
    assert code_of(answer) == "CANCELLED"
    assert server.exit_code() == 0
    assert outcome(start_server(LONG_GRACE, directory), "spinning") == answer.result


# --- everybody else ---------------------------------------------------------------------------------------


def test_what_is_left_to_the_next_server_is_there_until_then(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, LONG_GRACE)
    running = spinning(server)
    task_id = dividing(server)
    server.signal()
    until(lambda: left(server))
    assert status_of(server, "dividing").result.status == PENDING
    assert ids(listed(server)) == ["spinning", "dividing"]
    assert ids(listed(server, status_filter=PENDING)) == ["dividing"]
    task = server.get_task(task_id.answer().task_id, include_executions=True)
    assert [each.execution_id for each in task.executions] == ["dividing"]
    refusal = refused(ServerDraining, lambda: cancel(server, "dividing"))
    assert refusal.metadata["execution_id"] == "dividing"
    refused(ServerDraining, lambda: submit(server, "calc", "answer"))
    end_grace(server, running)


def test_a_caller_with_a_key_hears_which_call_is_kept_and_may_ask_again(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory, LONG_GRACE)
    running = spinning(server)
    keyed = {"execution_mode": pb.EXECUTION_MODE_SYNC, "context": None, "execution_id": "dividing"}
    waiting = dividing(server, **keyed)
    server.signal()
    refusal = refused(ServerDraining, waiting.answer)
    assert refusal.metadata["execution_id"] == "dividing"
    refused(ServerDraining, lambda: server.call("calc", "divide", 84, 2, wait=True, execution_id="dividing"))
    refused(ExecutionExists, lambda: server.call("calc", "divide", 84, 3, wait=True, execution_id="dividing"))
    end_grace(server, running)
    again = start_server(LONG_GRACE, directory)
    assert value_of(again.call("calc", "divide", 84, 2, wait=True, execution_id="dividing")) == 42
