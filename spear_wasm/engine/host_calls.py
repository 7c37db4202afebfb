"""Functions of ours that guests call: how they are defined, and the way from the guest to Python and back.

A host function never raises through the library. What it raises is parked on the sandbox that called, the
guest is ended with a trap, and the sandbox's run raises it again on our side of the boundary. (The wheel's
own trampoline parks exceptions in a global, where any other thread may pick them up.)

A host function that waits is a generator of the Waits that it waits for. While one of them is not over, its
guest's stack rests: the run ends its slice, and need not be polled before the Wait is over. Such a function always
ends a slice at a Wait that is over already, too, and so can let others have their turns.

A host function runs Python on the guest's stack, within the room that `settings.HOST_STACK_BYTES` leaves behind the
guest's own: it must not recurse as deep as what a guest or a caller chose. What comes after a Wait runs on the
stack of the thread that polls.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, cast

from spear_wasm.engine import capi
from spear_wasm.engine.wait import Wait
from spear_wasm.engine.waiting_call import WaitingCall, caller_of, go_on, rest
from spear_wasm.model import FunctionType, ValueType

Waits: TypeAlias = "Generator[Wait, None, int | float | None]"
"""A host function under way: what it waits for, one after the other, then its result."""


class GuestState(Protocol):
    """What a runtime keeps with a sandbox for its guest: open files, variables, a directory."""

    @property
    def slow_to_close(self) -> bool:
        """Whether closing it may take milliseconds."""
        ...

    def close(self) -> None:
        """Give it all back. Called once, when the guest has been unwound."""
        ...


class CallingSandbox(Protocol):
    """What a host function may do to the sandbox whose guest called it."""

    has_memory: bool
    state: GuestState | None
    waiting_call: WaitingCall | None

    def find_memory(self, caller: int) -> None:
        """Find the guest's memory while its start function runs: there is no instance to ask yet."""
        ...

    def memory_bytes(self) -> int:
        """The size of the guest's memory."""
        ...

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of the guest's memory; a GuestFault where the range lies outside of it."""
        ...

    def write_memory(self, address: int, content: bytes) -> None:
        """Bytes into the guest's memory; a GuestFault where they do not fit inside."""
        ...

    def log(self, content: bytes) -> None:
        """Add bytes to the execution's log; what is over its bound is cut."""
        ...

    def log_from_memory(self, address: int, length: int) -> None:
        """Add a range of the guest's memory to the execution's log; what is over its bound is cut."""
        ...

    def emit_from_memory(self, address: int, length: int) -> Waits:
        """Hand a range of the guest's memory to whoever reads along, as soon as there is room for it."""
        ...

    def print(self, content: bytes) -> Waits:
        """Add bytes to the guest's standard output; a GuestFault where that grows beyond its bound."""
        ...

    def park(self, error: BaseException) -> None:
        """Keep what a host function raised until the guest has been left."""
        ...


Implementation = Callable[..., "int | float | Waits | None"]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function that runtimes offer to guests.

    `implementation` is called with the CallingSandbox and the guest's arguments (ints, signed, or floats) and
    returns the result, or None where `type` has none. It must not block; one that `waits` returns a generator
    of what it waits for, and that the result.
    """

    module: str
    name: str
    type: FunctionType
    implementation: Implementation
    waits: bool = False


KIND_OF = {
    ValueType.I32: capi.KIND_I32,
    ValueType.I64: capi.KIND_I64,
    ValueType.F32: capi.KIND_F32,
    ValueType.F64: capi.KIND_F64,
}
PACK_OF = {ValueType.I32: "i20x", ValueType.I64: "q16x", ValueType.F32: "f20x", ValueType.F64: "d16x"}
"""Layout of a value of each type within a wasmtime_val_t, behind its kind."""


class Linker:
    """Resolves a module's imports; owns what the library keeps pointers to.

    Must live as long as anything linked with it.
    """

    def __init__(self, engine: int, functions: Mapping[tuple[str, str], HostFunction]) -> None:
        self._pointer = int(capi.linker_new(engine))
        # As many as were lent at once; pop and append are each one step under the GIL.
        self._spare: list[int] = []
        self._callbacks = [self._define(function) for function in functions.values()]

    def _define(self, function: HostFunction) -> object:
        callback = _waiting_callback(function) if function.waits else _callback(function)
        define = capi.linker_define_async_func if function.waits else capi.linker_define_func
        module, name = function.module.encode(), function.name.encode()
        signature = _new_functype(function.type)
        error = define(self._pointer, module, len(module), name, len(name), signature, callback, None, None)
        capi.functype_delete(signature)
        if error:
            raise ValueError(capi.take_error(error))
        return callback

    def instantiate_pre(self, module: int) -> int:
        """The module with its imports resolved; the caller deletes it.

        Raises:
            ValueError: an import is not there or has another type.
        """
        linked = ctypes.c_void_p()
        error = capi.linker_instantiate_pre(self._pointer, module, ctypes.addressof(linked))
        if error:
            raise ValueError(capi.take_error(error))
        assert linked.value is not None
        return linked.value

    def lend(self, context: int, name: bytes, instance: int) -> int:
        """A linker of the same functions, and all that an instance in a store exports: to be given back.

        What one lent earlier had from an instance of the same module, this one has from this one.
        """
        try:
            linker = self._spare.pop()
        except IndexError:
            linker = int(capi.linker_clone(self._pointer))
            capi.linker_allow_shadowing(linker, True)
        error = capi.linker_define_instance(linker, context, name, len(name), instance)
        assert not error, "what was defined may be defined again"
        return linker

    def give_back(self, linker: int) -> None:
        """It is not used any more."""
        self._spare.append(linker)

    def close(self) -> None:
        """Give the library's part back. Nothing may be lent."""
        for linker in (self._pointer, *self._spare):
            capi.linker_delete(linker)


class _Values:
    """How a host function's arguments and result lie in memory."""

    __slots__ = ("_params", "_result_kinds", "_results")

    def __init__(self, function_type: FunctionType) -> None:
        self._params = struct.Struct("<" + "".join("8x" + PACK_OF[kind] for kind in function_type.params))
        self._results = struct.Struct("<" + "".join("B7x" + PACK_OF[kind] for kind in function_type.results))
        self._result_kinds = [KIND_OF[kind] for kind in function_type.results]

    def read(self, args: int) -> tuple[int | float, ...]:
        return self._params.unpack(ctypes.string_at(args, self._params.size)) if args else ()

    def write(self, out: int, result: object) -> None:
        if self._result_kinds:
            ctypes.memmove(out, self._results.pack(self._result_kinds[0], result), self._results.size)


def _caller_of(caller: int) -> CallingSandbox:
    sandbox = cast("CallingSandbox", caller_of(capi.caller_context(caller)))
    if not sandbox.has_memory:
        sandbox.find_memory(caller)
    return sandbox


def _trap_for(sandbox: CallingSandbox | None, error: BaseException) -> int:
    if sandbox is not None:
        sandbox.park(error)
    return int(capi.trap_new(b"host function failed", 20))


def _trap_at(place: int, sandbox: CallingSandbox | None, error: BaseException) -> None:
    ctypes.c_void_p.from_address(place).value = _trap_for(sandbox, error)


def _callback(function: HostFunction) -> object:
    values, implementation = _Values(function.type), function.implementation

    def trampoline(_env: int, caller: int, args: int, _count: int, out: int, _out_count: int) -> int:
        sandbox = None
        try:
            sandbox = _caller_of(caller)
            values.write(out, implementation(sandbox, *values.read(args)))
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            return _trap_for(sandbox, error)
        return 0

    return capi.HostCallback(trampoline)


def _waiting_callback(function: HostFunction) -> object:
    values, implementation = _Values(function.type), function.implementation

    def trampoline(
        _env: int,
        caller: int,
        args: int,
        _count: int,
        out: int,
        _out_count: int,
        trap: int,
        continuation: int,
    ) -> None:
        go_on(continuation)
        sandbox = None
        try:
            sandbox = _caller_of(caller)
            steps = cast("Waits", implementation(sandbox, *values.read(args)))
            call = WaitingCall(steps, partial(values.write, out), partial(_trap_at, trap, sandbox))
            if not call.proceed():
                rest(sandbox, call, capi.caller_context(caller), continuation)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            _trap_at(trap, sandbox, error)

    return capi.WaitingHostCallback(trampoline)


def _new_functype(function_type: FunctionType) -> int:
    vectors = [_new_valtypes(function_type.params), _new_valtypes(function_type.results)]
    return int(capi.functype_new(*map(ctypes.addressof, vectors)))


def _new_valtypes(types: tuple[ValueType, ...]) -> capi.PointerVec:
    vector = capi.PointerVec()
    pointers = (ctypes.c_void_p * len(types))(*(capi.valtype_new(KIND_OF[kind]) for kind in types))
    capi.valtype_vec_new(ctypes.addressof(vector), len(types), ctypes.addressof(pointers))
    return vector
