"""Guests' values, JSON-shaped, for callers: as callers give them (`spear_wasm.wit.from_json`).

Whole numbers beyond 2^53 are decimal texts: they are not exact as numbers of JSON. What gives is compiled once for each
type.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from spear_wasm.model import Json
from spear_wasm.wit.fold import Fold
from spear_wasm.wit.types import Primitive, ResourceType, WitType
from spear_wasm.wit.values import Case, Err, Ok, Some

EXACT_INTEGERS = 1 << 53
"""Whole numbers beyond this are not exact as numbers of JSON."""

Give: TypeAlias = "Callable[[Any], Json]"


def giver(kind: WitType) -> Give:
    """What gives callers values of a type."""
    return _GIVERS.of(kind)


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


def _give_bytes(value: bytes) -> Json:
    return base64.b64encode(value).decode()


def _give_list(give: Give, values: list[Any]) -> Json:
    return [give(value) for value in values]


def _give_tuple(givers: list[Give], values: tuple[Any, ...]) -> Json:
    return [give(value) for give, value in zip(givers, values, strict=True)]


def _give_record(fields: list[tuple[str, Give]], value: dict[str, Any]) -> Json:
    return {name: give(value[name]) for name, give in fields}


def _give_variant(cases: dict[str, Give | None], value: Case) -> Json:
    give = cases[value.name]
    return value.name if give is None else {value.name: give(value.payload)}


def _give_flags(names: Sequence[str], value: frozenset[str]) -> Json:
    return [name for name in names if name in value]


def _give_option(give: Give, value: object) -> Json:
    return None if value is None else give(value)


def _give_nested_option(give: Give, value: Some | None) -> Json:
    return None if value is None else {"some": give(value.value)}


def _give_result(ok: Give | None, err: Give | None, value: Ok | Err) -> Json:
    name, give = ("ok", ok) if isinstance(value, Ok) else ("err", err)
    return {name: None if give is None else give(value.value)}


class _Givers(Fold[Give]):
    def of_primitive(self, kind: Primitive) -> Give:
        return _PRIMITIVE_GIVERS.get(kind, _give_as_it_is)

    def of_list(self, element: WitType) -> Give:
        if element is Primitive.U8:
            return _give_bytes
        give = self.of(element)
        return _give_as_it_is if give is _give_as_it_is else partial(_give_list, give)

    def of_tuple(self, elements: list[Give]) -> Give:
        return partial(_give_tuple, elements)

    def of_record(self, fields: list[tuple[str, Give, bool]]) -> Give:
        return partial(_give_record, [(name, give) for name, give, _ in fields])

    def of_variant(self, cases: dict[str, Give | None]) -> Give:
        return partial(_give_variant, cases)

    def of_enum(self, names: Sequence[str]) -> Give:
        del names
        return _give_as_it_is

    def of_flags(self, names: Sequence[str]) -> Give:
        return partial(_give_flags, names)

    def of_option(self, some: Give, *, nested: bool) -> Give:
        return partial(_give_nested_option if nested else _give_option, some)

    def of_result(self, ok: Give | None, err: Give | None) -> Give:
        return partial(_give_result, ok, err)

    def of_resource(self, kind: ResourceType) -> Give:
        raise ValueError(f"{kind} cannot be given to anybody outside of its sandbox")


_GIVERS = _Givers()
