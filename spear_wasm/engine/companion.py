"""Companions: modules of ours that are instantiated beside a guest, in its store, and provide what it imports.

What a guest asks for most is then a call from one module's code into another's, not one of Python. A companion has
a memory of its own, and counts like the guest: its memory, its fuel and its time are the sandbox's.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from spear_wasm.engine import capi
from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.host_calls import HostFunction, Linker
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.errors import UnlinkableArtifact
from spear_wasm.model import FunctionType, ModuleInfo
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.engine.engine import Engine
    from spear_wasm.limits import Limits


@dataclass(frozen=True)
class Companion:
    """A module to stand beside guests, as a runtime describes it.

    `name` is the module from which guests import what it exports, `wasm` the file that it is in. It may import
    `functions`, by module and name. It has a memory and no table, and exports no function that guests may not call.
    """

    name: str
    wasm: Path
    functions: Mapping[tuple[str, str], HostFunction]

    @cached_property
    def digest(self) -> str:
        """64 hex digits, by which its machine code is kept."""
        return sha256(self.wasm.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class CompiledCompanion:
    """A companion's machine code, in a file that we wrote and authenticated, and what its binary says."""

    name: str
    code: Path
    module: ModuleInfo
    functions: Mapping[tuple[str, str], HostFunction]


@dataclass(frozen=True, slots=True)
class LinkedCompanion:
    """A companion with its imports resolved, and the name that guests import from."""

    name: str
    linked: LinkedArtifact


class AccompaniedModule(LinkedArtifact):
    """A core module whose sandboxes get an instance of its companion before its own.

    `pointer` is the module's: what it imports from the companion is another thing in each store.
    """

    def __init__(
        self, engine: Engine, module_pointer: int, module: ModuleInfo,
        functions: Mapping[tuple[str, str], HostFunction], companion: LinkedCompanion,
    ) -> None:  # fmt: skip
        super().__init__(engine, module)
        self.pointer = module_pointer
        weakref.finalize(self, capi.module_delete, module_pointer)
        self.companion = companion.linked
        self.companion_name = companion.name.encode()
        offered = {(companion.name, each.name): each.type for each in self.companion.module.functions}
        _refuse_misfits(module, offered | {key: each.type for key, each in functions.items()})
        self.linker = Linker(engine.pointer, functions)
        weakref.finalize(self, self.linker.close)
        self.calls_host = bool(functions) or self.companion.calls_host
        self.widest_call = max(module.widest_call, self.companion.widest_call)

    def new_sandbox(self, limits: Limits) -> AccompaniedSandbox:
        """A sandbox without an instance."""
        return AccompaniedSandbox(self, limits)


def _refuse_misfits(module: ModuleInfo, offered: Mapping[tuple[str, str], FunctionType]) -> None:
    for needed in module.imports:
        if needed.function is None or offered.get((needed.module, needed.name)) != needed.function:
            raise UnlinkableArtifact(
                f"the module's imports do not fit: there is no {shown(needed.module)}.{shown(needed.name)} "
                f"{needed.type}"
            )
