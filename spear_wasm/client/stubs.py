"""The generated stubs, imported in the one place that can say why they may not load."""

from __future__ import annotations

try:
    from spear_wasm.api import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
except TypeError as conflict:
    raise ImportError(
        "A process cannot load the old stubs and ours together: both define the messages of the package "
        "`spearlet`. Use the client in a process that does not load the old ones."
    ) from conflict

__all__ = ["artifact_pb2", "artifact_pb2_grpc", "function_pb2", "function_pb2_grpc"]
