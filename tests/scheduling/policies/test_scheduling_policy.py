"""What every policy guarantees, whichever it is."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling.policies import Candidate, SchedulingPolicy
from tests.scheduling.policies.candidates import crowds, order, turn

every_policy = pytest.mark.parametrize("name", SchedulingPolicy)


@every_policy
def test_each_has_a_history_of_its_own(name: SchedulingPolicy) -> None:
    assert name.new(Random(1)) is not name.new(Random(1))


def test_no_two_names_mean_the_same() -> None:
    assert len({type(name.new(Random(1))) for name in SchedulingPolicy}) == len(SchedulingPolicy)


@every_policy
def test_of_nobody_nobody_is_proposed(name: SchedulingPolicy) -> None:
    assert order(name.new(Random(1)), []) == []


@every_policy
@given(rounds=st.lists(crowds, max_size=6))
def test_every_candidate_is_proposed_once_whoever_came_before(
    name: SchedulingPolicy, rounds: list[list[Candidate]]
) -> None:
    policy = name.new(Random(1))
    for present in rounds:
        assert Counter(policy.propose(present)) == Counter(present)
        if present:
            turn(policy, present)


@every_policy
@given(rounds=st.lists(crowds.filter(bool), min_size=1, max_size=6))
def test_to_propose_is_not_to_choose(name: SchedulingPolicy, rounds: list[list[Candidate]]) -> None:
    random = Random(1)
    policy = name.new(random)
    for present in rounds:
        lots = random.getstate()
        first = order(policy, present)
        random.setstate(lots)
        assert order(policy, present) == first
        policy.chosen(present[-1], present)  # which need not be the one that it likes best


@every_policy
@given(rounds=st.lists(crowds, max_size=6), seed=st.integers())
def test_the_same_past_and_the_same_lots_lead_to_the_same_future(
    name: SchedulingPolicy, rounds: list[list[Candidate]], seed: int
) -> None:
    one, other = name.new(Random(seed)), name.new(Random(seed))
    for present in filter(None, rounds):
        assert turn(one, present) == turn(other, present)


@every_policy
def test_those_who_left_are_forgotten_in_the_end(name: SchedulingPolicy) -> None:
    policy = name.new(Random(1))
    for number in range(1000):
        turn(policy, [Candidate(f"visitor {number}")])
        kept = [each for each in vars(policy).values() if isinstance(each, dict)]
        assert all(len(each) < 100 for each in kept)
