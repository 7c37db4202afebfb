"""Whose guest called a host function, and calls of host functions whose guests rest meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import Protocol

from spear_wasm.engine import capi
from spear_wasm.engine.wait import Wait


class Caller(Protocol):
    """A sandbox whose guest may call host functions."""

    waiting_call: WaitingCall | None

    def park(self, error: BaseException) -> None:
        """Keep what a host function raised until the guest has been left."""
        ...


# Sandboxes whose guests may call host functions, by the key in their store's data slot. Keys are never used
# twice. Entries are added and removed by whoever makes and closes the sandbox, each in one step under the GIL.
_callers: dict[int, Caller] = {}
_keys = itertools.count(1)


def register_caller(sandbox: Caller) -> int:
    """The key to create the sandbox's store with; forget it with `forget_caller`."""
    key = next(_keys)
    _callers[key] = sandbox
    return key


def forget_caller(key: int) -> None:
    """The sandbox is about to be closed."""
    _callers.pop(key, None)


def caller_of(context: int) -> Caller:
    """The sandbox of a store's context."""
    return _callers[capi.context_get_data(context)]


class WaitingCall:
    """A call of a host function whose guest rests until `wait` is over.

    `deliver` takes its result, `fail` what it raised, before the guest goes on.
    """

    __slots__ = ("_deliver", "_fail", "_rests", "_steps", "wait")

    def __init__(
        self,
        steps: Generator[Wait, None, object],
        deliver: Callable[[object], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.wait: Wait | None = None
        self._rests = False
        self._steps = steps
        self._deliver = deliver
        self._fail = fail

    def proceed(self) -> bool:
        """Go as far as can be gone without waiting; whether the guest may go on."""
        if self.wait is not None and not (self._rests and self.wait.over):
            # The library asks in the slice in which the guest begins to wait, too, which is to end all the same.
            self._rests = True
            return False
        try:
            self.wait = next(self._steps)
            return False
        except StopIteration as stop:
            result = stop.value
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            self._fail(error)
            return True
        try:
            self._deliver(result)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            self._fail(error)
        return True

    def close(self) -> None:
        """The guest has gone on, or it is being unwound."""
        self._steps.close()


def go_on(continuation: int) -> None:
    """Tell the library that the guest need not rest. It has to be told one or the other, whatever else happens."""
    capi.Continuation.from_address(continuation).callback = _GO_ON


def rest(sandbox: Caller, call: WaitingCall, context: int, continuation: int) -> None:
    """Tell the library to ask the call, at every poll, whether the guest may go on."""
    sandbox.waiting_call = call
    then = capi.Continuation.from_address(continuation)
    then.callback, then.finalizer = _PROCEED, _FORGET
    then.env = capi.context_get_data(context)


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
