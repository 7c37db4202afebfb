"""Arguments, environment, standard streams: as the standard lays them out, and for guests that ask for too much."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.engine.outcome import GuestExit
from spear_wasm.wasi.errno import Errno
from spear_wasm.wasi.guest import WasiCall
from tests.wasi.preview1.guests import MEMORY_BYTES, OUT, Guests

TEXTS = st.lists(st.binary(max_size=40).filter(lambda text: b"\0" not in text), max_size=10)


def texts_at(memory: bytes, addresses: list[int]) -> list[bytes]:
    """What begins at each address and ends with a zero."""
    return [memory[address : memory.index(b"\0", address)] for address in addresses]


@given(arguments=TEXTS)
def test_arguments_arrive_as_they_are(guests: Guests, arguments: list[bytes]) -> None:
    with guests.one(WasiCall(arguments)) as guest:
        assert guest.call("args_sizes_get", OUT, OUT + 4) is Errno.SUCCESS
        count, size = guest.number(), guest.number(OUT + 4)
        assert (count, size) == (len(arguments), sum(len(each) + 1 for each in arguments))
        assert guest.call("args_get", 0, 1000) is Errno.SUCCESS
        addresses = list(struct.unpack(f"<{count}I", guest.read(0, 4 * count)))
        assert texts_at(guest.read(0, 2000 + size), addresses) == arguments


def test_variables_of_the_call_replace_those_of_the_task(guests: Guests) -> None:
    call = WasiCall(environment={"B": "call", "C": "é"})
    with guests.one(call, environment={"A": "task", "B": "task"}) as guest:
        assert guest.call("environ_sizes_get", OUT, OUT + 4) is Errno.SUCCESS
        assert guest.number() == 3
        assert guest.call("environ_get", 0, 1000) is Errno.SUCCESS
        found = guest.read(1000, guest.number(OUT + 4)).split(b"\0")
        assert found == [b"A=task", b"B=call", "C=é".encode(), b""]


@pytest.mark.parametrize("at", [MEMORY_BYTES - 3, 0xFFFFFFFF, 0xFFFFFFFC])
def test_what_would_lie_outside_of_the_memory_is_refused(guests: Guests, at: int) -> None:
    with guests.one(WasiCall([b"program"])) as guest:
        for name in ("args_get", "args_sizes_get"):
            assert guest.call(name, at, OUT) is Errno.FAULT
            assert guest.call(name, OUT, at) is Errno.FAULT


@pytest.mark.parametrize("status", [0, 1, 255, -1])
def test_an_exit_ends_it_with_its_status(guests: Guests, status: int) -> None:
    with guests.one() as guest, pytest.raises(GuestExit) as caught:
        guest.call("proc_exit", status)
    assert caught.value.status == status


def test_signals_are_not_there(guests: Guests) -> None:
    with guests.one() as guest:
        assert guest.call("proc_raise", 9) is Errno.NOTSUP


def test_random_numbers_fill_what_they_are_asked_to(guests: Guests) -> None:
    with guests.one() as guest:
        assert guest.call("random_get", 0, MEMORY_BYTES) is Errno.SUCCESS
        content = guest.read(0, MEMORY_BYTES)
        assert len({content[at : at + 64] for at in range(0, MEMORY_BYTES, 64)}) == MEMORY_BYTES // 64
        assert guest.call("random_get", 1, MEMORY_BYTES) is Errno.FAULT
        assert guest.call("random_get", 0xFFFFFFFF, 0xFFFFFFFF) is Errno.FAULT


def test_clocks_tell_the_time_and_their_resolution(guests: Guests) -> None:
    with guests.one() as guest:
        for clock in (0, 1):
            assert guest.call("clock_res_get", clock, OUT) is Errno.SUCCESS
            assert 1 <= guest.long_number() <= 10**7
        readings = []
        for _ in range(3):
            assert guest.call("clock_time_get", 1, 0, OUT) is Errno.SUCCESS
            readings.append(guest.long_number())
        assert readings == sorted(readings)


@pytest.mark.parametrize(("clock", "errno"), [(2, Errno.NOTSUP), (3, Errno.NOTSUP), (4, Errno.INVAL)])
def test_other_clocks_are_not_there(guests: Guests, clock: int, errno: Errno) -> None:
    with guests.one() as guest:
        assert guest.call("clock_time_get", clock, 0, OUT) is errno
        assert guest.call("clock_res_get", clock, OUT) is errno
