"""Callers' values, JSON-shaped, checked against WIT types.

What takes them is compiled once for each type. In JSON

- a `list<u8>` is base64, a `char` a text of one character, a number that is not finite `"NaN"`, `"Infinity"` or
  `"-Infinity"`,
- a record is an object, a tuple a list, flags are the list of those that are set, an enum is its name,
- a variant is the name of a case without a value, or an object `{name: value}`,
- an option is null or the value; where the value may be null itself, null or `{"some": value}`,
- a result is `{"ok": value}` or `{"err": value}`, with null where there is no value,
- a whole number may be a decimal text.

What does not fit is told by its place: `[3].name: must be a whole number (u8), not 'a'`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from spear_wasm.values import float_of, shown, whole_of
from spear_wasm.wit.fold import Fold
from spear_wasm.wit.types import (
    NUMBERS,
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    TupleType,
    WitType,
    parts_of,
)
from spear_wasm.wit.values import Case, Err, Ok, Some

_RANGES = {
    Primitive.S8: (-(1 << 7), (1 << 7) - 1), Primitive.S16: (-(1 << 15), (1 << 15) - 1),
    Primitive.S32: (-(1 << 31), (1 << 31) - 1), Primitive.S64: (-(1 << 63), (1 << 63) - 1),
    Primitive.U8: (0, (1 << 8) - 1), Primitive.U16: (0, (1 << 16) - 1), Primitive.U32: (0, (1 << 32) - 1),
    Primitive.U64: (0, (1 << 64) - 1),
}  # fmt: skip


class Misfit(Exception):
    """A value that is not of its type: where in it, from the inside out, and why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    def within(self, step: str) -> Misfit:
        """The same, seen from one level further out."""
        self.steps.append(step)
        return self

    @property
    def place(self) -> str:
        """Where it is: `[3].name`; empty for the value itself."""
        return "".join(reversed(self.steps))


class Meter:
    """Counts what values take, while they are converted.

    `bytes` are those of their texts and lists in a guest's memory, `numbers` the numbers and bytes of lists, which are
    moved in bulk, `parts` all other values that are in lists.
    """

    __slots__ = ("bytes", "numbers", "parts")

    def __init__(self) -> None:
        self.bytes = 0
        self.numbers = 0
        self.parts = 0


Take: TypeAlias = "Callable[[Any, Meter], Any]"
"""A caller's value to one of `spear_wasm.wit.values`. Raises Misfit."""


def taker(kind: WitType) -> Take:
    """What takes callers' values of a type."""
    return _TAKERS.of(kind)


def from_text(kind: WitType, text: str) -> Any:  # noqa: ANN401  a value of whatever type, yet to be taken
    """What a caller means who has nothing but text to give, as on a command line.

    Text is itself where the type is one of text, bytes or numbers, else JSON, where it is that.
    """
    if isinstance(kind, OptionType):
        return from_text(kind.some, text)
    if kind == ListType(Primitive.U8):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(kind, EnumType) or (isinstance(kind, Primitive) and kind is not Primitive.BOOL):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def _take_bool(value: object, _meter: Meter) -> bool:
    if not isinstance(value, bool):
        raise _unlike("true or false", value)
    return value


def _take_text(value: object, meter: Meter) -> str:
    if not isinstance(value, str):
        raise _unlike("a text", value)
    try:
        meter.bytes += len(value.encode())
    except UnicodeEncodeError:
        raise Misfit("must be a text of whole characters; it has half of a pair") from None
    return value


def _take_char(value: object, meter: Meter) -> str:
    if not isinstance(value, str) or len(value) != 1:
        raise _unlike("a text of one character (char)", value)
    return _take_text(value, meter)


def _take_whole(kind: Primitive, least: int, most: int, value: object, _meter: Meter) -> int:
    number = whole_of(value)
    if number is None:
        raise _unlike(f"a whole number ({kind})", value)
    if not least <= number <= most:
        raise Misfit(f"is {shown(number)}; {kind} takes {least} to {most}")
    return number


def _take_float(single: bool, value: object, _meter: Meter) -> float:  # noqa: FBT001  given once, by position
    try:
        return float_of(value, single=single)
    except ValueError as error:
        raise Misfit(str(error)) from None


def _take_bytes(value: object, meter: Meter) -> bytes:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Misfit("must be base64 (list<u8>), or a list of numbers") from None
    elif isinstance(value, list):
        value = bytes(_each(partial(_take_whole, Primitive.U8, 0, 255), value, meter))
    if not isinstance(value, bytes):
        raise _unlike("bytes, base64 or a list of numbers (list<u8>)", value)
    meter.numbers += len(value)
    meter.bytes += len(value)
    return value


def _take_list(take: Take, least: int, parts: int, value: object, meter: Meter) -> list[Any]:
    if not isinstance(value, list):
        raise _unlike("a list", value)
    meter.bytes += len(value) * least
    meter.parts += len(value) * parts
    meter.numbers += 0 if parts else len(value)
    return _each(take, value, meter)


def _each(take: Take, values: list[Any], meter: Meter) -> list[Any]:
    taken = []
    try:
        for value in values:
            taken.append(take(value, meter))  # noqa: PERF401  how many there are says where it went wrong
    except Misfit as misfit:
        raise misfit.within(f"[{len(taken)}]") from None
    return taken


def _take_tuple(takers: list[Take], value: object, meter: Meter) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != len(takers):
        raise _unlike(f"a list of {len(takers)} (tuple)", value)
    taken: list[Any] = []
    try:
        for take, each in zip(takers, value, strict=True):
            taken.append(take(each, meter))
    except Misfit as misfit:
        raise misfit.within(f"[{len(taken)}]") from None
    return tuple(taken)


def _take_record(fields: dict[str, tuple[Take, bool]], value: object, meter: Meter) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unlike(f"an object with {_listed(fields)}", value)
    if not fields.keys() >= value.keys():
        unknown = next(name for name in value if name not in fields)
        raise Misfit(f"there is no field {shown(unknown)}; there are {_listed(fields)}")
    taken: dict[str, Any] = {}
    for name, (take, optional) in fields.items():
        if name not in value and not optional:
            raise Misfit(f"the field {name} is missing")
        try:
            taken[name] = take(value.get(name), meter)
        except Misfit as misfit:
            raise misfit.within(f".{name}") from None
    return taken


def _take_variant(cases: dict[str, Take | None], value: object, meter: Meter) -> Case:
    name, payload, given = _case_of(value, cases)
    if name not in cases:
        raise Misfit(f"there is no case {shown(name)}; there are {_listed(cases)}")
    take = cases[name]
    if take is None:
        if payload is not None:
            raise Misfit(f"the case {name} has no value")
        return Case(name)
    if not given:
        raise Misfit(f'the case {name} has a value: {{"{name}": …}}')
    return Case(name, _within_case(take, name, payload, meter))


def _case_of(value: object, cases: Iterable[str]) -> tuple[str, Any, bool]:
    """The case, its value, and whether one is given."""
    if isinstance(value, str):
        return value, None, False
    if isinstance(value, dict) and len(value) == 1:
        ((name, payload),) = value.items()
        return str(name), payload, True
    raise _unlike(f"the name of a case, or an object of one: {_listed(cases)}", value)


def _within_case(take: Take, name: str, payload: object, meter: Meter) -> Any:  # noqa: ANN401  a value of whatever type
    try:
        return take(payload, meter)
    except Misfit as misfit:
        raise misfit.within(f".{name}") from None


def _take_enum(names: dict[str, None], value: object, _meter: Meter) -> str:
    if not isinstance(value, str) or value not in names:
        raise _unlike(f"one of {_listed(names)}", value)
    return value


def _take_flags(names: dict[str, None], value: object, _meter: Meter) -> frozenset[str]:
    if not isinstance(value, list):
        raise _unlike(f"a list of some of {_listed(names)}", value)
    for number, name in enumerate(value):
        if not isinstance(name, str) or name not in names:
            raise _unlike(f"one of {_listed(names)}", name).within(f"[{number}]")
    return frozenset(value)


def _take_option(take: Take, value: object, meter: Meter) -> Any:  # noqa: ANN401  a value of whatever type
    return None if value is None else take(value, meter)


def _take_nested_option(take: Take, value: object, meter: Meter) -> Some | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"some"}:
        raise _unlike('null or {"some": …}, as what is in it may be null', value)
    return Some(_within_case(take, "some", value["some"], meter))


def _take_result(sides: dict[str, Take | None], value: object, meter: Meter) -> Ok | Err:
    case = _take_variant(sides, value, meter)
    return Ok(case.payload) if case.name == "ok" else Err(case.payload)


def _refuse_resource(kind: ResourceType, _value: object, _meter: Meter) -> Any:  # noqa: ANN401  never returns
    raise Misfit(f"is a handle ({kind}), which nobody outside of the sandbox can have")


class _Takers(Fold[Take]):
    def of_primitive(self, kind: Primitive) -> Take:
        match kind:
            case Primitive.BOOL:
                return _take_bool
            case Primitive.STRING:
                return _take_text
            case Primitive.CHAR:
                return _take_char
            case Primitive.F32 | Primitive.F64:
                return partial(_take_float, kind is Primitive.F32)
            case _:
                return partial(_take_whole, kind, *_RANGES[kind])

    def of_list(self, element: WitType) -> Take:
        if element is Primitive.U8:
            return _take_bytes
        parts = 0 if element in NUMBERS else parts_of(element)
        return partial(_take_list, self.of(element), least_size(element), parts)

    def of_tuple(self, elements: list[Take]) -> Take:
        return partial(_take_tuple, elements)

    def of_record(self, fields: list[tuple[str, Take, bool]]) -> Take:
        return partial(_take_record, {name: (take, optional) for name, take, optional in fields})

    def of_variant(self, cases: dict[str, Take | None]) -> Take:
        return partial(_take_variant, cases)

    def of_enum(self, names: Sequence[str]) -> Take:
        return partial(_take_enum, dict.fromkeys(names))

    def of_flags(self, names: Sequence[str]) -> Take:
        return partial(_take_flags, dict.fromkeys(names))

    def of_option(self, some: Take, *, nested: bool) -> Take:
        return partial(_take_nested_option if nested else _take_option, some)

    def of_result(self, ok: Take | None, err: Take | None) -> Take:
        return partial(_take_result, {"ok": ok, "err": err})

    def of_resource(self, kind: ResourceType) -> Take:
        return partial(_refuse_resource, kind)


_TAKERS = _Takers()


def _unlike(wanted: str, value: object) -> Misfit:
    return Misfit(f"must be {wanted}, not {shown(value)}")


def _listed(names: Iterable[str]) -> str:
    return shown(", ".join(names), 200).strip("'")


_SIZES = {
    Primitive.BOOL: 1, Primitive.S8: 1, Primitive.U8: 1, Primitive.S16: 2, Primitive.U16: 2, Primitive.S32: 4,
    Primitive.U32: 4, Primitive.F32: 4, Primitive.CHAR: 4, Primitive.S64: 8, Primitive.U64: 8, Primitive.F64: 8,
    Primitive.STRING: 8,
}  # fmt: skip


def least_size(kind: WitType) -> int:
    """Bytes that a value of the type takes in a guest's memory, at least, without what its texts and lists refer to."""
    match kind:
        case Primitive():
            return _SIZES[kind]
        case ListType():
            return 8
        case TupleType(elements):
            return sum(map(least_size, elements))
        case RecordType(fields):
            return sum(least_size(field) for _, field in fields)
        case FlagsType(names):
            return -(-len(names) // 8)
        case _:
            return 1
