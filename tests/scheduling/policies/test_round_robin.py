"""What round robin guarantees: turns go round, and nobody waits for more of them than there are others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling.policies.round_robin import RoundRobin
from tests.scheduling.policies.candidates import named, names, order, turn, turns


def longest_wait(who: str, served: list[Hashable]) -> int:
    """The most turns in a row that others had."""
    return max(len(list(run)) for theirs, run in groupby(served, lambda each: each == who) if not theirs)


def test_candidates_take_turns() -> None:
    assert turns(RoundRobin(), named("abc"), 7) == list("abcabca")


def test_at_first_they_go_in_the_order_given() -> None:
    assert order(RoundRobin(), named("cab")) == list("cab")


def test_who_was_passed_over_stays_in_front() -> None:
    policy, candidates = RoundRobin(), named("abc")
    for passer in (1, 2):
        policy.chosen(candidates[passer], candidates)
    assert order(policy, candidates) == list("abc")


def test_a_newcomer_goes_ahead_of_the_one_chosen_last_and_behind_those_who_have_waited() -> None:
    policy = RoundRobin()
    assert turns(policy, named("abc"), 4) == list("abca")
    ordered = order(policy, named("abcn"))
    assert ordered.index("b") < ordered.index("n") < ordered.index("a")


def test_newcomers_without_end_do_not_keep_one_waiting() -> None:
    policy = RoundRobin()
    assert turn(policy, named(["patient"])) == "patient"
    served = [turn(policy, named(["patient", f"newcomer {number}"])) for number in range(1000)]
    assert longest_wait("patient", served) == 1


def test_who_comes_and_goes_does_not_pass_one_who_waits_again_and_again() -> None:
    policy = RoundRobin()
    assert turn(policy, named(["patient"])) == "patient"
    served = [turn(policy, named(["patient", f"visitor {number % 200}"])) for number in range(1000)]
    assert longest_wait("patient", served) <= 200


@given(st.sets(names, min_size=1), st.integers(0, 100))
def test_turns_of_those_who_stay_differ_by_one_at_most(present: set[str], count: int) -> None:
    counts = Counter(dict.fromkeys(present, 0))
    counts.update(map(str, turns(RoundRobin(), named(sorted(present)), count)))
    assert max(counts.values()) - min(counts.values()) <= 1


@given(st.lists(st.sets(names, min_size=1), min_size=1, max_size=200))
def test_no_candidate_waits_while_another_has_two_turns(rounds: list[set[str]]) -> None:
    policy = RoundRobin()
    turns_of_others: dict[str, list[Hashable]] = {}
    for present in rounds:
        served = turn(policy, named(sorted(present)))
        turns_of_others = {each: [*turns_of_others.get(each, []), served] for each in present - {served}}
        for waiting, others in turns_of_others.items():
            # So n candidates keep each other waiting for n - 1 turns at most.
            assert all(others.count(each) <= 1 for each in others), (waiting, others)
