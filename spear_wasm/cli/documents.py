"""Values and messages as JSON documents for programs: every field always there, numbers as numbers."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from spear_wasm.model import Json


def as_json(document: Mapping[str, object]) -> str:
    """The text of a document: ASCII alone, so that nothing in it can act on a terminal."""
    return json.dumps(jsonable(document), indent=2, allow_nan=False)


def as_json_line(document: Mapping[str, object]) -> str:
    """The same in one line, where more documents follow."""
    return json.dumps(jsonable(document), allow_nan=False)


def jsonable(value: object) -> Json:
    """A value as JSON has it: bytes are base64; NaN and the infinities are text, as in the proto3 mapping."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _non_finite(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Message():
            return _document_of(value)
        case Mapping():
            return {str(key): jsonable(item) for key, item in value.items()}
        case Sequence():
            return [jsonable(item) for item in value]
        case _:
            raise TypeError(f"no JSON for a {type(value).__name__}")


def _non_finite(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _document_of(message: Message) -> Json:
    if message.DESCRIPTOR.file.name.startswith("google/protobuf/") and not isinstance(message, Timestamp):
        plain: Json = MessageToDict(message)
        return plain
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    return {field.name: _field(message, field.name) for field in message.DESCRIPTOR.fields}


def _field(message: Message, name: str) -> Json:
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.has_presence and not message.HasField(name):
        return None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return jsonable(value)
