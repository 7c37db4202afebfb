"""Guests that sleep: they wake in time, cost nothing meanwhile, and end like any others."""

from __future__ import annotations

from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from tests.rpc.conftest import StartServer
from tests.rpc.serving import Server, code_of, context, fixture, value_of

ONE_THREAD = "[execution]\nthreads = 1\nmax_running = 200\n"


@pytest.fixture
def narrow(start_server: StartServer) -> Server:
    """A server whose guests all run on one thread."""
    server = start_server(ONE_THREAD)
    for name in ("host_calls", "calc"):
        server.upload(fixture(name), name, "1")
    return server


def asleep(server: Server, count: int) -> list[Any]:
    """That many calls whose guests sleep, as gRPC has them."""
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="host_calls"), function_name="sleep_forever"
    )
    calls = [server.functions.InvokeFunction.future(request) for _ in range(count)]
    server.wait_for_load(count)
    return calls


def test_a_guest_sleeps_as_long_as_it_asks_for_and_uses_no_processor_time(server: Server) -> None:
    answer = server.call("host_calls", "sleep", 1500)
    assert value_of(answer) >= 1499
    assert answer.result.execution_time_ms >= 1500
    assert answer.result.cpu_time_ms < 100


def test_a_sleep_of_no_time_is_none(server: Server) -> None:
    for duration in (0, -1, -(2**31)):
        assert value_of(server.call("host_calls", "sleep", duration)) < 10_000


def test_a_guest_that_sleeps_ends_at_its_deadline(server: Server) -> None:
    answer = server.call("host_calls", "sleep_forever", context=context(timeout_ms=100))
    assert code_of(answer) == "TIMEOUT"
    assert 100 <= answer.result.execution_time_ms < 10_000


def test_a_guest_that_sleeps_ends_when_its_caller_hangs_up(narrow: Server) -> None:
    (call,) = asleep(narrow, 1)
    call.cancel()
    narrow.wait_for_load(0)


def test_sleepers_hold_no_thread(narrow: Server) -> None:
    calls = asleep(narrow, 100)
    assert value_of(narrow.call("calc", "add", 40, 2)) == 42
    for call in calls:
        call.cancel()
    narrow.wait_for_load(0)
