"""What the binary of a component says about itself: which core modules are in it, however deep, and what those are.

As with core modules (`spear_wasm.engine.binary`), this is read before anything compiles the component, in time linear
in its size, and what it passes is not thereby valid. What a component imports and exports is asked from the library
when it has been compiled (`spear_wasm.engine.components.interface`).
"""

from __future__ import annotations

from dataclasses import replace

from spear_wasm.engine.leb import ByteCursor, invalid
from spear_wasm.engine.outline import ModuleCeiling, ModuleReader
from spear_wasm.engine.sections import HEADER, sections_in
from spear_wasm.model import WASM_PAGE_BYTES, ComponentInfo, ModuleInfo

COMPONENT_HEADER = b"\0asm\x0d\x00\x01\x00"
"""What every component begins with."""
MAX_DEPTH = 20
"""How deep components may lie in each other."""
MAX_MODULES = 1000
"""Core modules and components within one component, together."""
_CORE_MODULE, _COMPONENT = 1, 4
_CUSTOM, _LAST_SECTION = 0, 11


class ComponentReader:
    """Goes through a component, and holds its core modules together against one ceiling."""

    def __init__(self, ceiling: ModuleCeiling) -> None:
        self._ceiling = ceiling
        self._modules: list[ModuleInfo] = []
        self._parts = 0
        self._custom_sections = 0

    def read(self, component: memoryview) -> ModuleInfo:
        """The component as its binary describes it; what it imports and exports is missing.

        Raises:
            InvalidArtifact: it is none, or exceeds the ceiling; says why and, also as `offset`, at which byte.
        """
        self._read_component(ByteCursor(component, 0, len(component), "component"), depth=1)
        self._expect_at_most(
            self._ceiling.max_memory_bytes, self._sum("memory_min_pages") * WASM_PAGE_BYTES,
            "bytes of initial memory", len(component),
        )  # fmt: skip
        self._expect_at_most(
            self._ceiling.max_table_elements,
            self._sum("table_elements"),
            "initial table elements",
            len(component),
        )
        return ModuleInfo(
            memory_min_pages=self._sum("memory_min_pages"),
            tables=self._sum("tables"),
            table_elements=self._sum("table_elements"),
            largest_table=max((each.largest_table for each in self._modules), default=0),
            function_count=self._sum("function_count"),
            has_start=any(each.has_start for each in self._modules),
            component=ComponentInfo(),
        )

    def _sum(self, of: str) -> int:
        return sum(getattr(each, of) for each in self._modules)

    def _read_component(self, cursor: ByteCursor, depth: int) -> None:
        at = cursor.position
        self._expect_at_most(MAX_DEPTH, depth, "levels of components", at)
        if not cursor.skip_prefix(COMPONENT_HEADER):
            raise invalid("a component does not begin like one", at)
        while cursor.position < cursor.end:
            at = cursor.position
            section = cursor.byte()
            if section > _LAST_SECTION:
                raise invalid(f"there is no section of id {section} in a component", at)
            self._read_section(section, cursor.within(cursor.u32(), "section"), depth)

    def _read_section(self, section: int, body: ByteCursor, depth: int) -> None:
        at = body.position
        if section == _CUSTOM:
            self._custom_sections += 1
            self._expect_at_most(
                self._ceiling.max_custom_sections, self._custom_sections, "custom sections", at
            )
        elif section in {_CORE_MODULE, _COMPONENT}:
            self._parts += 1
            self._expect_at_most(MAX_MODULES, self._parts, "modules and components", at)
            if section == _COMPONENT:
                self._read_component(body, depth + 1)
            else:
                self._read_module(body)

    def _read_module(self, body: ByteCursor) -> None:
        at = body.position
        if not body.skip_prefix(HEADER):
            raise invalid("a module in the component does not begin like one of version 1", at)
        # What the modules so far have taken of the ceiling is not there for this one.
        reader = ModuleReader(
            replace(self._ceiling, max_functions=self._ceiling.max_functions - self._sum("function_count"))
        )
        for each in sections_in(body):
            reader.read(each)
        # Of what it imports and exports nothing is kept: only the component's own says anything to anybody.
        self._modules.append(replace(reader.finish(body.end), functions=(), imports=()))

    @staticmethod
    def _expect_at_most(ceiling: int, number: int, what: str, at: int) -> None:
        if number > ceiling:
            raise invalid(f"the component has {number} {what}; {ceiling} are accepted", at)
