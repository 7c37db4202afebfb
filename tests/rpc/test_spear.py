"""The host functions of `spear`, used by guests in C with its header: plain ones, and programs for WASI."""

from __future__ import annotations

import time
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from tests.rpc.programs import program, run
from tests.rpc.serving import Server, code_of, context, value_of
from tests.rpc.test_streams import Stream


@pytest.fixture(scope="module")
def beacon(server: Server) -> Server:
    """The server with a program for WASI that uses all of them."""
    server.upload(program("beacon"), "beacon", "1")
    return server


def call(server: Server, *words: object, **fields: Any) -> pb.InvokeFunctionResponse:
    return run(server, *map(str, words), artifact="beacon", **fields)


def test_it_logs_with_a_level_and_without(beacon: Server) -> None:
    assert call(beacon, "log", "it is late").result.stderr == b"warn: it is late\nit is late"


def test_it_has_the_time(beacon: Server) -> None:
    milliseconds, seconds = map(int, value_of(call(beacon, "clocks")).split())
    assert abs(milliseconds / 1000 - time.time()) < 60
    assert 0 <= milliseconds / 1000 - seconds < 60


def test_it_has_numbers_that_nobody_can_foresee(beacon: Server) -> None:
    assert len({value_of(call(beacon, "random")) for _ in range(5)}) == 5


def test_it_sleeps_without_processor_time_and_ends_at_its_deadline(beacon: Server) -> None:
    answer = call(beacon, "sleep", 150)
    assert value_of(answer) == b"asleep\nawake\n"
    assert answer.result.execution_time_ms >= 150
    late = call(beacon, "sleep", 60_000, context=context(timeout_ms=2000))
    assert (code_of(late), late.result.stdout) == ("TIMEOUT", b"asleep\n")
    assert late.result.cpu_time_ms < 100


def test_what_it_emits_and_what_it_prints_reach_a_reader_in_their_order(beacon: Server) -> None:
    messages, final = Stream(beacon.functions, "_start", "emit", "a message", artifact="beacon").rest()
    assert messages == [b"a message", b"printed\n", b"a message"]
    assert final.status == pb.EXECUTION_STATUS_COMPLETED


def test_what_it_emits_where_nobody_reads_is_dropped(beacon: Server) -> None:
    assert value_of(call(beacon, "emit", "a message")) == b"printed\n"


def test_it_fails_with_a_message_and_keeps_what_it_printed(beacon: Server) -> None:
    answer = call(beacon, "fail", "no, not today")
    assert (code_of(answer), answer.result.error_message) == ("GUEST_ERROR", "no, not today")
    assert answer.result.stdout == b"printed\n"


def test_a_plain_guest_has_them_all_too(server: Server) -> None:
    answer = server.call("dice", "throw", 3, 50)
    assert 3 <= value_of(answer) <= 18
    assert answer.result.stderr == b"info: no hurry\n"
    assert answer.result.execution_time_ms >= 150
    assert code_of(server.call("dice", "throw", 0, 0)) == "GUEST_ERROR"
