"""The gRPC edge that Python peers share, all but the threaded one: it reads a request, has it run, and answers.

Each is started by a benchmark as `python -m bench.peers.NAME`, and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import grpc
from google.protobuf import any_pb2, timestamp_pb2

from spear_wasm.api import function_pb2, function_pb2_grpc

EXECUTION_ID = "exec-00000000000000000000000000000000"
TASK_ID = "task-00000000000000000000000000000000"
SANDBOX_ID = "sandbox-00000000000000000000000000000000"

Run = Callable[[function_pb2.InvokeFunctionRequest], any_pb2.Any]
"""Runs what a request asks for; returns the result."""


def answer(run: Run, request: function_pb2.InvokeFunctionRequest) -> function_pb2.InvokeFunctionResponse:
    """A response made anew, with the fields that a completed execution has."""
    result = run(request)
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    now = timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)
    return function_pb2.InvokeFunctionResponse(
        success=True,
        execution_id=EXECUTION_ID,
        task_id=TASK_ID,
        instance_id=SANDBOX_ID,
        status_endpoint=f"executions/{EXECUTION_ID}",
        result=function_pb2.ExecutionResult(
            status=function_pb2.EXECUTION_STATUS_COMPLETED,
            result=result,
            started_at=now,
            completed_at=now,
            cpu_time_ms=0.02,
            queue_time_ms=0.01,
        ),
    )


class _Service(function_pb2_grpc.FunctionServiceServicer):
    """InvokeFunction, and nothing else."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def InvokeFunction(
        self,
        request: function_pb2.InvokeFunctionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> function_pb2.InvokeFunctionResponse:
        return answer(self._run, request)


async def _serve(run: Run) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    function_pb2_grpc.add_FunctionServiceServicer_to_server(_Service(run), server)  # type: ignore[abstract]  # one method is enough
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


def serve(run: Run) -> None:
    """Serve until SIGTERM; every request runs on the event loop."""
    asyncio.run(_serve(run))
