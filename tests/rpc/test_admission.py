"""What a server does that has more to do than it can: it says so at once, in its own words."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import ServerBusy
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    context,
    fixture,
    limits,
    parameters,
    read_refusal,
    refused,
    value_of,
)

SMALL = """
[execution]
max_running = 2
max_pending = 2
[pool]
max_ready = 1
max_ready_per_task = 1
[engine]
sandboxes = 16
"""


@pytest.fixture
def small(start_server: StartServer) -> Server:
    """A server that runs two at once and lets two wait."""
    server = start_server(SMALL)
    server.upload(fixture("hostile"), "hostile")
    return server


def idle_task(server: Server) -> str:
    """A new task; an answer is sent before its place is given back, and nothing has a place any more."""
    task = server.task("hostile")
    server.wait_for_load(0)
    return task


def spins(
    server: Server, task: str, count: int, priority: int = 0
) -> list[grpc.Future[pb.InvokeFunctionResponse]]:
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin", priority=priority)
    return [server.functions.InvokeFunction.future(request) for _ in range(count)]


def test_a_full_server_refuses_at_once_and_says_when_to_come_again(small: Server) -> None:
    task = idle_task(small)
    guests = spins(small, task, 4)
    small.wait_for_load(2, 2)
    start = time.monotonic()
    refusal = refused(ServerBusy, lambda: small.invoke(task_id=task, function_name="unreachable"))
    assert time.monotonic() - start < 2
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 10
    assert small.load() == (2, 2)
    for guest in guests:
        guest.cancel()
    small.wait_for_load(0)
    assert code_of(small.invoke(task_id=task, function_name="unreachable")) == "TRAP_UNREACHABLE"


def test_a_call_that_a_full_server_refuses_leaves_no_task(small: Server) -> None:
    task = idle_task(small)
    guests = spins(small, task, 4)
    small.wait_for_load(2, 2)
    refused(ServerBusy, lambda: small.call("hostile", "unreachable", task_name="never"))
    assert not small.get_task("never").found
    for guest in guests:
        guest.cancel()
    small.wait_for_load(0)


def test_a_full_server_still_answers_questions(small: Server) -> None:
    task = idle_task(small)
    guests = spins(small, task, 4)
    small.wait_for_load(2, 2)
    assert small.get_task(task).found
    assert small.health().status == "degraded"
    assert small.stats().function_service_stats.running_executions == 2
    for guest in guests:
        guest.cancel()


def test_those_who_wait_get_their_turn_in_order(small: Server) -> None:
    task = small.task("hostile")
    guests = spins(small, task, 2)
    small.wait_for_load(2)
    later = [small.call_later("hostile", "spin_for", 1, task_name=small.get_task(task).task.task_name)]
    small.wait_for_load(2, 1)
    later.append(small.call_later("hostile", "spin_for", 2, task_name=small.get_task(task).task.task_name))
    small.wait_for_load(2, 2)
    guests[0].cancel()
    first, second = (each.answer() for each in later)
    assert [value_of(first), value_of(second)] == [1, 2]
    assert first.result.started_at.ToNanoseconds() <= second.result.started_at.ToNanoseconds()
    guests[1].cancel()


def test_of_those_who_wait_the_highest_priority_goes_first_and_none_is_5(small: Server) -> None:
    task = small.task("hostile")
    guests = spins(small, task, 2)
    small.wait_for_load(2)
    name = small.get_task(task).task.task_name
    lower = small.call_later("hostile", "spin_for", 1, task_name=name, priority=4)
    small.wait_for_load(2, 1)
    usual = small.call_later("hostile", "spin_for", 1, task_name=name)
    small.wait_for_load(2, 2)
    guests[0].cancel()
    started = [each.answer().result.started_at.ToNanoseconds() for each in (usual, lower)]
    assert started == sorted(started)
    guests[1].cancel()


def running_of(server: Server, task: str) -> int:
    found = server.get_task(task, include_executions=True).executions
    return sum(each.status == pb.EXECUTION_STATUS_RUNNING for each in found)


async def burst(address: str, request: pb.InvokeFunctionRequest, count: int) -> Counter[str]:
    """Calls all at once, over a few connections; how they ended."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(4)]
    stubs = [function_pb2_grpc.FunctionServiceStub(channel) for channel in channels]

    async def one(stub: function_pb2_grpc.FunctionServiceStub) -> str:
        try:
            answer = await stub.InvokeFunction(request, timeout=PATIENCE)  # type: ignore[misc]  # the stub of an asyncio channel
        except grpc.aio.AioRpcError as error:
            refusal = read_refusal(error)
            assert refusal.retry_after
            return f"{refusal.code.name} {refusal.reason}"
        return "completed" if answer.success else str(answer.result.error_code)

    try:
        return Counter(await asyncio.gather(*(one(stubs[turn % len(stubs)]) for turn in range(count))))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


def test_of_a_burst_each_call_is_run_or_refused_with_a_hint(small: Server) -> None:
    task = idle_task(small)
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin", context=context(timeout_ms=400))
    ends = asyncio.run(burst(small.address, request, 500))
    assert ends.keys() == {"TIMEOUT", "RESOURCE_EXHAUSTED SERVER_BUSY"}
    assert 4 <= ends["TIMEOUT"] < 100
    assert ends.total() == 500


def test_a_burst_of_calls_that_need_a_new_task_is_run_or_refused_with_a_hint(small: Server) -> None:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="hostile"),
        function_name="spin_for",
        parameters=parameters(1),
    )
    ends = asyncio.run(burst(small.address, request, 500))
    assert ends.keys() <= {"completed", "RESOURCE_EXHAUSTED SERVER_BUSY"}
    assert ends["completed"] >= 1
    assert small.stats().service_stats.total_tasks == 1


def test_a_burst_of_quick_calls_within_the_bounds_completes(server: Server) -> None:
    task = server.task("calc")
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: server.invoke(task_id=task, function_name="answer"), range(500)))
    assert {value_of(answer) for answer in answers} == {42}


def test_a_task_runs_no_more_at_once_than_its_concurrency_and_others_go_ahead(server: Server) -> None:
    task = server.task("hostile", resource_limits=limits(max_concurrency=2))
    guests = spins(server, task, 4)
    server.wait_for_load(2, 2)
    answer = server.call("calc", "answer")
    assert value_of(answer) == 42
    server.wait_for_load(2, 2)  # an answer comes before what it used is given back
    guests[0].cancel()
    guests[1].cancel()
    server.wait_for_load(2)
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)


def test_a_task_that_asks_for_no_concurrency_has_the_servers_default(start_server: StartServer) -> None:
    server = start_server("[default_limits]\nmax_concurrency = 2")
    for artifact in ("hostile", "calc"):
        server.upload(fixture(artifact), artifact)
    guests = spins(server, server.task("hostile"), 3)
    server.wait_for_load(2, 1)
    assert value_of(server.call("calc", "answer")) == 42
    guests += spins(server, server.task("hostile", resource_limits=limits(max_concurrency=3)), 3)
    server.wait_for_load(5, 1)
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)


def test_memory_that_guests_may_grow_to_is_room_that_they_take(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_total_memory = "96MiB"')
    server.upload(fixture("hostile"), "hostile")
    task = server.task("hostile", resource_limits=limits(max_memory_bytes=64 << 20))
    guests = spins(server, task, 2)
    server.wait_for_load(1, 1)
    guests[0].cancel()
    server.wait_for_load(1, 0)
    guests[1].cancel()


def test_a_flooded_task_leaves_room_for_another_and_shares_the_line_with_it(
    start_server: StartServer,
) -> None:
    server = start_server("[execution]\nmax_running = 4\nmax_pending = 8")
    server.upload(fixture("hostile"), "hostile")
    flooded, other = (server.task("hostile") for _ in range(2))
    flood = spins(server, flooded, 9)
    server.wait_for_load(3, 6)
    refusal = refused(ServerBusy, lambda: server.invoke(task_id=flooded, function_name="unreachable"))
    assert refusal.retry_after
    assert "its share of the line" in refusal.message
    # The last place is for a task that has none, and then the line has room for it.
    trickle = spins(server, other, 1)
    server.wait_for_load(4, 6)
    trickle += spins(server, other, 1)
    server.wait_for_load(4, 7)
    trickle[0].cancel()
    server.wait_for_load(4, 6)
    for guest in flood + trickle:
        guest.cancel()
    server.wait_for_load(0)


def test_a_lower_priority_gets_what_a_flood_of_a_higher_one_leaves_and_takes_nothing_from_it(
    start_server: StartServer,
) -> None:
    server = start_server("[execution]\nmax_running = 4")
    server.upload(fixture("hostile"), "hostile")
    high, low = (server.task("hostile") for _ in range(2))
    flood = spins(server, high, 4, priority=9)
    server.wait_for_load(3, 1)
    lower = spins(server, low, 2, priority=1)
    server.wait_for_load(4, 2)
    flood[0].cancel()
    server.wait_for_load(4, 1)
    assert running_of(server, high) == 3
    for guest in flood + lower:
        guest.cancel()
    server.wait_for_load(0)


def test_honest_guests_run_on_time_beside_hostile_ones(server: Server) -> None:
    guests = spins(server, server.task("hostile"), 6)
    server.wait_for_load(6)
    answers = [server.call("calc", "count_to", 100_000) for _ in range(20)]
    assert {value_of(answer) for answer in answers} == {100_000}
    assert max(answer.result.queue_time_ms for answer in answers) < 1000
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)
