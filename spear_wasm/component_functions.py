"""Functions that components export, as callers call them: JSON-shaped values in, by name or by position, and out.

A function of an interface is named with it: `lab:calc/shapes@0.1.0#area`, or `lab:calc/shapes#area` where the component
exports one version of it. A resource of the guest's lives in its sandbox and nowhere else. Where a function takes one,
the caller gives what its constructor takes, in an object, and the resource is made for that call:
`lab:calc/shapes#counter.up` with `{"start": 5}` for `self`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from spear_wasm.engine.components.guest_handle import GuestHandle
from spear_wasm.engine.components.reading import MAX_PARTS
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.outcome import GuestError
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import (
    ComponentFunctionInfo,
    ComponentInfo,
    Field,
    Parameter,
    Signature,
    TypedValue,
    ValueType,
)
from spear_wasm.values import check_type_name, refuse_environment_of_call, shown
from spear_wasm.wit.from_json import Meter, Misfit, from_text, taker
from spear_wasm.wit.parsing import parse_function
from spear_wasm.wit.to_json import giver
from spear_wasm.wit.types import (
    EnumType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    WitType,
    holds_resource,
)
from spear_wasm.wit.values import Err, Ok, WitValue

Results = Generator[None, None, tuple[TypedValue, ...]]

MAX_NUMBERS = 1 << 20
"""Numbers and bytes in the lists of all parameters of a call together: the engine takes 32 bytes for each, and 100 ms
for so many, in which its thread does nothing else."""
MAX_MESSAGE_BYTES = 1000
"""Of an error's value that is its message."""
PRIVATE_INTERFACES = frozenset({"exports"})
"""What componentize-py exports for its own purposes."""
STANDARD_INTERFACES = frozenset({"wasi:cli/run", "wasi:http/incoming-handler"})
"""What runtimes call in ways of their own."""

_MEMBER = re.compile(r"\[(constructor|method|static)\](.+)")
_TYPE_OF = {
    Primitive.BOOL: ValueType.BOOL, Primitive.S8: ValueType.I32, Primitive.S16: ValueType.I32,
    Primitive.S32: ValueType.I32, Primitive.U8: ValueType.I32, Primitive.U16: ValueType.I32,
    Primitive.U32: ValueType.U32, Primitive.S64: ValueType.I64, Primitive.U64: ValueType.U64,
    Primitive.F32: ValueType.F32, Primitive.F64: ValueType.F64, Primitive.STRING: ValueType.STRING,
    Primitive.CHAR: ValueType.STRING,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Construction:
    """A resource to be made for a call, before it: the name of its constructor, and what that is given."""

    constructor: str
    arguments: tuple[WitValue, ...]


class ComponentExports:
    """The functions of a component by the names that callers know."""

    def __init__(self, component: ComponentInfo) -> None:
        hidden = PRIVATE_INTERFACES | STANDARD_INTERFACES
        self.offered = [
            each for each in component.functions if each.interface.partition("@")[0] not in hidden
        ]
        self._by_path = {(each.interface, each.name): each for each in component.functions}
        self._by_name = {
            name: info for info in self.offered for name in _long_names(info.interface, info.name)
        }
        self._short: dict[str, list[ComponentFunctionInfo]] = {}
        for info in self.offered:
            package, version, _ = info.interface.partition("@")
            if version:
                for name in _long_names(package, info.name):
                    self._short.setdefault(name, []).append(info)

    def find(self, name: str) -> ComponentFunctionInfo | None:
        """The function of that name.

        Raises:
            InvalidRequest: several versions of its interface have it.
        """
        if name in self._by_name:
            return self._by_name[name]
        found = self._short.get(name, [])
        if len(found) > 1:
            names = " or ".join(shown(public_name(each)) for each in found)
            raise InvalidRequest(f"{shown(name)} is not the name of one function; say {names}")
        return found[0] if found else None

    def constructor(self, interface: str, resource: str) -> ComponentFunctionInfo | None:
        """What makes a resource of an interface."""
        return self._by_path.get((interface, f"[constructor]{resource}"))


def _long_names(interface: str, name: str) -> set[str]:
    prefix = f"{interface}#" if interface else ""
    return {prefix + name, prefix + _plain(name)}


def _plain(name: str) -> str:
    member = _MEMBER.fullmatch(name)
    return name if member is None else member[2]


def public_name(info: ComponentFunctionInfo) -> str:
    """What callers call a function."""
    return f"{info.interface}#{_plain(info.name)}" if info.interface else _plain(info.name)


def callable_functions(component: ComponentInfo) -> list[ComponentFunctionCall]:
    """All exported functions that can be called from outside."""
    exports = ComponentExports(component)
    found = []
    for info in exports.offered:
        with contextlib.suppress(_Uncallable):
            found.append(ComponentFunctionCall(info, exports))
    return found


def bind(component: ComponentInfo, name: str) -> ComponentFunctionCall | None:
    """One of them by a name that callers may use.

    Raises:
        InvalidRequest: the name may be of more than one, or the function cannot be called from outside.
    """
    exports = ComponentExports(component)
    info = exports.find(name)
    if info is None:
        return None
    try:
        return ComponentFunctionCall(info, exports)
    except _Uncallable as reason:
        raise InvalidRequest(f"{shown(public_name(info), 200)} cannot be called: {reason}") from None


class _Uncallable(Exception):
    """Why a function cannot be called from outside of its sandbox."""


class _Param:
    """A parameter of a function: what takes a caller's value for it."""

    def __init__(self, name: str, kind: WitType, interface: str, exports: ComponentExports) -> None:
        self.name = name
        self._constructor = self._resource = ""
        if isinstance(kind, ResourceType):
            kind = self._constructed(kind, interface, exports)
        if holds_resource(kind):
            raise _Uncallable(f"{name} ({kind}) has a handle, which nobody outside of the sandbox can have")
        self.kind = kind
        self.text = str(kind) if not self._constructor else f"{self._resource} as {kind}"
        self.may_be_left_out = isinstance(kind, OptionType)
        self._take = taker(kind)

    def _constructed(self, kind: ResourceType, interface: str, exports: ComponentExports) -> RecordType:
        info = exports.constructor(interface, kind.name)
        if info is None:
            raise _Uncallable(f"{self.name} is a {kind.name}, which has no constructor")
        self._constructor, self._resource = info.name, kind.name
        return RecordType(parse_function(info.type).params)

    def take(self, parameter: Parameter | None, function: str, meter: Meter) -> WitValue | Construction:
        """The value for it."""
        value: Any = None if parameter is None else parameter.value
        if parameter is not None:
            check_type_name(parameter, f"{function}.{self.name}")
        try:
            if isinstance(value, str):
                value = from_text(self.kind, value)
            taken = self._take(value, meter)
        except Misfit as misfit:
            raise InvalidRequest(f"{function}.{self.name}{misfit.place}: {misfit.problem}") from None
        if self._constructor:
            return Construction(self._constructor, tuple(taken.values()))
        return cast("WitValue", taken)


class ComponentFunctionCall:
    """A function that a component exports."""

    def __init__(self, info: ComponentFunctionInfo, exports: ComponentExports) -> None:
        self._info = info
        self._label = shown(_plain(info.name), 100).strip("'")
        function = parse_function(info.type)
        self._params = [_Param(name, kind, info.interface, exports) for name, kind in function.params]
        self._needed = {param.name for param in self._params if not param.may_be_left_out}
        result = function.result
        if result is not None and holds_resource(result):
            raise _Uncallable(f"it returns a handle ({result}), which cannot leave its sandbox")
        self._may_fail = isinstance(result, ResultType)
        ok, err = (result.ok, result.err) if isinstance(result, ResultType) else (result, None)
        self._ok, self._err = (None if kind is None else _Result(kind) for kind in (ok, err))
        self.signature = Signature(
            public_name(info),
            tuple(Field(param.name, param.text) for param in self._params),
            () if function.result is None else (Field("", str(function.result)),),
        )

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> list[WitValue | Construction]:
        """The values, by position."""
        refuse_environment_of_call(environment)
        meter = Meter()
        values = [
            param.take(given, self._label, meter)
            for param, given in zip(self._params, self._by_position(parameters), strict=True)
        ]
        limits.check_input(meter.bytes)
        for number, most, what in (
            (meter.numbers, MAX_NUMBERS, "numbers and bytes in lists"),
            (meter.parts, MAX_PARTS, "other values in lists"),
        ):
            if number > most:
                raise InvalidRequest(
                    f"the parameters have {number} {what}; a component takes {most} in a call, and text (string) "
                    "without that bound"
                )
        return values

    def _by_position(self, parameters: Sequence[Parameter]) -> Sequence[Parameter | None]:
        # None at all are as good as named: where all of them are options, they are left out.
        if any(parameter.name for parameter in parameters) or not (parameters or self._needed):
            return self._by_name(parameters)
        if len(parameters) != len(self._params):
            raise InvalidRequest(
                f"{self._label} takes {len(self._params)} parameters ({self._listed()}), not {len(parameters)}"
            )
        return parameters

    def _by_name(self, parameters: Sequence[Parameter]) -> Sequence[Parameter | None]:
        named = {parameter.name: parameter for parameter in parameters}
        known = {param.name for param in self._params}
        if len(named) != len(parameters) or not self._needed <= named.keys() <= known:
            given = ", ".join(parameter.name or "(unnamed)" for parameter in parameters)
            raise InvalidRequest(
                f"{self._label} has the parameters {self._listed()}; given are {shown(given, 300)}"
            )
        return [named.get(param.name) for param in self._params]

    def _listed(self) -> str:
        return shown(", ".join(param.name for param in self._params), 300)

    def steps(self, sandbox: ComponentSandbox, arguments: object) -> Results:
        """Make what has to be made, and call it."""
        handles: list[GuestHandle] = []
        try:
            values = []
            for value in cast("list[WitValue | Construction]", arguments):
                if isinstance(value, Construction):
                    handles.append((yield from self._construct(sandbox, value)))
                    values.append(cast("WitValue", handles[-1]))
                else:
                    values.append(value)
            result = yield from sandbox.call(self._info.interface, self._info.name, values)
        finally:
            for handle in handles:
                handle.close()
        if self._may_fail:
            result = self._ok_of(cast("Ok | Err", result), sandbox)
        return () if self._ok is None else (self._ok.typed(result, sandbox),)

    def _ok_of(self, result: Ok | Err, sandbox: ComponentSandbox) -> WitValue:
        if isinstance(result, Ok):
            return result.value
        if self._err is None:
            raise GuestError("the function returned an error without a value")
        value = self._err.typed(result.value, sandbox)
        message = (
            value.value[:MAX_MESSAGE_BYTES].decode(errors="ignore") if isinstance(value.value, bytes) else ""
        )
        raise GuestError(message or f"the function returned the error {_json_text(value.value)}", (value,))

    def _construct(
        self, sandbox: ComponentSandbox, wanted: Construction
    ) -> Generator[None, None, GuestHandle]:
        made: object = yield from sandbox.call(self._info.interface, wanted.constructor, wanted.arguments)
        if isinstance(made, Err):
            raise GuestError(
                f"the guest cannot make its {_plain(wanted.constructor)}: {shown(made.value, 200)}"
            )
        if isinstance(made, Ok):
            made = made.value
        return cast("GuestHandle", made)


def _json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class _Result:
    """How a guest's value of a type is given to callers."""

    def __init__(self, kind: WitType) -> None:
        self._give = giver(kind)
        if isinstance(kind, Primitive):
            self._type = _TYPE_OF[kind]
        elif isinstance(kind, EnumType):
            self._type = ValueType.STRING
        else:
            self._type = ValueType.BYTES if kind == ListType(Primitive.U8) else ValueType.JSON

    def of(self, value: WitValue) -> TypedValue:
        """The value with its type."""
        if self._type is ValueType.JSON:
            return TypedValue(self._type, msgspec.json.encode(self._give(value)))
        if isinstance(value, str):
            return TypedValue(self._type, value.encode())
        return TypedValue(self._type, cast("bool | int | float | bytes", value))

    def typed(self, value: WitValue, sandbox: ComponentSandbox) -> TypedValue:
        """The same, where it is no larger than the sandbox may give."""
        typed = self.of(value)
        size = len(typed.value) if isinstance(typed.value, bytes) else 8
        sandbox.check_result(size)
        return typed
