"""Callers' values, checked against the types of WebAssembly.

A caller's value may be a number, a text that holds one, or JSON; a guest's parameter is exact. Whatever would
lose something (a fraction, an overflow, a text that is no number) is refused; rounding to f32 is not.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping

import msgspec

from spear_wasm.errors import InvalidRequest
from spear_wasm.model import Json, Parameter, ValueType

NUMERIC_TYPES = frozenset({ValueType.I32, ValueType.I64, ValueType.F32, ValueType.F64})
TYPE_NAMES = frozenset({"", "i32", "i64", "f32", "f64", "string", "bytes", "json"})
"""What a caller may say a parameter's type is; empty: the signature decides."""

_WHOLE_TEXT = re.compile(r"[+-]?\d{1,25}", re.ASCII)
_FLOAT_TEXT = re.compile(
    r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,5})?|[+-]?inf|nan", re.ASCII
)
_BITS = {ValueType.I32: 32, ValueType.I64: 64}
_FLOAT32 = struct.Struct("<f")


def to_number(parameter: Parameter, wanted: ValueType, where: str) -> int | float:
    """The number for an i32, i64 (as a signed integer), f32 or f64 parameter.

    `where` names the parameter in messages.

    Raises:
        InvalidRequest: the value is no such number, or the caller's type is another.
    """
    if parameter.type in NUMERIC_TYPES and parameter.type != wanted:
        raise InvalidRequest(f"{where} is an {wanted}, but is given as {parameter.type}")
    check_type_name(parameter, where)
    if wanted in _BITS:
        return _to_integer(parameter.value, wanted, where)
    return _to_float(parameter.value, wanted, where)


def refuse_environment_of_call(environment: Mapping[str, str]) -> None:
    """For functions whose guests have one environment, or none, however they are called.

    Raises:
        InvalidRequest: the call brings one.
    """
    if environment:
        raise InvalidRequest(
            "functions of this runtime have no environment of their own for a call; leave context.environment empty"
        )


def check_type_name(parameter: Parameter, where: str) -> None:
    """Refuse a type that the contract does not have."""
    if parameter.type not in TYPE_NAMES:
        raise InvalidRequest(
            f"{where} is given as {shown(parameter.type)}; types are i32 i64 f32 f64 string bytes json"
        )


def _to_integer(value: Json | bytes, wanted: ValueType, where: str) -> int:
    number = whole_of(value)
    if number is None:
        raise InvalidRequest(f"{where} must be an integer ({wanted}), not {shown(value)}")
    bits = _BITS[wanted]
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise InvalidRequest(f"{where} is {shown(number)}; {wanted} takes -2^{bits - 1} to 2^{bits}-1")
    return number - (1 << bits) if number >> (bits - 1) == 1 else number


def whole_of(value: object) -> int | None:
    """The whole number that a value stands for, or that its text does; None where it is none."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if (isinstance(value, str) and _WHOLE_TEXT.fullmatch(value)) or (
        isinstance(value, float) and value.is_integer()
    ):
        return int(value)
    return None


def _to_float(value: Json | bytes, wanted: ValueType, where: str) -> float:
    try:
        return float_of(value, single=wanted is ValueType.F32)
    except ValueError as error:
        raise InvalidRequest(f"{where} {error}") from None


def float_of(value: object, *, single: bool) -> float:
    """The number that a value stands for, or that its text does, for an f32 (`single`) or an f64.

    Raises:
        ValueError: it is none, or too large; reads on behind the name of the value: `must be a number …`.
    """
    kind = "f32" if single else "f64"
    if isinstance(value, str):
        if not _FLOAT_TEXT.fullmatch(value.lower().replace("infinity", "inf")):
            raise ValueError(f"must be a number ({kind}), not {shown(value)}")
        number = float(value)
        overflows = math.isinf(number) and "inf" not in value.lower()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number ({kind}), not {shown(value)}")  # noqa: TRY004  a caller's mistake, like others
    else:
        try:
            number, overflows = float(value), False
        except OverflowError:
            number, overflows = math.inf, True
    if single and not overflows:
        try:
            _FLOAT32.pack(number)
        except OverflowError:
            overflows = True
    if overflows:
        raise ValueError(f"is {shown(value)}, which is too large for {kind}")
    return number


def to_bytes(parameter: Parameter, where: str) -> bytes:
    """The bytes for a bytes parameter: bytes as they are, text as UTF-8, anything else as compact JSON.

    Raises:
        InvalidRequest: the caller says that it is a number type.
    """
    check_type_name(parameter, where)
    if parameter.type in NUMERIC_TYPES:
        raise InvalidRequest(f"{where} is bytes, but is given as {parameter.type}")
    if isinstance(parameter.value, bytes):
        return parameter.value
    if isinstance(parameter.value, str) and parameter.type != "json":
        return parameter.value.encode()
    return msgspec.json.encode(parameter.value)


def shown(value: object, length: int = 60) -> str:
    """A caller's or guest's value for a message: escaped and cut."""
    text = repr(value[: length + 1] if isinstance(value, str | bytes) else value)
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= length else text[:length] + "…"
