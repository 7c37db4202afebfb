"""The yardstick: one guest call through wasmtime's C API, as a short program would write it.

A fresh store with its five limits and its fuel, an instance, one call polled to its end, all of it deleted.
There are no error paths, no bookkeeping and no reuse of buffers: what is on top of this is the host's cost.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

MODULE = """
(module
  (memory (export "memory") 2)
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
"""
TICK = 0.001
SLOTS = 1000
MAX_MEMORY = 64 << 20
FUEL = 1 << 62

_pointer, _number = ctypes.c_void_p, ctypes.c_uint64
_keeping_gil = ctypes.PyDLL(str(ffi.filename))
_giving_gil = ctypes.CDLL(str(ffi.filename))


def _declare(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[f"wasmtime_{name}"]
    function.restype, function.argtypes = result, arguments
    return function


_store_new = _declare(_keeping_gil, "store_new", _pointer, _pointer, _pointer, _pointer)
_store_context = _declare(_keeping_gil, "store_context", _pointer, _pointer)
_store_delete = _declare(_keeping_gil, "store_delete", None, _pointer)
_store_limiter = _declare(_keeping_gil, "store_limiter", None, _pointer, *[ctypes.c_int64] * 5)
_set_fuel = _declare(_keeping_gil, "context_set_fuel", _pointer, _pointer, _number)
_set_deadline = _declare(_keeping_gil, "context_set_epoch_deadline", None, _pointer, _number)
_yield_at_deadline = _declare(
    _keeping_gil, "context_epoch_deadline_async_yield_and_update", None, _pointer, _number
)
_instantiate = _declare(_keeping_gil, "instance_pre_instantiate", _pointer, *[_pointer] * 4)
_export_get = _declare(
    _keeping_gil, "instance_export_get",
    ctypes.c_bool, _pointer, _pointer, ctypes.c_char_p, ctypes.c_size_t, _pointer,
)  # fmt: skip
_call_async = _declare(
    _keeping_gil, "func_call_async",
    _pointer, _pointer, _pointer, _pointer, ctypes.c_size_t, _pointer, ctypes.c_size_t, _pointer, _pointer,
)  # fmt: skip
_future_poll = _declare(_giving_gil, "call_future_poll", ctypes.c_bool, _pointer)
_future_delete = _declare(_keeping_gil, "call_future_delete", None, _pointer)


class Yardstick:
    """An engine with pooled slots, and the module linked for it."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine(_pooled_config())
        self.module = wasmtime.Module(self.engine, bytes(wasmtime.wat2wasm(MODULE)))
        self.linked = wasmtime.Linker(self.engine).instantiate_pre(self.module)
        self._engine = ctypes.cast(self.engine.ptr(), _pointer)
        self._linked = ctypes.cast(self.linked.ptr(), _pointer)

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        """Advance the epoch meanwhile."""
        over = threading.Event()

        def tick() -> None:
            while not over.is_set():
                time.sleep(TICK)
                self.engine.increment_epoch()

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def raw_call(self, left: int, right: int) -> int:
        """One call through the C API."""
        store = _store_new(self._engine, None, None)
        context = _store_context(store)
        _store_limiter(store, MAX_MEMORY, 10_000, 1, 10, 1)
        _set_fuel(context, FUEL)
        _set_deadline(context, 2)
        instance, trap, error = ffi.wasmtime_instance_t(), _pointer(), _pointer()
        _instantiate(self._linked, context, ctypes.byref(instance), ctypes.byref(trap))
        _yield_at_deadline(context, 1)
        export = ffi.wasmtime_extern_t()
        _export_get(context, ctypes.byref(instance), b"add", 3, ctypes.byref(export))
        arguments, results = (ffi.wasmtime_val_t * 2)(), (ffi.wasmtime_val_t * 1)()
        for slot, value in zip(arguments, (left, right), strict=True):
            slot.kind = 0
            slot.of.i32 = value
        future = _call_async(
            context, ctypes.byref(export.of.func), arguments, 2, results, 1,
            ctypes.byref(trap), ctypes.byref(error),
        )  # fmt: skip
        while not _future_poll(future):
            pass
        _future_delete(future)
        _store_delete(store)
        return int(results[0].of.i32)

    def class_call(self, left: int, right: int) -> int:
        """The same through wasmtime-py's classes."""
        store = wasmtime.Store(self.engine)
        store.set_limits(MAX_MEMORY, 10_000, 1, 10, 1)
        store.set_fuel(FUEL)
        store.set_epoch_deadline(1000)
        add = self.linked.instantiate(store).exports(store)["add"]
        assert isinstance(add, wasmtime.Func)
        result = add(store, left, right)
        store.close()
        return int(result)


def _pooled_config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.consume_fuel = True
    pool = ffi.wasmtime_pooling_allocation_config_new()
    options = {
        "total_memories": SLOTS,
        "total_core_instances": SLOTS,
        "total_tables": SLOTS,
        "total_stacks": SLOTS,
        "max_memory_size": MAX_MEMORY,
        "linear_memory_keep_resident": 1 << 16,
        "table_keep_resident": 1 << 16,
        "async_stack_keep_resident": 1 << 16,
    }
    for name, value in options.items():
        getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
    ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    ffi.wasmtime_pooling_allocation_config_delete(pool)
    return config
