"""Engines, and artifacts linked for them: what sandboxes are made from."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from spear_wasm.engine import capi
from spear_wasm.engine.host_calls import HostFunction, Linker
from spear_wasm.engine.interval_timer import IntervalTimer
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.engine.ticker import Ticker
from spear_wasm.errors import SandboxUnavailable, UnlinkableArtifact
from spear_wasm.model import ModuleInfo

LATE_TICK_SECONDS = 0.5
"""How late a tick may arrive: far longer than it takes to arrive on the busiest machine."""

# Engines that were closed, with the times when. A tick may be on its way to an engine when its timer is deleted,
# so it is not deleted yet, but when a later one is closed; the last ones go with the process.
_closed: deque[tuple[float, int]] = deque()
_closed_lock = threading.Lock()


class Engine:
    """One wasmtime engine with its pool of slots and its clock. Loads code, never compiles.

    `tick` is the length of its guests' slices in seconds.
    """

    def __init__(self, settings: EngineSettings, tick: float) -> None:
        self.settings = settings
        self._pointer = settings.new_engine()
        timer = IntervalTimer(capi.address_of_increment_epoch(), self._pointer, tick)
        self.ticker = Ticker(timer, tick)

    @property
    def metered(self) -> bool:
        """Whether guests of this engine count fuel."""
        return self.settings.metered

    def link(
        self, code: Path, module: ModuleInfo, functions: Mapping[tuple[str, str], HostFunction]
    ) -> LinkedArtifact:
        """Map machine code that we wrote and authenticated, and resolve its imports.

        Raises:
            UnlinkableArtifact: an import has another type than the function we offer.
            SandboxUnavailable: the engine refuses the code.
        """
        loaded = ctypes.c_void_p()
        error = capi.module_deserialize_file(self._pointer, bytes(code), ctypes.addressof(loaded))
        if error:
            raise SandboxUnavailable(f"compiled code does not load: {capi.take_error(error)}")
        assert loaded.value is not None
        try:
            return LinkedArtifact(self, loaded.value, module, functions)
        finally:
            capi.module_delete(loaded.value)

    @property
    def pointer(self) -> int:
        """The library's handle, for stores."""
        return self._pointer

    def close(self) -> None:
        """Give the engine back. Nothing made from it may be alive."""
        self.ticker.close()
        _delete_later(self._pointer)


def _delete_later(engine: int) -> None:
    now = time.monotonic()
    with _closed_lock:
        _closed.append((now, engine))
        while _closed[0][0] < now - LATE_TICK_SECONDS:
            capi.engine_delete(_closed.popleft()[1])


class LinkedArtifact:
    """A module with its imports resolved, ready to instantiate: shared by all sandboxes of an artifact.

    Sandboxes hold a reference; when the last reference goes, so does the library's part.
    """

    def __init__(
        self, engine: Engine, module_pointer: int, module: ModuleInfo,
        functions: Mapping[tuple[str, str], HostFunction],
    ) -> None:  # fmt: skip
        self.engine = engine
        self.module = module
        self.calls_host = bool(functions)
        linker = Linker(engine.pointer, functions)
        weakref.finalize(self, linker.close)
        try:
            self.pointer = linker.instantiate_pre(module_pointer)
        except ValueError as error:
            raise UnlinkableArtifact(f"the module's imports do not fit: {error}") from error
        weakref.finalize(self, capi.instance_pre_delete, self.pointer)
        self.widest_call = max((len(f.type.params + f.type.results) for f in module.functions), default=0)
        self.memory_name = module.memory_export.encode() if module.memory_export is not None else None
        self.spare_buffers: deque[ctypes.Array[ctypes.c_char]] = deque(maxlen=64)
        """Call buffers of closed sandboxes, to use again; deque operations are atomic."""
