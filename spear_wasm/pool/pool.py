"""What every pool offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spear_wasm.engine.guest_sandbox import GuestSandbox
    from spear_wasm.engine.linked import LinkedArtifact
    from spear_wasm.limits import Limits
    from spear_wasm.pool.pooled_sandbox import Use


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How things are in a pool, and how it has served so far.

    `ready` sandboxes wait for a call, `preparing` ones will; `busy` ones have been taken. A call found one that was
    ready, or one was made for it then. `held_seconds` is for how long sandboxes have waited for calls, added up.
    """

    ready: int = 0
    preparing: int = 0
    busy: int = 0
    served_ready: int = 0
    served_new: int = 0
    failed_preparations: int = 0
    held_seconds: float = 0.0

    def __add__(self, other: PoolStats) -> PoolStats:
        return PoolStats(
            self.ready + other.ready,
            self.preparing + other.preparing,
            self.busy + other.busy,
            self.served_ready + other.served_ready,
            self.served_new + other.served_new,
            self.failed_preparations + other.failed_preparations,
            self.held_seconds + other.held_seconds,
        )


class Pool(Protocol):
    """A task's linked artifact and its ready sandboxes."""

    linked: LinkedArtifact

    def take(self, limits: Limits, *, fresh: bool) -> GuestSandbox:
        """A sandbox with these limits armed, for one execution; the taker gives it back.

        It is `prepared` or has yet to be. With `fresh` it is one that was not made ahead.
        """
        ...

    def give_back(self, sandbox: GuestSandbox, use: Use | None) -> bool:
        """Whether the pool keeps a sandbox that it handed out; if not, the giver closes it.

        `use` is None unless the call ended well: whatever else happened, nobody knows what is left in there.
        """
        ...

    def stats(self) -> PoolStats:
        """Counters, and what is ready now."""
        ...

    def close(self) -> None:
        """Close what is ready, keep nothing more. Sandboxes that were taken stay with their takers."""
        ...
