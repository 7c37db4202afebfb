"""Two are drawn, and the less loaded of them goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from spear_wasm.scheduling.policies.candidate import Candidate


class PowerOfTwo:
    """Nearly as even as to pick the least loaded, without the stampede to it where loads are known late.

    The one that has more in flight than every other goes last, always.
    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """The better of two that are drawn, then the better of two of those who are left, and so on."""
        left = list(candidates)
        while len(left) > 1:
            drawn = self._random.sample(range(len(left)), 2)
            better = min(drawn, key=lambda place: left[place].in_flight)
            left[better], left[-1] = left[-1], left[better]
            yield left.pop()
        yield from left

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """The next turn is drawn anew."""
