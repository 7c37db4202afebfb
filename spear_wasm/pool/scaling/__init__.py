"""How many sandboxes a task should have at hand. Pure: the owner brings the clock and counts."""

from spear_wasm.pool.scaling.scaler import Observation, Scaler, Scaling

__all__ = ["Observation", "Scaler", "Scaling"]
