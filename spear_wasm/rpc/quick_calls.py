"""Calls that need nothing done before their guest runs: answered on the thread that reads the requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from spear_wasm.errors import SpearError
from spear_wasm.rpc.durable_calls import is_durable
from spear_wasm.rpc.executions import ended_response
from spear_wasm.rpc.invocations import check_invocation
from spear_wasm.rpc.status import refuse, reported
from spear_wasm.rpc.under_way import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from spear_wasm.api import function_pb2 as pb
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.host import Host
    from spear_wasm.rpc.called_tasks import CalledTasks
    from spear_wasm.rpc.edge import UnaryCall

METHOD = "InvokeFunction"
LARGEST_AT_ONCE = 1 << 16
"""Bytes of a request that takes no time to read: others must not wait for more."""

Begun: TypeAlias = "Execution | SpearError | None"
"""The execution of a call, or why it is refused; None where something has to be done before it can begin."""


class Asked(Protocol):
    """A call that has been read."""

    @property
    def request(self) -> pb.InvokeFunctionRequest:
        """What is to be called."""
        ...

    @property
    def size(self) -> int:
        """The bytes of the request."""
        ...

    @property
    def time_remaining(self) -> Callable[[], float | None]:
        """Tells the seconds that the caller waits yet; None where that has no end."""
        ...


AnyAsked = TypeVar("AnyAsked", bound=Asked)


class QuickCalls:
    """Begins the executions of calls whose task is there and linked, and whose record needs no disk.

    A quick guest has ended by then. The caller of another is answered by the thread that ends it: nobody waits.
    """

    def __init__(self, host: Host, called_tasks: CalledTasks) -> None:
        self._manager = host.manager
        self._called_tasks = called_tasks
        self._slice_seconds = host.config.engine.tick

    def begin(self, asked: Sequence[AnyAsked]) -> Iterator[list[tuple[AnyAsked, Begun]]]:
        """What becomes of calls, in their order.

        They come in parts, each of what began within a slice: to be told of before other guests run.
        """
        part: list[tuple[AnyAsked, Begun]] = []
        until = time.monotonic() + self._slice_seconds
        for each in asked:
            part.append((each, self._begin(each)))
            if time.monotonic() >= until:
                yield part
                part = []
                until = time.monotonic() + self._slice_seconds
        if part:
            yield part

    def _begin(self, asked: Asked) -> Begun:
        request = asked.request
        try:
            check_invocation(request)
            if is_durable(request) or asked.size > LARGEST_AT_ONCE:
                return None
            return self._called_tasks.submit_at_once(request, asked.time_remaining, self.submit)
        except Exception as error:  # noqa: BLE001  what it is, the caller is told
            return reported(error, METHOD)

    def submit(self, call: Call) -> Execution:
        """The execution of a call, which has ended already where the guest is a quick one."""
        return self._manager.submit(call, on_the_spot=True)

    def answer(self, calls: list[UnaryCall]) -> list[UnaryCall]:
        """Answer calls, now or as soon as their executions have ended; those that are not answered here."""
        left = []
        for part in self.begin(calls):
            for call, begun in part:
                if begun is None:
                    left.append(call)
                elif isinstance(begun, SpearError):
                    refuse(call, begun)
                elif begun.done:
                    _tell_end(call, begun)
                else:
                    self._tell_end_of(begun, call)
        return left

    def _tell_end_of(self, execution: Execution, call: UnaryCall) -> None:
        def on_closed(gone: bool) -> None:  # noqa: FBT001  as core tells it
            if gone and not execution.done:
                self._manager.cancel(execution, GONE)

        call.when_closed(on_closed)
        execution.add_done_callback(lambda ended: _tell_end(call, ended))


def _tell_end(call: UnaryCall, execution: Execution) -> None:
    try:
        response = ended_response(execution)
    except Exception as error:  # noqa: BLE001  what it is, the caller is told
        refuse(call, reported(error, METHOD))
    else:
        call.answer(response)
