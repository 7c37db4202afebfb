"""How our engines are configured: the same in the server, which runs code, and in the child that compiles it."""

from __future__ import annotations

import hashlib
import platform
import resource
from dataclasses import asdict, dataclass

from spear_wasm.engine import capi

MAX_TABLES = 10
"""Tables of one module, at most."""
MAX_INSTANCES = 2
"""Instances of modules in one sandbox, at most, each with a memory: the guest's, and a companion's. A component may
have as many memories."""
MAX_CORE_INSTANCES = 100
"""Instances of core modules that one component may consist of: those of componentize-py have fourteen."""
HOST_STACK_BYTES = 1 << 20
"""What a fiber's stack holds beyond the guest's own: our host calls run Python on it."""

_FEATURES = {
    # Guests that need one of these are rare, each enlarges what an attacker can reach, and more than one
    # memory would defeat the store's per-memory limit.
    "wasm_threads": False,
    "shared_memory": False,
    "wasm_multi_memory": False,
    "wasm_memory64": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_exceptions": False,
    "wasm_stack_switching": False,
    "wasm_custom_page_sizes": False,
    "wasm_wide_arithmetic": False,
    "wasm_relaxed_simd": False,
    # Components of the third preview, with functions, streams and futures of their own scheduling.
    "concurrency_support": False,
    "wasm_component_model_async": False,
    "wasm_component_model_map": False,
    "wasm_reference_types": True,
    "wasm_bulk_memory": True,
    "wasm_multi_value": True,
    "wasm_simd": True,
    "wasm_tail_call": True,
    "wasm_component_model": True,
}


WHOLE_MEMORY = 1 << 32
"""All that a 32-bit guest can address."""
WHOLE_GUARD = 1 << 25
SMALL_GUARD = 1 << 16
MOST_FOR_WHOLE_MEMORIES = 1 << 44
"""Address space that one engine may take where less would do: an eighth of what a process has."""


def reservation_for(max_memory_bytes: int, sandboxes: int) -> int:
    """The address space for each memory: all that a guest can address, where there is that much for so many sandboxes.

    Then the processor's own checks tell that a guest reaches beyond its memory. Otherwise it is the ceiling, and code
    that checks each address by itself: what does little else takes a third longer.
    """
    needed = sandboxes * MAX_INSTANCES * (WHOLE_MEMORY + WHOLE_GUARD)
    has_room = (
        needed <= MOST_FOR_WHOLE_MEMORIES
        and platform.machine() == "x86_64"  # others have fewer addresses, some of them
        and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    )
    return WHOLE_MEMORY if has_room else max_memory_bytes


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything about an engine that shapes the code compiled for it, and the size of its pool.

    `max_memory_bytes` is the server's ceiling, `memory_reservation` the address space that each pool slot has for a
    memory: see `reservation_for`. `metered` engines count fuel, which can more than double the time of tight code.
    """

    metered: bool
    max_memory_bytes: int
    memory_reservation: int
    max_table_elements: int
    wasm_stack_bytes: int
    sandboxes: int

    def new_engine(self, **bounds: int) -> int:
        """A new engine with the pooling allocator, some of whose bounds may be others; the caller deletes it."""
        config = capi.config_new()
        capi.config_set(config, "epoch_interruption", True)
        capi.config_set(config, "consume_fuel", self.metered)
        capi.config_set(config, "max_wasm_stack", self.wasm_stack_bytes)
        capi.config_set(config, "async_stack_size", self.wasm_stack_bytes + HOST_STACK_BYTES)
        capi.config_set(config, "memory_reservation", self.memory_reservation)
        capi.config_set(config, "memory_reservation_for_growth", 0)
        capi.config_set(config, "memory_guard_size", self._guard_bytes)
        for feature, enabled in _FEATURES.items():
            capi.config_set(config, feature, enabled)
        self._set_pool(config, bounds)
        return int(capi.engine_new_with_config(config))

    def _set_pool(self, config: int, bounds: dict[str, int]) -> None:
        pool = capi.pooling_config_new()
        options = {
            # Counts, not slots: an instance is allocated when it is made, unlike a memory, a table or a stack.
            "total_core_instances": self.sandboxes * MAX_CORE_INSTANCES,
            "total_component_instances": self.sandboxes,
            "max_core_instances_per_component": MAX_CORE_INSTANCES,
            "max_memories_per_component": MAX_INSTANCES,
            "max_tables_per_component": MAX_TABLES,
            "total_memories": self.sandboxes * MAX_INSTANCES,
            "total_tables": self.sandboxes * MAX_TABLES,
            "total_stacks": self.sandboxes,
            "max_memories_per_module": 1,
            "max_tables_per_module": MAX_TABLES,
            "max_memory_size": self.max_memory_bytes,
            "table_elements": self.max_table_elements,
            # What a closed sandbox leaves resident in its slot, zeroed by hand: cheap for small guests. All of it is
            # written, touched or not: where a slot was not resident yet, that costs a page fault for each page.
            "linear_memory_keep_resident": 1 << 14,
            "table_keep_resident": 1 << 14,
            "async_stack_keep_resident": 1 << 14,
        }
        options.update(bounds)
        for option, value in options.items():
            capi.pooling_set(pool, option, value)
        capi.pooling_strategy_set(config, pool)
        capi.pooling_config_delete(pool)

    @property
    def reserved_bytes(self) -> int:
        """Address space that an engine's pool reserves for linear memories."""
        return self.sandboxes * MAX_INSTANCES * (self.memory_reservation + self._guard_bytes)

    @property
    def _guard_bytes(self) -> int:
        return WHOLE_GUARD if self.memory_reservation == WHOLE_MEMORY else SMALL_GUARD

    def fingerprint(self) -> str:
        """32 hex digits that differ whenever machine code compiled under other conditions must not be used."""
        conditions = {**asdict(self), "features": _FEATURES, "wasmtime": capi.PINNED_VERSION, "cpu": _cpu()}
        del conditions["sandboxes"]
        return hashlib.sha256(repr(sorted(conditions.items())).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The processor as far as compiled code depends on it: its architecture and feature flags."""
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123  a stream of lines
            flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return f"{platform.machine()} {flags}"
