"""Values of WIT types, written the way the library lays them out.

What writes is compiled once for each type. Lists of numbers are moved in bulk.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.components.guest_handle import GuestHandle
from spear_wasm.engine.components.layout import (
    AT,
    CASE,
    CODES,
    ENTRY_SIZE,
    ENUM,
    FLAGS,
    KINDS,
    LIST,
    OPTION,
    OPTIONAL,
    OUTCOME,
    PAIR,
    POINTER,
    RECORD,
    RESOURCE,
    RESULT,
    SEQUENCE,
    SIZE,
    TUPLE,
    VARIANT,
)
from spear_wasm.wit.fold import Fold
from spear_wasm.wit.types import Primitive, ResourceType, WitType
from spear_wasm.wit.values import Case, Err, Ok, WitValue

Write: TypeAlias = "Callable[[Arena, int, Any], None]"


class Arena:
    """Room for one tree of values, the first of them at place 0; whoever makes it releases it.

    Places are offsets until `settle` has made them addresses.
    """

    __slots__ = ("_handles", "_held", "_places", "address", "context", "data")

    def __init__(self, values: int, context: int) -> None:
        self.data = bytearray(values * SIZE)
        self.context = context
        self.address = 0
        self._places: list[int] = []
        self._handles: list[int] = []
        self._held: object = None

    def add(self, content: bytes | bytearray) -> int:
        """Put something at a place of its own."""
        place = len(self.data)
        self.data += content
        self.data += bytes(-len(content) % 8)
        return place

    def refer(self, at: int, place: int) -> None:
        """At `at` there is to be the address of a place."""
        POINTER.pack_into(self.data, at, place)
        self._places.append(at)

    def own(self, handle: int) -> int:
        """A handle of the library's, to be given back with the arena."""
        self._handles.append(handle)
        return handle

    def settle(self) -> int:
        """Nothing more is added; returns the address of place 0."""
        data = self.data
        held = (ctypes.c_char * len(data)).from_buffer(data)
        base = ctypes.addressof(held)
        for at in self._places:
            POINTER.pack_into(data, at, base + POINTER.unpack_from(data, at)[0])
        self._held, self.address = held, base
        return base

    def release(self) -> None:
        """Nobody reads it any more."""
        for handle in self._handles:
            capi.resource_any_delete(handle)
        self._handles.clear()


class Writers(Fold[Write]):
    """Makes what writes values; `type_ids` are the numbers of the host's resources, by name.

    What is written must be of its type: what is not raises TypeError, ValueError and the like, or struct.error.
    """

    def __init__(self, type_ids: Mapping[str, int]) -> None:
        self._type_ids = type_ids
        # The library is given the addresses of names: they stay as long as this does.
        self._names: dict[str, ctypes.Array[ctypes.c_char]] = {}

    def _name(self, name: str) -> bytes:
        """The length and the address of a name."""
        if name not in self._names:
            self._names[name] = ctypes.create_string_buffer(name.encode())
        buffer = self._names[name]
        return PAIR.pack(len(buffer) - 1, ctypes.addressof(buffer))

    def of_primitive(self, kind: Primitive) -> Write:
        """Writes a number, a text and the like."""
        if kind is Primitive.STRING:
            return _write_text
        if kind is Primitive.CHAR:
            return _write_char
        return partial(_write_scalar, struct.Struct(f"<B7x{CODES.get(kind, '?')}"), KINDS[kind])

    def of_list(self, element: WitType) -> Write:
        """Writes a list: of numbers in bulk."""
        if isinstance(element, Primitive) and element in CODES:
            return partial(_write_numbers, element)
        return partial(_write_list, self.of(element))

    def of_tuple(self, elements: list[Write]) -> Write:
        """Writes a tuple."""
        return partial(_write_tuple, elements)

    def of_record(self, fields: list[tuple[str, Write, bool]]) -> Write:
        """Writes a record."""
        template = b"".join(self._name(name) + bytes(SIZE) for name, _, _ in fields)
        return partial(_write_record, template, [(name, write) for name, write, _ in fields])

    def of_variant(self, cases: dict[str, Write | None]) -> Write:
        """Writes a variant."""
        return partial(_write_variant, {name: (self._case(name), write) for name, write in cases.items()})

    def _case(self, name: str) -> bytes:
        return CASE.pack(VARIANT, *PAIR.unpack(self._name(name)), 0)

    def of_enum(self, names: Sequence[str]) -> Write:
        """Writes a name."""
        return partial(
            _write_enum, {name: SEQUENCE.pack(ENUM, *PAIR.unpack(self._name(name))) for name in names}
        )

    def of_flags(self, names: Sequence[str]) -> Write:
        """Writes those that are set."""
        return partial(_write_flags, {name: self._name(name) for name in names})

    def of_option(self, some: Write, *, nested: bool) -> Write:
        """Writes an option."""
        return partial(_write_option, some, nested)

    def of_result(self, ok: Write | None, err: Write | None) -> Write:
        """Writes a result."""
        return partial(_write_result, ok, err)

    def of_resource(self, kind: ResourceType) -> Write:
        """Writes a handle."""
        if kind.name in self._type_ids:
            return partial(_write_host_handle, self._type_ids[kind.name], kind.owned)
        return _write_guest_handle


def _write_scalar(layout: struct.Struct, code: int, arena: Arena, at: int, value: float) -> None:
    layout.pack_into(arena.data, at, code, value)


_CHARACTER = struct.Struct("<B7xI")


def _write_char(arena: Arena, at: int, value: str) -> None:
    value.encode()  # what is half of a pair is no character, and would end the process
    _CHARACTER.pack_into(arena.data, at, KINDS[Primitive.CHAR], ord(value))


def _write_sequence(arena: Arena, at: int, kind: int, size: int, content: bytes | bytearray) -> int:
    place = arena.add(content)
    SEQUENCE.pack_into(arena.data, at, kind, size, 0)
    arena.refer(at + AT + 8, place)
    return place


def _write_text(arena: Arena, at: int, value: str) -> None:
    content = value.encode()
    _write_sequence(arena, at, KINDS[Primitive.STRING], len(content), content)


def _write_numbers(element: Primitive, arena: Arena, at: int, values: Iterable[Any]) -> None:
    code = CODES[element]
    numbers = array(code, values)
    size = len(numbers)
    block = bytearray(size * SIZE)
    block[::SIZE] = bytes((KINDS[element],)) * size
    with memoryview(block) as view, view.cast(code) as cells:  # type: ignore[call-overload]  # one of CODES
        cells[AT // numbers.itemsize :: SIZE // numbers.itemsize] = memoryview(numbers)
    _write_sequence(arena, at, LIST, size, block)


def _write_list(write: Write, arena: Arena, at: int, values: list[Any]) -> None:
    place = _write_sequence(arena, at, LIST, len(values), bytes(len(values) * SIZE))
    for value in values:
        write(arena, place, value)
        place += SIZE


def _write_tuple(writers: list[Write], arena: Arena, at: int, values: tuple[Any, ...]) -> None:
    place = _write_sequence(arena, at, TUPLE, len(writers), bytes(len(writers) * SIZE))
    for write, value in zip(writers, values, strict=True):
        write(arena, place, value)
        place += SIZE


def _write_record(
    template: bytes, fields: list[tuple[str, Write]], arena: Arena, at: int, value: dict[str, Any]
) -> None:
    place = _write_sequence(arena, at, RECORD, len(fields), template) + capi.NAME_SIZE
    for name, write in fields:
        write(arena, place, value[name])
        place += ENTRY_SIZE


def _write_payload(write: Write | None, arena: Arena, at: int, value: WitValue) -> None:
    if write is not None:
        place = arena.add(bytes(SIZE))
        write(arena, place, value)
        arena.refer(at, place)
    elif value is not None:
        raise TypeError("a value is given where there is none")


def _write_variant(cases: dict[str, tuple[bytes, Write | None]], arena: Arena, at: int, value: Case) -> None:
    header, write = cases[value.name]
    arena.data[at : at + SIZE] = header
    _write_payload(write, arena, at + AT + 16, value.payload)


def _write_enum(names: dict[str, bytes], arena: Arena, at: int, value: str) -> None:
    header = names[value]
    arena.data[at : at + len(header)] = header


def _write_flags(names: dict[str, bytes], arena: Arena, at: int, values: frozenset[str]) -> None:
    _write_sequence(arena, at, FLAGS, len(values), b"".join(names[value] for value in values))


def _write_option(write: Write, nested: bool, arena: Arena, at: int, value: WitValue) -> None:  # noqa: FBT001  given once, by position
    OPTIONAL.pack_into(arena.data, at, OPTION, 0)
    if value is not None:
        _write_payload(write, arena, at + AT, value.value if nested else value)  # type: ignore[union-attr]  # a Some


def _write_result(ok: Write | None, err: Write | None, arena: Arena, at: int, value: Ok | Err) -> None:
    if not isinstance(value, Ok | Err):
        raise TypeError(f"a result is an Ok or an Err, not {type(value).__name__}")
    is_ok = isinstance(value, Ok)
    OUTCOME.pack_into(arena.data, at, RESULT, is_ok, 0)
    _write_payload(ok if is_ok else err, arena, at + AT + 8, value.value)


def _write_host_handle(type_id: int, owned: bool, arena: Arena, at: int, rep: int) -> None:  # noqa: FBT001  given once, by position
    host = capi.resource_host_new(owned, rep, type_id)
    handle = ctypes.c_void_p()
    error = capi.resource_host_to_any(arena.context, host, ctypes.addressof(handle))
    capi.resource_host_delete(host)
    if error:
        raise ValueError(capi.take_error(error))
    assert handle.value is not None
    OPTIONAL.pack_into(arena.data, at, RESOURCE, arena.own(handle.value))


def _write_guest_handle(arena: Arena, at: int, value: GuestHandle) -> None:
    OPTIONAL.pack_into(arena.data, at, RESOURCE, value.address)
