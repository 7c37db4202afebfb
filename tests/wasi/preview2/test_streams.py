"""Streams, polling, clocks and the rest of what every guest of preview 2 has."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.engine.outcome import GuestExit, GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.preview2 import poll
from spear_wasm.wasi.preview2.interface import MAX_TRANSFER_BYTES
from spear_wasm.wasi.preview2.poll import Awaiting
from spear_wasm.wasi.preview2.random import MAX_RANDOM_BYTES
from spear_wasm.wasi.preview2.resources import MAX_RESOURCES
from spear_wasm.wit.values import Case, Err, Ok
from tests.wasi.preview2.guests import FUNCTIONS, Guest, one

IN, OUT, POLL = "[method]input-stream.", "[method]output-stream.", "[method]pollable."
STREAMS, CLOCK = "io/streams", "clocks/monotonic-clock"
CLOSED = Case("closed")
HOUR = 3600 * 10**9


def told(content: bytes) -> WasiCall:
    return WasiCall(stdin=content)


def stdin(guest: Guest) -> int:
    number: int = guest.call("cli/stdin", "get-stdin")
    return number


def stdout(guest: Guest) -> int:
    number: int = guest.call("cli/stdout", "get-stdout")
    return number


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["read", "blocking-read"])
def test_a_stream_is_read_to_its_end_and_then_closed(name: str) -> None:
    with one(wasi_call=told(b"abcde")) as guest:
        stream = stdin(guest)
        assert guest.ok(STREAMS, IN + name, stream, 3) == b"abc"
        assert guest.ok(STREAMS, IN + name, stream, 0) == b""
        assert guest.ok(STREAMS, IN + name, stream, 2**64 - 1) == b"de"
        assert guest.err(STREAMS, IN + name, stream, 1) == CLOSED
        assert guest.err(STREAMS, IN + name, stream, 0) == CLOSED


def test_one_call_moves_so_much_at_most() -> None:
    with one(wasi_call=told(bytes(3 * MAX_TRANSFER_BYTES))) as guest:
        stream = stdin(guest)
        assert len(guest.ok(STREAMS, IN + "read", stream, 2**40)) == MAX_TRANSFER_BYTES
        assert guest.ok(STREAMS, IN + "skip", stream, 2**40) == MAX_TRANSFER_BYTES
        assert guest.ok(STREAMS, IN + "blocking-skip", stream, 5) == 5


@given(st.binary(max_size=200), st.lists(st.integers(1, 50)))
def test_in_whatever_pieces_it_is_read_and_written_it_stays_the_same(
    content: bytes, sizes: list[int]
) -> None:
    with one(wasi_call=told(content)) as guest:
        source, target = stdin(guest), stdout(guest)
        for size in [*sizes, *[50] * 4]:
            answer = guest.call(STREAMS, IN + "read", source, size)
            if answer == Err(CLOSED):
                break
            guest.ok(STREAMS, OUT + "write", target, answer.value)
        assert guest.sandbox.output == content


def test_all_streams_of_standard_input_read_the_same() -> None:
    with one(wasi_call=told(b"ab")) as guest:
        assert guest.ok(STREAMS, IN + "read", stdin(guest), 1) == b"a"
        assert guest.ok(STREAMS, IN + "read", stdin(guest), 1) == b"b"


# --- what is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["write", "blocking-write-and-flush"])
def test_what_is_written_is_printed_or_logged(name: str) -> None:
    with one() as guest:
        guest.ok(STREAMS, OUT + name, stdout(guest), b"printed")
        guest.ok(STREAMS, OUT + name, guest.call("cli/stderr", "get-stderr"), b"logged")
        assert guest.sandbox.output == b"printed"
        assert guest.sandbox.logged == b"logged"


def test_as_much_may_be_written_as_there_is_said_to_be_room_for_and_no_more() -> None:
    with one() as guest:
        stream = stdout(guest)
        room = guest.ok(STREAMS, OUT + "check-write", stream)
        guest.ok(STREAMS, OUT + "write", stream, bytes(room))
        guest.ok(STREAMS, OUT + "write-zeroes", stream, room)
        guest.ok(STREAMS, OUT + "blocking-write-zeroes-and-flush", stream, 1)
        for name, too_much in (("write", bytes(room + 1)), ("write-zeroes", 2**64 - 1)):
            with pytest.raises(GuestFault, match="at once"):
                guest.call(STREAMS, OUT + name, stream, too_much)
        assert guest.sandbox.output == bytes(2 * room + 1)
        for name in ("flush", "blocking-flush"):
            guest.ok(STREAMS, OUT + name, stream)


@pytest.mark.parametrize("name", ["splice", "blocking-splice"])
def test_bytes_go_from_stream_to_stream(name: str) -> None:
    with one(wasi_call=told(b"abcde")) as guest:
        source, target = stdin(guest), stdout(guest)
        assert guest.ok(STREAMS, OUT + name, target, source, 3) == 3
        assert guest.ok(STREAMS, OUT + name, target, source, 2**60) == 2
        assert guest.err(STREAMS, OUT + name, target, source, 1) == CLOSED
        assert guest.sandbox.output == b"abcde"


def test_who_writes_to_a_slow_reader_waits() -> None:
    with one() as guest:
        wait = Wait()
        guest.sandbox.waits.append(wait)
        steps = guest.start(STREAMS, OUT + "write", stdout(guest), b"late")
        assert next(steps) is wait
        assert not guest.sandbox.output
        assert end_of(steps) == Ok()
        assert guest.sandbox.output == b"late"


def end_of(steps: Generator[Wait, None, Any]) -> Any:
    with pytest.raises(StopIteration) as stop:
        next(steps)
    return stop.value.value


# --- waiting ----------------------------------------------------------------------------------------------


def test_streams_are_ready_always() -> None:
    with one() as guest:
        pollables = [
            guest.call(STREAMS, IN + "subscribe", stdin(guest)),
            guest.call(STREAMS, OUT + "subscribe", stdout(guest)),
        ]
        for each in pollables:
            assert guest.call("io/poll", POLL + "ready", each)
            guest.call("io/poll", POLL + "block", each)
        assert guest.call("io/poll", "poll", pollables) == [0, 1]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds go by for those who wait."""

    def pass_by(seconds: float) -> None:
        real = time.monotonic_ns
        clock = SimpleNamespace(monotonic_ns=lambda: real() + int(seconds * 1e9))
        monkeypatch.setattr(poll, "time", clock)

    return pass_by


def test_a_timer_is_waited_for_until_its_time(later: Callable[[float], None]) -> None:
    with one() as guest:
        timer = guest.call(CLOCK, "subscribe-duration", HOUR)
        assert not guest.call("io/poll", POLL + "ready", timer)
        steps = guest.start("io/poll", POLL + "block", timer)
        wait = next(steps)
        assert wait.until is not None
        assert 3000 < wait.until - time.monotonic() <= 3600
        later(3601)
        assert end_of(steps) is None
        assert guest.call("io/poll", POLL + "ready", timer)


def test_an_instant_is_one_of_the_guests_own_clock() -> None:
    with one() as guest:
        past = guest.call(CLOCK, "subscribe-instant", guest.call(CLOCK, "now"))
        future = guest.call(CLOCK, "subscribe-instant", 2**64 - 1)
        never = guest.call(CLOCK, "subscribe-duration", 2**64 - 1)
        assert guest.call("io/poll", "poll", [future, past, never]) == [1]


def test_of_several_timers_the_first_is_waited_for(later: Callable[[float], None]) -> None:
    with one() as guest:
        far, near = (guest.call(CLOCK, "subscribe-duration", hours * HOUR) for hours in (2, 1))
        steps = guest.start("io/poll", "poll", [far, near])
        wait = next(steps)
        assert wait.until is not None
        assert wait.until - time.monotonic() <= 3600
        later(3601)
        assert end_of(steps) == [1]


def test_who_is_woken_too_early_waits_on() -> None:
    with one() as guest:
        steps = guest.start("io/poll", "poll", [guest.call(CLOCK, "subscribe-duration", HOUR)])
        next(steps).end()
        assert next(steps).until is not None
        steps.close()


def test_what_others_end_is_waited_for_beside_timers() -> None:
    with one() as guest:
        answer = Wait()
        pollables = [
            guest.call(CLOCK, "subscribe-duration", 2**62),
            guest.held.resources.add(Awaiting(answer)),
        ]
        steps = guest.start("io/poll", "poll", pollables)
        wait = next(steps)
        answer.end()
        assert wait.over
        assert end_of(steps) == [1]


def test_who_waits_for_nothing_is_ended() -> None:
    with one() as guest, pytest.raises(GuestFault, match="empty"):
        guest.call("io/poll", "poll", [])


# --- clocks, random numbers, arguments --------------------------------------------------------------------


def test_clocks_go_on() -> None:
    with one() as guest:
        first, second = guest.call(CLOCK, "now"), guest.call(CLOCK, "now")
        assert 0 <= first <= second < 60 * 10**9
        now = guest.call("clocks/wall-clock", "now")
        assert abs(now["seconds"] - time.time()) < 60
        assert guest.call("clocks/wall-clock", "resolution") == {"seconds": 0, "nanoseconds": 1}
        assert guest.call(CLOCK, "resolution") == 1


@pytest.mark.parametrize("interface", ["random", "insecure"])
def test_random_bytes_are_as_many_as_asked_for(interface: str) -> None:
    name = "get-random-" if interface == "random" else "get-insecure-random-"
    with one() as guest:
        for size in (0, 1, MAX_RANDOM_BYTES):
            assert len(guest.call(f"random/{interface}", name + "bytes", size)) == size
        with pytest.raises(GuestFault, match="random bytes"):
            guest.call(f"random/{interface}", name + "bytes", MAX_RANDOM_BYTES + 1)
        numbers = {guest.call(f"random/{interface}", name + "u64") for _ in range(4)}
        assert len(numbers) == 4
        assert guest.call("random/insecure-seed", "insecure-seed") != (0, 0)


def test_arguments_and_variables_are_the_calls_on_top_of_the_tasks() -> None:
    call = WasiCall([b"program", "é".encode()], b"", {"A": "call", "B": "2"})
    with one(environment={"A": "task", "C": "3"}, wasi_call=call) as guest:
        assert guest.call("cli/environment", "get-arguments") == ["program", "é"]
        variables = dict(guest.call("cli/environment", "get-environment"))
        assert variables == {"A": "call", "B": "2", "C": "3"}
        assert guest.call("cli/environment", "initial-cwd") is None


def test_there_is_no_terminal() -> None:
    with one() as guest:
        for name in ("stdin", "stdout", "stderr"):
            assert guest.call(f"cli/terminal-{name}", f"get-terminal-{name}") is None


@pytest.mark.parametrize(
    ("name", "given", "status"), [("exit", Ok(), 0), ("exit", Err(), 1), ("exit-with-code", 7, 7)]
)
def test_an_exit_has_its_status(name: str, given: object, status: int) -> None:
    with one() as guest, pytest.raises(GuestExit) as exited:
        guest.call("cli/exit", name, given)
    assert exited.value.status == status


# --- handles ------------------------------------------------------------------------------------------------


def test_a_guest_holds_so_much_and_may_go_on_when_it_drops_some() -> None:
    with one() as guest:
        held = [stdin(guest) for _ in range(MAX_RESOURCES)]
        assert len(set(held)) == MAX_RESOURCES
        with pytest.raises(GuestFault, match="resources"):
            stdin(guest)
        guest.drop("input-stream", held[7])
        assert stdin(guest) == held[7]


def test_every_socket_is_refused() -> None:
    with one() as guest:
        network = guest.call("sockets/instance-network", "instance-network")
        for kind in ("tcp", "udp"):
            create = f"sockets/{kind}-create-socket", f"create-{kind}-socket"
            assert guest.err(*create, "ipv4") == "access-denied"
        looked_up = guest.err("sockets/ip-name-lookup", "resolve-addresses", network, "a.test")
        assert looked_up == "access-denied"


def test_no_function_is_there_twice() -> None:
    assert len(FUNCTIONS) > 170
