from __future__ import annotations

import json

import pytest

from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.client.stubs import function_pb2
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer

ANSWER = function_pb2.InvokeFunctionResponse(
    success=True,
    task_id="task-1",
    result=function_pb2.ExecutionResult(
        status=function_pb2.EXECUTION_STATUS_COMPLETED,
        cpu_time_ms=0.25,
        queue_time_ms=0.5,
        memory_used_bytes=65536,
    ),
)


@pytest.fixture
def answering(server: FakeServer) -> FakeServer:
    server.answers["InvokeFunction"] = ANSWER
    return server


def test_bench_makes_so_many_calls_of_the_task_that_the_first_one_made(
    answering: FakeServer, cli: Cli
) -> None:
    result = cli(
        "bench", "calc", "add", "20", "22", "--calls", "30", "--concurrency", "4", "--format", "json"
    )
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["calls"], told["failures"], told["peak_memory_bytes"]) == (30, {}, 65536)
    assert told["calls_per_second"] > 0
    assert told["seconds"]["CPU_of_the_guest"] == {
        "p50": 0.00025,
        "p99": 0.00025,
        "p99.9": 0.00025,
        "max": 0.00025,
    }
    latency = told["seconds"]["latency"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    calls = [each for each in answering.requests if isinstance(each, function_pb2.InvokeFunctionRequest)]
    assert [each.task_id for each in calls] == ["", *["task-1"] * 30]


def test_bench_tells_people_what_it_measured(answering: FakeServer, cli: Cli) -> None:
    result = cli("bench", "calc", "add", "20", "22", "--calls", "5")
    assert result.exit_code == 0
    assert "calls             5 in " in result.stdout
    assert "CPU of the guest  p50 250 us, p99 250 us" in result.stdout
    assert "peak memory       64 KiB" in result.stdout


def test_bench_counts_what_failed_by_reason_and_ends_like_a_call_that_fails(
    answering: FakeServer, cli: Cli
) -> None:
    failed = function_pb2.InvokeFunctionResponse()
    failed.CopyFrom(ANSWER)
    failed.success = False
    failed.result.status = function_pb2.EXECUTION_STATUS_FAILED
    failed.result.error_code = "TRAP"
    answering.answers["InvokeFunction"] = failed
    result = cli("bench", "calc", "add", "20", "22", "--calls", "7", "--format", "json")
    assert result.exit_code == ExitCode.GUEST_FAILED
    assert json.loads(result.stdout)["failures"] == {"TRAP": 7}
