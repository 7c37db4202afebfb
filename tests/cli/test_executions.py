from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from spear_wasm.client.stubs import function_pb2 as pb
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer
from tests.rpc.serving import until


def answers_status(server: FakeServer, status: str, **fields: str | bytes) -> None:
    number = pb.ExecutionStatus.Value(f"EXECUTION_STATUS_{status}")
    result = pb.ExecutionResult(status=number, **fields)  # type: ignore[arg-type]  # as the test has it
    server.answers["GetExecutionStatus"] = pb.GetExecutionStatusResponse(found=True, result=result)


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_get_says_how_an_execution_is_that_has_not_ended(status: str, server: FakeServer, cli: Cli) -> None:
    answers_status(server, status)
    result = cli("get", "exec-1")
    assert (result.exit_code, result.stdout) == (0, f"{status}\n")
    assert server.request.execution_id == "exec-1"
    assert server.request.include_result


def test_get_shows_a_failure_as_call_does(server: FakeServer, cli: Cli) -> None:
    answers_status(server, "FAILED", error_code="TRAP_UNREACHABLE", error_message="it trapped")
    result = cli("get", "exec-1")
    assert result.exit_code == 1
    assert "TRAP_UNREACHABLE: it trapped" in result.stderr
    assert json.loads(cli("get", "exec-1", "--format", "json").stdout)["error_code"] == "TRAP_UNREACHABLE"


def test_an_unknown_execution_is_the_callers_mistake(server: FakeServer, cli: Cli) -> None:
    server.answers["GetExecutionStatus"] = pb.GetExecutionStatusResponse(found=False, message="there is none")
    result = cli("get", "exec-1")
    assert result.exit_code == 2
    assert "there is none" in result.stderr


@pytest.mark.parametrize(("success", "exit_code"), [(True, 0), (False, 2)])
def test_cancel_says_whether_it_was_in_time(
    success: bool, exit_code: int, server: FakeServer, cli: Cli
) -> None:
    server.answers["CancelExecution"] = pb.CancelExecutionResponse(success=success, message="so it is")
    result = cli("cancel", "exec-1", "--reason", "too slow", "--force")
    assert result.exit_code == exit_code
    assert "so it is" in result.stderr
    assert (server.request.reason, server.request.force) == ("too slow", True)


def test_executions_lists_all_pages_and_escapes_what_guests_chose(server: FakeServer, cli: Cli) -> None:
    first, second = (
        pb.ExecutionInfo(execution_id=f"exec-{number}", function_name="f\x1b", execution_mode=pb.EXECUTION_MODE_SYNC,
                         status=pb.EXECUTION_STATUS_FAILED, error_message="it\ntrapped")
        for number in (1, 2)
    )  # fmt: skip
    server.answers["ListExecutions"] = [
        pb.ListExecutionsResponse(executions=[first], has_more=True, next_start_after="@1"),
        pb.ListExecutionsResponse(executions=[second]),
    ]
    rows = cli("executions", "my-task", "--status", "failed").stdout.splitlines()
    assert rows[0].split()[:4] == ["ID", "FUNCTION", "MODE", "STATUS"]
    assert [row.split() for row in rows[1:]] == [
        [f"exec-{number}", "f\\x1b", "SYNC", "FAILED", "it\\ntrapped"] for number in (1, 2)
    ]
    assert [request.start_after for request in server.requests] == ["", "@1"]
    assert server.requests[0].task_id == "my-task"
    assert server.requests[0].status_filter == pb.EXECUTION_STATUS_FAILED


def test_call_async_prints_the_id_and_nothing_else(server: FakeServer, cli: Cli) -> None:
    server.answers_with(status=pb.EXECUTION_STATUS_PENDING)
    result = cli("call", "--async", "calc", "add", "1", "-2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "exec-1\n", "")
    assert server.request.execution_mode == pb.EXECUTION_MODE_ASYNC
    assert len(server.request.parameters) == 2
    assert json.loads(cli("call", "--async", "calc", "add", "--format", "json").stdout) == {
        "execution_id": "exec-1"
    }


def test_get_wait_asks_until_the_execution_has_ended(server: FakeServer, cli: Cli) -> None:
    server.answers["GetExecutionStatus"] = [
        pb.GetExecutionStatusResponse(found=True, result=pb.ExecutionResult(status=status))
        for status in (
            pb.EXECUTION_STATUS_PENDING,
            pb.EXECUTION_STATUS_RUNNING,
            pb.EXECUTION_STATUS_COMPLETED,
        )
    ]
    assert cli("get", "exec-1", "--wait").exit_code == 0
    assert len(server.requests) == 3


def test_logs_prints_what_the_guest_wrote_and_nothing_that_acts_on_a_terminal(
    server: FakeServer, cli: Cli
) -> None:
    answers_status(server, "FAILED", stderr=b"one\n\x1b[2Jtwo\n\xff\n", error_code="GUEST_ERROR")
    result = cli("logs", "exec-1")
    assert (result.exit_code, result.stdout) == (0, "one\n\\x1b[2Jtwo\n\\xff\n")
    assert json.loads(cli("logs", "exec-1", "--format", "json").stdout) == {
        "execution_id": "exec-1", "status": "FAILED", "logs": ["one", "\x1b[2Jtwo", "\\xff"],
    }  # fmt: skip


def test_logs_of_an_execution_that_has_not_ended_says_so(server: FakeServer, cli: Cli) -> None:
    answers_status(server, "RUNNING", stderr=b"so far")
    result = cli("logs", "exec-1")
    assert (result.exit_code, result.stdout) == (0, "so far\n")
    assert "RUNNING" in result.stderr


def test_logs_follows_until_the_end(server: FakeServer, cli: Cli) -> None:
    ended = pb.ExecutionResult(status=pb.EXECUTION_STATUS_COMPLETED, stderr=b"done", output_truncated=True)
    server.answers["FollowLog"] = iter(
        pb.FollowLogResponse(content=content, attempt=1) for content in (b"one\n\x1b[2J", b"t\xc3", b"\xb6wo")
    )
    server.answers["GetExecutionStatus"] = pb.GetExecutionStatusResponse(found=True, result=ended)
    result = cli("logs", "exec-1", "--follow")
    assert (result.exit_code, result.stdout) == (0, "one\n\\x1b[2Jtöwo\n")
    assert "cut" in result.stderr


def test_logs_follows_to_one_document_for_programs(server: FakeServer, cli: Cli) -> None:
    ended = pb.ExecutionResult(status=pb.EXECUTION_STATUS_COMPLETED, stderr=b"one\ntwo")
    server.answers["GetExecutionStatus"] = [
        pb.GetExecutionStatusResponse(found=True, result=result)
        for result in (pb.ExecutionResult(status=pb.EXECUTION_STATUS_RUNNING), ended)
    ]
    assert json.loads(cli("logs", "exec-1", "--follow", "--format", "json").stdout) == {
        "execution_id": "exec-1", "status": "COMPLETED", "logs": ["one", "two"],
    }  # fmt: skip


def on_a_terminal(server: FakeServer, *words: str, ended_after: int | None = None) -> tuple[int, str]:
    """What a command shows on a terminal, and how it ends: by itself, or by Ctrl-C after so many questions."""
    controlling, terminal = pty.openpty()
    command = [sys.executable, "-m", "spear_wasm.cli", *words, "--addr", server.address]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    # A child ignores Ctrl-C if we do, as we do in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as running:
        os.close(terminal)
        if ended_after is not None:
            until(lambda: len(server.requests) >= ended_after)
            running.send_signal(signal.SIGINT)
        seen = b""
        with contextlib.suppress(OSError):  # which is how the end of what was written shows
            while part := os.read(controlling, 65536):
                seen += part
    os.close(controlling)
    return running.returncode, seen.decode()


def test_on_a_terminal_whoever_waits_sees_how_it_is_and_for_how_long(server: FakeServer) -> None:
    metrics = {"attempts": "2"}
    server.answers["GetExecutionStatus"] = [
        pb.GetExecutionStatusResponse(found=True, result=result)
        for result in (
            *[pb.ExecutionResult(status=pb.EXECUTION_STATUS_RUNNING, metrics=metrics)] * 5,
            pb.ExecutionResult(status=pb.EXECUTION_STATUS_COMPLETED),
        )
    ]
    exit_code, seen = on_a_terminal(server, "get", "exec-1", "--wait")
    assert exit_code == 0
    assert "exec-1 is RUNNING, attempt 2" in seen
    assert "0:00:0" in seen


def test_tasks_are_watched_on_a_terminal(server: FakeServer) -> None:
    server.answers["ListTasks"] = pb.ListTasksResponse(
        tasks=[pb.TaskInfo(task_id="task-1", task_name="calc:1\x1b[2J", running_executions=23)]
    )
    exit_code, seen = on_a_terminal(server, "tasks", "--watch", ended_after=3)
    assert exit_code == 130
    assert "calc:1\\x1b[2J" in seen
    assert seen.count("23") >= 2


def test_executions_are_watched_on_a_terminal_as_long_as_they_run_or_wait(server: FakeServer) -> None:
    server.answers["ListExecutions"] = pb.ListExecutionsResponse(
        executions=[
            pb.ExecutionInfo(execution_id="exec-1", function_name="f", status=pb.EXECUTION_STATUS_RUNNING)
        ]
    )
    exit_code, seen = on_a_terminal(server, "executions", "--watch", ended_after=5)
    assert exit_code == 130
    assert seen.count("RUNNING") >= 3
    asked = {request.status_filter for request in server.requests}
    assert asked == {pb.EXECUTION_STATUS_RUNNING, pb.EXECUTION_STATUS_PENDING}


@pytest.mark.parametrize("command", ["tasks", "executions"])
def test_nothing_is_watched_elsewhere(command: str, server: FakeServer, cli: Cli) -> None:
    assert cli(command, "--watch").exit_code == 2
    assert not server.requests


def test_elsewhere_nothing_moves(server: FakeServer, cli: Cli) -> None:
    answers_status(server, "COMPLETED")
    assert "waiting" not in cli("get", "exec-1", "--wait").stderr
