"""Preparation of sandboxes that happens when the test says so, and sandboxes that are counted."""

from __future__ import annotations

from collections import deque
from typing import ClassVar, cast

from runtimes.core.host import RUNTIME
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.limits import Limits
from spear_wasm.pool.instance_pool import Prepared
from tests.workshop import run_to_end


def prepare(sandbox: GuestSandbox) -> None:
    """All that comes before the first call."""
    run_to_end(sandbox, RUNTIME.preparation(sandbox.linked.module, None)(cast("Sandbox", sandbox)))


class Preparer:
    """Stands for the executor: what a pool wants prepared waits here."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[GuestSandbox, Prepared]] = deque()

    def __call__(self, sandbox: GuestSandbox, prepared: Prepared) -> None:
        self.waiting.append((sandbox, prepared))

    def finish_one(self) -> None:
        sandbox, prepared = self.waiting.popleft()
        prepare(sandbox)
        prepared(True)

    def finish_all(self) -> None:
        while self.waiting:
            self.finish_one()

    def fail_all(self) -> None:
        for _ in range(len(self.waiting)):
            _, prepared = self.waiting.popleft()
            prepared(False)


class CountedSandbox(Sandbox):
    """A sandbox that tells whether each is closed once."""

    open: ClassVar[set[GuestSandbox]] = set()

    def __init__(self, linked: LinkedArtifact, limits: Limits) -> None:
        super().__init__(linked, limits)
        self.open.add(self)

    def close(self) -> None:
        self.open.remove(self)
        super().close()
