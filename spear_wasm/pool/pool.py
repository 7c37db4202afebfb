"""What every pool offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spear_wasm.engine.engine import LinkedArtifact
    from spear_wasm.engine.sandbox import Sandbox
    from spear_wasm.limits import Limits


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How a pool has served so far: sandboxes that were ready when asked for, and that were made then."""

    ready: int
    served_ready: int
    served_new: int


class Pool(Protocol):
    """A task's linked artifact and its ready sandboxes."""

    linked: LinkedArtifact

    def take(self, limits: Limits, *, fresh: bool) -> Sandbox:
        """A sandbox with these limits armed, for one execution; the taker closes it.

        It is `prepared` or has yet to be. With `fresh` it is one that was not made ahead.
        """
        ...

    def stats(self) -> PoolStats:
        """Counters, and what is ready now."""
        ...

    def close(self) -> None:
        """Close what is ready; nothing more is made ahead. Sandboxes that were taken stay with their takers."""
        ...
