"""Components with their imports resolved, and the functions that they export."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from spear_wasm.engine import capi
from spear_wasm.engine.components.layout import SIZE
from spear_wasm.engine.components.linker import ComponentLinker
from spear_wasm.engine.components.reading import Readers, Reading
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.components.writing import Arena, Writers
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.errors import UnlinkableArtifact
from spear_wasm.wit.parsing import parse_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_wasm.engine.components.host_functions import ComponentImports
    from spear_wasm.engine.engine import Engine
    from spear_wasm.limits import Limits
    from spear_wasm.model import ComponentFunctionInfo, ComponentInfo, ModuleInfo
    from spear_wasm.wit.values import WitValue


class LinkedComponent(LinkedArtifact):
    """A component. `info` is what it is, `linker` has what it imports."""

    def __init__(self, engine: Engine, pointer: int, module: ModuleInfo, imports: ComponentImports) -> None:
        super().__init__(engine, module)
        assert module.component is not None
        self.pointer = pointer
        weakref.finalize(self, capi.component_delete, pointer)
        self.info: ComponentInfo = module.component
        try:
            self.linker = ComponentLinker(engine.pointer, imports)
        except ValueError as error:
            raise UnlinkableArtifact(f"the component's imports do not fit: {error}") from error
        weakref.finalize(self, self.linker.close)
        self.calls_host = bool(imports.functions or imports.resources)
        # Arguments lie elsewhere: in a call's buffer there is but its result.
        self.widest_call = 1
        # A guest may call a resource of its own like one of ours.
        own = self.info.own_resources
        self._type_ids = {name: number for name, number in imports.type_ids.items() if name not in own}
        self._functions: dict[tuple[str, str], LinkedFunction] = {}

    def function(self, interface: str, name: str) -> LinkedFunction:
        """A function that the component exports. Two threads may make it at once, and use either."""
        key = interface, name
        known = self._functions.get(key)
        if known is None:
            wanted = next(each for each in self.info.functions if (each.interface, each.name) == key)
            known = self._functions.setdefault(key, self._linked(wanted))
        return known

    def _linked(self, info: ComponentFunctionInfo) -> LinkedFunction:
        within = self._index(None, info.interface) if info.interface else None
        index = self._index(within, info.name)
        if within is not None:
            capi.component_export_index_delete(within)
        function = LinkedFunction(index, info, Readers(self._type_ids), Writers(self._type_ids))
        weakref.finalize(function, capi.component_export_index_delete, index)
        return function

    def _index(self, within: int | None, name: str) -> int:
        encoded = name.encode()
        index = capi.component_export_index(self.pointer, within, encoded, len(encoded))
        assert index, f"the component exports {name}"
        return int(index)

    def new_sandbox(self, limits: Limits) -> ComponentSandbox:
        """A sandbox without an instance."""
        return ComponentSandbox(self, limits)


class LinkedFunction:
    """A function that a component exports: the library's `index` of it, and the way of its values there and back."""

    def __init__(self, index: int, info: ComponentFunctionInfo, readers: Readers, writers: Writers) -> None:
        signature = parse_function(info.type)
        self.index = index
        self.has_result = signature.result is not None
        self.read = _read_nothing if signature.result is None else readers.of(signature.result)
        self._write = [writers.of(kind) for _, kind in signature.params]
        self._writers = writers  # has the names that what is written refers to

    def arguments(self, values: Sequence[WitValue], context: int) -> Arena:
        """Arguments laid out for a call; released by the caller."""
        arena = Arena(len(self._write), context)
        try:
            for number, (write, value) in enumerate(zip(self._write, values, strict=True)):
                write(arena, number * SIZE, value)
            arena.settle()
        except BaseException:
            arena.release()
            raise
        return arena


def _read_nothing(_block: bytes, _at: int, _reading: Reading) -> None:
    return None
