"""Candidates of every kind, and the few words that tests of policies need."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from hypothesis import strategies as st

from spear_wasm.scheduling.policies import Candidate, Policy

names = st.sampled_from("abcdefgh")
_headrooms = st.none() | st.floats(0, 1)

crowds = st.lists(
    st.builds(
        Candidate,
        name=names,
        in_flight=st.integers(0, 5),
        weight=st.integers(1, 9),
        response_seconds=st.none() | st.floats(0, 10),
        cpu_headroom=_headrooms,
        memory_headroom=_headrooms,
    ),
    unique_by=lambda candidate: candidate.name,
)


def named(names: Iterable[Hashable]) -> list[Candidate]:
    """Candidates of which nothing else is known."""
    return [Candidate(name) for name in names]


def order(policy: Policy, candidates: Sequence[Candidate]) -> list[Hashable]:
    """The names as the policy proposes them."""
    return [candidate.name for candidate in policy.propose(candidates)]


def turn(policy: Policy, candidates: Sequence[Candidate]) -> Hashable:
    """The candidate that the policy likes best is chosen."""
    first = next(iter(policy.propose(candidates)))
    policy.chosen(first, candidates)
    return first.name


def turns(policy: Policy, candidates: Sequence[Candidate], count: int) -> list[Hashable]:
    """As many turns in a row, all with the same candidates."""
    return [turn(policy, candidates) for _ in range(count)]
