"""Python values as arguments and results travel: packed messages of google.protobuf.

Alone, an int is exact. In lists and dicts, whose numbers are doubles on the wire, the proto3 JSON mapping
holds: an integer beyond 2^53 is decimal text, bytes are base64 text.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from spear_wasm.errors import InvalidRequest
from spear_wasm.model import Json

Argument: TypeAlias = "bool | int | float | str | bytes | Sequence[Argument] | Mapping[str, Argument] | None"
"""What a function can be called with."""

_Number: TypeAlias = Int32Value | Int64Value | UInt32Value | UInt64Value | FloatValue | DoubleValue
_Scalar: TypeAlias = _Number | BoolValue | StringValue | BytesValue
_Message: TypeAlias = _Scalar | Value | ListValue | Struct

_KINDS: dict[str, type[_Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        BoolValue, BytesValue, DoubleValue, FloatValue, Int32Value, Int64Value, StringValue, UInt32Value,
        UInt64Value, ListValue, Struct, Value,
    )
}  # fmt: skip

_SAFE_INTEGER = 2**53  # up to here every integer is a double, too


def encode(value: Argument) -> AnyMessage:
    """The message that carries an argument.

    Raises:
        InvalidRequest: an int does not fit in 64 bits.
        TypeError: the value is, or holds, something that cannot travel.
    """
    packed = AnyMessage()
    packed.Pack(_message(value))
    return packed


def decode(packed: AnyMessage) -> Json | bytes:
    """The value that a message carries; None where there is none.

    Numbers in lists and dicts come back as ints where they are whole.

    Raises:
        ValueError: the message is broken, or of a type that carries no value.
    """
    if not packed.type_url:
        return None
    kind = _KINDS.get(packed.TypeName())
    if kind is None:
        raise ValueError(f"a value of the unknown type {packed.TypeName()!r}")
    message = kind()
    try:
        packed.Unpack(message)
    except DecodeError as error:
        raise ValueError(f"a broken {packed.TypeName()}") from error
    return _plain(message) if isinstance(message, Value | ListValue | Struct) else message.value


def _message(value: Argument) -> _Message:
    match value:
        case None | bool():
            return _json(value)
        case int():
            return _integer(value)
        case float():
            return DoubleValue(value=value)
        case str():
            return StringValue(value=value)
        case bytes():
            return BytesValue(value=value)
        case Mapping():
            return struct_of(value)
        case Sequence():
            return _list(value)
    raise TypeError(f"an argument cannot be a {type(value).__name__}")


def _integer(value: int) -> Int64Value | UInt64Value:
    if -(2**63) <= value < 2**63:
        return Int64Value(value=value)
    if 0 <= value < 2**64:
        return UInt64Value(value=value)
    raise InvalidRequest(f"{value} does not fit in 64 bits")


def struct_of(value: Mapping[str, Argument]) -> Struct:
    """A dict as it travels where nothing else can.

    Raises:
        TypeError: it holds something that cannot travel.
    """
    return Struct(fields={name: _json(item) for name, item in value.items()})


def _list(value: Sequence[Argument]) -> ListValue:
    return ListValue(values=[_json(item) for item in value])


def _json(value: Argument) -> Value:
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case int() if abs(value) > _SAFE_INTEGER:
            return Value(string_value=str(value))
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=value)
        case bytes():
            return Value(string_value=base64.b64encode(value).decode("ascii"))
        case Mapping():
            return Value(struct_value=struct_of(value))
        case Sequence():
            return Value(list_value=_list(value))
    raise TypeError(f"an argument cannot hold a {type(value).__name__}")


def _plain(message: Value | ListValue | Struct) -> Json:
    match message:
        case ListValue():
            return [_plain(item) for item in message.values]
        case Struct():
            return {name: _plain(item) for name, item in message.fields.items()}
    match message.WhichOneof("kind"):
        case "number_value":
            return _number(message.number_value)
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "list_value":
            return _plain(message.list_value)
        case "struct_value":
            return _plain(message.struct_value)
        case _:
            return None


def _number(number: float) -> int | float:
    """An int where the number is whole and an int can tell all of it: not for -0.0, nor for huge ones."""
    whole = number.is_integer() and abs(number) <= _SAFE_INTEGER
    minus_zero = number == 0 and math.copysign(1, number) < 0
    return int(number) if whole and not minus_zero else number
