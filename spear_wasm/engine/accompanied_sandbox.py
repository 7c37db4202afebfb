"""A sandbox that holds two instances: a guest's, and that of the companion which provides what it imports."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from spear_wasm.engine import capi
from spear_wasm.engine.guest_sandbox import ERROR_AT, TRAP_AT
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Steps, Values
from spear_wasm.engine.settings import MAX_INSTANCES, MAX_TABLES
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode

if TYPE_CHECKING:
    from spear_wasm.engine.companion import AccompaniedModule
    from spear_wasm.limits import Limits

# The layout of a companion's handles: its instance, its memory's extern, and where the library says how large that was.
_EXTERN_AT = capi.INSTANCE_SIZE
_MEMORY_AT = _EXTERN_AT + capi.EXTERN_OFFSET
_PREVIOUS_AT = _EXTERN_AT + capi.EXTERN_SIZE
_HANDLES_SIZE = _PREVIOUS_AT + 8


class AccompaniedSandbox(Sandbox):
    """One store with two instances, whose memories are bounded together.

    The store bounds each memory by itself. So the companion's grows only when it asks us to (`grow_companion`), and
    the guest's may always be as large as the companion's leaves room for.
    """

    __slots__ = ("_artifact", "_companion_at", "_companion_bytes", "_companion_data", "_handles")

    def __init__(self, linked: AccompaniedModule, limits: Limits) -> None:
        self._artifact = linked
        self._companion_bytes = 0
        self._companion_data = 0
        self._handles = ctypes.create_string_buffer(_HANDLES_SIZE)
        self._companion_at = ctypes.addressof(self._handles)
        super().__init__(linked, limits)

    def _limit_store(self) -> None:
        self._limit_each_memory(self.limits.max_memory_bytes - self._companion_bytes)

    def _limit_each_memory(self, most: int) -> None:
        capi.store_limiter(self._store, most, self._table_share(), MAX_INSTANCES, MAX_TABLES, MAX_INSTANCES)

    def instantiate(self) -> Steps:
        """Make both instances, the companion's first; runs the guest's start function.

        Raises:
            GuestFault: the start function trapped, or the needs of both exceed the limits.
        """
        self._check_fit()
        at, trap, error = self._address, self._address + TRAP_AT, self._address + ERROR_AT
        companion, beside = self._artifact.companion, self._companion_at
        yield from self._run(
            capi.instance_pre_instantiate_async(companion.pointer, self._context, beside, trap, error)
        )
        self._find_companion_memory(companion.memory_name or b"")
        linker = self._artifact.linker.lend(self._context, self._artifact.companion_name, beside)
        try:
            yield from self._run(
                capi.linker_instantiate_async(linker, self._context, self._artifact.pointer, at, trap, error)
            )
        finally:
            self._artifact.linker.give_back(linker)
        self._find_own_memory()

    def _find_companion_memory(self, name: bytes) -> None:
        at = self._companion_at
        capi.instance_export_get(self._context, at, name, len(name), at + _EXTERN_AT)
        self._measure_companion()
        self._limit_store()

    def _measure_companion(self) -> None:
        # Both stay as they are until it grows, and it grows by us alone.
        at = self._companion_at + _MEMORY_AT
        self._companion_bytes = int(capi.memory_data_size(self._context, at))
        self._companion_data = int(capi.memory_data(self._context, at) or 0)

    def _refuse_if_too_large(self) -> None:
        super()._refuse_if_too_large()
        own, beside = self.linked.module.memory_min_pages, self._artifact.companion.module.memory_min_pages
        needed = (own + beside) * WASM_PAGE_BYTES
        if needed > self.limits.max_memory_bytes:
            raise GuestFault(
                ErrorCode.MEMORY_LIMIT,
                f"the module starts with {needed} bytes of memory, {beside * WASM_PAGE_BYTES} of which are for what "
                f"passes between it and its host; the limit is {self.limits.max_memory_bytes}",
            )

    def call_companion(self, function: ExportedFunction, args: tuple[int | float, ...]) -> Values:
        """Call a function that the companion exports; like `call`."""
        return self.call(function, args, self._companion_at)

    def memory_bytes(self) -> int:
        """The size of both memories. They never shrink, so at the end this is their peak."""
        return self.own_memory_bytes() + self._companion_bytes

    def grow_companion(self, pages: int) -> bool:
        """Give the companion's memory so many more pages; whether there is room within the limits."""
        most = self.limits.max_memory_bytes
        if self.memory_bytes() + pages * WASM_PAGE_BYTES > most:
            return False
        at = self._companion_at
        self._limit_each_memory(most)
        error = capi.memory_grow(self._context, at + _MEMORY_AT, pages, at + _PREVIOUS_AT)
        self._measure_companion()
        self._limit_store()
        if error:
            capi.take_error(error)
        return not error

    def read_companion(self, address: int, length: int) -> bytes:
        """A copy of a range of the companion's memory (both taken as unsigned 32-bit numbers).

        An empty range lies nowhere, whatever its address.

        Raises:
            GuestFault: the range lies outside the memory.
        """
        return ctypes.string_at(self._companion_range(address, length), length & 0xFFFFFFFF)

    def write_companion(self, address: int, content: bytes) -> None:
        """Copy bytes into the companion's memory; no bytes go nowhere, whatever the address.

        Raises:
            GuestFault: the range lies outside the memory.
        """
        ctypes.memmove(self._companion_range(address, len(content)), content, len(content))

    def _companion_range(self, address: int, length: int) -> int:
        address, length = address & 0xFFFFFFFF, length & 0xFFFFFFFF
        if not length:
            return 0
        if address + length > self._companion_bytes:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the guest named {length} bytes at {address}; what passes between it and its host is "
                f"{self._companion_bytes} bytes",
            )
        return self._companion_data + address
