"""The budget of one call: CPU time of a short one in our process, step upon step, and of the server that runs nothing.

Each way does what the one before it does, and more: a sandbox made, called and gone; the same for a call that is let
in, counted, remembered and logged; the same for one that is read from its message and answered with one. What comes on
top is gRPC's: our edge alone, over a socket. The last two together are what a whole call takes (`bench/batches.py`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import wasmtime

from bench import h2load
from bench.figure import Figure
from bench.in_process import host_with
from bench.raw_fiber import MODULE
from bench.rpc_cost import ADDENDS, METHOD, existing_task
from bench.sandbox_cost import sandbox_call
from bench.servers import running
from spear_wasm.api import function_pb2 as pb
from spear_wasm.execution.execution import Execution
from spear_wasm.rpc.called_tasks import CalledTasks
from spear_wasm.rpc.executions import ended_response
from spear_wasm.rpc.others import NoOthers
from spear_wasm.rpc.quick_calls import QuickCalls

CALLS = 1000
RPCS = 10_000
ROUNDS = 31


@dataclass(frozen=True)
class _Asked:
    """A call that has been read, whose caller waits for ever."""

    request: pb.InvokeFunctionRequest
    size: int

    @staticmethod
    def time_remaining() -> None:
        """There is no end."""


def measure() -> list[Figure]:
    """Microseconds of CPU time."""
    h2load.check_installed()
    with (
        tempfile.TemporaryDirectory() as folder,
        host_with(Path(folder), bytes(wasmtime.wat2wasm(MODULE)), "add", (20, 22)) as guest,
    ):
        called_tasks = CalledTasks(guest.host, NoOthers())
        message = existing_task(guest.task.id, values=ADDENDS).SerializeToString()
        quick_calls = QuickCalls(guest.host, called_tasks)
        ways: dict[str, Callable[[], object]] = {
            "a sandbox": lambda: sandbox_call(guest, metered=False),
            "and the books": guest.call,
            "and the messages": lambda: _from_message_to_message(quick_calls, message),
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(100):
            guest.call()  # until it is known as a quick one
        for _ in range(ROUNDS):
            for name, way in ways.items():
                costs[name].append(_cpu_us(way))
        called_tasks.close()
    return [
        *(Figure(name, statistics.median(each), "us") for name, each in costs.items()),
        Figure("our edge alone, over a socket", _of_edge(), "us"),
    ]


def _cpu_us(way: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        way()
    return (time.process_time() - start) / CALLS * 1e6


def _from_message_to_message(quick_calls: QuickCalls, message: bytes) -> bytes:
    asked = _Asked(pb.InvokeFunctionRequest.FromString(message), len(message))
    (((_, execution),),) = quick_calls.begin([asked])
    if not isinstance(execution, Execution):
        raise TypeError(f"the call was not begun: {execution}")
    return ended_response(execution).SerializeToString()


def _of_edge() -> float:
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        with running(["bench.peers.our_edge"], Path(folder) / "edge.log") as edge:
            h2load.run(edge.address, METHOD, existing_task("a-task"), RPCS, body)
            start = edge.cpu_seconds()
            h2load.run(edge.address, METHOD, existing_task("a-task"), RPCS, body)
            return (edge.cpu_seconds() - start) / RPCS * 1e6
