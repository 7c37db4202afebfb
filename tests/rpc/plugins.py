"""Extism plug-ins, and how tests talk to them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

from spear_wasm.api import function_pb2
from tests.rpc.serving import code_of, value_of

PLUGINS = Path(__file__).parents[2] / "fixtures" / "extism"


def config(**settings: Any) -> dict[str, Any]:
    """A spec with a runtime_config."""
    runtime_config = Struct()
    runtime_config.update(settings)
    return {"runtime_config": runtime_config}


def words(*numbers: int) -> bytes:
    """Numbers as the plug-ins in C take and give them."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def numbers_of(answer: function_pb2.InvokeFunctionResponse) -> tuple[int, ...]:
    content = value_of(answer)
    return struct.unpack(f"<{len(content) // 8}Q", content)


def message_of(answer: function_pb2.InvokeFunctionResponse) -> str:
    """What is said about a guest that spoilt its call by itself."""
    assert code_of(answer) == "GUEST_ERROR"
    return answer.result.error_message
