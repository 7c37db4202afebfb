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
from ctypes import c_bool, c_char_p, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
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

COMPONENT_VAL_SIZE = 32
"""Bytes of a wasmtime_component_val_t: its kind in byte 0, its value from VAL_OFFSET."""
NAME_SIZE = 16
"""Bytes of a wasm_name_t: a length and an address."""
ITEM_SIZE = 24
"""Bytes of a wasmtime_component_item_t: its kind in byte 0, an address or a wasmtime_component_valtype_t from
VAL_OFFSET."""
VALTYPE_SIZE = 16
"""Bytes of a wasmtime_component_valtype_t: its kind in byte 0, an address from VAL_OFFSET."""
ITEM_INSTANCE, ITEM_FUNCTION, ITEM_RESOURCE, ITEM_TYPE = 1, 3, 4, 6

Word = c_void_p
"""A number of 64 bits without a sign, on the way of every call: ctypes converts pointers faster than numbers."""

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


ComponentCallback = ctypes.CFUNCTYPE(
    c_size_t, c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t
)
"""wasmtime_component_func_callback_t: (env, context, type, args, count, results, count) -> error or NULL."""

WaitingComponentCallback = ctypes.CFUNCTYPE(
    None, c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p
)
"""wasmtime_component_func_async_callback_t: (env, context, type, args, count, results, count, where an error goes,
continuation)."""

ResourceDestructor = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_uint32)
"""wasmtime_component_resource_destructor_t: (env, context, rep) -> error or NULL."""


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
module_validate = _slow("wasmtime_module_validate", c_void_p, c_void_p, c_char_p, c_size_t)
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
linker_clone = _quick("wasmtime_linker_clone", c_void_p, c_void_p)
linker_allow_shadowing = _quick("wasmtime_linker_allow_shadowing", None, c_void_p, c_bool)
linker_define_instance = _quick(
    "wasmtime_linker_define_instance", c_void_p, c_void_p, c_void_p, c_char_p, Word, c_void_p
)
valtype_new = _quick("wasm_valtype_new", c_void_p, c_uint8)
valtype_vec_new = _quick("wasm_valtype_vec_new", None, c_void_p, c_size_t, c_void_p)
functype_new = _quick("wasm_functype_new", c_void_p, c_void_p, c_void_p)
functype_delete = _quick("wasm_functype_delete", None, c_void_p)

# Stores
store_new = _quick("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = _quick("wasmtime_store_context", c_void_p, c_void_p)
store_delete = _quick("wasmtime_store_delete", None, c_void_p)
store_delete_released = _slow("wasmtime_store_delete", None, c_void_p)
store_limiter = _quick("wasmtime_store_limiter", None, c_void_p, *[Word] * 5)
context_get_data = _quick("wasmtime_context_get_data", c_void_p, c_void_p)
context_set_fuel = _quick("wasmtime_context_set_fuel", c_void_p, c_void_p, Word)
context_get_fuel = _quick("wasmtime_context_get_fuel", c_void_p, c_void_p, c_void_p)
context_set_epoch_deadline = _quick("wasmtime_context_set_epoch_deadline", None, c_void_p, Word)
# The C header says that this one returns an error; the library returns nothing. Declared as it is.
context_epoch_yield = _quick("wasmtime_context_epoch_deadline_async_yield_and_update", None, c_void_p, Word)

# Running guests
instance_pre_instantiate = _quick("wasmtime_instance_pre_instantiate", c_void_p, *[c_void_p] * 4)
instance_pre_instantiate_async = _quick("wasmtime_instance_pre_instantiate_async", c_void_p, *[c_void_p] * 5)
linker_instantiate_async = _quick("wasmtime_linker_instantiate_async", c_void_p, *[c_void_p] * 6)
instance_export_get = _quick(
    "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, Word, c_void_p
)
func_call_async = _quick(
    "wasmtime_func_call_async",
    c_void_p, c_void_p, c_void_p, c_void_p, Word, c_void_p, Word, c_void_p, c_void_p,
)  # fmt: skip
call_future_poll = _slow("wasmtime_call_future_poll", c_bool, c_void_p)
call_future_delete = _quick("wasmtime_call_future_delete", None, c_void_p)
memory_data = _quick("wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_grow = _quick("wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, Word, c_void_p)
memory_data_size = _quick("wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)

# Host calls
caller_context = _quick("wasmtime_caller_context", c_void_p, c_void_p)
caller_export_get = _quick("wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, c_void_p)
trap_new = _quick("wasmtime_trap_new", c_void_p, c_char_p, c_size_t)

# Components
component_new = _slow("wasmtime_component_new", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
component_serialize = _slow("wasmtime_component_serialize", c_void_p, c_void_p, c_void_p)
component_deserialize = _slow(
    "wasmtime_component_deserialize", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
component_deserialize_file = _slow(
    "wasmtime_component_deserialize_file", c_void_p, c_void_p, c_char_p, c_void_p
)
component_delete = _slow("wasmtime_component_delete", None, c_void_p)
component_export_index = _quick(
    "wasmtime_component_get_export_index", c_void_p, c_void_p, c_void_p, c_char_p, c_size_t
)
component_export_index_delete = _quick("wasmtime_component_export_index_delete", None, c_void_p)
component_linker_new = _quick("wasmtime_component_linker_new", c_void_p, c_void_p)
component_linker_delete = _quick("wasmtime_component_linker_delete", None, c_void_p)
component_linker_root = _quick("wasmtime_component_linker_root", c_void_p, c_void_p)
component_linker_add_instance = _quick(
    "wasmtime_component_linker_instance_add_instance", c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
component_linker_add_func = _quick(
    "wasmtime_component_linker_instance_add_func",
    c_void_p, c_void_p, c_char_p, c_size_t, ComponentCallback, c_void_p, c_void_p,
)  # fmt: skip
component_linker_add_async_func = _quick(
    "wasmtime_component_linker_instance_add_func_async",
    c_void_p, c_void_p, c_char_p, c_size_t, WaitingComponentCallback, c_void_p, c_void_p,
)  # fmt: skip
component_linker_add_resource = _quick(
    "wasmtime_component_linker_instance_add_resource",
    c_void_p, c_void_p, c_char_p, c_size_t, c_void_p, ResourceDestructor, c_void_p, c_void_p,
)  # fmt: skip
component_linker_instance_delete = _quick("wasmtime_component_linker_instance_delete", None, c_void_p)
component_linker_instantiate_async = _quick(
    "wasmtime_component_linker_instantiate_async", c_void_p, *[c_void_p] * 5
)
component_instance_get_func = _quick("wasmtime_component_instance_get_func", c_bool, *[c_void_p] * 4)
component_func_call_async = _quick(
    "wasmtime_component_func_call_async",
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    Word,
    c_void_p,
    Word,
    c_void_p,
)
component_val_clone = _quick("wasmtime_component_val_clone", None, c_void_p, c_void_p)
component_val_delete = _quick("wasmtime_component_val_delete", None, c_void_p)
resource_type_new_host = _quick("wasmtime_component_resource_type_new_host", c_void_p, c_uint32)
resource_type_delete = _quick("wasmtime_component_resource_type_delete", None, c_void_p)
resource_type_equal = _quick("wasmtime_component_resource_type_equal", c_bool, c_void_p, c_void_p)
resource_host_new = _quick("wasmtime_component_resource_host_new", c_void_p, c_bool, c_uint32, c_uint32)
resource_host_rep = _quick("wasmtime_component_resource_host_rep", c_uint32, c_void_p)
resource_host_delete = _quick("wasmtime_component_resource_host_delete", None, c_void_p)
resource_host_to_any = _quick("wasmtime_component_resource_host_to_any", c_void_p, *[c_void_p] * 3)
resource_any_to_host = _quick("wasmtime_component_resource_any_to_host", c_void_p, *[c_void_p] * 3)
resource_any_clone = _quick("wasmtime_component_resource_any_clone", c_void_p, c_void_p)
resource_any_delete = _quick("wasmtime_component_resource_any_delete", None, c_void_p)

# What components import and export
component_type = _quick("wasmtime_component_type", c_void_p, c_void_p)
extern_type = _quick("wasmtime_component_extern_type", None, c_void_p, c_void_p)
component_import_count = _quick("wasmtime_component_type_import_count", c_size_t, c_void_p, c_void_p)
component_import_nth = _quick(
    "wasmtime_component_type_import_nth", c_bool, c_void_p, c_void_p, c_size_t, *[c_void_p] * 3
)
component_export_count = _quick("wasmtime_component_type_export_count", c_size_t, c_void_p, c_void_p)
component_export_nth = _quick(
    "wasmtime_component_type_export_nth", c_bool, c_void_p, c_void_p, c_size_t, *[c_void_p] * 3
)
instance_export_count = _quick("wasmtime_component_instance_type_export_count", c_size_t, c_void_p, c_void_p)
instance_export_nth = _quick(
    "wasmtime_component_instance_type_export_nth", c_bool, c_void_p, c_void_p, c_size_t, *[c_void_p] * 3
)
func_param_count = _quick("wasmtime_component_func_type_param_count", c_size_t, c_void_p)
func_param_nth = _quick("wasmtime_component_func_type_param_nth", c_bool, c_void_p, c_size_t, *[c_void_p] * 3)
func_result = _quick("wasmtime_component_func_type_result", c_bool, c_void_p, c_void_p)
func_is_async = _quick("wasmtime_component_func_type_async", c_bool, c_void_p)
list_element = _quick("wasmtime_component_list_type_element", None, c_void_p, c_void_p)
record_field_count = _quick("wasmtime_component_record_type_field_count", c_size_t, c_void_p)
record_field_nth = _quick(
    "wasmtime_component_record_type_field_nth", c_bool, c_void_p, c_size_t, *[c_void_p] * 3
)
tuple_count = _quick("wasmtime_component_tuple_type_types_count", c_size_t, c_void_p)
tuple_nth = _quick("wasmtime_component_tuple_type_types_nth", c_bool, c_void_p, c_size_t, c_void_p)
variant_case_count = _quick("wasmtime_component_variant_type_case_count", c_size_t, c_void_p)
variant_case_nth = _quick(
    "wasmtime_component_variant_type_case_nth", c_bool, c_void_p, c_size_t, *[c_void_p] * 4
)
enum_name_count = _quick("wasmtime_component_enum_type_names_count", c_size_t, c_void_p)
enum_name_nth = _quick("wasmtime_component_enum_type_names_nth", c_bool, c_void_p, c_size_t, *[c_void_p] * 2)
option_some = _quick("wasmtime_component_option_type_ty", None, c_void_p, c_void_p)
result_ok = _quick("wasmtime_component_result_type_ok", c_bool, c_void_p, c_void_p)
result_err = _quick("wasmtime_component_result_type_err", c_bool, c_void_p, c_void_p)
flag_count = _quick("wasmtime_component_flags_type_names_count", c_size_t, c_void_p)
flag_nth = _quick("wasmtime_component_flags_type_names_nth", c_bool, c_void_p, c_size_t, *[c_void_p] * 2)

# Errors and traps
error_new = _quick("wasmtime_error_new", c_void_p, c_char_p)
error_message = _quick("wasmtime_error_message", None, c_void_p, c_void_p)
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
    counts = option.startswith("total_") or option.endswith(("_per_module", "_per_component"))
    kind = c_uint32 if counts else c_size_t
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
