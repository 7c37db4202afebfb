"""Extism's Python SDK: a plug-in compiled once, and made anew from that for each call."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2

from bench.peers.edge import serve
from bench.servers import FIXTURES
from spear_wasm.api import function_pb2

PLUGIN = FIXTURES.parent / "extism" / "plugin.wasm"


class Plugin:
    """The fixture that answers with what it is given."""

    def __init__(self) -> None:
        self._sdk: Any = import_module("extism")
        self._compiled = import_module("extism.extism").CompiledPlugin(PLUGIN.read_bytes(), functions=[])

    def run(self, request: function_pb2.InvokeFunctionRequest) -> any_pb2.Any:
        """Call the function with its bytes in a plug-in of its own."""
        given = wrappers_pb2.BytesValue()
        request.parameters[0].value.Unpack(given)
        plugin = self._sdk.Plugin(self._compiled)
        result = any_pb2.Any()
        result.Pack(wrappers_pb2.BytesValue(value=bytes(plugin.call(request.function_name, given.value))))
        return result


if __name__ == "__main__":
    serve(Plugin().run)
