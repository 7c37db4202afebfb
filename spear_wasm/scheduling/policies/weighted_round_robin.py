"""Turns in proportion to weights, spread out: nginx's smooth weighted round robin."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from spear_wasm.scheduling.policies.candidate import Candidate


class WeightedRoundRobin:
    """Each turn adds to every candidate's credit its weight; the one with the most pays for the turn.

    While candidates and weights stay the same, of as many turns as the weights add up to each candidate has
    exactly its weight, and it is never ahead of its share by a whole turn. That is what keeps turns apart:
    5, 1 and 1 make a a b a c a a.
    """

    def __init__(self) -> None:
        self._credits: dict[Hashable, int] = {}

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates by the credit that they would have in this turn."""
        return sorted(
            candidates,
            key=lambda candidate: self._credits.get(candidate.name, 0) + candidate.weight,
            reverse=True,
        )

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """It pays what the others, and itself, were given."""
        price = sum(each.weight for each in among)
        if self._credits.keys() != {each.name for each in among}:
            self._settle(among, price)
        for each in among:
            self._credits[each.name] += each.weight
        self._credits[candidate.name] -= price

    def _settle(self, among: Sequence[Candidate], price: int) -> None:
        # Debts of those who left are credits of those who stayed. Unbounded, they would be repaid in bursts.
        self._credits = {
            each.name: max(-price, min(self._credits.get(each.name, 0), price)) for each in among
        }
