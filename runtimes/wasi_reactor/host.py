"""The host's half of the `wasi_reactor` runtime: exported functions of modules that use WASI preview 1.

The contract, for people who write guests, is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from spear_wasm.config import RuntimeConfig
from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.sandbox import Sandbox, Steps
from spear_wasm.exported_functions import callable_function, callable_functions, has_initializer, initialize
from spear_wasm.host_interface import HostInterface
from spear_wasm.model import PROGRAM_START, FunctionType, ModuleInfo, Signature
from spear_wasm.runtime import CallableFunction
from spear_wasm.spear_interface import SPEAR_FUNCTIONS
from spear_wasm.wasi.grants import Grants
from spear_wasm.wasi.preview1.functions import WASI_FUNCTIONS
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wishes import Wishes

NAME = "wasi_reactor"
INTERFACE = HostInterface(NAME, (*WASI_FUNCTIONS, *SPEAR_FUNCTIONS))


class WasiReactorRuntime:
    """Modules without a `_start`; those that import nothing of WASI are `core`'s, which is asked first."""

    name = NAME

    def recognises(self, module: ModuleInfo) -> bool:
        """Whatever imports nothing else and is no command."""
        return not module.has_function(PROGRAM_START, FunctionType()) and INTERFACE.provides_all(module)

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """Those of WASI and of `spear` that the module imports."""
        return INTERFACE.needed_by(module)

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """All exported functions with numbers for parameters and results."""
        return [function.signature for function in callable_functions(module)]

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> Grants:
        """What its guests are granted."""
        return Grants.parse(environment, wishes, allowed)

    def bind(self, module: ModuleInfo, function: str, settings: object) -> CallableFunction | None:
        """One function by its export name."""
        return callable_function(module, function)

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[Sandbox], Steps]:
        """Instantiate; then `_initialize`, where the module has one."""
        grants, initializes = cast("Grants", settings), has_initializer(module)

        def prepare(sandbox: Sandbox) -> Steps:
            sandbox.state = grants.given_to(partial(WasiGuest, sandbox))
            yield from sandbox.instantiate()
            if initializes:
                yield from initialize(sandbox)

        return prepare


RUNTIME = WasiReactorRuntime()
