"""A guest of preview 2 without a component: its functions are called as the engine calls them.

Whatever they return is held against the WIT types that they are declared with.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.wait import Wait
from spear_wasm.limits import Limits
from spear_wasm.outbound.rules import OutboundRules
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.preview2.functions import WASI_FUNCTIONS, WASI_RESOURCES
from spear_wasm.wasi.preview2.guest import ComponentGuest, HttpGrant
from spear_wasm.wasi.volume import Volume
from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    VariantType,
    WitType,
)
from spear_wasm.wit.values import Case, Err, Ok
from tests.workshop import LIMITS

FUNCTIONS = {(each.interface.partition(":")[2], each.name): each for each in WASI_FUNCTIONS}
DROPS = {each.name: each.drop for each in WASI_RESOURCES}
NO_HTTP = HttpGrant(OutboundRules(), max_requests=1, max_response_bytes=1 << 20)


class Printed:
    """What a guest's sandbox does for it here: keep what it prints and logs."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.output, self.logged = bytearray(), bytearray()
        self.state: ComponentGuest | None = None
        self.waits: list[Wait] = []
        """What printing waits for, one after the other."""

    def print(self, content: bytes) -> Generator[Wait, None, None]:
        while self.waits:
            yield self.waits.pop(0)
        self.output += content

    def log(self, content: bytes) -> None:
        self.logged += content


class Guest:
    """The guest: `call` a function of an interface to its end."""

    def __init__(self, sandbox: Printed) -> None:
        self.sandbox = sandbox

    @property
    def held(self) -> ComponentGuest:
        assert self.sandbox.state is not None
        return self.sandbox.state

    def start(self, interface: str, name: str, *args: object) -> Generator[Wait, None, Any]:
        """A call of a function that may wait; none of it has run."""
        function = FUNCTIONS[interface, name]
        answer = function.implementation(cast("ComponentSandbox", self.sandbox), *args)
        if function.waits:
            answer = yield from cast("Generator[Wait, None, Any]", answer)
        result = function.signature.result
        assert (answer is None) if result is None else conforms(answer, result), (answer, str(result))
        return answer

    def call(self, interface: str, name: str, *args: object) -> Any:
        """A call that is over without waiting for what is to come."""
        steps = self.start(interface, name, *args)
        try:
            while True:
                assert next(steps).over, "it would wait"
        except StopIteration as stop:
            return stop.value

    def ok(self, interface: str, name: str, *args: object) -> Any:
        """What a call that went well says."""
        answer = self.call(interface, name, *args)
        assert isinstance(answer, Ok), answer
        return answer.value

    def err(self, interface: str, name: str, *args: object) -> Any:
        """What a call that went badly says."""
        answer = self.call(interface, name, *args)
        assert isinstance(answer, Err), answer
        return answer.value

    def drop(self, resource: str, number: int) -> None:
        """Drop a handle."""
        DROPS[resource](cast("ComponentSandbox", self.sandbox), number)


@contextmanager
def one(
    *volumes: Volume,
    environment: Mapping[str, str] | None = None,
    http: HttpGrant = NO_HTTP,
    limits: Limits = LIMITS,
    wasi_call: WasiCall | None = None,
) -> Iterator[Guest]:
    """A guest, from its begin to its end, with which everything is given back."""
    sandbox = Printed(limits)
    sandbox.state = ComponentGuest(cast("ComponentSandbox", sandbox), http, environment or {}, volumes)
    sandbox.state.begin(wasi_call or WasiCall())
    yield Guest(sandbox)
    sandbox.state.close()


_RANGES = {
    "s8": (-(1 << 7), 1 << 7), "u8": (0, 1 << 8), "s16": (-(1 << 15), 1 << 15), "u16": (0, 1 << 16),
    "s32": (-(1 << 31), 1 << 31), "u32": (0, 1 << 32), "s64": (-(1 << 63), 1 << 63), "u64": (0, 1 << 64),
}  # fmt: skip


def conforms(value: Any, kind: WitType | None) -> bool:  # noqa: C901  a case for each kind of type
    """Whether a value is of a type."""
    match kind:
        case None:
            return value is None
        case Primitive.BOOL:
            return isinstance(value, bool)
        case Primitive.STRING | Primitive.CHAR:
            return isinstance(value, str)
        case Primitive():
            low, end = _RANGES[kind]
            return isinstance(value, int) and not isinstance(value, bool) and low <= value < end
        case ListType(Primitive.U8):
            return isinstance(value, bytes)
        case ListType(element):
            return isinstance(value, list) and all(conforms(each, element) for each in value)
        case TupleType(elements):
            return isinstance(value, tuple) and _all(zip(value, elements, strict=True))
        case RecordType(fields):
            return isinstance(value, dict) and list(value) == [name for name, _ in fields] and _all(
                (value[name], each) for name, each in fields
            )  # fmt: skip
        case VariantType(cases):
            return isinstance(value, Case) and conforms(value.payload, dict(cases)[value.name])
        case EnumType(names):
            return value in names
        case FlagsType(names):
            return isinstance(value, frozenset) and value <= set(names)
        case OptionType(some):
            return value is None or conforms(value, some)
        case ResultType(ok, err):
            return isinstance(value, Ok | Err) and conforms(value.value, ok if isinstance(value, Ok) else err)
        case ResourceType():
            return isinstance(value, int)


def _all(pairs: Iterable[tuple[Any, WitType]]) -> bool:
    return all(conforms(value, kind) for value, kind in pairs)
