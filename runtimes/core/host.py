"""The host's half of the `core` runtime: exported functions of plain WebAssembly modules.

The contract, for people who write guests, is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import cast

from spear_wasm.engine.host_calls import CallingSandbox, HostFunction, Waits
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Steps
from spear_wasm.errors import InvalidRequest, UnlinkableArtifact
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
from spear_wasm.runtime import CallableFunction, missing_imports
from spear_wasm.values import NUMERIC_TYPES, shown, to_bytes, to_number

I32, I64 = ValueType.I32, ValueType.I64
Numbers = tuple[int | float, ...]
Results = Generator[None, None, tuple[TypedValue, ...]]

ALLOCATOR = "spear_alloc"
INITIALIZER = "_initialize"
MEMORY = "memory"
ALLOCATOR_TYPE = FunctionType((I32,), (I32,))
BYTES_FUNCTION_TYPE = FunctionType((I32, I32), (I64,))
MAX_FAIL_MESSAGE_BYTES = 4096
BYTES_OF = {ValueType.I32: 4, ValueType.F32: 4, ValueType.I64: 8, ValueType.F64: 8}

_allocate = ExportedFunction(ALLOCATOR, ALLOCATOR_TYPE)
_initialize = ExportedFunction(INITIALIZER, FunctionType())


def _log(sandbox: CallingSandbox, address: int, length: int) -> None:
    sandbox.log_from_memory(address, length)


def _fail(sandbox: CallingSandbox, address: int, length: int) -> None:
    message = sandbox.read_memory(address, min(length & 0xFFFFFFFF, MAX_FAIL_MESSAGE_BYTES))
    raise GuestFault(ErrorCode.GUEST_ERROR, message.decode("utf-8", "replace"))


def _emit(sandbox: CallingSandbox, address: int, length: int) -> Waits:
    return sandbox.emit_from_memory(address, length)


HOST_FUNCTIONS = {
    (function.module, function.name): function
    for function in (
        HostFunction("spear", "log", FunctionType((I32, I32)), _log),
        HostFunction("spear", "fail", FunctionType((I32, I32)), _fail),
        HostFunction("spear", "emit", FunctionType((I32, I32)), _emit, waits=True),
    )
}


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

    def arguments(self, parameters: Sequence[Parameter], limits: Limits) -> Numbers:
        """The numbers, by position."""
        _check_input(self._input_bytes, limits)
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

    def steps(self, sandbox: Sandbox, arguments: object, limits: Limits) -> Results:
        """Call it."""
        values = yield from sandbox.call(self._export, cast("Numbers", arguments))
        _check_output(self._output_bytes, sandbox, limits)
        return tuple(map(TypedValue, self._result_types, values))


class BytesFunction:
    """A function of bytes: the input is copied into memory that the guest allocates, the result out of it."""

    def __init__(self, export: FunctionExport) -> None:
        self.signature = Signature(
            export.name, (Field("input", ValueType.BYTES),), (Field("", ValueType.BYTES),)
        )
        self._export = ExportedFunction(export.name, export.type)

    def arguments(self, parameters: Sequence[Parameter], limits: Limits) -> bytes:
        """The input; empty where no parameter is given."""
        if len(parameters) > 1:
            raise InvalidRequest(
                f"{shown(self.signature.name)} takes one parameter of bytes, not {len(parameters)}"
            )
        content = to_bytes(parameters[0], "the input") if parameters else b""
        _check_input(len(content), limits)
        return content

    def steps(self, sandbox: Sandbox, arguments: object, limits: Limits) -> Results:
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
        _check_output(length, sandbox, limits)
        return (TypedValue(ValueType.BYTES, sandbox.read_memory(result_address, length)),)


class CoreRuntime:
    """Plain modules: numeric functions, and bytes functions where the module offers memory and an allocator."""

    name = "core"

    def recognises(self, module: ModuleInfo) -> bool:
        """Every module is one of ours unless it asks for imports that we do not have."""
        return not missing_imports(module, HOST_FUNCTIONS)

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """Those of `spear.log`, `spear.fail` and `spear.emit` that the module imports."""
        missing = missing_imports(module, HOST_FUNCTIONS)
        if missing:
            wanted = ", ".join(f"{shown(each.module)}.{shown(each.name)} {each.type}" for each in missing[:5])
            raise UnlinkableArtifact(
                f"the module imports {wanted}{' and more' if len(missing) > 5 else ''}; "
                "the core runtime provides spear.log, spear.fail and spear.emit, each (i32, i32)"
            )
        return {key: HOST_FUNCTIONS[key] for key in ((each.module, each.name) for each in module.imports)}

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """All exported functions with numbers for parameters and results."""
        takes_bytes = _has_allocator(module)
        return [
            _callable(export, takes_bytes=takes_bytes).signature
            for export in module.functions
            if _is_callable(export, takes_bytes=takes_bytes)
        ]

    def bind(self, module: ModuleInfo, function: str) -> CallableFunction | None:
        """One function by its export name."""
        takes_bytes = _has_allocator(module)
        for export in module.functions:
            if export.name == function and _is_callable(export, takes_bytes=takes_bytes):
                return _callable(export, takes_bytes=takes_bytes)
        return None

    def preparation(self, module: ModuleInfo) -> Callable[[Sandbox], Steps]:
        """Instantiate; then `_initialize`, where the module has one."""
        if any(_is_initializer(export) for export in module.functions):
            return _instantiate_and_initialize
        return Sandbox.instantiate


def _instantiate_and_initialize(sandbox: Sandbox) -> Steps:
    yield from sandbox.instantiate()
    yield from sandbox.call(_initialize, ())


def _is_initializer(export: FunctionExport) -> bool:
    return export.name == INITIALIZER and export.type == FunctionType()


def _callable(export: FunctionExport, *, takes_bytes: bool) -> CallableFunction:
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
        and any(each.name == ALLOCATOR and each.type == ALLOCATOR_TYPE for each in module.functions)
    )


def _check_input(size: int, limits: Limits) -> None:
    if size > limits.max_input_bytes:
        raise InvalidRequest(
            f"the parameters are {size} bytes; the limit is {limits.max_input_bytes}", limit="max_input_bytes"
        )


def _check_output(size: int, sandbox: Sandbox, limits: Limits) -> None:
    if size > sandbox.output_room:
        emitted = limits.max_output_bytes - sandbox.output_room
        beside = f", after {emitted} bytes emitted" if emitted else ""
        raise GuestFault(
            ErrorCode.OUTPUT_LIMIT,
            f"the result is {size} bytes{beside}; the limit is {limits.max_output_bytes}",
        )


def _as_i32(length: int) -> int:
    return length - (1 << 32) if length >> 31 else length


RUNTIME = CoreRuntime()
