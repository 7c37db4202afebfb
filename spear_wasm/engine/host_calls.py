"""Functions of ours that guests call: how they are defined, and the way from the guest to Python and back.

A host function never raises through the library. What it raises is parked on the sandbox that called, the
guest is ended with a trap, and the sandbox's run raises it again on our side of the boundary. (The wheel's
own trampoline parks exceptions in a global, where any other thread may pick them up.)

A host function that waits is a generator of the Waits that it waits for. While one of them is not over, its
guest's stack rests: the run ends its slice, and need not be polled before the Wait is over.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from spear_wasm.engine import capi
from spear_wasm.engine.wait import Wait
from spear_wasm.model import FunctionType, ValueType

Waits: TypeAlias = "Generator[Wait, None, int | float | None]"
"""A host function under way: what it waits for, one after the other, then its result."""


class CallingSandbox(Protocol):
    """What a host function may do to the sandbox whose guest called it."""

    has_memory: bool
    waiting_call: WaitingCall | None

    def find_memory(self, caller: int) -> None:
        """Find the guest's memory while its start function runs: there is no instance to ask yet."""
        ...

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of the guest's memory; a GuestFault where the range lies outside of it."""
        ...

    def log_from_memory(self, address: int, length: int) -> None:
        """Add a range of the guest's memory to the execution's log; what is over its bound is cut."""
        ...

    def emit_from_memory(self, address: int, length: int) -> Waits:
        """Hand a range of the guest's memory to whoever reads along, as soon as there is room for it."""
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

# Sandboxes whose guests may call host functions, by the key in their store's data slot. Keys are never used
# twice. Entries are added and removed by whoever makes and closes the sandbox, each in one step under the GIL.
_callers: dict[int, CallingSandbox] = {}
_keys = itertools.count(1)


def register_caller(sandbox: CallingSandbox) -> int:
    """The key to create the sandbox's store with; forget it with `forget_caller`."""
    key = next(_keys)
    _callers[key] = sandbox
    return key


def forget_caller(key: int) -> None:
    """The sandbox is about to be closed."""
    _callers.pop(key, None)


class Linker:
    """Resolves a module's imports; owns what the library keeps pointers to.

    Must live as long as anything linked with it.
    """

    def __init__(self, engine: int, functions: Mapping[tuple[str, str], HostFunction]) -> None:
        self._pointer = int(capi.linker_new(engine))
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

    def close(self) -> None:
        """Give the library's part back."""
        capi.linker_delete(self._pointer)


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
    sandbox = _callers[capi.context_get_data(capi.caller_context(caller))]
    if not sandbox.has_memory:
        sandbox.find_memory(caller)
    return sandbox


def _trap_for(sandbox: CallingSandbox | None, error: BaseException) -> int:
    if sandbox is not None:
        sandbox.park(error)
    return int(capi.trap_new(b"host function failed", 20))


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
        then = capi.Continuation.from_address(continuation)
        then.callback = _GO_ON
        sandbox = None
        try:
            sandbox = _caller_of(caller)
            steps = cast("Waits", implementation(sandbox, *values.read(args)))
            call = WaitingCall(sandbox, steps, values, out, trap)
            if not call.proceed():
                sandbox.waiting_call = call
                then.callback, then.finalizer = _PROCEED, _FORGET
                then.env = capi.context_get_data(capi.caller_context(caller))
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            ctypes.c_void_p.from_address(trap).value = _trap_for(sandbox, error)

    return capi.WaitingHostCallback(trampoline)


class WaitingCall:
    """A call of a host function whose guest rests until `wait` is over."""

    __slots__ = ("_out", "_sandbox", "_steps", "_trap", "_values", "wait")

    def __init__(self, sandbox: CallingSandbox, steps: Waits, values: _Values, out: int, trap: int) -> None:
        self.wait: Wait | None = None
        self._sandbox = sandbox
        self._steps = steps
        self._values = values
        self._out = out
        self._trap = trap

    def proceed(self) -> bool:
        """Go as far as can be gone without waiting; whether the guest may go on."""
        if self.wait is not None and not self.wait.over:
            return False
        try:
            self.wait = next(self._steps)
            return False
        except StopIteration as stop:
            result = stop.value
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            return self._fail(error)
        try:
            self._values.write(self._out, result)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            return self._fail(error)
        return True

    def _fail(self, error: BaseException) -> bool:
        ctypes.c_void_p.from_address(self._trap).value = _trap_for(self._sandbox, error)
        return True

    def close(self) -> None:
        """The guest has gone on, or it is being unwound."""
        self._steps.close()


def _go_on(_env: int | None) -> bool:
    return True


def _proceed(key: int) -> bool:
    call = _callers[key].waiting_call
    return call is None or call.proceed()


def _forget(key: int) -> None:
    sandbox = _callers[key]
    call, sandbox.waiting_call = sandbox.waiting_call, None
    if call is not None:
        call.close()


_CALLBACKS = capi.ContinuationCallback(_go_on), capi.ContinuationCallback(_proceed), capi.Finalizer(_forget)
_GO_ON, _PROCEED, _FORGET = map(capi.address_of, _CALLBACKS)


def _new_functype(function_type: FunctionType) -> int:
    vectors = [_new_valtypes(function_type.params), _new_valtypes(function_type.results)]
    return int(capi.functype_new(*map(ctypes.addressof, vectors)))


def _new_valtypes(types: tuple[ValueType, ...]) -> capi.PointerVec:
    vector = capi.PointerVec()
    pointers = (ctypes.c_void_p * len(types))(*(capi.valtype_new(KIND_OF[kind]) for kind in types))
    capi.valtype_vec_new(ctypes.addressof(vector), len(types), ctypes.addressof(pointers))
    return vector
