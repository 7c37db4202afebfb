"""Which pool a task gets, and what all pools do together."""

from __future__ import annotations

import threading

from spear_wasm.config import InstancePoolConfig
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.limits import Limits
from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.instance_pool import InstancePool, PrepareLater
from spear_wasm.pool.null_pool import NullPool
from spear_wasm.pool.pool import Pool, PoolStats
from spear_wasm.pool.terms import PoolTerms


class PoolFactory:
    """Makes pools; those that keep sandboxes share what the server grants to all of them together."""

    def __init__(self, config: InstancePoolConfig, memory_bytes: int) -> None:
        self.config = config
        self._capacity = Capacity(config.max_ready, memory_bytes)
        self._lock = threading.Lock()  # guards: all below
        self._open: set[InstancePool] = set()
        self._of_closed = PoolStats()

    def new(self, linked: LinkedArtifact, limits: Limits, terms: PoolTerms, prepare: PrepareLater) -> Pool:
        """A pool on these terms, whose sandboxes are prepared ahead with `prepare`."""
        if not terms.keeps_any:
            return NullPool(linked)
        pool = InstancePool(linked, limits, terms, self._capacity, prepare)
        with self._lock:
            self._open.add(pool)
        return pool

    def upkeep(self) -> None:
        """To be called now and then, where nobody waits for it."""
        for pool in self._pools():
            pool.upkeep()

    def stats(self) -> PoolStats:
        """Of all pools together that keep sandboxes, those that were closed included."""
        return sum((pool.stats() for pool in self._pools()), self._of_closed)

    def _pools(self) -> list[InstancePool]:
        """Those that are open, after the figures of those that are not have been put aside."""
        with self._lock:
            for pool in [each for each in self._open if each.closed]:
                stats = pool.stats()
                if not stats.busy and not stats.preparing:  # nothing of it will change any more
                    self._open.remove(pool)
                    self._of_closed += stats
            return list(self._open)
