"""A sandbox: one store with one instance, and the guest's calls as steps that can be stopped between slices.

`instantiate` and `call` are generators. Each `next` runs the guest for one slice at most; the generator
returns when the guest does. Closing the generator kills the guest: its stack is unwound, nothing traps, and
no other guest notices. A sandbox may be driven by one thread now and another later, never by two at once.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.host_calls import KIND_OF, PACK_OF, forget_caller, register_caller
from spear_wasm.engine.outcome import GuestFault, take_error, take_trap
from spear_wasm.engine.settings import MAX_TABLES
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode, FunctionType, Usage

if TYPE_CHECKING:
    from spear_wasm.engine.engine import LinkedArtifact
    from spear_wasm.engine.host_calls import WaitingCall
    from spear_wasm.engine.wait import Wait
    from spear_wasm.limits import Limits

Steps: TypeAlias = "Generator[None, None, None]"
Values: TypeAlias = "Generator[None, None, tuple[int | float, ...]]"

UNLIMITED_FUEL = 2**63
LARGE_MEMORY_BYTES = 1 << 20
"""Sandboxes that grew beyond this are closed without the GIL: clearing their memory takes a while."""

# The layout of a call buffer, which the library reads and writes: an instance, an extern, a memory's extern,
# a trap and an error pointer, a fuel reading, then the arguments and the results of a call.
_EXTERN_AT = capi.INSTANCE_SIZE
_FUNC_AT = _EXTERN_AT + capi.EXTERN_OFFSET
_MEMORY_EXTERN_AT = _EXTERN_AT + capi.EXTERN_SIZE
_MEMORY_AT = _MEMORY_EXTERN_AT + capi.EXTERN_OFFSET
_TRAP_AT = _MEMORY_EXTERN_AT + capi.EXTERN_SIZE
_ERROR_AT = _TRAP_AT + 8
_FUEL_AT = _ERROR_AT + 8
_ARGS_AT = _FUEL_AT + 8
_POINTERS = struct.Struct("<QQ")
_FUEL = struct.Struct("<Q")


class ExportedFunction:
    """A function that a linked artifact exports: its name, and how its arguments and results lie in a buffer."""

    __slots__ = ("_kinds", "_params", "_results", "name", "param_count", "result_count", "results_at")

    def __init__(self, name: str, function_type: FunctionType) -> None:
        self.name = name.encode()
        self._params = struct.Struct("<" + "".join("B7x" + PACK_OF[kind] for kind in function_type.params))
        self._results = struct.Struct("<" + "".join("8x" + PACK_OF[kind] for kind in function_type.results))
        self._kinds = [KIND_OF[kind] for kind in function_type.params]
        self.param_count = len(function_type.params)
        self.result_count = len(function_type.results)
        self.results_at = _ARGS_AT + self.param_count * capi.VAL_SIZE

    def write_arguments(self, buffer: ctypes.Array[ctypes.c_char], args: tuple[int | float, ...]) -> None:
        """Lay the arguments out for the library."""
        fields: list[int | float] = []
        for kind, value in zip(self._kinds, args, strict=True):
            fields += (kind, value)
        self._params.pack_into(buffer, _ARGS_AT, *fields)

    def read_results(self, buffer: ctypes.Array[ctypes.c_char]) -> tuple[int | float, ...]:
        """What the library left in the buffer."""
        return self._results.unpack_from(buffer, self.results_at)


class Reader(Protocol):
    """Whoever reads along what a guest emits."""

    largest: int
    """Bytes that a message may have; a guest's that is longer comes in pieces."""

    def room_for(self, size: int) -> Wait | None:
        """What to wait for before a message of that size is handed over; None where there is room."""
        ...

    def put(self, message: bytes) -> None:
        """Take a message for which there is room."""
        ...


def call_buffer(widest_call: int) -> ctypes.Array[ctypes.c_char]:
    """A buffer for calls of up to that many arguments and results together."""
    return ctypes.create_string_buffer(_ARGS_AT + widest_call * capi.VAL_SIZE)


class Sandbox:
    """One store, one instance, five store limits; whoever makes it closes it.

    Fuel, where the engine meters it, is filled by `arm`, and so again for each call of a sandbox that was
    made ready earlier or serves again. Logs collect in the sandbox up to `limits.max_log_bytes`. `name` is given
    by whoever takes it first, and `prepared` is set by whoever has run all that comes before the first call.
    `doing` says what the guest runs where it is not what was called, for those who are told how it failed.
    `has_memory` says that the guest has one and that it has been found. What the guest emits goes to `reader`,
    and nowhere where there is none. `waiting_call` is the host call in which the guest waits.
    """

    __slots__ = (
        "_address", "_buffer", "_context", "_emitted", "_fuel", "_key", "_log", "_log_room", "_parked", "_store",
        "_truncated", "doing", "has_memory", "limits", "linked", "name", "prepared", "reader", "waiting_call",
    )  # fmt: skip

    def __init__(self, linked: LinkedArtifact, limits: Limits) -> None:
        self.linked = linked
        self.name = ""
        self.doing = ""
        self.prepared = False
        self.has_memory = False
        self._parked: BaseException | None = None
        self.waiting_call: WaitingCall | None = None
        self._key = register_caller(self) if linked.calls_host else 0
        try:
            self._buffer = linked.spare_buffers.pop()
        except IndexError:
            self._buffer = call_buffer(linked.widest_call)
        self._address = ctypes.addressof(self._buffer)
        self._store = capi.store_new(linked.engine.pointer, self._key or None, None)
        self._context = capi.store_context(self._store)
        capi.context_epoch_yield(self._context, 1)
        self.arm(limits)

    def arm(self, limits: Limits) -> None:
        """Put limits in force for what comes next, with a full tank, an empty log and nobody who reads along.

        It may have served before. Nothing that the limits count goes on from there, but for its memory and tables.
        """
        self.limits = limits
        self.reader: Reader | None = None
        self._emitted = 0
        self._log: bytes | bytearray = b""
        self._log_room = limits.max_log_bytes
        self._truncated = False
        capi.store_limiter(self._store, limits.max_memory_bytes, self._table_share(), 1, MAX_TABLES, 1)
        self._fuel = limits.max_fuel or UNLIMITED_FUEL
        if self.linked.engine.metered:
            capi.context_set_fuel(self._context, self._fuel)
        # An epoch deadline is relative to the moment it is set, and one that passed means: yield at once.
        capi.context_set_epoch_deadline(self._context, 1)

    def _table_share(self) -> int:
        # The store bounds each table by itself, and a start function may grow them all.
        return self.limits.max_table_elements // max(1, self.linked.module.tables)

    def instantiate(self) -> Steps:
        """Make the instance; runs the module's start function.

        Raises:
            GuestFault: the start function trapped, or the module's own needs exceed the limits.
        """
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
        at = self._address
        yield from self._drive(
            capi.instance_pre_instantiate_async(
                self.linked.pointer, self._context, at, at + _TRAP_AT, at + _ERROR_AT
            )
        )
        name = self.linked.memory_name
        if name is not None:
            self.has_memory = bool(
                capi.instance_export_get(self._context, at, name, len(name), at + _MEMORY_EXTERN_AT)
            )

    def call(self, function: ExportedFunction, args: tuple[int | float, ...]) -> Values:
        """Call an exported function; returns its results, integers signed.

        Raises:
            GuestFault: the guest trapped, ran out of fuel, or a host function ended it.
        """
        at, name = self._address, function.name
        if not capi.instance_export_get(self._context, at, name, len(name), at + _EXTERN_AT):
            raise GuestFault(
                ErrorCode.INSTANCE_FAILED, "the instance lacks a function that its module exports"
            )
        function.write_arguments(self._buffer, args)
        yield from self._drive(
            capi.func_call_async(
                self._context, at + _FUNC_AT, at + _ARGS_AT, function.param_count,
                at + function.results_at, function.result_count, at + _TRAP_AT, at + _ERROR_AT,
            )
        )  # fmt: skip
        return function.read_results(self._buffer)

    def _drive(self, future: int) -> Steps:
        _POINTERS.pack_into(self._buffer, _TRAP_AT, 0, 0)
        poll = capi.call_future_poll
        try:
            while not poll(future):
                yield
        finally:
            # For an unfinished future this is the kill.
            capi.call_future_delete(future)
        trap, error = _POINTERS.unpack_from(self._buffer, _TRAP_AT)
        if trap or error:
            raise self._take_fault(trap, error)

    def _take_fault(self, trap: int, error: int) -> BaseException:
        # Not in `_drive`: its frame, to which the traceback leads, would keep the fault and so itself, and with
        # it the call's arguments, until the garbage collector comes.
        fault = take_trap(trap) if trap else take_error(error)
        parked, self._parked = self._parked, None
        return fault if parked is None else parked

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
        size = self.memory_bytes()
        if address + length > size:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the guest named {length} bytes at {address}; its memory has {size} bytes",
            )
        return int(capi.memory_data(self._context, self._address + _MEMORY_AT) or 0) + address

    def find_memory(self, caller: int) -> None:
        """Find the guest's memory through the caller of a host function, while a start function runs."""
        name = self.linked.memory_name
        if name is not None:
            self.has_memory = bool(
                capi.caller_export_get(caller, name, len(name), self._address + _MEMORY_EXTERN_AT)
            )

    def memory_bytes(self) -> int:
        """The size of the guest's memory. It never shrinks, so at the end this is its peak."""
        if not self.has_memory:
            return 0
        return int(capi.memory_data_size(self._context, self._address + _MEMORY_AT))

    def log_from_memory(self, address: int, length: int) -> None:
        """Add a range of the guest's memory to the log, copying no more than there is room for."""
        length &= 0xFFFFFFFF
        self._range(address, length)
        kept = min(length, self._log_room)
        self._truncated |= kept < length
        self._log_room -= kept
        if kept:
            # One growing array, not a list: a guest that logs byte by byte must not cost an object for each.
            self._log = self._log or bytearray()
            self._log += self.read_memory(address, kept)

    def emit_from_memory(self, address: int, length: int) -> Generator[Wait, None, None]:
        """Hand a range of the guest's memory to the reader, piece by piece, as soon as there is room for each.

        A guest runs the same whether anybody reads: without a reader the bytes only count.

        Raises:
            GuestFault: the range lies outside the memory, or the guest has emitted more than it may.
        """
        address, length = address & 0xFFFFFFFF, length & 0xFFFFFFFF
        self._range(address, length)
        self._count_emitted(length)
        reader = self.reader
        if reader is None:
            return
        # What waits is still in the guest's memory, where it has been paid for: only what fits is copied.
        for start in range(0, max(length, 1), reader.largest):
            size = min(length - start, reader.largest)
            while (wait := reader.room_for(size)) is not None:
                yield wait
            reader.put(self.read_memory(address + start, size))

    def _count_emitted(self, length: int) -> None:
        # An empty message counts, too: it has to be sent like any other.
        self._emitted += max(length, 1)
        if self._emitted > self.limits.max_output_bytes:
            raise GuestFault(
                ErrorCode.OUTPUT_LIMIT,
                f"the guest emitted {self._emitted} bytes; the limit is {self.limits.max_output_bytes}",
            )

    @property
    def output_room(self) -> int:
        """How many bytes the guest's result may have: what its messages have left of the limit."""
        return self.limits.max_output_bytes - self._emitted

    @property
    def waits_for(self) -> Wait | None:
        """What must be over before the guest can go on; None where it can."""
        call = self.waiting_call
        return None if call is None else call.wait

    def park(self, error: BaseException) -> None:
        """Keep what a host function raised; the run raises it when the guest has been left."""
        self._parked = error

    def usage(self, cpu_ns: int) -> Usage:
        """What the guest used so far; `cpu_ns` is measured by whoever ran it."""
        return Usage(
            cpu_ns=cpu_ns,
            peak_memory_bytes=self.memory_bytes(),
            fuel=self._fuel_used() if self.linked.engine.metered else None,
            stderr=bytes(self._log),
            output_truncated=self._truncated,
        )

    def _fuel_used(self) -> int:
        error = capi.context_get_fuel(self._context, self._address + _FUEL_AT)
        if error:
            capi.take_error(error)
            return 0
        return self._fuel - int(_FUEL.unpack_from(self._buffer, _FUEL_AT)[0])

    def close(self) -> None:
        """Give the slot back. No run may be under way; the sandbox must not be used again."""
        if self._key:
            forget_caller(self._key)
        delete = capi.store_delete_released if self.memory_bytes() > LARGE_MEMORY_BYTES else capi.store_delete
        delete(self._store)
        self.linked.spare_buffers.append(self._buffer)
