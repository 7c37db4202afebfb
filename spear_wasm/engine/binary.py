"""What the binary of a core module says about itself, read before anything compiles it.

The reader checks a module's outline (sections, counts, sizes, the types at its edges) and skips what only the
compiler needs to see: code, the initial values of globals, element and data segments. A module that passes
is not thereby valid; the compiler has the last word. Time is linear in the module's size, and whatever is
kept of it is bounded by a `ModuleCeiling`.

A name or a list that is too long is refused, never cut: what a `ModuleInfo` shows is whole, and callable by
the name it shows. Error texts hold at most a hundred characters of what the guest chose, escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from mmap import mmap
from typing import ClassVar, TypeAlias

from spear_wasm.engine.leb import ByteCursor, encode_u32, invalid
from spear_wasm.engine.local_names import parameter_names
from spear_wasm.engine.sections import HEADER, Section, SectionId, sections_of
from spear_wasm.engine.type_codes import (
    Extent,
    TypeCodes,
    read_function_type,
    read_global_type,
    read_memory_type,
    read_table,
    read_table_type,
)
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import WASM_PAGE_BYTES, ExternKind, FunctionExport, FunctionType, Import, ModuleInfo

ModuleBytes: TypeAlias = "bytes | memoryview | mmap"

HEAD_BYTES = 64
"""How much of a file `check_kind` wants to see; it makes do with less."""
ADDED_MEMORY_EXPORT = "spear:memory"
"""The name under which we export a memory that its module keeps to itself, unless the module uses it."""

_KINDS = (ExternKind.FUNCTION, ExternKind.TABLE, ExternKind.MEMORY, ExternKind.GLOBAL, ExternKind.TAG)
"""By the codes that stand for them."""
_WASMTIME_OS_ABI = b"\xc8"
_OTHER_FILES = {
    b"\x7fELF": "is a native (ELF) file; upload a WebAssembly module instead",
    b"\x1f\x8b": "is compressed with gzip; upload the module unpacked",
    b"PK\x03\x04": "is a zip archive; upload the module itself",
    b"!<arch>": "is an archive of object files; link them into a module first",
    b"BC\xc0\xde": "is LLVM bitcode; compile it to WebAssembly first",
}
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


def check_kind(head: bytes) -> None:
    """Refuse whatever does not begin like a core module of version 1, saying what it is instead.

    `head` is how the file begins: `HEAD_BYTES`, or all of it where it is shorter.

    Raises:
        InvalidArtifact: with the `offset` of the byte that gives it away.
    """
    if head.startswith(HEADER):
        return
    if not head:
        raise invalid("the artifact is empty", 0)
    if HEADER.startswith(head):
        raise invalid("the artifact ends within the header of a module", len(head))
    if head.startswith(HEADER[:4]):
        raise _other_version(head[4:8])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"(", b";;")):
        raise invalid(
            "the artifact looks like WebAssembly text; convert it with wat2wasm. It begins", len(head) - len(text)
        )
    raise invalid(f"the artifact {_description(head)}. It is no module", 0)


def _other_version(version: bytes) -> InvalidArtifact:
    if version[2:] == b"\x01\x00":
        return invalid("the artifact is a component; this server runs core modules only. It says so", 4)
    return invalid(f"the artifact is WebAssembly of another version ({version.hex(' ')})", 4)


def _description(head: bytes) -> str:
    if head.startswith(b"\x7fELF") and head[7:8] == _WASMTIME_OS_ABI:
        return "is code precompiled by wasmtime; upload the module it was made from"
    for magic, description in _OTHER_FILES.items():
        if head.startswith(magic):
            return description
    return f"begins with the bytes {head[:4].hex(' ')}"


def inspect(module: ModuleBytes, ceiling: ModuleCeiling) -> ModuleInfo:
    """Read a module's outline. Nothing is compiled, and nothing of `module` is held once this is over.

    Custom sections do not make a module invalid by what they hold: a function's parameters have names where
    a well-formed `name` section gives each a different one, and none otherwise.

    Raises:
        InvalidArtifact: the bytes are no core module, use a feature that this server does not offer, or
            exceed the ceiling; says why and, also as `offset`, at which byte.
    """
    with memoryview(module) as view:
        check_kind(bytes(view[:HEAD_BYTES]))
        reader = _ModuleReader(ceiling)
        for section in sections_of(view):
            reader.read(section)
        return reader.finish(len(view))


def with_memory_exported(module: bytes, info: ModuleInfo) -> bytes:
    """The module with one more export where it has a memory that it does not export; itself otherwise.

    `info` is what `inspect` said about these same bytes. The memory is exported as `info.memory_export`, so
    that the host can measure it; nothing in the module can tell.
    """
    if info.memory_export is None or info.memory_exported_by_guest:
        return module
    name = info.memory_export.encode()
    entry = encode_u32(len(name)) + name + bytes((_KINDS.index(ExternKind.MEMORY), 0))
    with memoryview(module) as view:
        start, end, old_count, old_entries = _export_section(view)
        body = encode_u32(old_count + 1) + old_entries + entry
        return b"".join((view[:start], bytes((SectionId.EXPORT,)), encode_u32(len(body)), body, view[end:]))


def _export_section(module: memoryview) -> tuple[int, int, int, bytes]:
    """Where the export section starts and ends, how many exports it has, and their bytes.

    Where there is none, start and end are both where it belongs.
    """
    place = 0
    for section in sections_of(module):
        body = section.body
        if section.id is SectionId.EXPORT:
            return section.start, body.end, body.u32(), body.take(body.end - body.position)
        if section.belongs_before(SectionId.EXPORT):
            place = body.end
    return place, place, 0, b""


class _ModuleReader:
    """What is known of a module so far. Sections are given to it one by one, in their order."""

    def __init__(self, ceiling: ModuleCeiling) -> None:
        self._ceiling = ceiling
        self._interface_room = ceiling.max_interface_bytes
        self._types: list[TypeCodes] = []
        self._signatures: dict[TypeCodes, FunctionType] = {}
        self._functions: list[int] = []
        """The type of each, imported ones first."""
        self._sizes: Counter[ExternKind] = Counter()
        """How many there are of each kind but functions, imported ones included."""
        self._imports: list[Import] = []
        self._memory: Extent | None = None
        self._table_elements = 0
        self._export_names: set[str] = set()
        self._exported_functions: list[tuple[str, int]] = []
        self._memory_names: list[str] = []
        self._has_start = False
        self._declared_functions = 0
        self._bodies = 0
        self._declared_data: int | None = None
        self._data_segments = 0
        self._custom_sections = 0
        self._name_section: ByteCursor | None = None

    def read(self, section: Section) -> None:
        """Take in the next section."""
        self._READERS[section.id](self, section.body)
        if section.id not in _SKIPPED:
            section.body.expect_end()

    def finish(self, end: int) -> ModuleInfo:
        """What the module is, now that all of it, up to `end`, has been read."""
        if self._bodies != self._declared_functions:
            raise invalid(f"{self._declared_functions} functions are declared, {self._bodies} have code", end)
        if self._declared_data not in {None, self._data_segments}:
            raise invalid(f"{self._declared_data} data segments are announced, {self._data_segments} found", end)
        memory = self._memory or Extent(0, None)
        return ModuleInfo(
            functions=self._function_exports(),
            imports=tuple(self._imports),
            memory_export=self._memory_export(),
            memory_exported_by_guest=self._memory is not None and bool(self._memory_names),
            memory_min_pages=memory.minimum,
            memory_max_pages=memory.maximum,
            table_elements=self._table_elements,
            function_count=self._declared_functions,
            has_start=self._has_start,
        )

    def _function_exports(self) -> tuple[FunctionExport, ...]:
        names: dict[int, tuple[str, ...]] = {}
        if self._name_section is not None:
            param_counts = {index: len(self._type_of(index).params) for _, index in self._exported_functions}
            names = parameter_names(self._name_section, param_counts)
        return tuple(
            FunctionExport(name, self._signature(index), self._if_room(names.get(index, ())))
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
            self._types.append(read_function_type(section))

    def _read_imports(self, section: ByteCursor) -> None:
        for _ in range(_read_count(section, "imports", self._ceiling.max_imports)):
            self._imports.append(self._read_import(section))

    def _read_functions(self, section: ByteCursor) -> None:
        self._declared_functions = _read_count(section, "functions", self._ceiling.max_functions)
        for _ in range(self._declared_functions):
            self._functions.append(self._read_type_index(section))

    def _read_tables(self, section: ByteCursor) -> None:
        at = section.position
        tables = section.u32()
        self._add(ExternKind.TABLE, tables, at)
        for _ in range(tables):
            self._table_elements += read_table(section).extent.minimum
        _expect_at_most(self._ceiling.max_table_elements, self._table_elements, "table elements at its start", at)

    def _read_memories(self, section: ByteCursor) -> None:
        at = section.position
        memories = section.u32()
        self._add(ExternKind.MEMORY, memories, at)
        if memories:
            self._memory = read_memory_type(section)
            size = self._memory.minimum * WASM_PAGE_BYTES
            _expect_at_most(self._ceiling.max_memory_bytes, size, "bytes of memory at its start", at)

    def _read_globals(self, section: ByteCursor) -> None:
        at = section.position
        self._add(ExternKind.GLOBAL, section.u32(), at)

    def _read_exports(self, section: ByteCursor) -> None:
        for _ in range(_read_count(section, "exports", self._ceiling.max_exports)):
            self._read_export(section)

    def _read_start(self, section: ByteCursor) -> None:
        self._read_index(section, ExternKind.FUNCTION)
        self._has_start = True

    def _skip(self, section: ByteCursor) -> None:
        """Leave the section to the compiler."""

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
        self._data_segments = section.u32()

    _READERS: ClassVar[dict[SectionId, Callable[[_ModuleReader, ByteCursor], None]]] = {
        SectionId.CUSTOM: _read_custom,
        SectionId.TYPE: _read_types,
        SectionId.IMPORT: _read_imports,
        SectionId.FUNCTION: _read_functions,
        SectionId.TABLE: _read_tables,
        SectionId.MEMORY: _read_memories,
        SectionId.GLOBAL: _read_globals,
        SectionId.EXPORT: _read_exports,
        SectionId.START: _read_start,
        SectionId.ELEMENT: _skip,
        SectionId.DATA_COUNT: _read_data_count,
        SectionId.CODE: _read_code,
        SectionId.DATA: _read_data,
    }

    # --- entries of sections ------------------------------------------------------------------------------

    def _read_import(self, section: ByteCursor) -> Import:
        at = section.position
        module, name = self._read_name(section), self._read_name(section)
        kind = _read_kind(section)
        function = None
        match kind:
            case ExternKind.FUNCTION:
                self._functions.append(self._read_type_index(section))
                function = self._signature(len(self._functions) - 1)
                described = str(function)
            case ExternKind.TABLE:
                described = str(read_table_type(section))
            case ExternKind.MEMORY:
                described = f"{read_memory_type(section)} pages"
            case ExternKind.GLOBAL:
                described = read_global_type(section)
            case ExternKind.TAG:
                described = self._read_tag_type(section)
        self._add(kind, 1, at)
        self._keep(len(described), at)
        return Import(module, name, kind, described, function)
