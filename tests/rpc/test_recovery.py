"""What becomes of accepted executions when the server is killed, or stops, and comes back."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import ExecutionExists
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Pending,
    Server,
    context,
    fixture,
    refused,
    until,
    value_of,
    wait_for_attempt,
)
from tests.rpc.test_durable import COMPLETED, PENDING, outcome, submit
from tests.rpc.test_executions import cancel, ids, listed, status_of

ONE_AT_A_TIME = '[execution]\nmax_running = 1\n[server]\nshutdown_grace = "100ms"'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


def busy(server: Server, **fields: Any) -> str:
    """A guest that takes the server's only room; returns its execution's id."""
    spinning = submit(server, "hostile", "spin", **fields).execution_id
    wait_for_attempt(server, spinning)
    return spinning


def started(start_server: StartServer, directory: Path) -> Server:
    server = start_server(ONE_AT_A_TIME, directory)
    for name in ("calc", "hostile"):
        server.upload(fixture(name), name, "1")
    return server


def killed(server: Server) -> None:
    server.signal(signal.SIGKILL)
    server.exit_code()


def test_after_a_kill_what_waited_runs_what_ran_is_lost_and_what_had_ended_is_as_it_was(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    done = submit(first, "calc", "divide", 84, 2, wait=True)
    running = busy(first)
    waiting = [submit(first, "calc", "divide", 84, divisor).execution_id for divisor in (1, 2, 0)]
    killed(first)

    second = start_server(ONE_AT_A_TIME, directory)
    assert status_of(second, done.execution_id, include_result=True).result == done.result
    lost = outcome(second, running)
    assert (lost.status, lost.error_code) == (pb.EXECUTION_STATUS_FAILED, "WORKER_LOST")
    assert (lost.started_at.ToSeconds() or 0) <= lost.completed_at.ToSeconds()
    assert lost.HasField("started_at")
    assert [outcome(second, each).error_code for each in waiting] == ["", "", "TRAP_DIVIDE_BY_ZERO"]
    assert second.health().details.total_executions == 4  # what was lost is one of them
    everything = [done.execution_id, running, *waiting]
    assert ids(listed(second)) == everything
    before = [outcome(second, each) for each in everything]
    killed(second)

    third = start_server(ONE_AT_A_TIME, directory)
    assert [outcome(third, each) for each in everything] == before
    assert not third.health().details.total_executions
    assert not cancel(third, running).success


def test_what_ran_when_the_server_was_lost_runs_again_as_often_as_its_call_allows(
    start_server: StartServer, directory: Path
) -> None:
    server = started(start_server, directory)
    running = busy(server, context=context(max_retries=2))
    for attempt in (2, 3):
        killed(server)
        server = start_server(ONE_AT_A_TIME, directory)
        wait_for_attempt(server, running, attempt)
    killed(server)
    server = start_server(ONE_AT_A_TIME, directory)
    assert outcome(server, running).error_code == "WORKER_LOST"


def test_a_task_knows_from_the_disk_what_it_has_done(start_server: StartServer, directory: Path) -> None:
    first = started(start_server, directory)
    _, answer = (submit(first, "calc", "divide", 84, divisor, wait=True) for divisor in (1, 0))
    running = busy(first)
    killed(first)

    second = start_server(ONE_AT_A_TIME, directory)
    task = second.get_task(answer.task_id, include_executions=True)
    assert task.task.execution_count == 2
    assert task.task.last_status == pb.EXECUTION_STATUS_FAILED
    assert task.task.updated_at >= answer.result.completed_at.ToMilliseconds() > task.task.created_at
    assert [each.status for each in task.executions] == [pb.EXECUTION_STATUS_FAILED, COMPLETED]
    newest = second.get_task(answer.task_id, include_executions=True, execution_limit=1)
    assert [each.execution_id for each in newest.executions] == [answer.execution_id]
    lost = second.get_task(status_task(second, running)).task
    assert (lost.execution_count, lost.last_status) == (1, pb.EXECUTION_STATUS_FAILED)
    assert value_of(submit(second, "calc", "divide", 84, 2, wait=True)) == 42
    assert second.get_task(answer.task_id).task.execution_count == 3


def status_task(server: Server, execution_id: str) -> str:
    """The task that an execution is of."""
    return next(each.task_id for each in listed(server).executions if each.execution_id == execution_id)


def test_no_call_hides_an_execution_that_an_earlier_server_has_left(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    answer = submit(first, "calc", "divide", 84, 2, wait=True, context=context(execution_id="wish"))
    killed(first)
    second = start_server(ONE_AT_A_TIME, directory)
    other = second.call("calc", "divide", 84, 1, context=context(execution_id="wish"))
    assert value_of(other) == 84
    assert other.execution_id.startswith("exec-")
    assert status_of(second, "wish", include_result=True).result == answer.result
    free = second.call("calc", "answer", context=context(execution_id="another wish"))
    assert free.execution_id == "another wish"


def test_a_key_is_remembered_by_the_next_server(start_server: StartServer, directory: Path) -> None:
    first = started(start_server, directory)
    answer = first.call("calc", "divide", 84, 2, execution_id="key")
    assert value_of(answer) == 42
    killed(first)
    second = start_server(ONE_AT_A_TIME, directory)
    assert second.call("calc", "divide", 84, 2, execution_id="key") == answer
    refused(ExecutionExists, lambda: second.call("calc", "divide", 84, 1, execution_id="key"))
    assert not second.health().details.total_executions


def test_a_caller_with_a_key_comes_back_to_what_the_next_server_runs(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    busy(first)
    lost = first.call_later("calc", "divide", 84, 2, execution_id="key")
    until(lambda: status_of(first, "key").found)
    until(lambda: first.load() == (1, 1))  # it is in the line, and so on disk
    killed(first)
    with pytest.raises(grpc.RpcError) as gone:
        lost.answer()
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    second = start_server(ONE_AT_A_TIME, directory)
    assert value_of(second.call("calc", "divide", 84, 2, execution_id="key")) == 42


def test_a_server_that_stops_in_order_leaves_what_waits_to_the_next(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    running = busy(first)
    waiting = submit(first, "calc", "divide", 84, 2).execution_id
    watched = Pending(
        lambda: submit(first, "calc", "divide", 84, 4, wait=True, context=context(execution_id="w"))
    )
    until(lambda: first.load() == (1, 2))
    first.signal()
    assert watched.answer().result.status == PENDING
    assert first.exit_code() == 0

    second = start_server(ONE_AT_A_TIME, directory)
    assert outcome(second, running).status == pb.EXECUTION_STATUS_CANCELLED
    assert outcome(second, waiting).status == outcome(second, "w").status == COMPLETED


def test_a_second_signal_leaves_what_waits_to_the_next_server_too(
    start_server: StartServer, directory: Path
) -> None:
    first = start_server('[execution]\nmax_running = 1\n[server]\nshutdown_grace = "1h"', directory)
    for name in ("calc", "hostile"):
        first.upload(fixture(name), name, "1")
    running = busy(first)
    waiting = submit(first, "calc", "divide", 84, 2).execution_id
    for number in (signal.SIGTERM, signal.SIGINT):
        first.signal(number)
    assert first.exit_code() == 0

    second = start_server(ONE_AT_A_TIME, directory)
    assert outcome(second, waiting).status == COMPLETED
    assert outcome(second, running).status == pb.EXECUTION_STATUS_CANCELLED


def test_what_waits_for_a_task_that_is_gone_fails_and_says_why(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    busy(first)
    waiting = submit(first, "calc", "answer").execution_id
    assert status_of(first, waiting).result.status == PENDING
    first.delete_artifact("calc", force=True)
    killed(first)
    second = start_server(ONE_AT_A_TIME, directory)
    result = outcome(second, waiting)
    assert result.error_code == "INSTANCE_FAILED"
    assert "not to be run any more" in result.error_message


def test_whatever_the_moment_of_the_kill_what_was_acknowledged_is_there_once(
    start_server: StartServer, directory: Path
) -> None:
    first = started(start_server, directory)
    acknowledged: list[str] = []
    enough = threading.Event()

    def submit_until_the_end(thread: int) -> None:
        for number in range(200):  # a list holds those of all threads
            try:
                submit(first, "calc", "answer", execution_id=f"{thread}.{number}")
            except grpc.RpcError:
                return
            acknowledged.append(f"{thread}.{number}")
            if len(acknowledged) > 100:
                enough.set()

    threads = [threading.Thread(target=submit_until_the_end, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    assert enough.wait(PATIENCE)
    killed(first)
    for each in threads:
        each.join(PATIENCE)

    second = start_server(ONE_AT_A_TIME, directory)
    ends = {(each, outcome(second, each).error_code) for each in acknowledged}
    assert {code for _, code in ends} <= {"", "WORKER_LOST"}
    kept = ids(listed(second, limit=1000))
    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))
    killed(second)
    third = start_server(ONE_AT_A_TIME, directory)
    assert {(each, outcome(third, each).error_code) for each in acknowledged} == ends
