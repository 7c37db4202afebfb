"""Callers' values in messages, and guests' results out to them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec
from google.protobuf import any_pb2, json_format, struct_pb2, wrappers_pb2
from google.protobuf.message import DecodeError, Message

from spear_wasm.errors import InvalidRequest
from spear_wasm.model import Json, TypedValue, ValueType
from spear_wasm.values import shown

Decoded: TypeAlias = "Json | bytes"

TYPE_URL = "type.googleapis.com/google.protobuf."
EXACT_INTEGERS = 1 << 53
"""Integers beyond this are not exact as JSON numbers."""


def decode_any(packed: any_pb2.Any, where: str) -> Decoded:
    """The value in an Any that holds a wrapper, Value, ListValue or Struct; None for an empty one.

    Raises:
        InvalidRequest: it holds something else, or nothing that can be read.
    """
    type_url = packed.type_url
    if not type_url:
        if packed.value:
            raise InvalidRequest(f"{where} has bytes but no type_url")
        return None
    decode = _DECODERS.get(type_url.rpartition("/")[2])
    if decode is None:
        raise InvalidRequest(
            f"{where} holds {shown(type_url, 100)}; send a google.protobuf wrapper, Value, ListValue or Struct"
        )
    try:
        return decode(packed.value)
    except (DecodeError, UnicodeDecodeError, json_format.Error, ValueError) as error:
        raise InvalidRequest(f"{where} cannot be read as {type_url.rpartition('/')[2]}") from error


def _wrapper(kind: Any) -> Callable[[bytes], Decoded]:  # noqa: ANN401  the wrappers have no common base with a value
    from_string = kind.FromString
    return lambda content: from_string(content).value


def _text(content: bytes) -> str:
    """A StringValue; or the text itself, which old clients send under that name."""
    try:
        message = wrappers_pb2.StringValue.FromString(content)
    except DecodeError:
        return content.decode()
    # Made anew: the message keeps fields that it does not know, as which texts like "89" can be read.
    canonical = wrappers_pb2.StringValue(value=message.value).SerializeToString()
    return message.value if canonical == content else content.decode()


def _json(kind: type[Message]) -> Callable[[bytes], Json]:
    return lambda content: _with_integers(json_format.MessageToDict(kind.FromString(content)))


def _with_integers(value: Json) -> Json:
    """What a caller wrote as 1 is 1 again, not 1.0: on the way all numbers are doubles."""
    match value:
        case float():
            return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGERS else value
        case list():
            return [_with_integers(each) for each in value]
        case dict():
            return {name: _with_integers(each) for name, each in value.items()}
        case _:
            return value


_DECODERS: dict[str, Callable[[bytes], Decoded]] = {
    "google.protobuf.Int32Value": _wrapper(wrappers_pb2.Int32Value),
    "google.protobuf.Int64Value": _wrapper(wrappers_pb2.Int64Value),
    "google.protobuf.UInt32Value": _wrapper(wrappers_pb2.UInt32Value),
    "google.protobuf.UInt64Value": _wrapper(wrappers_pb2.UInt64Value),
    "google.protobuf.FloatValue": _wrapper(wrappers_pb2.FloatValue),
    "google.protobuf.DoubleValue": _wrapper(wrappers_pb2.DoubleValue),
    "google.protobuf.BoolValue": _wrapper(wrappers_pb2.BoolValue),
    "google.protobuf.BytesValue": _wrapper(wrappers_pb2.BytesValue),
    "google.protobuf.StringValue": _text,
    "google.protobuf.Value": _json(struct_pb2.Value),
    "google.protobuf.ListValue": _json(struct_pb2.ListValue),
    "google.protobuf.Struct": _json(struct_pb2.Struct),
}

_WRAPPER_OF: dict[ValueType, tuple[str, Callable[..., Message]]] = {
    ValueType.I32: (TYPE_URL + "Int32Value", wrappers_pb2.Int32Value),
    ValueType.I64: (TYPE_URL + "Int64Value", wrappers_pb2.Int64Value),
    ValueType.F32: (TYPE_URL + "FloatValue", wrappers_pb2.FloatValue),
    ValueType.F64: (TYPE_URL + "DoubleValue", wrappers_pb2.DoubleValue),
    ValueType.BYTES: (TYPE_URL + "BytesValue", wrappers_pb2.BytesValue),
    ValueType.BOOL: (TYPE_URL + "BoolValue", wrappers_pb2.BoolValue),
    ValueType.U32: (TYPE_URL + "UInt32Value", wrappers_pb2.UInt32Value),
    ValueType.U64: (TYPE_URL + "UInt64Value", wrappers_pb2.UInt64Value),
    ValueType.STRING: (TYPE_URL + "StringValue", wrappers_pb2.StringValue),
}


def write_results(message: any_pb2.Any, values: tuple[TypedValue, ...]) -> None:
    """Into an empty message: one result in its wrapper, several in a ListValue; nothing where there is none."""
    if values:
        message.type_url, content = _wrapped(values[0]) if len(values) == 1 else _listed(values)
        message.value = content.SerializeToString()


def _wrapped(result: TypedValue) -> tuple[str, Message]:
    if result.type is ValueType.JSON:
        return TYPE_URL + "Value", _to_value(result)
    url, wrapper = _WRAPPER_OF[result.type]
    return url, wrapper(value=_text_of(result.value) if result.type is ValueType.STRING else result.value)


def _listed(results: tuple[TypedValue, ...]) -> tuple[str, Message]:
    return TYPE_URL + "ListValue", struct_pb2.ListValue(values=map(_to_value, results))


def _text_of(value: float | bytes) -> str:
    return cast("bytes", value).decode()


def _to_value(result: TypedValue) -> struct_pb2.Value:
    """One of several results, in the proto3 JSON mapping."""
    value = result.value
    if result.type is ValueType.JSON:
        return _to_document(msgspec.json.decode(cast("bytes", value)))
    if result.type is ValueType.STRING:
        return struct_pb2.Value(string_value=_text_of(value))
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, bytes):
        return struct_pb2.Value(string_value=base64.b64encode(value).decode())
    if isinstance(value, int):
        if abs(value) > EXACT_INTEGERS:
            return struct_pb2.Value(string_value=str(value))
    elif not math.isfinite(value):
        return struct_pb2.Value(
            string_value="NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
        )
    return struct_pb2.Value(number_value=value)


def _to_document(value: Json) -> struct_pb2.Value:
    """JSON, whose numbers are exact as doubles."""
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case list():
            items = struct_pb2.ListValue(values=map(_to_document, value))
            return struct_pb2.Value(list_value=items)
        case dict():
            fields = {name: _to_document(each) for name, each in value.items()}
            return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))
