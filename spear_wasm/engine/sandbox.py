"""Sandboxes of core modules: instantiating them, calling what they export, and their memory."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.guest_sandbox import (
    ARGS_AT,
    ERROR_AT,
    EXTERN_AT,
    FUNC_AT,
    LARGE_MEMORY_BYTES,
    MEMORY_AT,
    MEMORY_EXTERN_AT,
    TRAP_AT,
    GuestSandbox,
    Steps,
)
from spear_wasm.engine.host_calls import KIND_OF, PACK_OF
from spear_wasm.engine.outcome import GuestFault, take_error, take_trap
from spear_wasm.engine.settings import MAX_TABLES
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode, FunctionType

if TYPE_CHECKING:
    from collections.abc import Generator

    from spear_wasm.engine.linked import LinkedArtifact
    from spear_wasm.engine.wait import Wait
    from spear_wasm.limits import Limits

__all__ = ["LARGE_MEMORY_BYTES", "ExportedFunction", "Sandbox", "Steps", "Values"]

Values: TypeAlias = "Generator[None, None, tuple[int | float, ...]]"


class ExportedFunction:
    """A function that a linked artifact exports: its name, and how its arguments and results lie in a buffer."""

    __slots__ = ("_fields", "_params", "_results", "name", "param_count", "result_count", "results_at")

    def __init__(self, name: str, function_type: FunctionType) -> None:
        self.name = name.encode()
        self._params = struct.Struct("<" + "".join("B7x" + PACK_OF[kind] for kind in function_type.params))
        self._results = struct.Struct("<" + "".join("8x" + PACK_OF[kind] for kind in function_type.results))
        # Each argument's kind, then a place for its value.
        self._fields: list[int | float] = [
            field for kind in function_type.params for field in (KIND_OF[kind], 0)
        ]
        self.param_count = len(function_type.params)
        self.result_count = len(function_type.results)
        self.results_at = ARGS_AT + self.param_count * capi.VAL_SIZE

    def write_arguments(self, buffer: ctypes.Array[ctypes.c_char], args: tuple[int | float, ...]) -> None:
        """Lay the arguments out for the library."""
        fields = self._fields.copy()
        fields[1::2] = args
        self._params.pack_into(buffer, ARGS_AT, *fields)

    def read_results(self, buffer: ctypes.Array[ctypes.c_char]) -> tuple[int | float, ...]:
        """What the library left in the buffer."""
        return self._results.unpack_from(buffer, self.results_at)


class Sandbox(GuestSandbox):
    """One store with one instance of a core module.

    `has_memory` says that the guest has a memory and that it has been found.
    """

    __slots__ = ("has_memory",)

    def __init__(self, linked: LinkedArtifact, limits: Limits) -> None:
        self.has_memory = False
        super().__init__(linked, limits)

    def _limit_store(self) -> None:
        capi.store_limiter(self._store, self.limits.max_memory_bytes, self._table_share(), 1, MAX_TABLES, 1)

    def _table_share(self) -> int:
        # The store bounds each table by itself, and a start function may grow them all.
        return self.limits.max_table_elements // max(1, self.linked.module.tables)

    def instantiate(self) -> Steps:
        """Make the instance; runs the module's start function.

        Raises:
            GuestFault: the start function trapped, or the module's own needs exceed the limits.
        """
        self._check_fit()
        if self.linked.instantiates_at_once:
            self._instantiate_at_once()
        else:
            at = self._address
            yield from self._run(
                capi.instance_pre_instantiate_async(
                    self.linked.pointer, self._context, at, at + TRAP_AT, at + ERROR_AT
                )
            )
        self._find_own_memory()

    def _instantiate_at_once(self) -> None:
        at = self._address
        error = capi.instance_pre_instantiate(self.linked.pointer, self._context, at, at + TRAP_AT)
        if error:
            raise self._fault_of(0, error)
        self._raise_fault()
        self._yield_at_ticks()

    def _find_own_memory(self) -> None:
        at, name = self._address, self.linked.memory_name
        if name is not None:
            self.has_memory = bool(
                capi.instance_export_get(self._context, at, name, len(name), at + MEMORY_EXTERN_AT)
            )

    def _check_fit(self) -> None:
        if self.limits is not self.linked.fitting_limits:
            self._refuse_if_too_large()
            self.linked.fitting_limits = self.limits

    def _refuse_if_too_large(self) -> None:
        module = self.linked.module
        if module.memory_min_pages * WASM_PAGE_BYTES > self.limits.max_memory_bytes:
            raise GuestFault(
                ErrorCode.MEMORY_LIMIT,
                f"the module starts with {module.memory_min_pages * WASM_PAGE_BYTES} bytes of memory; "
                f"the limit is {self.limits.max_memory_bytes}",
            )
        if module.table_elements > self.limits.max_table_elements:
            raise GuestFault(
                ErrorCode.MEMORY_LIMIT,
                f"the module starts with {module.table_elements} table elements; "
                f"the limit is {self.limits.max_table_elements}",
            )
        if module.largest_table > self._table_share():
            raise GuestFault(
                ErrorCode.MEMORY_LIMIT,
                f"a table of the module starts with {module.largest_table} elements; the limit of "
                f"{self.limits.max_table_elements} leaves {self._table_share()} to each of its {module.tables}",
            )

    def call(self, function: ExportedFunction, args: tuple[int | float, ...], instance: int = 0) -> Values:
        """Call an exported function; returns its results, integers signed.

        `instance` is where the handle of another instance than the guest's is, where it is that one's function.

        Raises:
            GuestFault: the guest trapped, ran out of fuel, or a host function ended it.
        """
        at, name = self._address, function.name
        if not capi.instance_export_get(self._context, instance or at, name, len(name), at + EXTERN_AT):
            raise GuestFault(
                ErrorCode.INSTANCE_FAILED, "the instance lacks a function that its module exports"
            )
        function.write_arguments(self._buffer, args)
        future = capi.func_call_async(
            self._context, at + FUNC_AT, at + ARGS_AT, function.param_count,
            at + function.results_at, function.result_count, at + TRAP_AT, at + ERROR_AT,
        )  # fmt: skip
        # `_run`, written out: most end in their first slice, and need no generator of their own to wait for the next.
        if capi.call_future_poll(future):
            capi.call_future_delete(future)
        else:
            yield from self._poll_on(future)
        self._raise_fault()
        return function.read_results(self._buffer)

    def _fault_of(self, trap: int, error: int) -> GuestFault:
        return take_trap(trap) if trap else take_error(error)

    def read_memory(self, address: int, length: int) -> bytes:
        """A copy of a range of the guest's memory (both taken as unsigned 32-bit numbers).

        An empty range lies nowhere, whatever its address.

        Raises:
            GuestFault: the range lies outside the memory.
        """
        return ctypes.string_at(self._range(address, length), length & 0xFFFFFFFF)

    def write_memory(self, address: int, content: bytes) -> None:
        """Copy bytes into the guest's memory; no bytes go nowhere, whatever the address.

        Raises:
            GuestFault: the range lies outside the memory.
        """
        ctypes.memmove(self._range(address, len(content)), content, len(content))

    def _range(self, address: int, length: int) -> int:
        address, length = address & 0xFFFFFFFF, length & 0xFFFFFFFF
        if not length:
            return 0
        size = self.own_memory_bytes()
        if address + length > size:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the guest named {length} bytes at {address}; its memory has {size} bytes",
            )
        return int(capi.memory_data(self._context, self._address + MEMORY_AT) or 0) + address

    def find_memory(self, caller: int) -> None:
        """Find the guest's memory through the caller of a host function, while a start function runs."""
        name = self.linked.memory_name
        if name is not None:
            self.has_memory = bool(
                capi.caller_export_get(caller, name, len(name), self._address + MEMORY_EXTERN_AT)
            )

    def own_memory_bytes(self) -> int:
        """The size of the guest's memory. It never shrinks, so at the end this is its peak.

        0 where a start function ended the guest before it called any function of ours: the library hands out an
        instance, and with it the memory, only when the start function has returned, and its limiter tells nothing.
        """
        if not self.has_memory:
            return 0
        return int(capi.memory_data_size(self._context, self._address + MEMORY_AT))

    # All memory that it holds: only the guest's, here.
    memory_bytes = own_memory_bytes

    def log_from_memory(self, address: int, length: int) -> None:
        """Add a range of the guest's memory to the log, copying no more than there is room for."""
        length &= 0xFFFFFFFF
        self._range(address, length)
        self._truncated |= self._log_room < length
        self.log(self.read_memory(address, min(length, self._log_room)))

    def emit_from_memory(self, address: int, length: int) -> Generator[Wait, None, None]:
        """Hand a range of the guest's memory to the reader, piece by piece, as soon as there is room for each.

        A guest runs the same whether anybody reads: without a reader the bytes only count.

        Raises:
            GuestFault: the range lies outside the memory, or the guest has emitted more than it may.
        """
        length &= 0xFFFFFFFF
        self._range(address, length)
        # An empty message counts, too: it has to be sent like any other.
        self._count_emitted(max(length, 1))
        if self.reader is not None:
            yield from self._hand_over(
                self.reader, length, lambda at, size: self.read_memory(address + at, size)
            )

    @property
    def _may_be_large(self) -> bool:
        if self.has_memory:
            return self.memory_bytes() > LARGE_MEMORY_BYTES
        # A start function that never returned may have grown it, and nobody can ask how far.
        return self.linked.memory_name is not None and self.linked.module.has_start
