"""What smooth weighted round robin guarantees: exact shares of each cycle, and turns that are spread out."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling.policies import Candidate
from spear_wasm.scheduling.policies.weighted_round_robin import WeightedRoundRobin
from tests.scheduling.policies.candidates import order, turns

weights = st.integers(1, 20)
crowds = st.lists(weights, min_size=1, max_size=8)


def weighing(*weights: int) -> list[Candidate]:
    """Candidates named by their places, 0 and up."""
    return [Candidate(number, weight=weight) for number, weight in enumerate(weights)]


def longest_run(who: int, served: list[object]) -> int:
    """The most turns in a row that it had."""
    return max(len(list(run)) for name, run in groupby(served) if name == who)


def test_turns_are_spread_as_nginx_spreads_them() -> None:
    candidates = [Candidate("a", weight=5), Candidate("b"), Candidate("c")]
    assert turns(WeightedRoundRobin(), candidates, 14) == list("aabacaa" * 2)


@given(crowds)
def test_of_each_cycle_everybody_has_exactly_its_weight(weights: list[int]) -> None:
    policy, candidates = WeightedRoundRobin(), weighing(*weights)
    for _ in range(3):
        assert Counter(turns(policy, candidates, sum(weights))) == Counter(dict(enumerate(weights)))


@given(crowds)
def test_nobody_is_ahead_of_its_share_by_a_whole_turn(weights: list[int]) -> None:
    policy, candidates = WeightedRoundRobin(), weighing(*weights)
    served: Counter[object] = Counter()
    for count in range(1, 2 * sum(weights) + 1):
        served.update(turns(policy, candidates, 1))
        for number, weight in enumerate(weights):
            assert served[number] - Fraction(count * weight, sum(weights)) < 1


@given(weights, weights)
def test_of_two_each_has_no_more_turns_in_a_row_than_it_must(one: int, other: int) -> None:
    served = turns(WeightedRoundRobin(), weighing(one, other), 3 * (one + other))
    assert longest_run(0, served) <= -(-one // other)
    assert longest_run(1, served) <= -(-other // one)


@given(st.integers(1, 8), weights)
def test_with_equal_weights_they_take_turns(count: int, weight: int) -> None:
    served = turns(WeightedRoundRobin(), weighing(*[weight] * count), 3 * count)
    assert served == list(range(count)) * 3


def test_who_was_passed_over_does_not_pay_for_it() -> None:
    policy, candidates = WeightedRoundRobin(), weighing(2, 1)
    policy.chosen(candidates[1], candidates)
    assert order(policy, candidates) == [0, 1]
    assert turns(policy, candidates, 2) == [0, 0]


def test_a_new_weight_counts_from_the_next_turn_on() -> None:
    policy = WeightedRoundRobin()
    turns(policy, weighing(1, 1), 2)
    assert Counter(turns(policy, weighing(3, 1), 4)) == {0: 3, 1: 1}


def test_debts_of_those_who_left_are_not_repaid_in_a_burst() -> None:
    policy = WeightedRoundRobin()
    patient = Candidate("patient")
    for number in range(100):
        turns(policy, [patient, Candidate(f"visitor {number}", weight=1000)], 1)
    served = turns(policy, [patient, Candidate("newcomer", weight=2)], 12)
    assert longest_run_of("patient", served) <= 3


def longest_run_of(name: str, served: list[object]) -> int:
    return max(len(list(run)) for each, run in groupby(served) if each == name)
