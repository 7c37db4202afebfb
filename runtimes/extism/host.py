"""The host's half of the `extism` runtime: plug-ins made with any Extism PDK.

The contract, for people who write plug-ins, is in README.md beside this file; what plug-ins import is in kernel.wat.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

from spear_wasm.config import RuntimeConfig
from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.binary import ModuleCeiling, inspect
from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.outcome import GuestExit, GuestFault
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Steps
from spear_wasm.errors import InvalidRequest
from spear_wasm.host_interface import HostInterface
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
from spear_wasm.runtime import CallableFunction, refuse_environment
from spear_wasm.values import shown, to_bytes
from spear_wasm.wasi.preview1.calling import MODULE as WASI_MODULE
from spear_wasm.wasi.preview1.functions import WASI_FUNCTIONS
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wishes import Wishes

from .kernel import COMPANION, KERNEL, PLUGIN_MODULE, output_and_error, read_range
from .plugin import Plugin
from .settings import PluginSettings

I32, I64 = ValueType.I32, ValueType.I64
Results = Generator[None, None, tuple[TypedValue, ...]]

NAME = "extism"
MAX_ERROR_BYTES = 4096
PLUGIN_FUNCTION_TYPES = (FunctionType((), (I32,)), FunctionType())
INITIALIZERS: tuple[str, ...] = ("__wasm_call_ctors", "_initialize")
"""Of what toolchains export to set up what is below a plug-in, the first is called that there is."""
HASKELL_INITIALIZER = "hs_init"
HASKELL_TYPES = (FunctionType((I32, I32)), FunctionType((I32, I32), (I32,)))
BEGIN = ExportedFunction("begin", FunctionType((I64,), (I64,)))
KERNEL_CEILING = ModuleCeiling(
    max_functions=100, max_function_bytes=10_000, max_memory_bytes=1 << 20, max_table_elements=0
)


class KernelFunction:
    """A function that plug-ins may import, and the kernel exports."""

    module = PLUGIN_MODULE

    def __init__(self, export: FunctionExport) -> None:
        self.name = export.name
        self.type = export.type


def _kernel_functions() -> Iterator[KernelFunction]:
    for export in inspect(KERNEL.read_bytes(), KERNEL_CEILING).functions:
        if export.name != "begin":  # which is for us
            yield KernelFunction(export)


INTERFACE = HostInterface[KernelFunction | HostFunction](NAME, (*_kernel_functions(), *WASI_FUNCTIONS))


class PluginFunction:
    """An exported function of a plug-in. What it is called with, and what it answers, is beside the call."""

    def __init__(self, export: FunctionExport) -> None:
        self.signature = Signature(
            export.name, (Field("input", ValueType.BYTES),), (Field("", ValueType.BYTES),)
        )
        self._export = ExportedFunction(export.name, export.type)

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> bytes:
        """The input; empty where no parameter is given."""
        refuse_environment(environment, NAME, "context.environment")
        if len(parameters) > 1:
            raise InvalidRequest(
                f"{shown(self.signature.name)} takes one parameter of bytes, not {len(parameters)}"
            )
        content = to_bytes(parameters[0], "the input") if parameters else b""
        limits.check_input(len(content))
        return content

    def steps(self, sandbox: Sandbox, arguments: object) -> Results:
        """Place the input, call, and take the output."""
        accompanied, content = cast("AccompaniedSandbox", sandbox), cast("bytes", arguments)
        yield from _place_input(accompanied, content)
        try:
            results = yield from sandbox.call(self._export, ())
        except GuestExit as exited:
            _raise_error(accompanied, 0)
            raise GuestExit(exited.status, _output(accompanied)) from None
        except GuestFault as fault:
            raise _explained(fault, accompanied) from None
        _raise_error(accompanied, int(results[0]) if results else 0)
        return _output(accompanied)


def _place_input(sandbox: AccompaniedSandbox, content: bytes) -> Steps:
    (offset,) = yield from sandbox.call_companion(BEGIN, (len(content),))
    if content and not offset:
        raise GuestFault(
            ErrorCode.GUEST_ERROR, f"the plug-in has no memory for {len(content)} bytes of input"
        )
    sandbox.write_companion(int(offset), content)


def _explained(fault: GuestFault, sandbox: AccompaniedSandbox) -> GuestFault:
    """A fault together with what the plug-in itself had to say before it."""
    try:
        said = _error(sandbox)
    except GuestFault:  # it says so where nothing can be read; what it did before that counts
        return fault
    if said is None:
        return fault
    return GuestFault(fault.code, f"{fault.message}: {said}", trap_frames=fault.trap_frames)


def _raise_error(sandbox: AccompaniedSandbox, status: int) -> None:
    said = _error(sandbox)
    if said is not None:
        raise GuestFault(ErrorCode.GUEST_ERROR, said)
    if status:
        raise GuestFault(ErrorCode.GUEST_ERROR, f"the plug-in returned {status}")


def _error(sandbox: AccompaniedSandbox) -> str | None:
    _, (offset, length) = output_and_error(sandbox)
    if not length:
        return None
    return read_range(sandbox, offset, min(length, MAX_ERROR_BYTES)).decode("utf-8", "replace")


def _output(sandbox: AccompaniedSandbox) -> tuple[TypedValue, ...]:
    (offset, length), _ = output_and_error(sandbox)
    sandbox.check_result(length)
    return (TypedValue(ValueType.BYTES, read_range(sandbox, offset, length)),)


class ExtismRuntime:
    """Plug-ins: modules that import from `extism:host/env`."""

    name = NAME
    companion = COMPANION

    def recognises(self, module: ModuleInfo) -> bool:
        """Every module that imports something from there, and nothing that we do not have."""
        return module.imports_from(PLUGIN_MODULE) and INTERFACE.provides_all(module)

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """Those of WASI that the module imports; everything else is the kernel's."""
        needed = INTERFACE.needed_by(module)
        return {key: each for key, each in needed.items() if isinstance(each, HostFunction)}

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """All exported functions that take nothing and return a status or nothing."""
        return [PluginFunction(export).signature for export in module.functions if _is_callable(export)]

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> PluginSettings:
        """By the names of Extism's manifest."""
        refuse_environment(environment, NAME, "artifact_spec.environment")
        return PluginSettings.parse(wishes, allowed)

    def bind(self, module: ModuleInfo, function: str, settings: object) -> CallableFunction | None:
        """One function by its export name."""
        for export in module.functions:
            if export.name == function and _is_callable(export):
                return PluginFunction(export)
        return None

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[Sandbox], Steps]:
        """Instantiate; then what the toolchain wants to be called first."""
        return partial(
            _prepare,
            initializers=_initializers(module),
            settings=cast("PluginSettings", settings),
            uses_wasi=module.imports_from(WASI_MODULE),
        )


Initializer = tuple[ExportedFunction, tuple[int, ...]]


def _prepare(
    sandbox: Sandbox, *, initializers: Sequence[Initializer], settings: PluginSettings, uses_wasi: bool
) -> Steps:
    wasi = settings.grants.given_to(partial(WasiGuest, sandbox)) if uses_wasi else None
    sandbox.state = Plugin(settings, wasi)
    yield from sandbox.instantiate()
    for function, arguments in initializers:
        yield from sandbox.call(function, arguments)


def _initializers(module: ModuleInfo) -> list[Initializer]:
    exports = {each.name: each.type for each in module.functions}
    found: list[Initializer] = []
    names = INITIALIZERS
    if exports.get(HASKELL_INITIALIZER) in HASKELL_TYPES:
        # With no arguments: a count, and where they are.
        haskell = ExportedFunction(HASKELL_INITIALIZER, exports[HASKELL_INITIALIZER])
        found, names = [(haskell, (0, 0))], INITIALIZERS[1:]
    first = next((name for name in names if exports.get(name) == FunctionType()), None)
    return found if first is None else [(ExportedFunction(first, FunctionType()), ()), *found]


def _is_callable(export: FunctionExport) -> bool:
    return export.name not in INITIALIZERS and export.type in PLUGIN_FUNCTION_TYPES


RUNTIME = ExtismRuntime()
