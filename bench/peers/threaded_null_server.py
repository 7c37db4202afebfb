"""The same with gRPC's threaded server, which runs handlers on threads of a pool instead of an event loop."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from bench.peers.edge import answer
from bench.peers.null_server import run_nothing
from spear_wasm.api import function_pb2, function_pb2_grpc

THREADS = 4


class _Service(function_pb2_grpc.FunctionServiceServicer):
    def InvokeFunction(
        self, request: function_pb2.InvokeFunctionRequest, context: grpc.ServicerContext
    ) -> function_pb2.InvokeFunctionResponse:
        return answer(run_nothing, request)


def main() -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(THREADS))
    function_pb2_grpc.add_FunctionServiceServicer_to_server(_Service(), server)  # type: ignore[abstract]  # one method is enough
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    stop.wait()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
