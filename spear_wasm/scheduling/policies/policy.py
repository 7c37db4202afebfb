"""Policies propose; their owner disposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from spear_wasm.scheduling.policies.candidate import Candidate


class Policy(Protocol):
    """Orders candidates. The owner takes the first that it can use, and says which one that was.

    To propose is not to choose: what a policy remembers changes when it is told of a choice. Between those
    that it likes equally it keeps the order given.
    """

    def propose(self, candidates: Sequence[Candidate]) -> Iterable[Candidate]:
        """Each of the candidates once, best first. Their names differ."""
        ...

    def chosen(self, candidate: Candidate, among: Sequence[Candidate]) -> None:
        """Learn that this one was taken of those."""
        ...
