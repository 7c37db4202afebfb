"""The host's half of the `component` runtime: what WebAssembly components export.

The contract, for people who write guests, is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from spear_wasm.component_functions import bind, callable_functions
from spear_wasm.component_world import ComponentWorld
from spear_wasm.config import RuntimeConfig
from spear_wasm.engine.components.host_functions import ComponentImports
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.guest_sandbox import Steps
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import PROGRAM_START, ComponentInfo, ModuleInfo, Parameter, Signature
from spear_wasm.runtime import CallableFunction
from spear_wasm.values import shown
from spear_wasm.wasi.grants import Grants
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.preview2.functions import WASI_FUNCTIONS, WASI_RESOURCES
from spear_wasm.wasi.preview2.guest import ComponentGuest, HttpGrant
from spear_wasm.wasi.program import SIGNATURE, STDIN, Program, ProgramSettings
from spear_wasm.wishes import Wishes
from spear_wasm.wit.values import Err, Ok

from .http_handler import HANDLE, HANDLER, HttpHandler

NAME = "component"
RUN, PROGRAM = "run", "wasi:cli/run"


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """What a task gives its guests, and how it calls those that are programs."""

    grants: Grants
    http: HttpGrant
    program: ProgramSettings


class Components:
    """Components that import nothing but what is in our world."""

    name = NAME
    world = ComponentWorld(NAME, WASI_FUNCTIONS, WASI_RESOURCES)

    def recognises(self, module: ModuleInfo) -> bool:
        """Every component is one of ours unless it asks for imports that we do not have."""
        return self.world.provides_all(module)

    def host_functions(self, module: ModuleInfo) -> ComponentImports:
        """Those of our functions and resources that the component imports."""
        return self.world.needed_by(module)

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """The program and the HTTP handler that it is, and all exported functions that can be called from outside."""
        component = _component(module)
        own = [SIGNATURE] * bool(_interface(component, PROGRAM))
        own += [HttpHandler.signature] * bool(_interface(component, HANDLER))
        return [*own, *(function.signature for function in callable_functions(component))]

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> ComponentSettings:
        """What it is granted, and how programs are told their parameters."""
        return ComponentSettings(
            Grants.parse(environment, wishes, allowed),
            HttpGrant.parse(wishes, allowed),
            ProgramSettings.parse(wishes),
        )

    def bind(self, module: ModuleInfo, function: str, settings: object) -> CallableFunction | None:
        """One function by its name."""
        component, wanted = _component(module), cast("ComponentSettings", settings)
        exported = bind(component, function)
        if exported is not None:
            return exported
        if function == PROGRAM_START and (interface := _interface(component, PROGRAM)):
            return _program(interface, wanted.program)
        if function == HANDLE and (interface := _interface(component, HANDLER)):
            return HttpHandler(interface)
        return None

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[ComponentSandbox], Steps]:
        """Instantiate, with what it has of the world, if it can ask for anything of that."""
        wanted, component = cast("ComponentSettings", settings), _component(module)
        if not (module.imports or _interface(component, PROGRAM) or _interface(component, HANDLER)):
            return ComponentSandbox.instantiate

        def prepare(sandbox: ComponentSandbox) -> Steps:
            sandbox.state = wanted.grants.given_to(partial(ComponentGuest, sandbox, wanted.http))
            yield from sandbox.instantiate()

        return prepare


def _program(interface: str, settings: ProgramSettings) -> Program:
    settings.refuse_reuse()

    def run(sandbox: ComponentSandbox) -> Generator[None, None, int]:
        result = yield from sandbox.call(interface, RUN, ())
        return int(isinstance(cast("Ok | Err", result), Err))

    return TextProgram(settings, run)


class TextProgram(Program):
    """A program whose arguments are text: preview 2 has no others."""

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> WasiCall:
        """As for any program."""
        call = super().arguments(parameters, limits, environment)
        for argument in call.arguments:
            try:
                argument.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(
                    f"the argument {shown(argument)} is no text (UTF-8), and components take no other; bytes can go "
                    f"into {STDIN}"
                ) from None
        return call


def _component(module: ModuleInfo) -> ComponentInfo:
    assert module.component is not None, "this runtime gets to see components alone"
    return module.component


def _interface(component: ComponentInfo, name: str) -> str:
    """The interface of that name that a component exports, with its version; empty where it does not."""
    exported = (each.interface for each in component.functions if each.interface)
    return next((each for each in exported if each.partition("@")[0] == name), "")


RUNTIME = Components()
