"""What sandboxes are made from: artifacts with their imports resolved."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spear_wasm.engine.engine import Engine
    from spear_wasm.engine.guest_sandbox import GuestSandbox
    from spear_wasm.limits import Limits
    from spear_wasm.model import ModuleInfo


class LinkedArtifact(ABC):
    """An artifact with its imports resolved, ready to instantiate: shared by all sandboxes of an artifact.

    Sandboxes hold a reference; when the last reference goes, so does the library's part. `pointer` is the library's,
    `calls_host` says whether there are host functions, `instantiates_at_once` whether making an instance runs nothing
    of the guest's and takes microseconds, `widest_call` how many arguments and results a call has together at most,
    `memory_name` which export is the guest's memory.
    """

    pointer: int
    calls_host: bool
    instantiates_at_once = False
    widest_call: int

    def __init__(self, engine: Engine, module: ModuleInfo) -> None:
        self.engine = engine
        self.module = module
        self.memory_name = None if module.memory_export is None else module.memory_export.encode()
        self.fitting_limits: Limits | None = None
        """The limits that a sandbox was last found to fit in as it starts; calls of a task mostly share theirs."""
        self.spare_buffers: deque[ctypes.Array[ctypes.c_char]] = deque(maxlen=64)
        """Call buffers of closed sandboxes, to use again; deque operations are atomic."""

    @abstractmethod
    def new_sandbox(self, limits: Limits) -> GuestSandbox:
        """A sandbox without an instance; whoever makes it closes it."""
