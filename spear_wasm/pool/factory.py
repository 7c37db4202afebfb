"""Which pool a task gets."""

from __future__ import annotations

from spear_wasm.config import InstancePoolConfig
from spear_wasm.engine.engine import LinkedArtifact
from spear_wasm.limits import Limits
from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.instance_pool import InstancePool, PrepareLater
from spear_wasm.pool.null_pool import NullPool
from spear_wasm.pool.pool import Pool


class PoolFactory:
    """Makes pools; those with ready sandboxes share what the server grants to all of them together."""

    def __init__(self, config: InstancePoolConfig, memory_bytes: int) -> None:
        self.most_ready = config.max_ready_per_task
        self._capacity = Capacity(config.max_ready, memory_bytes)

    def new(self, linked: LinkedArtifact, limits: Limits, ready: int, prepare: PrepareLater) -> Pool:
        """A pool that keeps so many sandboxes ready, prepared with `prepare`."""
        if not ready:
            return NullPool(linked)
        return InstancePool(linked, limits, ready, self._capacity, prepare)
