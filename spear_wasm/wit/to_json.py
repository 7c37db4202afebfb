"""Guests' values, JSON-shaped, for callers: as callers give them (`spear_wasm.wit.from_json`).

Whole numbers beyond 2^53 are decimal texts: they are not exact as numbers of JSON. What gives is compiled once for each
type.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from spear_wasm.model import Json
from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    VariantType,
    WitType,
    may_be_null,
)
from spear_wasm.wit.values import Case, Err, Ok, Some

EXACT_INTEGERS = 1 << 53
"""Whole numbers beyond this are not exact as numbers of JSON."""

Give: TypeAlias = "Callable[[Any], Json]"


def giver(kind: WitType) -> Give:
    """What gives callers values of a type."""
    if isinstance(kind, Primitive):
        return _PRIMITIVE_GIVERS.get(kind, _give_as_it_is)
    return _GIVERS[type(kind)](kind)


def _give_as_it_is(value: Json) -> Json:
    return value


def _give_whole(value: int) -> Json:
    return value if -EXACT_INTEGERS <= value <= EXACT_INTEGERS else str(value)


def _give_float(value: float) -> Json:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_PRIMITIVE_GIVERS: dict[Primitive, Give] = {
    Primitive.S64: _give_whole,
    Primitive.U64: _give_whole,
    Primitive.F32: _give_float,
    Primitive.F64: _give_float,
}


def _list_giver(kind: ListType) -> Give:
    if kind.element is Primitive.U8:
        return _give_bytes
    give = giver(kind.element)
    return _give_as_it_is if give is _give_as_it_is else partial(_give_list, give)


def _give_bytes(value: bytes) -> Json:
    return base64.b64encode(value).decode()


def _give_list(give: Give, values: list[Any]) -> Json:
    return [give(value) for value in values]


def _tuple_giver(kind: TupleType) -> Give:
    return partial(_give_tuple, [giver(each) for each in kind.elements])


def _give_tuple(givers: list[Give], values: tuple[Any, ...]) -> Json:
    return [give(value) for give, value in zip(givers, values, strict=True)]


def _record_giver(kind: RecordType) -> Give:
    return partial(_give_record, [(name, giver(field)) for name, field in kind.fields])


def _give_record(fields: list[tuple[str, Give]], value: dict[str, Any]) -> Json:
    return {name: give(value[name]) for name, give in fields}


def _variant_giver(kind: VariantType) -> Give:
    return partial(
        _give_variant,
        {name: None if payload is None else giver(payload) for name, payload in kind.cases},
    )


def _give_variant(cases: dict[str, Give | None], value: Case) -> Json:
    give = cases[value.name]
    return value.name if give is None else {value.name: give(value.payload)}


def _enum_giver(_kind: EnumType) -> Give:
    return _give_as_it_is


def _flags_giver(kind: FlagsType) -> Give:
    return partial(_give_flags, kind.names)


def _give_flags(names: tuple[str, ...], value: frozenset[str]) -> Json:
    return [name for name in names if name in value]


def _option_giver(kind: OptionType) -> Give:
    return partial(_give_nested_option if may_be_null(kind.some) else _give_option, giver(kind.some))


def _give_option(give: Give, value: object) -> Json:
    return None if value is None else give(value)


def _give_nested_option(give: Give, value: Some | None) -> Json:
    return None if value is None else {"some": give(value.value)}


def _result_giver(kind: ResultType) -> Give:
    ok, err = (None if side is None else giver(side) for side in (kind.ok, kind.err))
    return partial(_give_result, ok, err)


def _give_result(ok: Give | None, err: Give | None, value: Ok | Err) -> Json:
    name, give = ("ok", ok) if isinstance(value, Ok) else ("err", err)
    return {name: None if give is None else give(value.value)}


def _resource_giver(kind: ResourceType) -> Give:
    raise ValueError(f"{kind} cannot be given to anybody outside of its sandbox")


_GIVERS: dict[type, Callable[[Any], Give]] = {
    ListType: _list_giver,
    TupleType: _tuple_giver,
    RecordType: _record_giver,
    VariantType: _variant_giver,
    EnumType: _enum_giver,
    FlagsType: _flags_giver,
    OptionType: _option_giver,
    ResultType: _result_giver,
    ResourceType: _resource_giver,
}
