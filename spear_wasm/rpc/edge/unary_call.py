"""An RPC with one request and one response that any thread may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

    from spear_wasm.rpc.edge.core import Metadata, Rpc
    from spear_wasm.rpc.edge.method import Method


class UnaryCall:
    """What is left of such an RPC once its `request`, of `size` bytes, has been read: to be answered, once."""

    __slots__ = ("method", "request", "rpc", "size", "time_remaining", "when_closed")

    def __init__(self, rpc: Rpc, method: Method, request: Any, size: int) -> None:  # noqa: ANN401  a message of the method's
        self.rpc = rpc
        self.method = method
        self.request = request
        self.size = size
        self.time_remaining = rpc.time_remaining
        self.when_closed = rpc.when_closed

    def answer(self, response: object) -> None:
        """Send the response."""
        self.rpc.finish(self.method.encode(response))

    def finish_with(self, status: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """Send a status instead."""
        self.rpc.finish_with(status, details, metadata)
