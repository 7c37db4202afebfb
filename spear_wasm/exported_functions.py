"""Functions that core modules export, as callers call them: of numbers, or of bytes in and bytes out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TypeAlias, cast

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Steps
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import (
    ErrorCode,
    Field,
    FunctionExport,
    FunctionType,
    ModuleInfo,
    Parameter,
    Signature,
    TypedValue,
    ValueType,
)
from spear_wasm.values import NUMERIC_TYPES, refuse_environment_of_call, shown, to_bytes, to_number

I32, I64 = ValueType.I32, ValueType.I64
Numbers = tuple[int | float, ...]
Results = Generator[None, None, tuple[TypedValue, ...]]

ALLOCATOR = "spear_alloc"
INITIALIZER = "_initialize"
MEMORY = "memory"
ALLOCATOR_TYPE = FunctionType((I32,), (I32,))
BYTES_FUNCTION_TYPE = FunctionType((I32, I32), (I64,))
BYTES_OF = {ValueType.I32: 4, ValueType.F32: 4, ValueType.I64: 8, ValueType.F64: 8}

_allocate = ExportedFunction(ALLOCATOR, ALLOCATOR_TYPE)
_initialize = ExportedFunction(INITIALIZER, FunctionType())


class NumericFunction:
    """A function of numbers."""

    def __init__(self, export: FunctionExport) -> None:
        names = export.param_names or tuple("" for _ in export.type.params)
        self.signature = Signature(
            export.name,
            tuple(map(Field, names, export.type.params)),
            tuple(Field("", kind) for kind in export.type.results),
        )
        self._export = ExportedFunction(export.name, export.type)
        self._param_types = export.type.params
        self._result_types = export.type.results
        self._names = export.param_names
        self._labels = [
            f"parameter {number} ({shown(name)})" if name else f"parameter {number}"
            for number, name in enumerate(names, 1)
        ]
        self._input_bytes = sum(BYTES_OF[kind] for kind in export.type.params)
        self._output_bytes = sum(BYTES_OF[kind] for kind in export.type.results)

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> Numbers:
        """The numbers, by position."""
        refuse_environment_of_call(environment)
        limits.check_input(self._input_bytes)
        return tuple(map(to_number, self._by_position(parameters), self._param_types, self._labels))

    def _by_position(self, parameters: Sequence[Parameter]) -> Sequence[Parameter]:
        if len(parameters) != len(self._param_types):
            raise InvalidRequest(
                f"{shown(self.signature.name)} takes {len(self._param_types)} parameters "
                f"({', '.join(self._param_types)}), not {len(parameters)}"
            )
        if not self._names or not any(parameter.name for parameter in parameters):
            return parameters
        named = {parameter.name: parameter for parameter in parameters}
        if len(named) != len(parameters) or named.keys() != set(self._names):
            raise InvalidRequest(
                f"{shown(self.signature.name)} has the parameters {shown(', '.join(self._names), 300)}; "
                f"given are {shown(', '.join(parameter.name or '(unnamed)' for parameter in parameters), 300)}"
            )
        return [named[name] for name in self._names]

    def steps(self, sandbox: Sandbox, arguments: object) -> Results:
        """Call it."""
        values = yield from sandbox.call(self._export, cast("Numbers", arguments))
        sandbox.check_result(self._output_bytes)
        return tuple(map(TypedValue, self._result_types, values))


class BytesFunction:
    """A function of bytes: the input is copied into memory that the guest allocates, the result out of it."""

    def __init__(self, export: FunctionExport) -> None:
        self.signature = Signature(
            export.name, (Field("input", ValueType.BYTES),), (Field("", ValueType.BYTES),)
        )
        self._export = ExportedFunction(export.name, export.type)

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> bytes:
        """The input; empty where no parameter is given."""
        refuse_environment_of_call(environment)
        if len(parameters) > 1:
            raise InvalidRequest(
                f"{shown(self.signature.name)} takes one parameter of bytes, not {len(parameters)}"
            )
        content = to_bytes(parameters[0], "the input") if parameters else b""
        limits.check_input(len(content))
        return content

    def steps(self, sandbox: Sandbox, arguments: object) -> Results:
        """Allocate, copy in, call, copy out."""
        content = cast("bytes", arguments)
        size = _as_i32(len(content))
        (address,) = yield from sandbox.call(_allocate, (size,))
        if address == 0 and content:
            raise GuestFault(
                ErrorCode.GUEST_ERROR, f"the guest has no memory for {len(content)} bytes of input"
            )
        sandbox.write_memory(int(address), content)
        (packed,) = yield from sandbox.call(self._export, (address, size))
        result_address, length = int(packed) & 0xFFFFFFFF, int(packed) >> 32 & 0xFFFFFFFF
        sandbox.check_result(length)
        return (TypedValue(ValueType.BYTES, sandbox.read_memory(result_address, length)),)


CoreFunction: TypeAlias = NumericFunction | BytesFunction


def callable_functions(module: ModuleInfo) -> list[CoreFunction]:
    """All exported functions with numbers for parameters and results, but for those that the host calls itself."""
    takes_bytes = _has_allocator(module)
    return [
        _callable(export, takes_bytes=takes_bytes)
        for export in module.functions
        if _is_callable(export, takes_bytes=takes_bytes)
    ]


def callable_function(module: ModuleInfo, name: str) -> CoreFunction | None:
    """One of them by its export name."""
    takes_bytes = _has_allocator(module)
    for export in module.functions:
        if export.name == name and _is_callable(export, takes_bytes=takes_bytes):
            return _callable(export, takes_bytes=takes_bytes)
    return None


def has_initializer(module: ModuleInfo) -> bool:
    """Whether the module has an `_initialize`, which runs before anything else of it."""
    return module.has_function(INITIALIZER, FunctionType())


def initialize(sandbox: Sandbox) -> Steps:
    """Run it."""
    yield from sandbox.call(_initialize, ())


def _is_initializer(export: FunctionExport) -> bool:
    return export.name == INITIALIZER and export.type == FunctionType()


def _callable(export: FunctionExport, *, takes_bytes: bool) -> CoreFunction:
    if takes_bytes and export.type == BYTES_FUNCTION_TYPE:
        return BytesFunction(export)
    return NumericFunction(export)


def _is_callable(export: FunctionExport, *, takes_bytes: bool) -> bool:
    if _is_initializer(export):
        return False
    if takes_bytes and export.name == ALLOCATOR:
        return False
    return NUMERIC_TYPES.issuperset(export.type.params + export.type.results)


def _has_allocator(module: ModuleInfo) -> bool:
    return (
        module.memory_exported_by_guest
        and module.memory_export == MEMORY
        and module.has_function(ALLOCATOR, ALLOCATOR_TYPE)
    )


def _as_i32(length: int) -> int:
    return length - (1 << 32) if length >> 31 else length
