"""Guests that wait in a host call: when they go on, what they get, and how they are ended where they are."""

from __future__ import annotations

import gc
import struct
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from spear_wasm.engine.host_calls import CallingSandbox, HostFunction, Waits
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import Sandbox, Values
from spear_wasm.engine.wait import Wait, turn_of_others
from spear_wasm.model import ErrorCode, FunctionType, ValueType
from tests.workshop import (
    Workshop,
    at_once,
    bare_sandbox,
    call,
    run_slice,
    run_to_end,
    sandbox_of,
    start,
)

ASKS_ITS_HOST = """
(module
  (import "host" "ask" (func $ask (param i32 f64) (result i64)))
  (memory (export "memory") 1)
  (global $kept (mut i64) (i64.const 7))
  (func (export "ask") (param i32 f64) (result i64)
    (i64.add (call $ask (local.get 0) (local.get 1)) (global.get $kept)))
  (func (export "ask_twice") (result i64)
    (i64.add (call $ask (i32.const 1) (f64.const 0.5)) (call $ask (i32.const 2) (f64.const 0.5)))))
"""
ASKS_AT_ITS_START = """
(module
  (import "host" "ask" (func $ask (param i32 f64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "start")
  (func $start (drop (call $ask (i32.const 0) (f64.const 0))))
  (start $start))
"""
SIGNATURE = FunctionType((ValueType.I32, ValueType.F64), (ValueType.I64,))
Functions = dict[tuple[str, str], HostFunction]


def asked(implementation: Callable[..., Waits]) -> Functions:
    return {("host", "ask"): HostFunction("host", "ask", SIGNATURE, implementation, waits=True)}


class Host:
    """Waits for what the test ends, as often as it is told to, and answers with the sum of its arguments."""

    def __init__(self, times: int = 1) -> None:
        self.waits: list[Wait] = []
        self.closed = threading.Event()
        self._times = times

    def answer(self, _: CallingSandbox, number: int, more: float) -> Waits:
        try:
            for _turn in range(self._times):
                wait = Wait()
                self.waits.append(wait)
                yield wait
            return number + int(more * 2)
        finally:
            self.closed.set()

    def has_waited(self, times: int) -> bool:
        return len(self.waits) >= times


@contextmanager
def asking(sandbox: Sandbox, name: str, *args: float) -> Iterator[Values]:
    """A call of a function, ended before the sandbox is closed even where the test fails."""
    steps = start(sandbox, name, *args)
    try:
        yield steps
    finally:
        steps.close()


def run_until_it_waits(sandbox: Sandbox, steps: Generator[None, None, object]) -> None:
    run_until(sandbox, steps, lambda: sandbox.waits_for is not None)


def run_until(sandbox: Sandbox, steps: Generator[None, None, object], condition: Callable[[], bool]) -> None:
    """Run slices: a tick may end any of them before the guest comes to its host call."""
    while not condition():
        run_slice(sandbox, steps)


def test_a_guest_goes_on_when_what_it_waits_for_is_over_and_not_before(workshop: Workshop) -> None:
    host = Host()
    linked = workshop.link(ASKS_ITS_HOST, asked(host.answer))
    with sandbox_of(linked) as sandbox, asking(sandbox, "ask", 40, 0.5) as steps:
        run_until_it_waits(sandbox, steps)
        for _ in range(3):
            run_slice(sandbox, steps)
            assert sandbox.waits_for is host.waits[0]
        host.waits[0].end()
        assert run_to_end(sandbox, steps) == (48,)
        assert sandbox.waits_for is None
        assert host.closed.is_set()


def test_a_host_function_may_wait_for_one_thing_after_the_other(workshop: Workshop) -> None:
    host = Host(times=3)
    linked = workshop.link(ASKS_ITS_HOST, asked(host.answer))
    with sandbox_of(linked) as sandbox, asking(sandbox, "ask", 1, 0.0) as steps:
        for number in range(3):
            run_until(sandbox, steps, partial(host.has_waited, number + 1))
            assert len(host.waits) == number + 1
            assert sandbox.waits_for is host.waits[number]
            host.waits[number].end()
        assert run_to_end(sandbox, steps) == (8,)


def test_one_that_need_not_wait_answers_at_once(workshop: Workshop) -> None:
    host = Host(times=0)
    with sandbox_of(workshop.link(ASKS_ITS_HOST, asked(host.answer))) as sandbox:
        assert call(sandbox, "ask_twice") == (5,)


def test_what_is_over_already_ends_a_slice_all_the_same(workshop: Workshop) -> None:
    turns = []

    def give_turns_away(_: CallingSandbox, number: int, _more: float) -> Waits:
        for turn in range(3):
            turns.append(turn)
            yield turn_of_others()
        return number

    linked = workshop.link(ASKS_ITS_HOST, asked(give_turns_away))
    with sandbox_of(linked) as sandbox, asking(sandbox, "ask", 7, 0.0) as steps:
        for number in range(3):
            run_until(sandbox, steps, partial(turns.__contains__, number))
            assert turns == list(range(number + 1))
        assert run_to_end(sandbox, steps) == (14,)


def test_a_guest_may_wait_again_in_the_same_slice_in_which_it_was_woken(workshop: Workshop) -> None:
    host = Host()
    linked = workshop.link(ASKS_ITS_HOST, asked(host.answer))
    with sandbox_of(linked) as sandbox, asking(sandbox, "ask_twice") as steps:
        run_until_it_waits(sandbox, steps)
        host.waits[0].end()
        run_until(sandbox, steps, partial(host.has_waited, 2))
        assert sandbox.waits_for is host.waits[1]
        host.waits[1].end()
        assert run_to_end(sandbox, steps) == (5,)


def test_a_guest_that_waits_is_ended_by_closing_its_run(workshop: Workshop) -> None:
    host = Host()
    with sandbox_of(workshop.link(ASKS_ITS_HOST, asked(host.answer))) as sandbox:
        steps = start(sandbox, "ask", 1, 0.0)
        run_until_it_waits(sandbox, steps)
        assert not host.closed.is_set()
        steps.close()
        assert host.closed.is_set()
        assert sandbox.waits_for is None
        host.waits[0].end()  # too late, and nobody is there


def test_a_start_function_may_wait(workshop: Workshop) -> None:
    heard: list[bytes] = []
    wait = Wait()

    def answer(sandbox: CallingSandbox, _number: int, _more: float) -> Waits:
        yield wait
        heard.append(sandbox.read_memory(0, 5))
        return 0

    with bare_sandbox(workshop.link(ASKS_AT_ITS_START, asked(answer))) as sandbox:
        steps = sandbox.instantiate()
        run_until_it_waits(sandbox, steps)
        assert heard == []
        wait.end()
        run_to_end(sandbox, steps)
        assert heard == [b"start"]


FAULT = GuestFault(ErrorCode.GUEST_ERROR, "the host will not have it")


def _fails_at_once(_: CallingSandbox, _number: int, _more: float) -> Waits:
    yield from ()
    raise FAULT


def _fails_after_a_while(_: CallingSandbox, _number: int, _more: float) -> Waits:
    wait = Wait()
    wait.end()
    yield wait
    raise FAULT


def _returns_nothing(_: CallingSandbox, _number: int, _more: float) -> Waits:
    wait = Wait()
    wait.end()
    yield wait
    return None


@pytest.mark.parametrize("implementation", [_fails_at_once, _fails_after_a_while])
def test_what_a_host_function_raises_ends_its_guest_with_it(
    workshop: Workshop, implementation: Callable[..., Waits]
) -> None:
    with sandbox_of(workshop.link(ASKS_ITS_HOST, asked(implementation))) as sandbox:
        with pytest.raises(GuestFault) as caught:
            call(sandbox, "ask", 1, 0.0)
        assert caught.value is FAULT


def test_a_host_function_that_lacks_a_result_ends_the_guest_too(workshop: Workshop) -> None:
    linked = workshop.link(ASKS_ITS_HOST, asked(_returns_nothing))
    with (
        sandbox_of(linked) as sandbox,
        pytest.raises(struct.error, match="required argument is not an integer"),
    ):
        call(sandbox, "ask", 1, 0.0)


def test_errors_reach_the_guests_that_caused_them_however_many_fail_at_once(workshop: Workshop) -> None:
    def answer(_: CallingSandbox, number: int, _more: float) -> Waits:
        wait = Wait()
        wait.end()
        yield wait
        raise GuestFault(ErrorCode.GUEST_ERROR, str(number))

    linked = workshop.link(ASKS_ITS_HOST, asked(answer))

    def fail_often(first: int) -> None:
        for number in range(first, first + 200):
            with sandbox_of(linked) as sandbox, pytest.raises(GuestFault) as caught:
                call(sandbox, "ask", number, 0.0)
            assert caught.value.message == str(number)

    at_once([partial(fail_often, first) for first in (0, 1000, 2000, 3000)])


def test_a_guest_may_wait_on_one_thread_and_go_on_on_another(workshop: Workshop) -> None:
    host = Host(times=2)
    linked = workshop.link(ASKS_ITS_HOST, asked(host.answer))
    with sandbox_of(linked) as sandbox, asking(sandbox, "ask", 1, 0.0) as steps:
        for number in (1, 2):
            on_another_thread(partial(run_until, sandbox, steps, partial(host.has_waited, number)))
            on_another_thread(host.waits[-1].end)
        assert run_to_end(sandbox, steps) == (8,)


def on_another_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_call_that_waited_leaves_nothing_behind(workshop: Workshop, *, goes_on: bool) -> None:
    def wait_once() -> weakref.ref[Host]:
        host = Host()
        linked = workshop.link(ASKS_ITS_HOST, asked(host.answer))
        with sandbox_of(linked) as sandbox, asking(sandbox, "ask", 1, 0.0) as steps:
            run_until_it_waits(sandbox, steps)
            if goes_on:
                host.waits[0].end()
                run_to_end(sandbox, steps)
        return weakref.ref(host)

    gc.disable()
    try:
        assert wait_once()() is None
    finally:
        gc.enable()


# --- waits ------------------------------------------------------------------------------------------------


def test_whoever_listens_hears_of_the_end_whenever_it_comes() -> None:
    heard: list[str] = []
    early, late = Wait(), Wait()
    early.when_over(lambda: heard.append("early"))
    assert heard == []
    early.end()
    late.end()
    late.when_over(lambda: heard.append("late"))
    assert heard == ["early", "late"]


def test_an_end_that_comes_while_somebody_begins_to_listen_is_heard() -> None:
    for _ in range(500):
        wait, heard = Wait(), threading.Event()
        actions: list[Callable[[], None]] = [wait.end, partial(wait.when_over, heard.set)]
        at_once(actions)
        assert heard.is_set()
