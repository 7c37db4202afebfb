"""The host functions of `spear`: what a guest that calls them gets, and where a hostile one ends."""

from __future__ import annotations

import time

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from tests.workshop import Workshop, run_to_end, sandbox_of, start


def called(workshop: Workshop, function: str, *args: int) -> tuple[tuple[int | float, ...], bytes]:
    """The results of a function of `host_calls`, and what it logged."""
    with sandbox_of(workshop.link("host_calls")) as sandbox:
        results = run_to_end(sandbox, start(sandbox, function, *args))
        return results, sandbox.usage(0).stderr


@pytest.mark.parametrize(
    ("level", "word"),
    [(0, b"trace"), (1, b"debug"), (2, b"info"), (3, b"warn"), (4, b"error"), (5, b"error"), (-1, b"trace")],
)
def test_a_line_of_the_log_begins_with_its_level(workshop: Workshop, level: int, word: bytes) -> None:
    assert called(workshop, "log", level) == ((0,), word + b": slept\n")


@pytest.mark.parametrize(("address", "size"), [(65536, 1), (65535, 2), (-1, 1), (0, -1)])
def test_a_line_that_is_not_in_memory_ends_the_guest(workshop: Workshop, address: int, size: int) -> None:
    with pytest.raises(GuestFault) as caught:
        called(workshop, "log_range", address, size)
    assert caught.value.code is ErrorCode.GUEST_ERROR


def test_the_clocks_tell_the_time_of_the_host(workshop: Workshop) -> None:
    before = time.time_ns()
    (milliseconds,), _ = called(workshop, "time_now_ms")
    (seconds,), _ = called(workshop, "wall_time_s")
    after = time.time_ns()
    assert before // 10**6 <= milliseconds <= after // 10**6
    assert before // 10**9 <= seconds <= after // 10**9


def test_random_numbers_do_not_come_again(workshop: Workshop) -> None:
    numbers = {number for _ in range(20) for number in called(workshop, "random")[0]}
    assert len(numbers) == 40
    assert any(number < 0 for number in numbers)
    assert any(number > 2**62 for number in numbers)
