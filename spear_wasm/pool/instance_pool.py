"""The pool that has sandboxes ready: instantiated and initialised ahead of the calls that they will serve."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from spear_wasm.engine.engine import LinkedArtifact
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.limits import Limits
from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.pool import PoolStats

Prepared = Callable[[bool], None]
PrepareLater = Callable[[Sandbox, Prepared], None]
"""Prepares a sandbox off the call path, then says whether that went well. Must not call back at once."""


class InstancePool:
    """Keeps up to `size` sandboxes ready, each made with the task's own `limits`.

    One that is taken is replaced off the call path. Where preparing one fails, the pool waits for the next
    call before it tries again: a guest that cannot start must not keep the executor busy.
    """

    def __init__(
        self, linked: LinkedArtifact, limits: Limits, size: int, capacity: Capacity, prepare: PrepareLater
    ) -> None:
        self.linked = linked
        self._limits = limits
        self._size = size
        self._capacity = capacity
        self._prepare = prepare
        self._lock = threading.Lock()  # guards: everything below
        self._ready: deque[Sandbox] = deque()
        self._preparing = 0
        self._served_ready = 0
        self._served_new = 0
        self._closed = False
        self._refill()

    def take(self, limits: Limits, *, fresh: bool) -> Sandbox:
        """A ready sandbox if there is one and it may have these limits; otherwise a new one."""
        sandbox = None
        with self._lock:
            if self._ready and not fresh and self._fits(limits):
                sandbox = self._ready.popleft()
                self._served_ready += 1
            else:
                self._served_new += 1
        if sandbox is None:
            sandbox = Sandbox(self.linked, limits)
        else:
            self._capacity.give_back(self._limits.max_memory_bytes)
            sandbox.arm(limits)
        self._refill()
        return sandbox

    def _fits(self, limits: Limits) -> bool:
        # A ready sandbox may have grown up to the task's own limits while it was prepared.
        return (
            limits.max_memory_bytes == self._limits.max_memory_bytes
            and limits.max_table_elements == self._limits.max_table_elements
        )

    def _refill(self) -> None:
        while self._may_make_one():
            self._prepare_one()

    def _may_make_one(self) -> bool:
        with self._lock:
            if self._closed or len(self._ready) + self._preparing >= self._size:
                return False
            if not self._capacity.try_take(self._limits.max_memory_bytes):
                return False
            self._preparing += 1
            return True

    def _prepare_one(self) -> None:
        sandbox = Sandbox(self.linked, self._limits)

        def prepared(succeeded: bool) -> None:  # noqa: FBT001  the callback's one argument
            with self._lock:
                self._preparing -= 1
                keep = succeeded and not self._closed
                if keep:
                    sandbox.prepared = True
                    self._ready.append(sandbox)
            if not keep:
                self._discard(sandbox)

        self._prepare(sandbox, prepared)

    def stats(self) -> PoolStats:
        """Counters, and what is ready now."""
        with self._lock:
            return PoolStats(len(self._ready), self._served_ready, self._served_new)

    def close(self) -> None:
        """Close what is ready; what is still being prepared is closed when that ends."""
        with self._lock:
            self._closed = True
            ready = list(self._ready)
            self._ready.clear()
        for sandbox in ready:
            self._discard(sandbox)

    def _discard(self, sandbox: Sandbox) -> None:
        sandbox.close()
        self._capacity.give_back(self._limits.max_memory_bytes)
