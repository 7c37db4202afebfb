"""Functions and resources of ours that components import: how they are defined.

As with the host functions of modules (`spear_wasm.engine.host_calls`), nothing is raised through the library: what
an implementation raises ends its guest and is raised again on our side, a GuestFault or GuestExit as the guest's
outcome, anything else as a mistake of the host. One that waits holds no thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.wit.parsing import parse_function

if TYPE_CHECKING:
    from spear_wasm.engine.components.sandbox import ComponentSandbox
    from spear_wasm.engine.wait import Wait
    from spear_wasm.wit.types import WitFunction
    from spear_wasm.wit.values import WitValue

ComponentWaits: TypeAlias = "Generator[Wait, None, WitValue]"
"""A host function under way: what it waits for, one after the other, then its result."""
ComponentImplementation: TypeAlias = "Callable[..., WitValue | ComponentWaits]"


@dataclass(frozen=True)
class ComponentFunction:
    """A function that runtimes offer to components.

    `interface` is one without a version, `wasi:io/streams`: what a guest imports of any version is this, where its type
    is. `type` is WIT text by structure, as `inspect` prints it: `func(self: borrow<input-stream>, len: u64) ->
    result<list<u8>, variant { last-operation-failed(own<error>), closed }>`. A guest that imports the function with
    another type is refused at the door.

    `implementation` is called with the ComponentSandbox and the guest's arguments, values as in
    `spear_wasm.wit.values`, and returns the result, None where there is none. It must not block; one that `waits`
    returns a generator of what it waits for, and that the result.

    The handles that a guest borrowed for a call are the host's for just as long. One that it gives away (`own<R>`) is
    the host's from then on. One that a function returns as `own<R>` is the guest's, until it drops it.
    """

    interface: str
    name: str
    type: str
    implementation: ComponentImplementation
    waits: bool = False

    @cached_property
    def signature(self) -> WitFunction:
        """Its type."""
        return parse_function(self.type)


@dataclass(frozen=True, slots=True)
class ComponentResource:
    """A kind of thing of ours that guests have handles to.

    `name` is unlike those of all others that a runtime offers, so that types need not say the interface. The host
    gives each thing its `rep`, a number of 32 bits, when it makes it; `drop` is called with the ComponentSandbox and
    that number when the guest drops its handle, not when the guest ends. It must not block.
    """

    interface: str
    name: str
    drop: Callable[[ComponentSandbox, int], object]


@dataclass(frozen=True, slots=True)
class ComponentImports:
    """What a component imports and a runtime offers: by the interface's name, with the guest's version, and its own.

    `type_ids` are the numbers by which the library knows the runtime's resources apart, by name.
    """

    functions: Mapping[tuple[str, str], ComponentFunction] = field(default_factory=dict)
    resources: Mapping[tuple[str, str], ComponentResource] = field(default_factory=dict)
    type_ids: Mapping[str, int] = field(default_factory=dict)
