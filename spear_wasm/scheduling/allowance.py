"""How much of one of the server's bounds may be used here."""

from __future__ import annotations


class Allowance:
    """All of it: for a process that shares its bounds with no other."""

    __slots__ = ("whole",)

    def __init__(self, whole: int) -> None:
        self.whole = whole

    def covers(self, used: int) -> bool:
        """Whether so much may be used."""
        return used <= self.whole

    def settle(self, used: int) -> None:
        """Only so much is used any more; the rest is for others, where there are some."""

    def free(self, used: int) -> int:
        """What nobody uses where so much is used here."""
        return self.whole - used
