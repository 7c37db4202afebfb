"""What the policies guarantee that draw lots, whatever is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling.policies import Candidate
from spear_wasm.scheduling.policies.power_of_two import PowerOfTwo
from spear_wasm.scheduling.policies.random_order import RandomOrder
from tests.scheduling.policies.candidates import named, order, turn

loads = st.lists(st.integers(0, 9), min_size=2, max_size=8)
lots = st.randoms(use_true_random=False)


def loaded(loads: list[int]) -> list[Candidate]:
    """Candidates named by their places, 0 and up."""
    return [Candidate(number, in_flight=load) for number, load in enumerate(loads)]


# --- random -----------------------------------------------------------------------------------------------


def test_random_draws_every_order_about_as_often_as_any_other() -> None:
    policy = RandomOrder(Random(7))
    drawn = Counter(tuple(order(policy, named("abc"))) for _ in range(6000))
    assert drawn.keys() == set(permutations("abc"))
    assert all(850 < count < 1150 for count in drawn.values())


def test_random_does_not_look_at_loads() -> None:
    idle, busy = named("abcdef"), [Candidate(name, in_flight=load) for load, name in enumerate("abcdef")]
    assert order(RandomOrder(Random(7)), idle) == order(RandomOrder(Random(7)), busy)


# --- power of two -----------------------------------------------------------------------------------------


@given(loads, lots)
def test_power_of_two_proposes_the_single_worst_last(loads: list[int], random: Random) -> None:
    worst = max(range(len(loads)), key=loads.__getitem__)
    ordered = order(PowerOfTwo(random), loaded(loads))
    if loads.count(loads[worst]) == 1:
        assert ordered[-1] == worst


@given(st.integers(0, 9), st.integers(0, 9), lots)
def test_of_two_power_of_two_picks_the_less_loaded(one: int, other: int, random: Random) -> None:
    first = next(iter(PowerOfTwo(random).propose(loaded([one, other]))))
    assert first.in_flight == min(one, other)


def test_power_of_two_lets_everybody_but_the_worst_go_first_the_better_the_more_often() -> None:
    policy = PowerOfTwo(Random(7))
    firsts = Counter(turn(policy, loaded([3, 0, 2, 1])) for _ in range(6000))
    # Of the six pairs the best is in three, the next in two where it wins, and so on.
    assert 2800 < firsts[1] < 3200
    assert 1800 < firsts[3] < 2200
    assert 850 < firsts[2] < 1150
    assert firsts[0] == 0


def test_power_of_two_keeps_loads_closer_together_than_chance_does() -> None:
    def largest_load(policy: PowerOfTwo | RandomOrder) -> int:
        loads = [0] * 50
        for _ in range(2500):
            loads[int(str(turn(policy, loaded(loads))))] += 1
        return max(loads)

    assert largest_load(PowerOfTwo(Random(7))) < 55 < largest_load(RandomOrder(Random(7)))
