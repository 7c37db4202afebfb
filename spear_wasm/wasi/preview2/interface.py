"""How a function of preview 2 is defined: by its interface, given what its guest has of the world."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from spear_wasm.engine.components.host_functions import (
    ComponentFunction,
    ComponentImplementation,
    ComponentResource,
    ComponentWaits,
)
from spear_wasm.wasi.preview2.guest import guest_of
from spear_wasm.wit.values import WitValue

if TYPE_CHECKING:
    from spear_wasm.engine.components.sandbox import ComponentSandbox

Function: TypeAlias = Callable[..., WitValue]
WaitingFunction: TypeAlias = "Callable[..., ComponentWaits]"
FunctionT = TypeVar("FunctionT", bound=ComponentImplementation)

MAX_TRANSFER_BYTES = 16 << 10
"""What one call moves at most: the library has a value for each byte, and makes them all in one go."""


class Interface:
    """An interface of WASI: its functions, each given a ComponentGuest first, and its resources."""

    def __init__(self, name: str, *resources: str) -> None:
        self._name = name
        self.resources = [ComponentResource(name, each, _drop) for each in resources]
        self.functions: list[ComponentFunction] = []

    def function(self, name: str, type_text: str) -> Callable[[Function], Function]:
        """A function with that WIT type."""
        return partial(self._define, name, type_text, waits=False)

    def waiting(self, name: str, type_text: str) -> Callable[[WaitingFunction], WaitingFunction]:
        """The same for one that waits."""
        return partial(self._define, name, type_text, waits=True)

    def _define(self, name: str, type_text: str, function: FunctionT, *, waits: bool) -> FunctionT:
        @wraps(function)
        def answer(sandbox: ComponentSandbox, *args: WitValue) -> WitValue | ComponentWaits:
            return function(guest_of(sandbox), *args)

        self.functions.append(ComponentFunction(self._name, name, type_text, answer, waits=waits))
        return function


def _drop(sandbox: ComponentSandbox, number: int) -> None:
    guest_of(sandbox).resources.drop(number)
