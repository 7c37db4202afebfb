"""What the indices in a module refer to: its types, its functions, how many of everything else."""

from __future__ import annotations

from collections import Counter

from spear_wasm.engine.leb import ByteCursor, invalid
from spear_wasm.engine.type_codes import TypeCodes
from spear_wasm.model import ExternKind, FunctionType


class IndexSpaces:
    """Grows as sections are read; imported things come first in each space, as in the module itself."""

    def __init__(self) -> None:
        self._types: list[TypeCodes] = []
        self._signatures: dict[TypeCodes, FunctionType] = {}
        self._function_types: list[int] = []
        """The type of each function; `_sizes` counts the others."""
        self._sizes: Counter[ExternKind] = Counter()

    def add_type(self, function_type: TypeCodes) -> None:
        """One more type."""
        self._types.append(function_type)

    def add_function(self, cursor: ByteCursor) -> None:
        """One more function, of the type whose index comes next."""
        self._function_types.append(self._read_type_index(cursor))

    def add(self, kind: ExternKind, number: int) -> int:
        """So many more of a kind other than functions; says how many there are now."""
        self._sizes[kind] += number
        return self._sizes[kind]

    def codes_of(self, function: int) -> TypeCodes:
        """The type of a function as the module writes it."""
        return self._types[self._function_types[function]]

    def signature(self, function: int) -> FunctionType:
        """The type of a function as callers see it; the same object for the same type."""
        codes = self.codes_of(function)
        if codes not in self._signatures:
            self._signatures[codes] = codes.decode()
        return self._signatures[codes]

    def last_signature(self) -> FunctionType:
        """That of the function that was added last."""
        return self.signature(len(self._function_types) - 1)

    def read_index(self, cursor: ByteCursor, kind: ExternKind) -> int:
        """The next number, as the index of something of that kind that exists."""
        at = cursor.position
        index = cursor.u32()
        size = len(self._function_types) if kind is ExternKind.FUNCTION else self._sizes[kind]
        if index >= size:
            raise invalid(f"{kind} {index} does not exist; there are {size}", at)
        return index

    def read_tag_type(self, cursor: ByteCursor) -> str:
        """The type of an imported tag, for people."""
        at = cursor.position
        if cursor.byte() != 0:
            raise invalid("a tag has an unknown attribute", at)
        return str(self._types[self._read_type_index(cursor)].decode())

    def _read_type_index(self, cursor: ByteCursor) -> int:
        at = cursor.position
        index = cursor.u32()
        if index >= len(self._types):
            raise invalid(f"type {index} does not exist; there are {len(self._types)}", at)
        return index
