"""Values of WIT types, read from where the library has them. What reads is compiled once for each type."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.components.guest_handle import GuestHandle
from spear_wasm.engine.components.layout import (
    AT,
    CASE,
    CODES,
    ENTRY_SIZE,
    OPTIONAL,
    OUTCOME,
    PAIR,
    SIZE,
)
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.wit.fold import Fold
from spear_wasm.wit.types import Primitive, ResourceType, WitType, parts_of
from spear_wasm.wit.values import Case, Err, Ok, Some

MAX_PARTS = 1 << 17
"""Values that a guest passes to its host at once, not counting numbers and bytes of lists, which are read in bulk:
Python takes a microsecond for each, in which nobody stops it."""

Read: TypeAlias = "Callable[[bytes, int, Reading], Any]"
"""Reads the value at a place of a copy of the library's bytes."""


class Reading:
    """What is read at once, from a store's context; how much of it there may be."""

    __slots__ = ("_room", "context")

    def __init__(self, context: int) -> None:
        self.context = context
        self._room = MAX_PARTS

    def take_room(self, parts: int) -> None:
        """So many values more.

        Raises:
            GuestFault: they are too many.
        """
        self._room -= parts
        if self._room < 0:
            raise GuestFault(
                ErrorCode.OUTPUT_LIMIT,
                f"the guest passed more than {MAX_PARTS} values to its host at once, beside numbers and bytes of lists",
            )


class Readers(Fold[Read]):
    """Makes what reads values; `type_ids` are the numbers of the host's resources, by name."""

    def __init__(self, type_ids: Mapping[str, int]) -> None:
        self._type_ids = type_ids

    def of_primitive(self, kind: Primitive) -> Read:
        """Reads a number, a text and the like."""
        if kind is Primitive.STRING:
            return _read_text
        if kind is Primitive.CHAR:
            return _read_char
        return partial(_read_scalar, struct.Struct(f"<{CODES.get(kind, '?')}"))

    def of_list(self, element: WitType) -> Read:
        """Reads a list: of numbers in bulk."""
        if element is Primitive.U8:
            return _read_bytes
        if isinstance(element, Primitive) and element in CODES:
            return partial(_read_numbers, CODES[element])
        return partial(_read_list, self.of(element), parts_of(element))

    def of_tuple(self, elements: list[Read]) -> Read:
        """Reads a tuple."""
        return partial(_read_tuple, elements)

    def of_record(self, fields: list[tuple[str, Read, bool]]) -> Read:
        """Reads a record."""
        return partial(_read_record, [(name, read) for name, read, _ in fields])

    def of_variant(self, cases: dict[str, Read | None]) -> Read:
        """Reads a variant."""
        return partial(_read_variant, {name.encode(): (name, read) for name, read in cases.items()})

    def of_enum(self, names: Sequence[str]) -> Read:
        """Reads a name."""
        del names
        return _read_text

    def of_flags(self, names: Sequence[str]) -> Read:
        """Reads those that are set."""
        del names
        return _read_flags

    def of_option(self, some: Read, *, nested: bool) -> Read:
        """Reads an option."""
        return partial(_read_option, some, nested)

    def of_result(self, ok: Read | None, err: Read | None) -> Read:
        """Reads a result."""
        return partial(_read_result, ok, err)

    def of_resource(self, kind: ResourceType) -> Read:
        """Reads a handle."""
        return _read_host_handle if kind.name in self._type_ids else _read_guest_handle


def _read_scalar(layout: struct.Struct, block: bytes, at: int, _reading: Reading) -> object:
    return layout.unpack_from(block, at + AT)[0]


def _read_char(block: bytes, at: int, _reading: Reading) -> str:
    return chr(int.from_bytes(block[at + AT : at + AT + 4], "little"))


def _read_text(block: bytes, at: int, _reading: Reading) -> str:
    size, address = PAIR.unpack_from(block, at + AT)
    return ctypes.string_at(address, size).decode() if size else ""


def _block(block: bytes, at: int, each: int = SIZE) -> bytes:
    """A copy of what a size and an address at `at` refer to."""
    size, address = PAIR.unpack_from(block, at + AT)
    return ctypes.string_at(address, size * each) if size else b""


def _read_bytes(block: bytes, at: int, _reading: Reading) -> bytes:
    return _block(block, at)[AT::SIZE]


def _read_numbers(code: str, block: bytes, at: int, _reading: Reading) -> list[Any]:
    with memoryview(_block(block, at)) as view, view.cast(code) as cells:  # type: ignore[call-overload]  # one of CODES
        return cells[AT // cells.itemsize :: SIZE // cells.itemsize].tolist()  # type: ignore[no-any-return]  # numbers


def _read_list(read: Read, parts: int, block: bytes, at: int, reading: Reading) -> list[Any]:
    size, _ = PAIR.unpack_from(block, at + AT)
    reading.take_room(size * parts)
    inner = _block(block, at)
    return [read(inner, place, reading) for place in range(0, len(inner), SIZE)]


def _read_tuple(readers: list[Read], block: bytes, at: int, reading: Reading) -> tuple[Any, ...]:
    inner = _block(block, at)
    return tuple(read(inner, number * SIZE, reading) for number, read in enumerate(readers))


def _read_record(fields: list[tuple[str, Read]], block: bytes, at: int, reading: Reading) -> dict[str, Any]:
    inner = _block(block, at, ENTRY_SIZE)
    return {
        name: read(inner, number * ENTRY_SIZE + capi.NAME_SIZE, reading)
        for number, (name, read) in enumerate(fields)
    }


def _read_payload(read: Read | None, address: int, reading: Reading) -> Any:  # noqa: ANN401  a value of whatever type
    return None if read is None or not address else read(ctypes.string_at(address, SIZE), 0, reading)


def _read_variant(
    cases: dict[bytes, tuple[str, Read | None]], block: bytes, at: int, reading: Reading
) -> Case:
    _, size, address, payload = CASE.unpack_from(block, at)
    name, read = cases[ctypes.string_at(address, size)]
    return Case(name, _read_payload(read, payload, reading))


def _read_flags(block: bytes, at: int, _reading: Reading) -> frozenset[str]:
    inner = _block(block, at, capi.NAME_SIZE)
    return frozenset(ctypes.string_at(address, size).decode() for size, address in PAIR.iter_unpack(inner))


def _read_option(read: Read, nested: bool, block: bytes, at: int, reading: Reading) -> Any:  # noqa: ANN401, FBT001  a value of whatever type; given once, by position
    _, address = OPTIONAL.unpack_from(block, at)
    if not address:
        return None
    value = _read_payload(read, address, reading)
    return Some(value) if nested else value


def _read_result(ok: Read | None, err: Read | None, block: bytes, at: int, reading: Reading) -> Ok | Err:
    _, is_ok, address = OUTCOME.unpack_from(block, at)
    if is_ok:
        return Ok(_read_payload(ok, address, reading))
    return Err(_read_payload(err, address, reading))


def _read_host_handle(block: bytes, at: int, reading: Reading) -> int:
    _, handle = OPTIONAL.unpack_from(block, at)
    host = ctypes.c_void_p()
    # Of what a guest has lent, the host may keep nothing: taking the handle as its own is what ends the loan.
    error = capi.resource_any_to_host(reading.context, handle, ctypes.addressof(host))
    if error:
        raise ValueError(capi.take_error(error))
    rep = int(capi.resource_host_rep(host))
    capi.resource_host_delete(host)
    return rep


def _read_guest_handle(block: bytes, at: int, _reading: Reading) -> GuestHandle:
    _, handle = OPTIONAL.unpack_from(block, at)
    copy = capi.resource_any_clone(handle)
    return GuestHandle(int(copy))
