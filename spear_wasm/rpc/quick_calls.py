"""Calls that need nothing done before their guest runs: answered on the thread that reads the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_wasm.rpc.durable_calls import is_durable
from spear_wasm.rpc.executions import ended_response
from spear_wasm.rpc.invocations import check_invocation
from spear_wasm.rpc.status import refuse, reported

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear_wasm.api import function_pb2 as pb
    from spear_wasm.execution.execution import Call, Execution
    from spear_wasm.host import Host
    from spear_wasm.rpc.called_tasks import CalledTasks
    from spear_wasm.rpc.edge import UnaryCall

METHOD = "InvokeFunction"


class QuickCalls:
    """Begins the executions of calls whose task is there and linked, and whose record needs no disk.

    A quick guest has ended by then. The caller of another is answered by the thread that ends it: nobody waits.
    """

    def __init__(self, host: Host, called_tasks: CalledTasks) -> None:
        self._manager = host.manager
        self._called_tasks = called_tasks

    def begin(
        self, request: pb.InvokeFunctionRequest, time_remaining: Callable[[], float | None]
    ) -> Execution | None:
        """The execution of a call; None where something has to be done first. `time_remaining` is in seconds.

        Raises:
            SpearError: why the call is refused.
        """
        check_invocation(request)
        if is_durable(request):
            return None
        return self._called_tasks.submit_at_once(request, time_remaining, self.submit)

    def submit(self, call: Call) -> Execution:
        """The execution of a call, which has ended already where the guest is a quick one."""
        return self._manager.submit(call, on_the_spot=True)

    def answer(self, request: pb.InvokeFunctionRequest, call: UnaryCall) -> bool:
        """Whether the call is answered here: now, or as soon as its execution has ended."""
        try:
            execution = self.begin(request, call.time_remaining)
        except Exception as error:  # noqa: BLE001  what it is, the caller is told
            refuse(call, reported(error, METHOD))
            return True
        if execution is None:
            return False
        if execution.done:
            _tell_end(call, execution)
        else:
            execution.add_done_callback(lambda ended: _tell_end(call, ended))
            call.when_closed(lambda gone: self._on_closed(execution, gone))
        return True

    def _on_closed(self, execution: Execution, gone: bool) -> None:  # noqa: FBT001  as core tells it
        if gone and not execution.done:
            self._manager.cancel(execution, "the caller went away")


def _tell_end(call: UnaryCall, execution: Execution) -> None:
    try:
        response = ended_response(execution)
    except Exception as error:  # noqa: BLE001  what it is, the caller is told
        refuse(call, reported(error, METHOD))
    else:
        call.answer(response)
