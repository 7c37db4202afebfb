"""The host's half of the `wasi_command` runtime: programs with a `_start`, as compilers for WASI make them.

The contract, for people who write guests, is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from spear_wasm.config import RuntimeConfig
from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Steps
from spear_wasm.host_interface import HostInterface
from spear_wasm.model import PROGRAM_START, FunctionType, ModuleInfo, Signature
from spear_wasm.spear_interface import SPEAR_FUNCTIONS
from spear_wasm.wasi.grants import Grants
from spear_wasm.wasi.preview1.calling import MODULE
from spear_wasm.wasi.preview1.functions import WASI_FUNCTIONS
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.program import SIGNATURE, Program, ProgramSettings
from spear_wasm.wishes import Wishes

NAME = "wasi_command"
INTERFACE = HostInterface(NAME, (*WASI_FUNCTIONS, *SPEAR_FUNCTIONS))

_start = ExportedFunction(PROGRAM_START, FunctionType())


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """What a task gives its programs, and how it calls them."""

    grants: Grants
    program: ProgramSettings


def _run(sandbox: Sandbox) -> Generator[None, None, int]:
    yield from sandbox.call(_start, ())
    return 0


class WasiCommandRuntime:
    """Programs that import WASI preview 1 and export `_start`."""

    name = NAME

    def recognises(self, module: ModuleInfo) -> bool:
        """A module that imports WASI, nothing that we do not have, and exports `_start`."""
        return module.imports_from(MODULE) and _has_start(module) and INTERFACE.provides_all(module)

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """Those of the functions of WASI and `spear` that the module imports."""
        return INTERFACE.needed_by(module)

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """The program."""
        return [SIGNATURE] if _has_start(module) else []

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> CommandSettings:
        """What it is granted, its name, and how it is told its parameters."""
        program = ProgramSettings.parse(wishes)
        program.refuse_reuse()
        return CommandSettings(Grants.parse(environment, wishes, allowed), program)

    def bind(self, module: ModuleInfo, function: str, settings: object) -> Program | None:
        """The program, by the name of its start."""
        if function != PROGRAM_START or not _has_start(module):
            return None
        return Program(cast("CommandSettings", settings).program, _run)

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[Sandbox], Steps]:
        """Instantiate; all of the program runs in its call."""
        grants = cast("CommandSettings", settings).grants

        def prepare(sandbox: Sandbox) -> Steps:
            sandbox.state = grants.given_to(partial(WasiGuest, sandbox))
            yield from sandbox.instantiate()

        return prepare


def _has_start(module: ModuleInfo) -> bool:
    return module.has_function(PROGRAM_START, FunctionType())


RUNTIME = WasiCommandRuntime()
