"""As many as ever."""

from __future__ import annotations

from spear_wasm.pool.scaling.scaler import Observation


class Fixed:
    """The floor, whatever happens."""

    def __init__(self, floor: int) -> None:
        self._floor = floor

    def look(self, observation: Observation) -> int:  # noqa: ARG002  nothing that happens matters
        """The same as before."""
        return self._floor
