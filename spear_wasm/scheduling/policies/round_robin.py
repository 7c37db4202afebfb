"""Whoever was chosen longest ago goes first."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from spear_wasm.scheduling.policies.candidate import Candidate


class RoundRobin:
    """Turns go round: candidates that are always present have as many of them as each other, or one more.

    A newcomer counts as chosen just before the one that was chosen last: it goes ahead of that one and behind
    those who have waited longer, so newcomers without end keep nobody waiting.
    """

    def __init__(self) -> None:
        self._last_turns: dict[Hashable, int] = {}
        self._turn = 0

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates by the time of their last turn."""
        return sorted(candidates, key=lambda candidate: self._last_turns.get(candidate.name, self._turn - 1))

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """It had its turn; those that it passed and that are new wait from now on."""
        for each in among:
            self._last_turns.setdefault(each.name, self._turn - 1)
        self._turn += 1
        self._last_turns[candidate.name] = self._turn
        if len(self._last_turns) > 2 * len(among) + 64:
            self._last_turns = {each.name: self._last_turns[each.name] for each in among}
