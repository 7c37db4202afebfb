"""Every limit, at each of its three levels, and a guest that runs into it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2
from spear_wasm.errors import InvalidArtifact, InvalidRequest
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    Pending,
    Server,
    code_of,
    context,
    fixture,
    limits,
    parameters,
    refused,
    until,
    value_of,
)

Response = function_pb2.InvokeFunctionResponse

MIB = 1 << 20
PAGE = 65536


@dataclass(frozen=True)
class Bound:
    """A limit, a value for it, and a call that runs into that value."""

    field: str
    setting: str
    value: int
    written: str
    artifact: str
    function: str
    argument: str | None
    bites: Callable[[Response], None]
    from_the_start: bool = False
    """The module has more than that before anything runs."""

    def __str__(self) -> str:
        return f"{self.field}-{self.function}"

    def provoke(self, server: Server, **fields: Any) -> Response:
        arguments = [] if self.argument is None else [self.argument]
        return server.call(self.artifact, self.function, *arguments, **fields)


def stays_at(most: int, unit: int, least: int) -> Callable[[Response], None]:
    def check(answer: Response) -> None:
        assert least <= value_of(answer) * unit <= most

    return check


def fails_with(code: str) -> Callable[[Response], None]:
    def check(answer: Response) -> None:
        assert code_of(answer) == code
        assert answer.result.status == function_pb2.EXECUTION_STATUS_FAILED
        assert answer.result.error_message

    return check


def log_is_cut(answer: Response) -> None:
    assert answer.success
    assert len(answer.result.stderr) == 1000
    assert answer.result.output_truncated


BOUNDS = [
    Bound("max_memory_bytes", "max_memory", 2 * MIB, '"2MiB"', "hostile", "grow_forever", None,
          stays_at(2 * MIB, PAGE, least=2 * MIB)),
    Bound("max_memory_bytes", "max_memory", MIB, '"1MiB"', "big_memory", "pages", None,
          fails_with("MEMORY_LIMIT"), from_the_start=True),
    Bound("max_table_elements", "max_table_elements", 3000, "3_000", "hostile", "table_grow_forever", None,
          stays_at(3000 // 2, 1, least=1024)),
    Bound("max_table_elements", "max_table_elements", 4, "4", "hostile", "unreachable", None,
          fails_with("MEMORY_LIMIT"), from_the_start=True),
    Bound("max_fuel", "max_fuel", 100_000, "100_000", "hostile", "spin", None, fails_with("OUT_OF_FUEL")),
    Bound("max_cpu_time_ms", "max_cpu_time", 30, '"30ms"', "hostile", "spin", None,
          fails_with("CPU_TIME_EXCEEDED")),
    Bound("max_output_bytes", "max_output", 1000, "1_000", "text", "big_output", "1001",
          fails_with("OUTPUT_LIMIT")),
    Bound("max_log_bytes", "max_log", 1000, "1_000", "text", "log_flood", "1", log_is_cut),
]  # fmt: skip
every_bound = pytest.mark.parametrize("bound", BOUNDS, ids=str)


@pytest.mark.parametrize("bound", [each for each in BOUNDS if not each.from_the_start], ids=str)
def test_the_default_of_the_server_binds_and_its_ceiling_is_not_exceeded(
    bound: Bound, start_server: StartServer
) -> None:
    setting = f"{bound.setting} = {bound.written}"
    server = start_server(f"[default_limits]\n{setting}\n[ceiling]\n{setting}")
    server.upload(fixture("calc"), "calc")
    server.upload(fixture(bound.artifact), bound.artifact)
    bound.bites(bound.provoke(server))
    too_much = {"resource_limits": limits(**{bound.field: bound.value + 1})}
    refusal = refused(InvalidRequest, lambda: server.call("calc", "answer", spec=too_much))
    assert refusal.metadata == {
        "limit": bound.field, "asked": str(bound.value + 1), "ceiling": str(bound.value)
    }  # fmt: skip
    assert "the server's ceiling" in refusal.message


@pytest.mark.parametrize("bound", [each for each in BOUNDS if each.from_the_start], ids=str)
def test_a_module_that_begins_above_the_ceiling_is_refused_at_its_upload(
    bound: Bound, start_server: StartServer
) -> None:
    setting = f"{bound.setting} = {bound.written}"
    server = start_server(f"[default_limits]\n{setting}\n[ceiling]\n{setting}")
    refusal = refused(InvalidArtifact, lambda: server.upload(fixture(bound.artifact), "large"))
    assert str(bound.value) in refusal.message
    assert "at byte" in refusal.message


@every_bound
def test_what_the_artifact_asks_for_binds(bound: Bound, server: Server) -> None:
    bound.bites(bound.provoke(server, spec={"resource_limits": limits(**{bound.field: bound.value})}))


@every_bound
def test_a_call_tightens(bound: Bound, server: Server) -> None:
    bound.bites(bound.provoke(server, limits=limits(**{bound.field: bound.value})))


@every_bound
def test_a_call_does_not_widen(bound: Bound, server: Server) -> None:
    spec = {"resource_limits": limits(**{bound.field: bound.value})}
    wider = limits(**{bound.field: bound.value + 1})
    refusal = refused(InvalidRequest, lambda: bound.provoke(server, spec=spec, limits=wider))
    assert refusal.metadata["limit"] == bound.field
    assert "the task's limit" in refusal.message


@pytest.mark.parametrize("level", ["server", "artifact", "call"])
def test_input_above_the_bound_is_the_callers_mistake(
    level: str, server: Server, start_server: StartServer
) -> None:
    fields: dict[str, Any] = {}
    if level == "server":
        server = start_server("[default_limits]\nmax_input = 1_000\n[ceiling]\nmax_input = 1_000")
        server.upload(fixture("text"), "text")
        too_much = {"resource_limits": limits(max_input_bytes=1001)}
        assert refused(InvalidRequest, lambda: server.call("text", "echo", spec=too_much)).metadata["limit"]
    elif level == "artifact":
        fields["spec"] = {"resource_limits": limits(max_input_bytes=1000)}
    else:
        fields["limits"] = limits(max_input_bytes=1000)
    assert value_of(server.call("text", "echo", b"x" * 1000, **fields)) == b"x" * 1000
    refusal = refused(InvalidRequest, lambda: server.call("text", "echo", b"x" * 1001, **fields))
    assert refusal.metadata == {"limit": "max_input_bytes"}
    assert "1001" in refusal.message


def test_numbers_count_as_input_too(server: Server) -> None:
    tight = limits(max_input_bytes=7)
    refusal = refused(InvalidRequest, lambda: server.call("calc", "add", 1, 2, limits=tight))
    assert refusal.metadata == {"limit": "max_input_bytes"}


def test_numbers_count_as_output_too(server: Server) -> None:
    fails_with("OUTPUT_LIMIT")(server.call("calc", "answer", limits=limits(max_output_bytes=3)))


# --- time, the one limit that takes the least -------------------------------------------------------------


def times_out(answer: Response, least_ms: float) -> None:
    assert code_of(answer) == "TIMEOUT"
    assert answer.result.status == function_pb2.EXECUTION_STATUS_TIMEOUT
    assert answer.result.execution_time_ms + answer.result.queue_time_ms >= least_ms - 1


def test_the_servers_default_ends_a_guest(start_server: StartServer) -> None:
    server = start_server('[default_limits]\nmax_wall_time = "150ms"')
    server.upload(fixture("hostile"), "hostile")
    times_out(server.call("hostile", "spin"), 150)


def test_the_servers_ceiling_ends_a_guest_whose_artifact_asks_for_more(start_server: StartServer) -> None:
    server = start_server('[default_limits]\nmax_wall_time = "100ms"\n[ceiling]\nmax_wall_time = "200ms"')
    server.upload(fixture("hostile"), "hostile")
    times_out(server.call("hostile", "spin", spec={"max_execution_timeout_ms": 3_600_000}), 200)


def test_the_artifacts_timeout_ends_a_guest(server: Server) -> None:
    times_out(server.call("hostile", "spin", spec={"max_execution_timeout_ms": 120}), 120)


def test_the_calls_timeout_ends_a_guest(server: Server) -> None:
    times_out(server.call("hostile", "spin", context=context(timeout_ms=120)), 120)


@pytest.mark.parametrize(("artifacts", "calls"), [(100, 5000), (5000, 100)])
def test_the_least_timeout_counts(artifacts: int, calls: int, server: Server) -> None:
    answer = server.call(
        "hostile", "spin", spec={"max_execution_timeout_ms": artifacts}, context=context(timeout_ms=calls)
    )
    times_out(answer, 100)
    assert answer.result.execution_time_ms < 5000


@pytest.mark.parametrize("artifact", ["start_spin", "initialize_spin"])
def test_a_guest_that_never_finishes_to_start_times_out(artifact: str, server: Server) -> None:
    times_out(server.call(artifact, "answer", context=context(timeout_ms=100)), 100)


@pytest.mark.parametrize("function", ["spin", "recurse_forever", "grow_and_fill"])
def test_no_way_to_go_on_for_ever_escapes_the_clock(function: str, server: Server) -> None:
    times_out(server.call("hostile", function, context=context(timeout_ms=100)), 100)


def test_an_endless_log_is_cut_and_the_guest_timed_out(server: Server) -> None:
    answer = server.call(
        "text", "log_flood", context=context(timeout_ms=1500), limits=limits(max_log_bytes=99)
    )
    times_out(answer, 1500)
    assert len(answer.result.stderr) == 99
    assert answer.result.output_truncated


def test_a_negative_timeout_is_refused(server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "answer", spec={"max_execution_timeout_ms": -1}))
    refused(InvalidRequest, lambda: server.call("calc", "answer", context=context(timeout_ms=-1)))


# --- concurrency ------------------------------------------------------------------------------------------


def test_concurrency_belongs_to_a_task_not_to_a_call(server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "answer", limits=limits(max_concurrency=1)))


def test_concurrency_above_the_ceiling_is_refused(server: Server) -> None:
    spec = {"resource_limits": limits(max_concurrency=10_001)}
    assert refused(InvalidRequest, lambda: server.call("calc", "answer", spec=spec)).metadata == {
        "limit": "max_concurrency", "asked": "10001", "ceiling": "10000"
    }  # fmt: skip


# --- several at once --------------------------------------------------------------------------------------


def test_limits_that_are_not_asked_for_stay_as_they_are(server: Server) -> None:
    spec = {"resource_limits": limits(max_memory_bytes=2 * MIB, max_log_bytes=1000)}
    answer = server.call("hostile", "grow_forever", spec=spec, limits=limits(max_fuel=10_000_000))
    stays_at(2 * MIB, PAGE, least=2 * MIB)(answer)
    assert 0 < answer.result.fuel_used <= 10_000_000


def test_hidden_memories_count(server: Server) -> None:
    assert value_of(server.call("hidden_memory", "grow", 15, limits=limits(max_memory_bytes=MIB))) == 1
    assert value_of(server.call("hidden_memory", "grow", 16, limits=limits(max_memory_bytes=MIB))) == -1


# --- what it cost -----------------------------------------------------------------------------------------


def test_a_completed_call_tells_what_it_cost(server: Server) -> None:
    result = server.call("hostile", "spin_for", 20_000_000).result
    assert 1 <= result.cpu_time_ms <= result.execution_time_ms + 1
    assert result.queue_time_ms >= 0
    assert result.memory_used_bytes == PAGE
    assert result.fuel_used == 0
    assert result.started_at.ToMilliseconds() <= result.completed_at.ToMilliseconds()


def test_a_stopped_call_tells_what_it_cost(server: Server) -> None:
    result = server.call("hostile", "spin", limits=limits(max_cpu_time_ms=50)).result
    assert result.cpu_time_ms >= 50
    assert result.execution_time_ms >= 49
    assert result.memory_used_bytes == PAGE


def test_fuel_is_counted_and_the_same_every_time(server: Server) -> None:
    used = {
        server.call("hostile", "spin_for", turns, limits=limits(max_fuel=10**9)).result.fuel_used
        for turns in (1000, 1000, 1000)
    }
    assert len(used) == 1
    (thousand,) = used
    two_thousand = server.call("hostile", "spin_for", 2000, limits=limits(max_fuel=10**9)).result.fuel_used
    assert 1000 < thousand < two_thousand < 2 * thousand


def test_a_guest_without_fuel_has_used_all_of_it(server: Server) -> None:
    assert server.call("hostile", "spin", limits=limits(max_fuel=5000)).result.fuel_used == 5000


def test_the_peak_of_memory_is_told(server: Server) -> None:
    answer = server.call("hostile", "grow_forever", limits=limits(max_memory_bytes=3 * MIB))
    assert answer.result.memory_used_bytes == 3 * MIB


def test_waiting_counts_as_queue_time(server: Server) -> None:
    spec = {"resource_limits": limits(max_concurrency=1)}
    task = server.task("hostile", **spec)
    request = function_pb2.InvokeFunctionRequest(task_id=task, function_name="spin")
    first = server.functions.InvokeFunction.future(request)
    server.wait_for_load(1)
    waiting = Pending(lambda: server.invoke(task_id=task, function_name="spin_for", parameters=parameters(1)))
    server.wait_for_load(1, 1)
    seen = time.monotonic()
    until(lambda: server.load() == (1, 1) and time.monotonic() > seen + 0.3)
    first.cancel()
    second = waiting.answer()
    assert second.success
    assert second.result.queue_time_ms >= 299
    assert second.result.execution_time_ms < second.result.queue_time_ms + 300


TRAPS = {
    "unreachable": "TRAP_UNREACHABLE",
    "out_of_bounds": "TRAP_OUT_OF_BOUNDS",
    "out_of_bounds_edge": "TRAP_OUT_OF_BOUNDS",
    "divide_by_zero": "TRAP_DIVIDE_BY_ZERO",
    "divide_overflow": "TRAP_INTEGER_OVERFLOW",
    "trunc_overflow": "TRAP_INTEGER_OVERFLOW",
    "trunc_nan": "TRAP_BAD_CONVERSION",
    "call_null": "TRAP_INDIRECT_CALL_TO_NULL",
    "call_bad_signature": "TRAP_BAD_SIGNATURE",
    "call_out_of_table": "TRAP_TABLE_OUT_OF_BOUNDS",
    "recurse": "TRAP_STACK_OVERFLOW",
}


@pytest.mark.parametrize("metered", [False, True], ids=["plain", "metered"])
@pytest.mark.parametrize(("function", "code"), TRAPS.items())
def test_every_trap_has_its_code_and_names_its_function(
    function: str, code: str, metered: bool, server: Server
) -> None:
    answer = server.call("hostile", function, limits=limits(max_fuel=10**9 if metered else 0))
    fails_with(code)(answer)
    expected = "deeper" if function == "recurse" else function
    assert re.search(rf"\b{expected}\b", answer.result.trap_frames[0])


def test_the_frames_of_a_trap_are_named_from_the_innermost_out(server: Server) -> None:
    frames = server.call("hostile", "outer").result.trap_frames
    assert [name for frame in frames for name in ("inner", "middle", "outer") if name in frame] == [
        "inner", "middle", "outer"
    ]  # fmt: skip


@pytest.mark.parametrize("artifact", ["start_trap", "initialize_trap"])
def test_a_trap_before_the_function_is_told_like_any_other(artifact: str, server: Server) -> None:
    fails_with("TRAP_UNREACHABLE")(server.call(artifact, "answer"))


@pytest.mark.parametrize("function", ["bad_range", "bad_range_edge", "log_bad_range", "fail_bad_range"])
def test_a_range_outside_of_the_memory_is_the_guests_error(function: str, server: Server) -> None:
    fails_with("GUEST_ERROR")(server.call("text", function, b"x"))


def test_a_guest_can_fail_in_its_own_words(server: Server) -> None:
    answer = server.call("text", "log_and_fail", b"before")
    fails_with("GUEST_ERROR")(answer)
    assert answer.result.error_message == "failed after logging"
    assert answer.result.stderr == b"before"


def test_a_message_that_is_larger_than_any_input_may_be_is_refused_by_grpc(start_server: StartServer) -> None:
    server = start_server(
        '[default_limits]\nmax_input = "64KiB"\n[ceiling]\nmax_input = "64KiB"\n[batches]\nmax_input = "64KiB"'
    )
    server.upload(fixture("text"), "text")
    refused(InvalidRequest, lambda: server.call("text", "upper", b"a" * (128 << 10)))
    with pytest.raises(grpc.RpcError) as raised:
        server.call("text", "upper", b"a" * (4 << 20))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
