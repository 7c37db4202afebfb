"""Health and statistics are true: they move with what was done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest
from tests.rpc.conftest import StartServer
from tests.rpc.serving import PATIENCE, SERVICES, Server, context, fixture, fresh, limits, refused, until
from tests.rpc.test_executions import cancel

MIB = 1 << 20
RUNTIMES = sorted(
    path.parent.name for path in (Path(__file__).parents[2] / "runtimes").glob("*/runtime.toml")
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody else calls."""
    server = Server(tmp_path_factory.mktemp("quiet"), "[execution]\nmax_pending = 3")
    with closing(server):
        for name in ("calc", "hostile"):
            server.upload(fixture(name), name, "1")
        yield server


# --- health -----------------------------------------------------------------------------------------------


def test_a_server_that_is_well_says_so(quiet: Server) -> None:
    health = quiet.health()
    assert (health.status, health.healthy) == ("healthy", True)
    assert health.message


def test_details_come_where_asked_for(quiet: Server) -> None:
    brief = quiet.functions.GetHealth(pb.GetHealthRequest(), timeout=PATIENCE)
    assert not brief.HasField("details")
    assert quiet.health().HasField("details")


def test_the_details_are_those_of_the_process(quiet: Server) -> None:
    details = quiet.health().details
    process = psutil.Process(quiet.process.pid)
    assert details.total_memory_used == pytest.approx(process.memory_info().rss, rel=0.2)
    assert details.memory_usage_mb == details.total_memory_used // MIB
    assert details.version == version("spear-wasm")
    assert details.service_name
    assert details.system_info["runtimes"].split(", ") == RUNTIMES
    assert details.system_info["wasmtime"] == version("wasmtime")


def pool_figures(server: Server) -> dict[str, float]:
    info = server.health().details.system_info
    return {key.removeprefix("pool_"): float(value) for key, value in info.items() if key.startswith("pool_")}


def test_the_details_tell_how_pools_fare(quiet: Server) -> None:
    idle = pool_figures(quiet)
    assert idle["ready"] == idle["busy"] == idle["preparing"] == 0
    config = {"runtime_config": ParseDict({"ready_sandboxes": 2, "scaling": "fixed"}, Struct())}
    task = quiet.task("calc", **config)  # which calls it once
    until(lambda: pool_figures(quiet)["ready"] == 2)
    before = pool_figures(quiet)
    quiet.invoke(task_id=task, function_name="answer")
    quiet.invoke(task_id=task, function_name="answer", force_new_instance=True)
    after = pool_figures(quiet)
    assert after["hits"] == before["hits"] + 1
    assert after["cold_starts"] == before["cold_starts"] + 1
    assert after["sandbox_seconds"] > before["sandbox_seconds"]
    quiet.delete_task(task)
    until(lambda: pool_figures(quiet)["ready"] == 0)
    assert pool_figures(quiet)["hits"] == after["hits"]


def test_a_busy_sandbox_of_a_pool_shows_while_it_serves(quiet: Server) -> None:
    task = quiet.task("hostile", runtime_config=ParseDict({"reuse": True}, Struct()))
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin", context=context(timeout_ms=20_000))
    guest = quiet.functions.InvokeFunction.future(request)
    until(lambda: pool_figures(quiet)["busy"] == 1)
    guest.cancel()
    quiet.wait_for_load(0)
    assert pool_figures(quiet)["busy"] == 0
    quiet.delete_task(task)


def test_the_time_goes_on(quiet: Server) -> None:
    before = quiet.health().uptime_seconds
    until(lambda: quiet.health().uptime_seconds > before)
    assert quiet.health().details.uptime_seconds >= before


def test_cpu_is_what_was_used_since_the_last_look(quiet: Server) -> None:
    quiet.health()
    quiet.call("hostile", "spin", limits=limits(max_cpu_time_ms=300))
    assert quiet.health().details.cpu_usage_percent > 20


def test_executions_show_while_they_last(quiet: Server) -> None:
    task = quiet.task("hostile", resource_limits=limits(max_concurrency=1))
    ended = quiet.health().details.total_executions
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    guests = [quiet.functions.InvokeFunction.future(request) for _ in range(2)]
    quiet.wait_for_load(1, 1)
    details = quiet.health().details
    assert (details.running_executions, details.pending_executions, details.active_tasks) == (1, 1, 1)
    for guest in guests:
        guest.cancel()
    quiet.wait_for_load(0)
    details = quiet.health().details
    assert details.active_tasks == 0
    assert details.total_executions == ended + 2


def test_a_line_near_its_bound_is_a_degraded_server(quiet: Server) -> None:
    task = quiet.task("hostile", resource_limits=limits(max_concurrency=1))
    quiet.wait_for_load(0)
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    guests = [quiet.functions.InvokeFunction.future(request) for _ in range(4)]
    quiet.wait_for_load(1, 3)
    health = quiet.health()
    assert health.status == "degraded"
    assert "line" in health.message
    assert not health.healthy
    for guest in guests:
        guest.cancel()
    until(lambda: quiet.health().status == "healthy")
    quiet.wait_for_load(0)


# --- statistics -------------------------------------------------------------------------------------------


def test_counters_move_with_what_was_done(quiet: Server) -> None:
    name = fresh("task")
    quiet.wait_for_load(0)
    before = quiet.stats()
    for divisor in (1, 2, 0):
        quiet.call("calc", "divide", 4, divisor, task_name=name)
    quiet.wait_for_load(0)
    after = quiet.stats()
    service, then = after.function_service_stats, before.function_service_stats
    assert service.task_count == then.task_count + 1
    assert service.execution_count == then.execution_count + 3
    assert service.successful_executions == then.successful_executions + 2
    assert service.failed_executions == then.failed_executions + 1
    assert service.average_response_time_ms > 0
    assert (service.running_executions, service.artifact_count) == (0, 2)
    assert after.service_stats.total_tasks == before.service_stats.total_tasks + 1
    assert after.service_stats.total_executions == before.service_stats.total_executions + 3
    assert 0 < after.service_stats.memory_usage_percent < 100
    executions, earlier = after.execution_stats, before.execution_stats
    assert executions.completed_executions == earlier.completed_executions + 2
    assert executions.failed_executions == earlier.failed_executions + 1
    assert executions.executions_by_function["divide"] == earlier.executions_by_function["divide"] + 3
    assert 0 < executions.success_rate_percent < 100


def test_parts_come_where_asked_for(quiet: Server) -> None:
    brief = quiet.functions.GetStats(pb.GetStatsRequest(), timeout=PATIENCE)
    assert brief.HasField("service_stats")
    assert brief.HasField("function_service_stats")
    assert not brief.HasField("task_stats")
    assert not brief.HasField("execution_stats")


def test_tasks_are_counted_by_what_they_do(quiet: Server) -> None:
    name = fresh("task")
    for _ in range(30):
        quiet.call("calc", "answer", task_name=name)
    stats = quiet.stats().task_stats
    total = quiet.stats().service_stats.total_tasks
    assert (stats.active_tasks, stats.idle_tasks) == (0, total)
    assert stats.tasks_by_type == {"core": total}
    assert stats.most_active_tasks[0].task_name == name
    assert stats.most_active_tasks[0].execution_count == 30


def test_the_last_hours_are_counted_apart(quiet: Server) -> None:
    quiet.call("calc", "answer")
    assert quiet.stats(time_range_hours=1).execution_stats.completed_executions >= 1
    refused(InvalidRequest, lambda: quiet.stats(time_range_hours=-1))


def test_functions_of_deleted_tasks_stay_counted(quiet: Server) -> None:
    name = fresh("task")
    quiet.call("calc", "divide", 4, 2, task_name=name)
    before = [quiet.stats(time_range_hours=hours).execution_stats for hours in (0, 1)]
    quiet.delete_task(name)
    after = [quiet.stats(time_range_hours=hours).execution_stats for hours in (0, 1)]
    assert [stats.executions_by_function for stats in after] == [
        stats.executions_by_function for stats in before
    ]
    assert all(stats.executions_by_function["divide"] >= 1 for stats in after)


def test_a_sandbox_in_use_is_an_instance(quiet: Server) -> None:
    name = fresh("running")
    guest = quiet.call_later("hostile", "spin", context=context(execution_id=name))
    quiet.wait_for_load(1)
    assert quiet.stats().function_service_stats.instance_count == 1
    cancel(quiet, name)
    guest.answer()
    until(lambda: quiet.stats().function_service_stats.instance_count == 0)


# --- what other tools ask ---------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_the_standard_health_service_answers(service: str, quiet: Server) -> None:
    assert quiet.is_serving(service)


def test_the_standard_health_service_knows_nothing_of_strangers(quiet: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        quiet.is_serving("stranger")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_end_of_service_is_told_to_those_who_watch(start_server: StartServer) -> None:
    server = start_server()
    request = health_pb2.HealthCheckRequest(service="")
    watch = server.standard_health.Watch(request, timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.signal()
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.exit_code() == 0


def test_reflection_lists_the_services_and_describes_them(quiet: Server) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(quiet.channel)  # whose type stubs lack its method
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
    ]
    listing, file = stub.ServerReflectionInfo(iter(questions), timeout=PATIENCE)
    assert {each.name for each in listing.list_services_response.service} == {
        *SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
    }  # fmt: skip
    assert b"InvokeFunction" in file.file_descriptor_response.file_descriptor_proto[0]
