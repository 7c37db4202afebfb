"""The host's half of the `core` runtime: exported functions of plain WebAssembly modules.

The contract, for people who write guests, is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spear_wasm.config import RuntimeConfig
from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.sandbox import Sandbox, Steps
from spear_wasm.exported_functions import callable_function, callable_functions, has_initializer, initialize
from spear_wasm.host_interface import HostInterface
from spear_wasm.model import ModuleInfo, Signature
from spear_wasm.runtime import CallableFunction, refuse_environment
from spear_wasm.spear_interface import SPEAR_FUNCTIONS
from spear_wasm.wishes import Wishes

NAME = "core"
INTERFACE = HostInterface(NAME, SPEAR_FUNCTIONS)


class CoreRuntime:
    """Plain modules: numeric functions, and bytes functions where the module offers memory and an allocator."""

    name = NAME

    def recognises(self, module: ModuleInfo) -> bool:
        """Every module is one of ours unless it asks for imports that we do not have."""
        return INTERFACE.provides_all(module)

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """Those of the `spear` functions that the module imports."""
        return INTERFACE.needed_by(module)

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """All exported functions with numbers for parameters and results."""
        return [function.signature for function in callable_functions(module)]

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> None:
        """There are none."""
        refuse_environment(environment, NAME, "artifact_spec.environment")

    def bind(self, module: ModuleInfo, function: str, settings: object) -> CallableFunction | None:
        """One function by its export name."""
        return callable_function(module, function)

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[Sandbox], Steps]:
        """Instantiate; then `_initialize`, where the module has one."""
        return _instantiate_and_initialize if has_initializer(module) else Sandbox.instantiate


def _instantiate_and_initialize(sandbox: Sandbox) -> Steps:
    yield from sandbox.instantiate()
    yield from initialize(sandbox)


RUNTIME = CoreRuntime()
