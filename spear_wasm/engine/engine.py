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
from spear_wasm.engine.companion import AccompaniedModule, CompiledCompanion, LinkedCompanion
from spear_wasm.engine.components.host_functions import ComponentImports
from spear_wasm.engine.components.linked import LinkedComponent
from spear_wasm.engine.host_calls import HostFunction, Linker
from spear_wasm.engine.interval_timer import IntervalTimer
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.engine.ticker import Ticker
from spear_wasm.errors import SandboxUnavailable, UnlinkableArtifact
from spear_wasm.limits import Limits
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
        self.metered = settings.metered
        """Whether guests of this engine count fuel."""
        self.pointer = settings.new_engine()
        """The library's handle, for stores."""
        timer = IntervalTimer(capi.address_of_increment_epoch(), self.pointer)
        self.ticker = Ticker(timer, tick)

    def link(
        self,
        code: Path,
        module: ModuleInfo,
        functions: Mapping[tuple[str, str], HostFunction] | ComponentImports,
        companion: CompiledCompanion | None = None,
    ) -> LinkedArtifact:
        """Map machine code that we wrote and authenticated, and resolve its imports.

        Raises:
            UnlinkableArtifact: an import has another type than what we offer.
            SandboxUnavailable: the engine refuses the code.
        """
        if isinstance(functions, ComponentImports):
            component = self._load(code, capi.component_deserialize_file)
            return LinkedComponent(self, component, module, functions)
        if companion is None:
            return self._link_alone(code, module, functions)
        linked = self._link_alone(companion.code, companion.module, companion.functions)
        beside = LinkedCompanion(companion.name, linked)
        return AccompaniedModule(self, self._load(code), module, functions, beside)

    def _link_alone(
        self, code: Path, module: ModuleInfo, functions: Mapping[tuple[str, str], HostFunction]
    ) -> LinkedModule:
        loaded = self._load(code)
        try:
            return LinkedModule(self, loaded, module, functions)
        finally:
            capi.module_delete(loaded)

    def _load(self, code: Path, deserialize: capi.Function = capi.module_deserialize_file) -> int:
        loaded = ctypes.c_void_p()
        error = deserialize(self.pointer, bytes(code), ctypes.addressof(loaded))
        if error:
            raise SandboxUnavailable(f"compiled code does not load: {capi.take_error(error)}")
        assert loaded.value is not None
        return loaded.value

    def close(self) -> None:
        """Give the engine back. Nothing made from it may be alive."""
        self.ticker.close()
        _delete_later(self.pointer)


def _delete_later(engine: int) -> None:
    now = time.monotonic()
    with _closed_lock:
        _closed.append((now, engine))
        while _closed[0][0] < now - LATE_TICK_SECONDS:
            capi.engine_delete(_closed.popleft()[1])


QUICKLY_COPIED_BYTES = 1 << 20
"""Data that takes so little time to copy into a new memory that nobody minds to wait for it."""


class LinkedModule(LinkedArtifact):
    """A core module."""

    def __init__(
        self, engine: Engine, module_pointer: int, module: ModuleInfo,
        functions: Mapping[tuple[str, str], HostFunction],
    ) -> None:  # fmt: skip
        super().__init__(engine, module)
        self.calls_host = bool(functions)
        self.instantiates_at_once = (
            not module.has_start
            and module.data_bytes <= QUICKLY_COPIED_BYTES
            and not any(each.waits for each in functions.values())  # which only run in what is polled
        )
        linker = Linker(engine.pointer, functions)
        weakref.finalize(self, linker.close)
        try:
            self.pointer = linker.instantiate_pre(module_pointer)
        except ValueError as error:
            raise UnlinkableArtifact(f"the module's imports do not fit: {error}") from error
        weakref.finalize(self, capi.instance_pre_delete, self.pointer)
        self.widest_call = module.widest_call

    def new_sandbox(self, limits: Limits) -> Sandbox:
        """A sandbox without an instance."""
        return Sandbox(self, limits)
