"""The values that travel between the layers: what a module offers, what a call asks, how it ended.

All of them are immutable. None knows gRPC, wasmtime or a disk. Those made anew for each call are msgspec
structs, which cost a tenth of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec

WASM_PAGE_BYTES = 65536
PROGRAM_START = "_start"
"""The function by which every program is called, whatever it is made for."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class ValueType(StrEnum):
    """The type of one parameter or result, as callers see it."""

    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"
    V128 = "v128"
    FUNCREF = "funcref"
    EXTERNREF = "externref"
    BYTES = "bytes"
    BOOL = "bool"
    U32 = "u32"
    U64 = "u64"
    STRING = "string"
    JSON = "json"


class ExternKind(StrEnum):
    """What kind of thing a module imports or exports."""

    FUNCTION = "func"
    TABLE = "table"
    MEMORY = "memory"
    GLOBAL = "global"
    TAG = "tag"
    RESOURCE = "resource"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FunctionType:
    """Parameters and results of a WebAssembly function, by position."""

    params: tuple[ValueType, ...] = ()
    results: tuple[ValueType, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True, slots=True)
class FunctionExport:
    """A function that a module exports; `param_names` is empty where the name section has none."""

    name: str
    type: FunctionType
    param_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Import:
    """Something that a module needs from its host; `type` is for people to read."""

    module: str
    name: str
    kind: ExternKind
    type: str
    function: FunctionType | None = None


@dataclass(frozen=True, slots=True)
class ComponentFunctionInfo:
    """A function that a component exports: in an interface, `lab:calc/shapes@0.1.0`, or by itself, in none.

    `type` is WIT text (`spear_wasm.wit`).
    """

    interface: str
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class ResourceImport:
    """A resource that a component imports, and where it comes from: the interface and name that say it first."""

    interface: str
    name: str
    origin: tuple[str, str]


@dataclass(frozen=True, slots=True)
class ComponentInfo:
    """What a component is, as its compilation found it.

    `own_resources` are the names of those that it defines itself, and exports; others that it names are imported.
    `instances`, `memories` and `tables` are how many of core modules, linear memories and tables one sandbox has.
    """

    functions: tuple[ComponentFunctionInfo, ...] = ()
    resources: tuple[ResourceImport, ...] = ()
    own_resources: tuple[str, ...] = ()
    instances: int = 0
    memories: int = 0
    tables: int = 0


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """What the binary of a core module says about itself, read without compiling it.

    For a component it says what its core modules are together, what the component itself imports, and in `component`
    what it is.

    `memory_export` is the name under which memory 0 can be reached from outside once the module has been
    prepared for us (its own name for it, or one that we added); None where the module has no memory.
    Page counts are of 64 KiB; `table_elements` sums the minimum of the module's own
    tables, `largest_table` is the greatest of them, `data_bytes` is what fills its memory from the beginning.
    """

    functions: tuple[FunctionExport, ...] = ()
    imports: tuple[Import, ...] = ()
    memory_export: str | None = None
    memory_exported_by_guest: bool = False
    memory_min_pages: int = 0
    memory_max_pages: int | None = None
    tables: int = 0
    table_elements: int = 0
    largest_table: int = 0
    function_count: int = 0
    has_start: bool = False
    data_bytes: int = 0
    component: ComponentInfo | None = None

    @property
    def has_memory(self) -> bool:
        """Whether its sandboxes have linear memory."""
        if self.component is not None:
            return self.component.memories > 0
        return self.memory_export is not None

    @property
    def widest_call(self) -> int:
        """Parameters and results together of the exported function that has most."""
        return max((len(each.type.params + each.type.results) for each in self.functions), default=0)

    def has_function(self, name: str, kind: FunctionType) -> bool:
        """Whether it exports a function of that name and type."""
        return any(each.name == name and each.type == kind for each in self.functions)

    def imports_from(self, module: str) -> bool:
        """Whether it imports anything from there."""
        return any(each.module == module for each in self.imports)


class Parameter(msgspec.Struct, frozen=True):
    """One argument of a call as the caller gave it; `name` and `type` may be empty."""

    value: Json | bytes
    name: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A named and typed place in a signature; `type` is a ValueType, or WIT text where guests are components."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A callable function as a runtime presents it to callers."""

    name: str
    params: tuple[Field, ...] = ()
    results: tuple[Field, ...] = ()


class TypedValue(msgspec.Struct, frozen=True, gc=False):
    """One result of a guest.

    An int for i32 and i64 (signed), u32 and u64, a float for f32 and f64, a bool, or bytes: those of a text (string,
    json) in UTF-8.
    """

    type: ValueType
    value: bool | int | float | bytes


class ExecutionStatus(StrEnum):
    """Where an execution is in its life; the last four are final."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"


class ExecutionMode(StrEnum):
    """Who waits: nobody, or whoever calls, for the end or for everything that the guest emits."""

    SYNC = "SYNC"
    ASYNC = "ASYNC"
    STREAM = "STREAM"


class ErrorCode(StrEnum):
    """Why an execution did not complete. Trap codes carry the names of WebAssembly's own traps."""

    TRAP_UNREACHABLE = "TRAP_UNREACHABLE"
    TRAP_DIVIDE_BY_ZERO = "TRAP_DIVIDE_BY_ZERO"
    TRAP_INTEGER_OVERFLOW = "TRAP_INTEGER_OVERFLOW"
    TRAP_BAD_CONVERSION = "TRAP_BAD_CONVERSION"
    TRAP_OUT_OF_BOUNDS = "TRAP_OUT_OF_BOUNDS"
    TRAP_TABLE_OUT_OF_BOUNDS = "TRAP_TABLE_OUT_OF_BOUNDS"
    TRAP_INDIRECT_CALL_TO_NULL = "TRAP_INDIRECT_CALL_TO_NULL"
    TRAP_BAD_SIGNATURE = "TRAP_BAD_SIGNATURE"
    TRAP_STACK_OVERFLOW = "TRAP_STACK_OVERFLOW"
    TRAP_UNALIGNED_ATOMIC = "TRAP_UNALIGNED_ATOMIC"
    TRAP_NULL_REFERENCE = "TRAP_NULL_REFERENCE"
    TRAP_OTHER = "TRAP_OTHER"
    OUT_OF_FUEL = "OUT_OF_FUEL"
    CPU_TIME_EXCEEDED = "CPU_TIME_EXCEEDED"
    TIMEOUT = "TIMEOUT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    CANCELLED = "CANCELLED"
    EXIT_STATUS = "EXIT_STATUS"
    GUEST_ERROR = "GUEST_ERROR"
    INSTANCE_FAILED = "INSTANCE_FAILED"
    WORKER_LOST = "WORKER_LOST"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How the guest's part of an execution ended: its values, or why there are none."""

    status: ExecutionStatus
    values: tuple[TypedValue, ...] = ()
    error_code: ErrorCode | None = None
    error_message: str = ""
    trap_frames: tuple[str, ...] = ()
    exit_code: int | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a guest used, measured. Times in nanoseconds; `fuel` is None where no fuel was metered."""

    cpu_ns: int = 0
    peak_memory_bytes: int = 0
    fuel: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    output_truncated: bool = False

    def after(self, earlier: Usage) -> Usage:
        """What both of two attempts cost together, with what this one wrote."""
        return msgspec.structs.replace(
            self,
            cpu_ns=earlier.cpu_ns + self.cpu_ns,
            peak_memory_bytes=max(earlier.peak_memory_bytes, self.peak_memory_bytes),
            fuel=None
            if earlier.fuel is None and self.fuel is None
            else (earlier.fuel or 0) + (self.fuel or 0),
        )
