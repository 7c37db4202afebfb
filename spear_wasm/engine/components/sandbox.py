"""Sandboxes of components: instantiating them, and calling what they export."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.components.errors import take_error
from spear_wasm.engine.components.layout import SIZE
from spear_wasm.engine.components.reading import Reading
from spear_wasm.engine.guest_sandbox import ARGS_AT, ERROR_AT, EXTERN_AT, GuestSandbox, Steps
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode, Usage

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from spear_wasm.engine.components.linked import LinkedComponent
    from spear_wasm.limits import Limits
    from spear_wasm.wit.values import WitValue

TOUCHED_QUICKLY_NS = 1_000_000
"""A guest that had no more CPU time than this has not touched so much memory that clearing it takes a while."""

Result: TypeAlias = "Generator[None, None, WitValue]"


class ComponentSandbox(GuestSandbox):
    """One store with one instance of a component, which may be many of core modules.

    Its memories are the component's own: nobody outside can look into them, nor ask how large they are.
    """

    __slots__ = ("_component", "_cpu_ns", "_is_untouched")

    def __init__(self, linked: LinkedComponent, limits: Limits) -> None:
        self._component = linked
        self._is_untouched = True
        self._cpu_ns = 0
        super().__init__(linked, limits)

    def _limit_store(self) -> None:
        # The store bounds each memory and each table by itself: all have the same share.
        info, limits = self._component.info, self.limits
        capi.store_limiter(
            self._store,
            limits.max_memory_bytes // max(1, info.memories),
            limits.max_table_elements // max(1, info.tables),
            info.instances,
            info.tables,
            info.memories,
        )

    def instantiate(self) -> Steps:
        """Make the instance; runs the start functions of its core modules.

        Raises:
            GuestFault: one of them trapped, or the component's own needs exceed the limits.
        """
        at = self._address
        yield from self._run(
            capi.component_linker_instantiate_async(
                self._component.linker.pointer, self._context, self._component.pointer, at, at + ERROR_AT
            )
        )

    def call(self, interface: str, name: str, args: Sequence[WitValue]) -> Result:
        """Call a function that the component exports, in an interface or, where that is empty, by itself.

        Raises:
            GuestFault: the guest trapped, ran out of fuel, or a host function ended it.
        """
        at = self._address
        function = self._component.function(interface, name)
        self._is_untouched = False
        if not capi.component_instance_get_func(at, self._context, function.index, at + EXTERN_AT):
            raise GuestFault(
                ErrorCode.INSTANCE_FAILED, "the instance lacks a function that its component exports"
            )
        arena = function.arguments(args, self._context)
        # The library frees what is there before it puts the result in its place: it has to be a value.
        ctypes.memset(at + ARGS_AT, 0, SIZE)
        try:
            yield from self._run(
                capi.component_func_call_async(
                    at + EXTERN_AT, self._context, arena.address, len(args),
                    at + ARGS_AT, function.has_result, at + ERROR_AT,
                )
            )  # fmt: skip
        finally:
            arena.release()
        if not function.has_result:
            return None
        try:
            return function.read(ctypes.string_at(at + ARGS_AT, SIZE), 0, Reading(self._context))
        finally:
            capi.component_val_delete(at + ARGS_AT)

    def _fault_of(self, trap: int, error: int) -> GuestFault:
        assert not trap, "calls of components tell traps as errors"
        return take_error(error)

    def memory_bytes(self) -> int:
        """Nobody can tell: 0, which stands for that."""
        return 0

    def held_bytes(self) -> int:
        """What it starts with, or all that it may have where it has run."""
        if not self._component.info.memories:
            return 0
        least = self._component.module.memory_min_pages * WASM_PAGE_BYTES
        return least if self._is_untouched else self.limits.max_memory_bytes

    def usage(self, cpu_ns: int) -> Usage:
        """What the guest used so far; `cpu_ns` is measured by whoever ran it."""
        self._cpu_ns += cpu_ns
        return super().usage(cpu_ns)

    @property
    def _may_be_large(self) -> bool:
        return self._component.info.memories > 0 and self._cpu_ns > TOUCHED_QUICKLY_NS
