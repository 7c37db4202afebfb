"""Which of a task's idle sandboxes serves the next call, and what becomes of them when their artifact goes."""

from __future__ import annotations

from typing import Any

import pytest

from spear_wasm.errors import ArtifactDeleted
from tests.rpc.conftest import StartServer
from tests.rpc.serving import Server, fixture, limits, refused, until, value_of

A_WHILE = 2_000_000_000
"""Turns that take about a second of CPU time."""
PAGES = 16


@pytest.fixture
def started(start_server: StartServer) -> Server:
    server = start_server()
    server.upload(fixture("canary"), "canary", "1")
    return server


def call(server: Server, function: str, *arguments: int, **runtime_config: Any) -> tuple[str, Any]:
    """The sandbox that served a call of the one task, and what it returned."""
    answer = server.call(
        "canary",
        function,
        *arguments,
        spec={
            "runtime_config": {"reuse": True, **runtime_config},
            "resource_limits": limits(max_memory_bytes=PAGES << 16),
        },
        task_name="task",
    )
    return answer.instance_id, value_of(answer)


def idle(server: Server) -> int:
    return server.stats().function_service_stats.instance_count


def test_the_sandbox_that_used_least_of_its_scarcer_resource_serves_next(started: Server) -> None:
    def serving(function: str, *arguments: int) -> str:
        return call(started, function, *arguments, scheduling="resource_based")[0]

    burning = started.call_later(
        "canary",
        "burn",
        A_WHILE,
        spec={
            "runtime_config": {"reuse": True, "scheduling": "resource_based"},
            "resource_limits": limits(max_memory_bytes=PAGES << 16),
        },
        task_name="task",
    )
    started.wait_for_load(1)
    modest = serving("burn", 1)
    greedy = burning.answer().instance_id
    assert modest != greedy
    assert {serving("burn", 1) for _ in range(5)} == {modest}, "the other one has used CPU time"
    grown = [serving("grow") for _ in range(PAGES + 1)]
    assert grown[0] == modest
    assert greedy in grown, "the one that used no CPU time has no memory left"


def test_what_is_at_hand_goes_when_its_artifact_is_replaced(started: Server) -> None:
    call(started, "leave", 7)
    assert call(started, "found")[1] == 7
    until(lambda: idle(started) == 1)
    started.delete_artifact("canary:1", force=True)
    until(lambda: idle(started) == 0)
    refused(ArtifactDeleted, lambda: started.invoke(task_id="task", function_name="found"))
    started.upload(fixture("calc"), "canary", "1")
    refused(ArtifactDeleted, lambda: started.invoke(task_id="task", function_name="found"))
    started.upload(fixture("canary"), "canary", "2")
    assert value_of(started.invoke(task_id="task", function_name="found")) == 0


def test_what_serves_while_its_artifact_is_replaced_serves_to_its_end_and_nobody_else(
    started: Server,
) -> None:
    call(started, "leave", 7)
    task = started.get_task("task").task.task_id
    serving = started.call_later("canary", "burn", A_WHILE, spec={}, task_id=task)
    started.wait_for_load(1)
    started.delete_artifact("canary:1", force=True)
    started.upload(fixture("canary"), "canary", "2")
    value_of(serving.answer())
    until(lambda: idle(started) == 0)
    assert value_of(started.invoke(task_id=task, function_name="found")) == 0
