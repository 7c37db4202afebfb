"""The least that a Python gRPC server can do with our messages: it reads the request, runs nothing, and answers."""

from __future__ import annotations

from google.protobuf import any_pb2

from bench.peers.edge import serve
from spear_wasm.api import function_pb2

RESULT = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Int32Value", value=b"\x08\x2a")


def run_nothing(request: function_pb2.InvokeFunctionRequest) -> any_pb2.Any:
    return RESULT


if __name__ == "__main__":
    serve(run_nothing)
