"""Functions of ours that guests call: how they are defined, and the way from the guest to Python and back.

A host function never raises through the library. What it raises is parked on the sandbox that called, the
guest is ended with a trap, and the sandbox's run raises it again on our side of the boundary. (The wheel's
own trampoline parks exceptions in a global, where any other thread may pick them up.)
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from spear_wasm.engine import capi
from spear_wasm.model import FunctionType, ValueType


class CallingSandbox(Protocol):
    """What a host function may do to the sandbox whose guest called it."""

    has_memory: bool

    def find_memory(self, caller: int) -> None:
        """Find the guest's memory while its start function runs: there is no instance to ask yet."""
        ...

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of the guest's memory; a GuestFault where the range lies outside of it."""
        ...

    def log_from_memory(self, address: int, length: int) -> None:
        """Add a range of the guest's memory to the execution's log; what is over its bound is cut."""
        ...

    def park(self, error: BaseException) -> None:
        """Keep what a host function raised until the guest has been left."""
        ...


Implementation = Callable[..., "int | float | None"]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function that runtimes offer to guests.

    `implementation` is called with the CallingSandbox and the guest's arguments (ints, signed, or floats) and
    returns the result, or None where `type` has none. It must not block.
    """

    module: str
    name: str
    type: FunctionType
    implementation: Implementation


KIND_OF = {
    ValueType.I32: capi.KIND_I32,
    ValueType.I64: capi.KIND_I64,
    ValueType.F32: capi.KIND_F32,
    ValueType.F64: capi.KIND_F64,
}
PACK_OF = {ValueType.I32: "i20x", ValueType.I64: "q16x", ValueType.F32: "f20x", ValueType.F64: "d16x"}
"""Layout of a value of each type within a wasmtime_val_t, behind its kind."""

# Sandboxes whose guests may call host functions, by the key in their store's data slot. Keys are never used
# twice. Entries are added and removed by whoever makes and closes the sandbox, each in one step under the GIL.
_callers: dict[int, CallingSandbox] = {}
_keys = itertools.count(1)


def register_caller(sandbox: CallingSandbox) -> int:
    """The key to create the sandbox's store with; forget it with `forget_caller`."""
    key = next(_keys)
    _callers[key] = sandbox
    return key


def forget_caller(key: int) -> None:
    """The sandbox is about to be closed."""
    _callers.pop(key, None)


class Linker:
    """Resolves a module's imports; owns what the library keeps pointers to.

    Must live as long as anything linked with it.
    """

    def __init__(self, engine: int, functions: Mapping[tuple[str, str], HostFunction]) -> None:
        self._pointer = int(capi.linker_new(engine))
        self._callbacks = [self._define(function) for function in functions.values()]

    def _define(self, function: HostFunction) -> object:
        callback = _callback(function)
        module, name = function.module.encode(), function.name.encode()
        signature = _new_functype(function.type)
        error = capi.linker_define_func(
            self._pointer, module, len(module), name, len(name), signature, callback, None, None
        )
        capi.functype_delete(signature)
        if error:
            raise ValueError(capi.take_error(error))
        return callback

    def instantiate_pre(self, module: int) -> int:
        """The module with its imports resolved; the caller deletes it.

        Raises:
            ValueError: an import is not there or has another type.
        """
        linked = ctypes.c_void_p()
        error = capi.linker_instantiate_pre(self._pointer, module, ctypes.addressof(linked))
        if error:
            raise ValueError(capi.take_error(error))
        assert linked.value is not None
        return linked.value

    def close(self) -> None:
        """Give the library's part back."""
        capi.linker_delete(self._pointer)


def _callback(function: HostFunction) -> object:
    params = struct.Struct("<" + "".join("8x" + PACK_OF[kind] for kind in function.type.params))
    results = struct.Struct("<" + "".join("B7x" + PACK_OF[kind] for kind in function.type.results))
    result_kinds = [KIND_OF[kind] for kind in function.type.results]
    implementation = function.implementation

    def trampoline(_env: int, caller: int, args: int, _count: int, out: int, _out_count: int) -> int:
        sandbox = None
        try:
            sandbox = _callers[capi.context_get_data(capi.caller_context(caller))]
            if not sandbox.has_memory:
                sandbox.find_memory(caller)
            values = params.unpack(ctypes.string_at(args, params.size)) if args else ()
            result = implementation(sandbox, *values)
            if result_kinds:
                ctypes.memmove(out, results.pack(result_kinds[0], result), results.size)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            if sandbox is not None:
                sandbox.park(error)
            return int(capi.trap_new(b"host function failed", 20))
        return 0

    return capi.HostCallback(trampoline)


def _new_functype(function_type: FunctionType) -> int:
    vectors = [_new_valtypes(function_type.params), _new_valtypes(function_type.results)]
    return int(capi.functype_new(*map(ctypes.addressof, vectors)))


def _new_valtypes(types: tuple[ValueType, ...]) -> capi.PointerVec:
    vector = capi.PointerVec()
    pointers = (ctypes.c_void_p * len(types))(*(capi.valtype_new(KIND_OF[kind]) for kind in types))
    capi.valtype_vec_new(ctypes.addressof(vector), len(types), ctypes.addressof(pointers))
    return vector
