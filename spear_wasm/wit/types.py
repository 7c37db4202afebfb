"""The types of WIT, by their structure: two types that are written the same are the same.

`str` of a type is its WIT text, with what is named written out: `record { x: s32, y: s32 }`, `list<option<u8>>`. Only
resources go by a name, `own<counter>` and `borrow<counter>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Primitive(StrEnum):
    """A type without parts."""

    BOOL = "bool"
    S8 = "s8"
    S16 = "s16"
    S32 = "s32"
    S64 = "s64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    F32 = "f32"
    F64 = "f64"
    CHAR = "char"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class ListType:
    """Any number of one type."""

    element: WitType

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True, slots=True)
class TupleType:
    """One of each of some types."""

    elements: tuple[WitType, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.elements))}>"


@dataclass(frozen=True, slots=True)
class RecordType:
    """One of each of some types, by names."""

    fields: tuple[tuple[str, WitType], ...]

    def __str__(self) -> str:
        return f"record {{ {', '.join(f'{name}: {kind}' for name, kind in self.fields)} }}"


@dataclass(frozen=True, slots=True)
class VariantType:
    """One of several cases, each with or without a value."""

    cases: tuple[tuple[str, WitType | None], ...]

    def __str__(self) -> str:
        cases = (name if payload is None else f"{name}({payload})" for name, payload in self.cases)
        return f"variant {{ {', '.join(cases)} }}"


@dataclass(frozen=True, slots=True)
class EnumType:
    """One of several names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"enum {{ {', '.join(self.names)} }}"


@dataclass(frozen=True, slots=True)
class FlagsType:
    """Any of several names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"flags {{ {', '.join(self.names)} }}"


@dataclass(frozen=True, slots=True)
class OptionType:
    """Something or nothing."""

    some: WitType

    def __str__(self) -> str:
        return f"option<{self.some}>"


@dataclass(frozen=True, slots=True)
class ResultType:
    """How something ended: well or badly, each with or without a value."""

    ok: WitType | None
    err: WitType | None

    def __str__(self) -> str:
        if self.err is None:
            return "result" if self.ok is None else f"result<{self.ok}>"
        return f"result<{'_' if self.ok is None else self.ok}, {self.err}>"


@dataclass(frozen=True, slots=True)
class ResourceType:
    """A handle to a resource: one's own, or borrowed for the length of a call."""

    name: str
    owned: bool

    def __str__(self) -> str:
        return f"{'own' if self.owned else 'borrow'}<{self.name}>"


WitType: TypeAlias = (
    "Primitive | ListType | TupleType | RecordType | VariantType | EnumType | FlagsType | OptionType | ResultType"
    " | ResourceType"
)


@dataclass(frozen=True, slots=True)
class WitFunction:
    """What a function takes, by name, and what it returns, if anything."""

    params: tuple[tuple[str, WitType], ...] = ()
    result: WitType | None = None

    def __str__(self) -> str:
        taken = ", ".join(f"{name}: {kind}" for name, kind in self.params)
        return f"func({taken})" if self.result is None else f"func({taken}) -> {self.result}"


NUMBERS = frozenset(Primitive) - {Primitive.BOOL, Primitive.CHAR, Primitive.STRING}
"""Those whose lists are moved in bulk."""


def may_be_null(kind: WitType) -> bool:
    """Whether null is a value of the type."""
    return isinstance(kind, OptionType)


def parts_of(kind: WitType | None) -> int:
    """How many values one of the type is, at most, itself among them; of what is in lists, none."""
    match kind:
        case None:
            return 0
        case TupleType(elements):
            return 1 + sum(map(parts_of, elements))
        case RecordType(fields):
            return 1 + sum(parts_of(field) for _, field in fields)
        case VariantType(cases):
            return 1 + max((parts_of(payload) for _, payload in cases), default=0)
        case OptionType(some):
            return 1 + parts_of(some)
        case ResultType(ok, err):
            return 1 + max(parts_of(ok), parts_of(err))
        case FlagsType(names):
            return 1 + len(names)
        case _:
            return 1


def holds_resource(kind: WitType | None) -> bool:
    """Whether a value of the type may have a handle in it."""
    match kind:
        case ResourceType():
            return True
        case ListType(inner) | OptionType(inner):
            return holds_resource(inner)
        case TupleType(elements):
            return any(map(holds_resource, elements))
        case RecordType(fields):
            return any(holds_resource(field) for _, field in fields)
        case VariantType(cases):
            return any(holds_resource(payload) for _, payload in cases)
        case ResultType(ok, err):
            return holds_resource(ok) or holds_resource(err)
        case _:
            return False
