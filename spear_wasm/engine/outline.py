"""The outline of a module: what its sections say, gathered one by one and held against a ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from spear_wasm.engine.index_spaces import IndexSpaces
from spear_wasm.engine.leb import ByteCursor, invalid
from spear_wasm.engine.local_names import parameter_names
from spear_wasm.engine.sections import Section, SectionId
from spear_wasm.engine.type_codes import (
    Extent,
    read_extern_kind,
    read_function_type,
    read_global_type,
    read_memory_type,
    read_table,
    read_table_type,
)
from spear_wasm.model import WASM_PAGE_BYTES, ExternKind, FunctionExport, Import, ModuleInfo

ADDED_MEMORY_EXPORT = "spear:memory"
"""The name under which we export a memory that its module keeps to itself, unless the module uses it."""

_QUOTED_CHARS = 100


@dataclass(frozen=True, slots=True)
class ModuleCeiling:
    """What a module may be at most; whatever lies above is refused.

    `max_function_bytes` bounds the code of each function, `max_memory_bytes` and `max_table_elements` what
    the module's memory and its tables together start with. `max_interface_bytes` bounds what a `ModuleInfo`
    holds: it counts the bytes of names and of the descriptions of imports, and one for each parameter and
    each result of every export. The engine takes no name of more than 100,000 bytes.
    """

    max_functions: int
    max_function_bytes: int
    max_memory_bytes: int
    max_table_elements: int
    max_tables: int = 10
    max_types: int = 100_000
    max_imports: int = 10_000
    max_exports: int = 100_000
    max_name_bytes: int = 100_000
    max_interface_bytes: int = 4 << 20
    max_custom_sections: int = 1000


class ModuleReader:
    """What is known of a module so far. Sections are given to it one by one, in their order."""

    def __init__(self, ceiling: ModuleCeiling) -> None:
        self._ceiling = ceiling
        self._interface_room = ceiling.max_interface_bytes
        self._spaces = IndexSpaces()
        self._imports: list[Import] = []
        self._memory: Extent | None = None
        self._table_minimums: list[int] = []
        self._export_names: set[str] = set()
        self._exported_functions: list[tuple[str, int]] = []
        self._memory_names: list[str] = []
        self._has_start = False
        self._declared_functions = 0
        self._bodies = 0
        self._declared_data: int | None = None
        self._data_segments = 0
        self._data_bytes = 0
        self._custom_sections = 0
        self._name_section: ByteCursor | None = None

    def read(self, section: Section) -> None:
        """Take in the next section."""
        read = self._READERS.get(section.id)
        if read is not None:
            read(self, section.body)
        if section.id not in _SKIPPED:
            section.body.expect_end()

    def finish(self, end: int) -> ModuleInfo:
        """What the module is, now that all of it, up to `end`, has been read."""
        if self._bodies != self._declared_functions:
            raise invalid(f"{self._declared_functions} functions are declared, {self._bodies} have code", end)
        if self._declared_data not in {None, self._data_segments}:
            raise invalid(
                f"{self._declared_data} data segments are announced, not {self._data_segments}", end
            )
        memory = self._memory or Extent(0, None)
        return ModuleInfo(
            functions=self._function_exports(),
            imports=tuple(self._imports),
            memory_export=self._memory_export(),
            memory_exported_by_guest=self._memory is not None and bool(self._memory_names),
            memory_min_pages=memory.minimum,
            memory_max_pages=memory.maximum,
            tables=len(self._table_minimums),
            table_elements=sum(self._table_minimums),
            largest_table=max(self._table_minimums, default=0),
            function_count=self._declared_functions,
            has_start=self._has_start,
            data_bytes=self._data_bytes,
        )

    def _function_exports(self) -> tuple[FunctionExport, ...]:
        names: dict[int, tuple[str, ...]] = {}
        if self._name_section is not None:
            exported = {index for _, index in self._exported_functions}
            param_counts = {index: len(self._spaces.codes_of(index).params) for index in exported}
            names = parameter_names(self._name_section, param_counts)
        return tuple(
            FunctionExport(name, self._spaces.signature(index), self._if_room(names.get(index, ())))
            for name, index in self._exported_functions
        )

    def _if_room(self, names: tuple[str, ...]) -> tuple[str, ...]:
        length = sum(map(len, names))
        if length > self._interface_room:
            return ()
        self._interface_room -= length
        return names

    def _memory_export(self) -> str | None:
        if self._memory is None:
            return None
        if self._memory_names:
            return "memory" if "memory" in self._memory_names else self._memory_names[0]
        if ADDED_MEMORY_EXPORT not in self._export_names:
            return ADDED_MEMORY_EXPORT
        candidates = (f"{ADDED_MEMORY_EXPORT}:{number}" for number in count(2))
        return next(name for name in candidates if name not in self._export_names)

    # --- sections -----------------------------------------------------------------------------------------

    def _read_custom(self, section: ByteCursor) -> None:
        at = section.position
        self._custom_sections += 1
        _expect_at_most(self._ceiling.max_custom_sections, self._custom_sections, "custom sections", at)
        if section.name(self._ceiling.max_name_bytes) == "name" and self._name_section is None:
            self._name_section = section

    def _read_types(self, section: ByteCursor) -> None:
        for _ in range(_read_count(section, "types", self._ceiling.max_types)):
            self._spaces.add_type(read_function_type(section))

    def _read_imports(self, section: ByteCursor) -> None:
        for _ in range(_read_count(section, "imports", self._ceiling.max_imports)):
            self._imports.append(self._read_import(section))

    def _read_functions(self, section: ByteCursor) -> None:
        self._declared_functions = _read_count(section, "functions", self._ceiling.max_functions)
        for _ in range(self._declared_functions):
            self._spaces.add_function(section)

    def _read_tables(self, section: ByteCursor) -> None:
        at = section.position
        tables = section.u32()
        self._add_tables(tables, at)
        self._table_minimums = [read_table(section).extent.minimum for _ in range(tables)]
        elements = sum(self._table_minimums)
        _expect_at_most(self._ceiling.max_table_elements, elements, "initial table elements", at)

    def _read_memories(self, section: ByteCursor) -> None:
        at = section.position
        memories = section.u32()
        self._add_memories(memories, at)
        if memories:
            self._memory = read_memory_type(section)
            size = self._memory.minimum * WASM_PAGE_BYTES
            _expect_at_most(self._ceiling.max_memory_bytes, size, "bytes of initial memory", at)

    def _read_globals(self, section: ByteCursor) -> None:
        self._spaces.add(ExternKind.GLOBAL, section.u32())

    def _read_exports(self, section: ByteCursor) -> None:
        for _ in range(_read_count(section, "exports", self._ceiling.max_exports)):
            self._read_export(section)

    def _read_start(self, section: ByteCursor) -> None:
        self._spaces.read_index(section, ExternKind.FUNCTION)
        self._has_start = True

    def _read_data_count(self, section: ByteCursor) -> None:
        self._declared_data = section.u32()

    def _read_code(self, section: ByteCursor) -> None:
        at = section.position
        self._bodies = section.u32()
        if self._bodies != self._declared_functions:
            raise invalid(f"{self._declared_functions} functions are declared, {self._bodies} have code", at)
        for _ in range(self._bodies):
            at = section.position
            size = section.u32()
            _expect_at_most(self._ceiling.max_function_bytes, size, "bytes of code in one function", at)
            section.skip(size)

    def _read_data(self, section: ByteCursor) -> None:
        start = section.position
        self._data_segments = section.u32()
        self._data_bytes = section.end - start

    _READERS: ClassVar[dict[SectionId, Callable[[ModuleReader, ByteCursor], None]]] = {
        SectionId.CUSTOM: _read_custom,
        SectionId.TYPE: _read_types,
        SectionId.IMPORT: _read_imports,
        SectionId.FUNCTION: _read_functions,
        SectionId.TABLE: _read_tables,
        SectionId.MEMORY: _read_memories,
        SectionId.GLOBAL: _read_globals,
        SectionId.EXPORT: _read_exports,
        SectionId.START: _read_start,
        SectionId.DATA_COUNT: _read_data_count,
        SectionId.CODE: _read_code,
        SectionId.DATA: _read_data,
    }

    # --- entries of sections ------------------------------------------------------------------------------

    def _read_import(self, section: ByteCursor) -> Import:
        at = section.position
        module, name = self._read_name(section), self._read_name(section)
        kind = read_extern_kind(section)
        described = self._read_import_type(kind, section)
        self._keep(len(described), at)
        function = self._spaces.last_signature() if kind is ExternKind.FUNCTION else None
        return Import(module, name, kind, described, function)

    def _read_import_type(self, kind: ExternKind, section: ByteCursor) -> str:
        match kind:
            case ExternKind.FUNCTION:
                self._spaces.add_function(section)
                return str(self._spaces.last_signature())
            case ExternKind.TABLE:
                self._add_tables(1, section.position)
                return str(read_table_type(section))
            case ExternKind.MEMORY:
                self._add_memories(1, section.position)
                return f"{read_memory_type(section)} pages"
            case ExternKind.GLOBAL:
                self._spaces.add(kind, 1)
                return read_global_type(section)
            case ExternKind.TAG:
                self._spaces.add(kind, 1)
                return self._spaces.read_tag_type(section)
            case ExternKind.RESOURCE | ExternKind.OTHER:
                raise AssertionError("only components import these")

    def _read_export(self, section: ByteCursor) -> None:
        at = section.position
        name = self._read_name(section)
        if name in self._export_names:
            raise invalid(f"there is a second export named {_quoted(name)}", at)
        self._export_names.add(name)
        kind = read_extern_kind(section)
        index = self._spaces.read_index(section, kind)
        if kind is ExternKind.FUNCTION:
            codes = self._spaces.codes_of(index)
            self._keep(len(codes.params) + len(codes.results), at)
            self._exported_functions.append((name, index))
        elif kind is ExternKind.MEMORY:
            self._memory_names.append(name)

    def _read_name(self, section: ByteCursor) -> str:
        at = section.position
        name = section.name(self._ceiling.max_name_bytes)
        self._keep(section.position - at, at)
        return name

    def _keep(self, size: int, at: int) -> None:
        self._interface_room -= size
        if self._interface_room < 0:
            raise invalid(f"imports and exports take more than {self._ceiling.max_interface_bytes} bytes", at)

    def _add_tables(self, number: int, at: int) -> None:
        _expect_at_most(self._ceiling.max_tables, self._spaces.add(ExternKind.TABLE, number), "tables", at)

    def _add_memories(self, number: int, at: int) -> None:
        _expect_at_most(1, self._spaces.add(ExternKind.MEMORY, number), "memories", at)


_SKIPPED = {SectionId.CUSTOM, SectionId.GLOBAL, SectionId.ELEMENT, SectionId.DATA}
"""Sections of which something is left unread."""


def _read_count(section: ByteCursor, what: str, ceiling: int) -> int:
    at = section.position
    number = section.u32()
    _expect_at_most(ceiling, number, what, at)
    return number


def _expect_at_most(ceiling: int, number: int, what: str, at: int) -> None:
    if number > ceiling:
        raise invalid(f"the module has {number} {what}; {ceiling} are accepted", at)


def _quoted(name: str) -> str:
    """A name that the guest chose, fit for an error: printable, and short whatever it is."""
    escaped = ascii(name[:_QUOTED_CHARS])
    return escaped if len(name) <= _QUOTED_CHARS >= len(escaped) else f"{escaped[: _QUOTED_CHARS - 3]}..."
