"""WASI libraries over the socket: exported functions that use the system."""

from __future__ import annotations

from typing import Any

import pytest

from spear_wasm.errors import InvalidRequest
from tests.rpc.programs import program
from tests.rpc.serving import Server, code_of, context, refused, value_of


@pytest.fixture(scope="module")
def library(server: Server) -> Server:
    """The server with the library in C."""
    server.upload(program("library"), "library", "1")
    return server


def call(server: Server, function: str, *arguments: Any, **fields: Any) -> Any:
    return server.call("library", function, *arguments, **fields)


def test_a_library_is_recognised_and_offers_its_functions(library: Server) -> None:
    artifact = library.artifact("library")
    assert artifact.runtime_type == "wasi_reactor"
    assert {"age", "variable", "say", "sleep_for", "leave", "count"} <= {
        each.name for each in artifact.functions
    }
    assert "_initialize" not in {each.name for each in artifact.functions}


def test_it_is_initialised_before_it_is_called(library: Server) -> None:
    assert 0 <= value_of(call(library, "age")) < 60_000


def test_it_sees_the_variables_of_its_task_and_none_of_the_hosts(library: Server) -> None:
    spec = {"environment": {"COLOUR": "blue"}}
    assert value_of(call(library, "variable", b"COLOUR", spec=spec)) == b"blue"
    assert value_of(call(library, "variable", b"PATH", spec=spec)) == b""


def test_a_call_has_no_variables_of_its_own(library: Server) -> None:
    refused(InvalidRequest, lambda: call(library, "age", context=context(environment={"A": "b"})))


def test_what_it_prints_is_told_beside_its_result(library: Server) -> None:
    answer = call(library, "say", 41)
    assert value_of(answer) == 42
    assert answer.result.stdout == b"said 41\n"
    assert answer.result.stderr == b"heard 41\n"
    assert not answer.result.HasField("exit_code")


def test_it_sleeps_without_processor_time_and_ends_at_its_deadline(library: Server) -> None:
    answer = call(library, "sleep_for", 100)
    assert value_of(answer) == 0
    assert answer.result.execution_time_ms >= 100
    assert code_of(call(library, "sleep_for", 60_000, context=context(timeout_ms=100))) == "TIMEOUT"


def test_a_function_that_exits_has_ended_with_that_status(library: Server) -> None:
    for status in (3, 256, -1, -(2**31)):
        answer = call(library, "leave", status)
        assert (code_of(answer), answer.result.exit_code) == ("EXIT_STATUS", status)
    assert call(library, "leave", 0).success


def test_each_call_has_a_sandbox_of_its_own_unless_its_task_reuses_them(library: Server) -> None:
    assert [value_of(call(library, "count")) for _ in range(2)] == [1, 1]
    name = "library-reused"
    spec = {"runtime_config": {"reuse": True}}
    counts = [value_of(call(library, "count", spec=spec, task_name=name)) for _ in range(3)]
    assert counts == [1, 2, 3]


def test_after_an_exit_its_sandbox_is_not_used_again(library: Server) -> None:
    name, spec = "library-left", {"runtime_config": {"reuse": True}}
    assert value_of(call(library, "count", spec=spec, task_name=name)) == 1
    call(library, "leave", 0, spec=spec, task_name=name)
    assert value_of(call(library, "count", spec=spec, task_name=name)) == 1
