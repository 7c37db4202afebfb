"""What the policies guarantee that go by candidates' figures: nobody before a better one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given

from spear_wasm.scheduling.policies import Candidate
from spear_wasm.scheduling.policies.least_loaded import LeastLoaded
from spear_wasm.scheduling.policies.least_response_time import LeastResponseTime
from spear_wasm.scheduling.policies.resource_based import ResourceBased
from tests.scheduling.policies.candidates import crowds, named, order

# --- least loaded -----------------------------------------------------------------------------------------


@given(crowds)
def test_least_loaded_puts_nobody_before_one_with_less_in_flight(crowd: list[Candidate]) -> None:
    for better, worse in pairwise(LeastLoaded().propose(crowd)):
        assert better.in_flight <= worse.in_flight


def test_least_loaded_keeps_the_order_of_those_with_as_much_in_flight() -> None:
    assert order(LeastLoaded(), [Candidate("busy", in_flight=1), *named("cab")]) == [*"cab", "busy"]


# --- least response time ----------------------------------------------------------------------------------


@given(crowds)
def test_least_response_time_puts_nobody_before_one_that_would_answer_sooner(crowd: list[Candidate]) -> None:
    measured = [each for each in LeastResponseTime().propose(crowd) if each.response_seconds is not None]
    expected = [(each.response_seconds or 0) * (each.in_flight + 1) for each in measured]
    assert expected == sorted(expected)


@given(crowds)
def test_the_unmeasured_go_first_while_idle_and_last_while_they_are_being_measured(
    crowd: list[Candidate],
) -> None:
    crowd = [each for each in crowd if each.response_seconds != 0]
    kinds = [
        1 if each.response_seconds is not None else 2 if each.in_flight else 0
        for each in LeastResponseTime().propose(crowd)
    ]
    assert kinds == sorted(kinds)


def test_what_is_in_flight_counts_as_waiting_in_front() -> None:
    fast, slow = Candidate("fast", 3, response_seconds=1), Candidate("slow", 0, response_seconds=3)
    assert order(LeastResponseTime(), [fast, slow]) == ["slow", "fast"]
    idle = Candidate("fast", 1, response_seconds=1)
    assert order(LeastResponseTime(), [slow, idle]) == ["fast", "slow"]


# --- resources --------------------------------------------------------------------------------------------


@given(crowds)
def test_resource_based_puts_nobody_before_one_whose_scarcer_resource_is_less_scarce(
    crowd: list[Candidate],
) -> None:
    scarcer = [
        min(each.cpu_headroom, each.memory_headroom)
        for each in ResourceBased().propose(crowd)
        if each.cpu_headroom is not None and each.memory_headroom is not None
    ]
    assert scarcer == sorted(scarcer, reverse=True)


@given(crowds)
def test_resource_based_puts_the_unmeasured_last(crowd: list[Candidate]) -> None:
    measured = [
        each.cpu_headroom is not None and each.memory_headroom is not None
        for each in ResourceBased().propose(crowd)
    ]
    assert measured == sorted(measured, reverse=True)


def test_much_of_one_resource_does_not_make_up_for_little_of_the_other() -> None:
    lopsided = Candidate("lopsided", cpu_headroom=1.0, memory_headroom=0.1)
    even = Candidate("even", cpu_headroom=0.2, memory_headroom=0.2)
    roomier = Candidate("roomier", cpu_headroom=0.2, memory_headroom=0.9)
    assert order(ResourceBased(), [lopsided, even, roomier]) == ["roomier", "even", "lopsided"]
