"""The door to wasmtime's C API: the one file that touches the private parts of the `wasmtime` wheel.

The library is loaded twice. Functions that return at once go through `ctypes.PyDLL`, which keeps the GIL:
handing it over would cost more than the call. The few that run guest code, or may work for milliseconds,
go through `ctypes.CDLL`, which gives it up.

Names follow the C header without its prefixes. Pointers are plain integers. Structures that cross the
boundary on a call are laid out by hand in one buffer (see `spear_wasm.engine.sandbox`), with the sizes and
offsets below; `tests/engine/test_capi.py` holds each of them against the wheel's own declarations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from importlib.metadata import version
from typing import Any

from wasmtime import _ffi

PINNED_VERSION = "50.0.1"
if version("wasmtime") != PINNED_VERSION:
    raise ImportError(f"spear-wasm drives wasmtime {PINNED_VERSION}; {version('wasmtime')} is installed")

LIBRARY = str(_ffi.filename)
_held = ctypes.PyDLL(LIBRARY)
_released = ctypes.CDLL(LIBRARY)

VAL_SIZE = 32
"""Bytes of a wasmtime_val_t: its kind in byte 0, its value from VAL_OFFSET."""
VAL_OFFSET = 8
INSTANCE_SIZE = 16
EXTERN_SIZE = 32
"""Bytes of a wasmtime_extern_t: its kind in byte 0, the item from EXTERN_OFFSET."""
EXTERN_OFFSET = 8
EXTERN_FUNC = 0
EXTERN_MEMORY = 3
KIND_I32, KIND_I64, KIND_F32, KIND_F64 = range(4)

Function = Callable[..., Any]


class ByteVec(ctypes.Structure):
    """wasm_byte_vec_t."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class PointerVec(ctypes.Structure):
    """wasm_frame_vec_t and wasm_valtype_vec_t: a vector of pointers."""

    _fields_ = (("size", c_size_t), ("data", ctypes.POINTER(c_void_p)))


HostCallback = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)
"""wasmtime_func_callback_t: (env, caller, args, count, results, count) -> trap or NULL."""

WaitingHostCallback = ctypes.CFUNCTYPE(
    None, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p
)
"""wasmtime_func_async_callback_t: (env, caller, args, count, results, count, where a trap goes, continuation).

All that it is given stays in place until the continuation has said that it is done.
"""

ContinuationCallback = ctypes.CFUNCTYPE(c_bool, c_void_p)
"""wasmtime_func_async_continuation_callback_t: (env) -> whether the guest may go on. Asked at every poll."""

Finalizer = ctypes.CFUNCTYPE(None, c_void_p)
"""Called with an env that is needed no more, when the guest goes on or is unwound."""


class Continuation(ctypes.Structure):
    """wasmtime_async_continuation_t, with functions as addresses; a finalizer of NULL is none."""

    _fields_ = (("callback", c_void_p), ("env", c_void_p), ("finalizer", c_void_p))


def address_of(callback: object) -> int:
    """Where a callback of ours is, for a structure that holds it. Whoever made the callback keeps it."""
    address = ctypes.cast(callback, c_void_p).value  # type: ignore[arg-type]  # any of the callback types above
    assert address is not None
    return address


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Function:  # noqa: ANN401  ctypes types have no common base
    function: Any = library[name]
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]  # ctypes functions are untyped


def _quick(name: str, result: Any, *arguments: Any) -> Function:  # noqa: ANN401  ctypes types have no common base
    return _bind(_held, name, result, *arguments)


def _slow(name: str, result: Any, *arguments: Any) -> Function:  # noqa: ANN401  ctypes types have no common base
    return _bind(_released, name, result, *arguments)


# Configuration and engines
config_new = _quick("wasm_config_new", c_void_p)
engine_new_with_config = _slow("wasm_engine_new_with_config", c_void_p, c_void_p)
engine_delete = _slow("wasm_engine_delete", None, c_void_p)
pooling_config_new = _quick("wasmtime_pooling_allocation_config_new", c_void_p)
pooling_config_delete = _quick("wasmtime_pooling_allocation_config_delete", None, c_void_p)
pooling_strategy_set = _quick("wasmtime_pooling_allocation_strategy_set", None, c_void_p, c_void_p)

# Modules and linking
module_new = _slow("wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
module_serialize = _slow("wasmtime_module_serialize", c_void_p, c_void_p, c_void_p)
module_deserialize_file = _slow("wasmtime_module_deserialize_file", c_void_p, c_void_p, c_char_p, c_void_p)
module_delete = _slow("wasmtime_module_delete", None, c_void_p)
linker_new = _quick("wasmtime_linker_new", c_void_p, c_void_p)
linker_delete = _quick("wasmtime_linker_delete", None, c_void_p)
linker_define_func = _quick(
    "wasmtime_linker_define_func",
    c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, HostCallback, c_void_p, c_void_p,
)  # fmt: skip
linker_define_async_func = _quick(
    "wasmtime_linker_define_async_func",
    c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, WaitingHostCallback, c_void_p, c_void_p,
)  # fmt: skip
linker_instantiate_pre = _slow("wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, c_void_p)
instance_pre_delete = _slow("wasmtime_instance_pre_delete", None, c_void_p)
valtype_new = _quick("wasm_valtype_new", c_void_p, c_uint8)
valtype_vec_new = _quick("wasm_valtype_vec_new", None, c_void_p, c_size_t, c_void_p)
functype_new = _quick("wasm_functype_new", c_void_p, c_void_p, c_void_p)
functype_delete = _quick("wasm_functype_delete", None, c_void_p)

# Stores
store_new = _quick("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = _quick("wasmtime_store_context", c_void_p, c_void_p)
store_delete = _quick("wasmtime_store_delete", None, c_void_p)
store_delete_released = _slow("wasmtime_store_delete", None, c_void_p)
store_limiter = _quick("wasmtime_store_limiter", None, c_void_p, *[c_int64] * 5)
context_get_data = _quick("wasmtime_context_get_data", c_void_p, c_void_p)
context_set_fuel = _quick("wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
context_get_fuel = _quick("wasmtime_context_get_fuel", c_void_p, c_void_p, c_void_p)
context_set_epoch_deadline = _quick("wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
# The C header says that this one returns an error; the library returns nothing. Declared as it is.
context_epoch_yield = _quick(
    "wasmtime_context_epoch_deadline_async_yield_and_update", None, c_void_p, c_uint64
)

# Running guests
instance_pre_instantiate_async = _quick("wasmtime_instance_pre_instantiate_async", c_void_p, *[c_void_p] * 5)
instance_export_get = _quick(
    "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
func_call_async = _quick(
    "wasmtime_func_call_async",
    c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p,
)  # fmt: skip
call_future_poll = _slow("wasmtime_call_future_poll", c_bool, c_void_p)
call_future_delete = _quick("wasmtime_call_future_delete", None, c_void_p)
memory_data = _quick("wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_data_size = _quick("wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)

# Host calls
caller_context = _quick("wasmtime_caller_context", c_void_p, c_void_p)
caller_export_get = _quick("wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, c_void_p)
trap_new = _quick("wasmtime_trap_new", c_void_p, c_char_p, c_size_t)

# Errors and traps
error_message = _quick("wasmtime_error_message", None, c_void_p, c_void_p)
error_exit_status = _quick("wasmtime_error_exit_status", c_bool, c_void_p, c_void_p)
error_wasm_trace = _quick("wasmtime_error_wasm_trace", None, c_void_p, c_void_p)
error_delete = _quick("wasmtime_error_delete", None, c_void_p)
trap_code = _quick("wasmtime_trap_code", c_bool, c_void_p, c_void_p)
trap_message = _quick("wasm_trap_message", None, c_void_p, c_void_p)
trap_trace = _quick("wasm_trap_trace", None, c_void_p, c_void_p)
trap_delete = _quick("wasm_trap_delete", None, c_void_p)
frame_func_index = _quick("wasm_frame_func_index", c_uint32, c_void_p)
frame_func_offset = _quick("wasm_frame_func_offset", c_size_t, c_void_p)
frame_func_name = _quick("wasmtime_frame_func_name", ctypes.POINTER(ByteVec), c_void_p)
frame_vec_delete = _quick("wasm_frame_vec_delete", None, c_void_p)
byte_vec_delete = _quick("wasm_byte_vec_delete", None, c_void_p)


def address_of_increment_epoch() -> int:
    """Where wasmtime_engine_increment_epoch(engine) is, for a timer that calls it without Python."""
    address = ctypes.cast(_released["wasmtime_engine_increment_epoch"], c_void_p).value
    assert address is not None
    return address


def config_set(config: int, option: str, value: int) -> None:
    """Set one engine option by its C name, e.g. `consume_fuel`; a bool for those that are one in C."""
    _quick(f"wasmtime_config_{option}_set", None, c_void_p, c_bool if isinstance(value, bool) else c_uint64)(
        config, value
    )


def pooling_set(pool: int, option: str, value: int) -> None:
    """Set one pooling-allocator option by its C name, e.g. `total_memories`. Counts are narrower than sizes."""
    kind = c_uint32 if option.startswith("total_") or option.endswith("_per_module") else c_size_t
    _quick(f"wasmtime_pooling_allocation_config_{option}_set", None, c_void_p, kind)(pool, value)


def take_bytes(vector: ByteVec) -> bytes:
    """The bytes of a vector that we own; frees it."""
    content = ctypes.string_at(vector.data, vector.size) if vector.size else b""
    byte_vec_delete(ctypes.addressof(vector))
    return content


def take_error(error: int) -> str:
    """The text of an error that we own; frees it."""
    message = ByteVec()
    error_message(error, ctypes.addressof(message))
    error_delete(error)
    return take_bytes(message).decode("utf-8", "replace")
