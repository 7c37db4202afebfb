"""Anyone goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from spear_wasm.scheduling.policies.candidate import Candidate


class RandomOrder:
    """Every order is as likely as any other, whatever came before."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The candidates, shuffled."""
        return self._random.sample(candidates, len(candidates))

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """The next turn is drawn anew."""
