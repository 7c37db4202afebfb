"""A sandbox as its pool knows it."""

from __future__ import annotations

import msgspec

from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.scheduling.policies import Candidate, MovingAverage


class Use(msgspec.Struct, frozen=True, gc=False):
    """What one call that ended well took of its sandbox."""

    seconds: float
    cpu_ns: int


class PooledSandbox:
    """How old a sandbox is, what it holds, and how its calls have gone. The pool's lock guards it.

    `born`, `dies` and `idle_since` are times of the pool's clock, `held_bytes` is its memory while it is idle.
    """

    __slots__ = (
        "_cpu_seconds", "_response", "born", "dies", "held_bytes", "idle_since", "number", "sandbox", "uses",
    )  # fmt: skip

    def __init__(self, sandbox: GuestSandbox, number: int, born: float, dies: float) -> None:
        self.sandbox = sandbox
        self.number = number
        self.born = born
        self.dies = dies
        self.idle_since = born
        self.held_bytes = 0
        self.uses = 0
        self._cpu_seconds = 0.0
        self._response = MovingAverage()

    def rest(self, now: float) -> None:
        """It is idle from now on."""
        self.idle_since = now
        self.held_bytes = self.sandbox.held_bytes()

    def served(self, use: Use) -> None:
        """One more call has ended well."""
        self.uses += 1
        self._cpu_seconds += use.cpu_ns / 1e9
        self._response.add(use.seconds)

    def is_over(self, now: float, max_idle: float) -> bool:
        """Whether it must serve nobody any more."""
        return now >= self.dies or (self.uses > 0 and now - self.idle_since >= max_idle)

    def candidate(self, now: float, *, busy: bool, uses_left: int) -> Candidate:
        """It, as policies see it: what it has left of its uses is its weight."""
        age = now - self.born
        return Candidate(
            self.number,
            in_flight=int(busy),
            weight=max(1, uses_left),
            response_seconds=self._response.value,
            cpu_headroom=max(0.0, 1.0 - self._cpu_seconds / age) if age > 0 else 1.0,
            memory_headroom=max(0.0, 1.0 - self.held_bytes / self.sandbox.limits.max_memory_bytes),
        )
