"""The pool that keeps nothing: every sandbox is made when it is asked for."""

from __future__ import annotations

from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.limits import Limits
from spear_wasm.pool.pool import PoolStats
from spear_wasm.pool.pooled_sandbox import Use


class NullPool:
    """Right for most guests: making a sandbox costs microseconds."""

    def __init__(self, linked: LinkedArtifact) -> None:
        self.linked = linked
        self._served = 0

    def take(self, limits: Limits, *, fresh: bool) -> GuestSandbox:  # noqa: ARG002  every sandbox is fresh here
        """A new sandbox."""
        self._served += 1  # a statistic: a count lost between threads harms nothing
        return self.linked.new_sandbox(limits)

    def give_back(self, sandbox: GuestSandbox, use: Use | None) -> bool:  # noqa: ARG002  nothing is kept
        """No."""
        return False

    def stats(self) -> PoolStats:
        """Nothing is ever ready, and who has taken what is not counted."""
        return PoolStats(served_new=self._served)

    def close(self) -> None:
        """There is nothing to close."""
