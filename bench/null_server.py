"""The least that a Python gRPC server can do with our messages: it reads the request, runs nothing, and answers.

Started by the benchmark as `python -m bench.null_server`. Every answer is made anew, with the fields that a
completed execution has.
"""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
from google.protobuf import any_pb2, timestamp_pb2

from spear_wasm.api import function_pb2, function_pb2_grpc

RESULT = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Int32Value", value=b"\x08\x2a")
EXECUTION_ID = "exec-00000000000000000000000000000000"
TASK_ID = "task-00000000000000000000000000000000"
SANDBOX_ID = "sandbox-00000000000000000000000000000000"


class NullService(function_pb2_grpc.FunctionServiceServicer):
    """InvokeFunction without a function."""

    async def InvokeFunction(
        self,
        request: function_pb2.InvokeFunctionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> function_pb2.InvokeFunctionResponse:
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
                result=RESULT,
                started_at=now,
                completed_at=now,
                cpu_time_ms=0.02,
                queue_time_ms=0.01,
            ),
        )


async def serve() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    function_pb2_grpc.add_FunctionServiceServicer_to_server(NullService(), server)  # type: ignore[abstract]  # one method is enough
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(serve())
