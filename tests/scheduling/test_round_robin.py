"""What round robin guarantees: turns go round, and nobody waits for more of them than there are others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling import RoundRobin, SchedulingPolicy

names = st.sampled_from("abcdefgh")


def turn(policy: RoundRobin, candidates: Iterable[str]) -> str:
    """The candidate whose turn it is has it."""
    first = next(iter(policy.propose(candidates)))
    policy.chosen(first)
    return str(first)


def longest_wait(who: str, served: list[str]) -> int:
    """The most turns in a row that others had."""
    return max(len(list(turns)) for theirs, turns in groupby(served, lambda each: each == who) if not theirs)


def test_candidates_take_turns() -> None:
    policy = RoundRobin()
    assert [turn(policy, "abc") for _ in range(7)] == list("abcabca")


def test_at_first_they_go_in_the_order_given() -> None:
    assert list(RoundRobin().propose("cab")) == list("cab")


def test_proposing_is_not_choosing() -> None:
    policy = RoundRobin()
    assert list(policy.propose("ab")) == list(policy.propose("ab")) == list("ab")


def test_who_was_passed_over_stays_in_front() -> None:
    policy = RoundRobin()
    policy.propose("abc")
    policy.chosen("b")
    policy.chosen("c")
    assert list(policy.propose("abc")) == list("abc")


def test_a_newcomer_goes_ahead_of_the_one_served_last_and_behind_those_who_have_waited() -> None:
    policy = RoundRobin()
    assert [turn(policy, "abc") for _ in range(3)] == list("abc")
    assert turn(policy, "abc") == "a"
    order = list(policy.propose("abcn"))
    assert order.index("b") < order.index("n") < order.index("a")


def test_newcomers_without_end_do_not_keep_one_waiting() -> None:
    policy = RoundRobin()
    assert turn(policy, ["patient"]) == "patient"
    served = [turn(policy, ["patient", f"newcomer {number}"]) for number in range(1000)]
    assert longest_wait("patient", served) == 1


def test_who_comes_and_goes_does_not_pass_one_who_waits_again_and_again() -> None:
    policy = RoundRobin()
    assert turn(policy, ["patient"]) == "patient"
    served = [turn(policy, ["patient", f"visitor {number % 200}"]) for number in range(1000)]
    assert longest_wait("patient", served) <= 200


def test_those_who_left_are_forgotten_in_the_end() -> None:
    policy = RoundRobin()
    for number in range(10_000):
        turn(policy, [f"visitor {number}"])
        assert len(policy._last_served) < 100


def test_the_configuration_knows_it_by_name() -> None:
    policy = SchedulingPolicy("round_robin").new()
    assert isinstance(policy, RoundRobin)
    assert policy is not SchedulingPolicy.ROUND_ROBIN.new()


@given(st.lists(st.sets(names, min_size=1), min_size=1, max_size=60))
def test_every_candidate_is_proposed_once_whoever_came_before(rounds: list[set[str]]) -> None:
    policy = RoundRobin()
    for present in rounds:
        assert Counter(policy.propose(sorted(present))) == Counter(present)
        turn(policy, sorted(present))


@given(st.lists(st.sets(names, min_size=1), min_size=1, max_size=200))
def test_no_candidate_waits_while_another_has_two_turns(rounds: list[set[str]]) -> None:
    policy = RoundRobin()
    turns_of_others: dict[str, list[str]] = {}
    for present in rounds:
        served = turn(policy, sorted(present))
        turns_of_others = {each: [*turns_of_others.get(each, []), served] for each in present - {served}}
        for waiting, others in turns_of_others.items():
            # So n candidates keep each other waiting for n - 1 turns at most.
            assert all(others.count(each) <= 1 for each in others), (waiting, others)
