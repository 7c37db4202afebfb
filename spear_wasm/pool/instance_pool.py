"""The pool that has sandboxes at hand: made ahead of the calls that they will serve, or kept from those they did."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from random import Random

from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.limits import Limits
from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.pool import PoolStats
from spear_wasm.pool.pooled_sandbox import PooledSandbox, Use
from spear_wasm.pool.scaling import Observation
from spear_wasm.pool.terms import PoolTerms
from spear_wasm.scheduling.policies import Candidate, MovingAverage

Prepared = Callable[[bool], None]
PrepareLater = Callable[[GuestSandbox, Prepared], None]
"""Prepares a sandbox off the call path, then says whether that went well. Must not call back at once."""

LIFETIME_JITTER = 0.1
"""Up to this part of its lifetime is cut from each sandbox, so that those made together do not end together."""


class InstancePool:
    """Keeps sandboxes at hand as `terms` say, each made with the task's own `limits`.

    One that is taken, or that is over, is replaced off the call path. Where preparing one fails, the pool waits for
    the next call before it tries again: a guest that cannot start must not keep the executor busy. `capacity` is
    held for sandboxes that are idle or being prepared; for those that were taken it is their takers' affair.
    """

    def __init__(
        self,
        linked: LinkedArtifact,
        limits: Limits,
        terms: PoolTerms,
        capacity: Capacity,
        prepare: PrepareLater,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.linked = linked
        self._limits = limits
        self._terms = terms
        self._capacity = capacity
        self._prepare = prepare
        self._clock = clock
        self._random = Random()  # noqa: S311  no secret
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards: everything below
        self._policy = terms.scheduling.new(self._random)
        self._scaler = terms.scaler()
        self._target = self._scaler.look(Observation(clock(), arrivals=0, busy=0))
        self._arrivals = 0  # since the last upkeep, as is
        self._most_busy = 0
        self._preparation = MovingAverage()
        self._idle: dict[int, PooledSandbox] = {}  # by number, those that came last at the end
        self._busy: dict[GuestSandbox, PooledSandbox | None] = {}  # None for what will not be kept
        self._preparing = 0
        self._served_ready = 0
        self._served_new = 0
        self._failed_preparations = 0
        self._held_seconds = 0.0
        self._counted_until = clock()
        self._failing = False
        self._closed = False
        self._refill()

    # Calls

    def take(self, limits: Limits, *, fresh: bool) -> GuestSandbox:
        """One that is at hand if there is one and it may have these limits; otherwise a new one."""
        with self._lock:
            now = self._clock()
            fits = not fresh and self._fits(limits)
            pooled = self._take_idle(now) if fits else None
            if pooled is not None:
                self._served_ready += 1
                sandbox = pooled.sandbox
                sandbox.arm(limits)
            else:
                self._served_new += 1
                sandbox = self.linked.new_sandbox(limits)
                if fits:
                    pooled = self._pooled(sandbox, now)
            self._busy[sandbox] = pooled
            self._arrivals += 1
            self._most_busy = max(self._most_busy, len(self._busy))
            self._failing = False
        self._refill()
        return sandbox

    def _fits(self, limits: Limits) -> bool:
        # A sandbox may have grown up to the task's own limits before.
        return (
            limits.max_memory_bytes == self._limits.max_memory_bytes
            and limits.max_table_elements == self._limits.max_table_elements
        )

    def _pooled(self, sandbox: GuestSandbox, born: float) -> PooledSandbox:
        lifetime = self._terms.max_lifetime * (1 - LIFETIME_JITTER * self._random.random())
        return PooledSandbox(sandbox, next(self._numbers), born, born + lifetime)

    def _take_idle(self, now: float) -> PooledSandbox | None:
        usable = [each for each in self._idle.values() if not each.is_over(now, self._terms.max_idle)]
        if not usable:
            return None
        # Those that never served are all alike: the oldest goes first, before its time is up.
        chosen = self._proposed(usable, now) if self._terms.reuse else usable[0]
        self._remove_idle(chosen, now)
        return chosen

    def _proposed(self, usable: list[PooledSandbox], now: float) -> PooledSandbox:
        # Where a policy has no preference, those that served last go first, and the others' idle time can end.
        among = [self._candidate(each, now, busy=False) for each in reversed(usable)]
        among += [self._candidate(each, now, busy=True) for each in self._busy.values() if each is not None]
        for candidate in self._policy.propose(among):
            if not candidate.in_flight:
                self._policy.chosen(candidate, among)
                return next(each for each in usable if each.number == candidate.name)
        raise AssertionError("a policy proposes every candidate")

    def _candidate(self, pooled: PooledSandbox, now: float, *, busy: bool) -> Candidate:
        return pooled.candidate(now, busy=busy, uses_left=self._terms.max_uses - pooled.uses)

    def give_back(self, sandbox: GuestSandbox, use: Use | None) -> bool:
        """Keep a sandbox for another call, if the task reuses them and this one's time is not up."""
        with self._lock:
            pooled = self._busy.pop(sandbox)
            kept = use is not None and pooled is not None and self._keep(pooled, use)
        if self._terms.reuse and not kept:
            self._refill()
        return kept

    def _keep(self, pooled: PooledSandbox, use: Use) -> bool:
        now = self._clock()
        pooled.served(use)
        if (
            self._closed
            or not self._terms.reuse
            or pooled.uses >= self._terms.max_uses
            or now >= pooled.dies
            or len(self._idle) + self._preparing >= self._terms.ceiling
        ):
            return False
        pooled.rest(now)
        if not self._capacity.try_take(pooled.held_bytes):
            return False
        pooled.sandbox.arm(self._limits)  # which lets go of the log and of who read along
        self._add_idle(pooled, now)
        return True

    # Making sandboxes ahead

    def _refill(self) -> None:
        while self._may_make_one():
            self._prepare_one()

    def _may_make_one(self) -> bool:
        with self._lock:
            if self._closed or self._failing or self._at_hand() >= self._target:
                return False
            if not self._capacity.try_take(self._limits.max_memory_bytes):
                return False
            self._count_held(self._clock())
            self._preparing += 1
            return True

    def _at_hand(self) -> int:
        """Sandboxes that serve calls to come; where they are reused, those that serve now are among them."""
        return len(self._idle) + self._preparing + (len(self._busy) if self._terms.reuse else 0)

    def _prepare_one(self) -> None:
        sandbox, begun = self.linked.new_sandbox(self._limits), self._clock()

        def prepared(succeeded: bool) -> None:  # noqa: FBT001  the callback's one argument
            now = self._clock()
            with self._lock:
                self._count_held(now)
                self._preparing -= 1
                self._failed_preparations += not succeeded
                self._failing |= not succeeded
                keep = succeeded and not self._closed
                if succeeded:
                    self._preparation.add(now - begun)
                if keep:
                    sandbox.prepared = True
                    pooled = self._pooled(sandbox, begun)
                    pooled.rest(now)
                    self._capacity.resize(self._limits.max_memory_bytes, pooled.held_bytes)
                    self._add_idle(pooled, now)
            if not keep:
                self._discard(sandbox, self._limits.max_memory_bytes)

        self._prepare(sandbox, prepared)

    # Upkeep

    def upkeep(self) -> None:
        """To be called now and then: looks what is needed, closes what is over, and makes what is missing."""
        with self._lock:
            now = self._clock()
            self._target = self._scaler.look(
                Observation(now, self._arrivals, self._most_busy, self._preparation.value)
            )
            self._arrivals, self._most_busy = 0, len(self._busy)
            leaving = self._leaving(now)
            for each in leaving:
                self._remove_idle(each, now, gives_back=False)
        for each in leaving:
            self._discard(each.sandbox, each.held_bytes)
        self._refill()

    def _leaving(self, now: float) -> list[PooledSandbox]:
        """Those that are over, and those that never served and are more than needed."""
        over, unused = [], []
        for each in self._idle.values():
            if each.is_over(now, self._terms.max_idle):
                over.append(each)
            elif not each.uses:
                unused.append(each)
        surplus = self._at_hand() - len(over) - self._target
        return over + unused[: max(0, surplus)]

    def _add_idle(self, pooled: PooledSandbox, now: float) -> None:
        self._count_held(now)
        self._idle[pooled.number] = pooled

    def _remove_idle(self, pooled: PooledSandbox, now: float, *, gives_back: bool = True) -> None:
        self._count_held(now)
        del self._idle[pooled.number]
        if gives_back:
            self._capacity.give_back(pooled.held_bytes)

    def _count_held(self, now: float) -> None:
        """To be called before anything begins or ceases to wait for calls."""
        self._held_seconds += (now - self._counted_until) * (len(self._idle) + self._preparing)
        self._counted_until = now

    def stats(self) -> PoolStats:
        """Counters, and what is at hand now."""
        with self._lock:
            self._count_held(self._clock())
            return PoolStats(
                ready=len(self._idle),
                preparing=self._preparing,
                busy=len(self._busy),
                served_ready=self._served_ready,
                served_new=self._served_new,
                failed_preparations=self._failed_preparations,
                held_seconds=self._held_seconds,
            )

    @property
    def closed(self) -> bool:
        """Whether it keeps nothing more."""
        return self._closed

    def close(self) -> None:
        """Close what is idle; what is being prepared or serves a call is closed when that ends."""
        with self._lock:
            self._closed = True
            self._count_held(self._clock())
            idle = list(self._idle.values())
            self._idle.clear()
        for each in idle:
            self._discard(each.sandbox, each.held_bytes)

    def _discard(self, sandbox: GuestSandbox, held_bytes: int) -> None:
        sandbox.close()
        self._capacity.give_back(held_bytes)
