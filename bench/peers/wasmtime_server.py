"""What one writes first with wasmtime-py: a module compiled once, a store and an instance for each call.

It meters fuel, and its code looks at an epoch, which nothing moves on here. It has no pool of memory for instances.
"""

from __future__ import annotations

from typing import cast

import wasmtime
from google.protobuf import any_pb2, wrappers_pb2

from bench.peers.edge import serve
from bench.servers import FIXTURES
from spear_wasm.api import function_pb2

MAX_MEMORY_BYTES = 64 << 20
FUEL = 1_000_000_000


class Calculator:
    """The fixture that adds numbers."""

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.epoch_interruption = True
        self._engine = wasmtime.Engine(config)
        self._module = wasmtime.Module.from_file(self._engine, str(FIXTURES / "calc.wasm"))
        self._linker = wasmtime.Linker(self._engine)

    def run(self, request: function_pb2.InvokeFunctionRequest) -> any_pb2.Any:
        """Call the function with its numbers in an instance of its own."""
        store = wasmtime.Store(self._engine)
        store.set_limits(memory_size=MAX_MEMORY_BYTES)
        store.set_fuel(FUEL)
        store.set_epoch_deadline(1)
        exports = self._linker.instantiate(store, self._module).exports(store)
        function = cast("wasmtime.Func", exports[request.function_name])
        result = any_pb2.Any()
        result.Pack(wrappers_pb2.Int32Value(value=function(store, *map(_number, request.parameters))))
        return result


def _number(parameter: function_pb2.FunctionParameter) -> int:
    value = wrappers_pb2.Int32Value()
    parameter.value.Unpack(value)
    return value.value


if __name__ == "__main__":
    serve(Calculator().run)
