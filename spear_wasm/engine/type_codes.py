"""How a module writes types: those of values, and of the tables, memories and globals at its edges.

Whatever belongs to a feature that our engines are built without is refused here, by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.engine.leb import ByteCursor, invalid
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import ExternKind, FunctionType, ValueType

MAX_FUNCTION_FIELDS = 1000
"""Parameters of one function type, and results: the engine's own bound."""
MAX_MEMORY_PAGES = 1 << 16

EXTERN_KINDS = (ExternKind.FUNCTION, ExternKind.TABLE, ExternKind.MEMORY, ExternKind.GLOBAL, ExternKind.TAG)
"""What may be imported and exported, by the codes that stand for it."""
_VALUE_TYPES = {
    0x7F: ValueType.I32,
    0x7E: ValueType.I64,
    0x7D: ValueType.F32,
    0x7C: ValueType.F64,
    0x7B: ValueType.V128,
    0x70: ValueType.FUNCREF,
    0x6F: ValueType.EXTERNREF,
}
_VALUE_TYPE_CODES = bytes(_VALUE_TYPES)
_FUNCTION_FORM = 0x60
_HAS_MAXIMUM = 0x01
_UNSUPPORTED_LIMITS = {0x02: "shared (threads)", 0x04: "64-bit", 0x08: "of a custom page size"}
_TABLE_WITH_INITIALISER = b"\x40\x00"
_GLOBAL_GET, _REF_NULL, _REF_FUNC, _END = 0x23, 0xD0, 0xD2, 0x0B


@dataclass(frozen=True, slots=True)
class TypeCodes:
    """A function type as the module writes it, a byte for each parameter and result.

    A module may hold very many types that nothing at its edges refers to: only those that something does
    refer to become a FunctionType, which takes eight times the room.
    """

    params: bytes
    results: bytes

    def decode(self) -> FunctionType:
        """The type as callers see it."""
        return FunctionType(
            tuple(_VALUE_TYPES[code] for code in self.params),
            tuple(_VALUE_TYPES[code] for code in self.results),
        )


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of a table, in elements, or of a memory, in pages of 64 KiB: at first, and at most."""

    minimum: int
    maximum: int | None

    def __str__(self) -> str:
        return f"{self.minimum}.." if self.maximum is None else f"{self.minimum}..{self.maximum}"


@dataclass(frozen=True, slots=True)
class TableType:
    """The elements of a table, and how many."""

    element: ValueType
    extent: Extent

    def __str__(self) -> str:
        return f"{self.element} {self.extent}"


def read_extern_kind(cursor: ByteCursor) -> ExternKind:
    """What kind of thing an import or an export is."""
    at = cursor.position
    code = cursor.byte()
    if code >= len(EXTERN_KINDS):
        raise invalid(f"kind 0x{code:02x} of an import or export is not supported", at)
    return EXTERN_KINDS[code]


def read_function_type(cursor: ByteCursor) -> TypeCodes:
    """The next entry of a type section."""
    at = cursor.position
    form = cursor.byte()
    if form != _FUNCTION_FORM:
        raise invalid(f"type form 0x{form:02x} (garbage collection) is not supported; only functions are", at)
    return TypeCodes(params=_value_type_codes(cursor), results=_value_type_codes(cursor))


def _value_type_codes(cursor: ByteCursor) -> bytes:
    at = cursor.position
    count = cursor.u32()
    if count > MAX_FUNCTION_FIELDS:
        raise invalid(f"a function has {count} parameters or results; {MAX_FUNCTION_FIELDS} are accepted", at)
    at = cursor.position
    codes = cursor.take(count)
    unknown = codes.translate(None, _VALUE_TYPE_CODES)
    if unknown:
        raise _unsupported_value_type(unknown[0], at + codes.index(unknown[0]))
    return codes


def _value_type(cursor: ByteCursor) -> ValueType:
    at = cursor.position
    code = cursor.byte()
    if code not in _VALUE_TYPES:
        raise _unsupported_value_type(code, at)
    return _VALUE_TYPES[code]


def _unsupported_value_type(code: int, at: int) -> InvalidArtifact:
    return invalid(f"value type 0x{code:02x} is not supported", at)


def read_global_type(cursor: ByteCursor) -> str:
    """The type of an imported global, for people: `i32`, `mut i64`."""
    value = _value_type(cursor)
    at = cursor.position
    mutable = cursor.byte()
    if mutable > 1:
        raise invalid(f"mutability 0x{mutable:02x} of a global is not supported", at)
    return f"mut {value}" if mutable else str(value)


def read_table_type(cursor: ByteCursor) -> TableType:
    """The type of an imported table, or the first part of a table's definition."""
    at = cursor.position
    element = _value_type(cursor)
    if element not in {ValueType.FUNCREF, ValueType.EXTERNREF}:
        raise invalid(f"a table holds references, not {element}", at)
    return TableType(element, _read_extent(cursor, "table"))


def read_table(cursor: ByteCursor) -> TableType:
    """The next entry of a table section: a type, or a type and what its elements are at first."""
    if not cursor.skip_prefix(_TABLE_WITH_INITIALISER):
        return read_table_type(cursor)
    table = read_table_type(cursor)
    _skip_reference(cursor)
    return table


def _skip_reference(cursor: ByteCursor) -> None:
    """Go past a constant expression that makes one reference, as the engine accepts it."""
    at = cursor.position
    instruction = cursor.byte()
    if instruction == _REF_NULL:
        _value_type(cursor)
    elif instruction in {_REF_FUNC, _GLOBAL_GET}:
        cursor.u32()
    else:
        raise invalid(f"a table's initial value begins with instruction 0x{instruction:02x}", at)
    at = cursor.position
    if cursor.byte() != _END:
        raise invalid("a table's initial value does not end after one instruction", at)


def read_memory_type(cursor: ByteCursor) -> Extent:
    """The type of a memory, defined or imported."""
    at = cursor.position
    extent = _read_extent(cursor, "memory")
    if max(extent.minimum, extent.maximum or 0) > MAX_MEMORY_PAGES:
        raise invalid(f"a memory of {extent} pages is beyond 32-bit addresses", at)
    return extent


def _read_extent(cursor: ByteCursor, what: str) -> Extent:
    at = cursor.position
    flags = cursor.byte()
    for flag, feature in _UNSUPPORTED_LIMITS.items():
        if flags & flag:
            raise invalid(f"a {what} is {feature}, which this server does not support", at)
    if flags > _HAS_MAXIMUM:
        raise invalid(f"a {what}'s limits begin with unknown flags 0x{flags:02x}", at)
    extent = Extent(cursor.u32(), cursor.u32() if flags else None)
    if extent.maximum is not None and extent.maximum < extent.minimum:
        raise invalid(f"a {what}'s maximum of {extent.maximum} is below its minimum of {extent.minimum}", at)
    return extent
