"""How the library lays out values of WIT types: 32 bytes for each, of whatever type; what does not fit is elsewhere."""

from __future__ import annotations

import struct

from spear_wasm.engine import capi
from spear_wasm.wit.types import Primitive

SIZE, AT = capi.COMPONENT_VAL_SIZE, capi.VAL_OFFSET
ENTRY_SIZE = capi.NAME_SIZE + SIZE
"""Bytes of a field of a record: its name, then its value."""

KINDS = {
    Primitive.BOOL: 0, Primitive.S8: 1, Primitive.U8: 2, Primitive.S16: 3, Primitive.U16: 4, Primitive.S32: 5,
    Primitive.U32: 6, Primitive.S64: 7, Primitive.U64: 8, Primitive.F32: 9, Primitive.F64: 10, Primitive.CHAR: 11,
    Primitive.STRING: 12,
}  # fmt: skip
LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = range(13, 22)
CODES = {
    Primitive.S8: "b", Primitive.U8: "B", Primitive.S16: "h", Primitive.U16: "H", Primitive.S32: "i",
    Primitive.U32: "I", Primitive.S64: "q", Primitive.U64: "Q", Primitive.F32: "f", Primitive.F64: "d",
}  # fmt: skip
"""How `struct` and `array` call the numbers."""

POINTER = struct.Struct("<Q")
PAIR = struct.Struct("<QQ")
SEQUENCE = struct.Struct("<B7xQQ")
"""A value that is a size and an address."""
CASE = struct.Struct("<B7xQQQ")
OPTIONAL = struct.Struct("<B7xQ")
OUTCOME = struct.Struct("<B7x?7xQ")
