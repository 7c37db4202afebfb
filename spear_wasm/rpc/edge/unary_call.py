"""An RPC with one request and one response that any thread may answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

    from spear_wasm.rpc.edge.core import Metadata, Rpc


class UnaryCall:
    """What is left of such an RPC once its request has been read: to be answered, once."""

    __slots__ = ("_encode", "_rpc", "time_remaining", "when_closed")

    def __init__(self, rpc: Rpc, encode: Callable[[Any], bytes]) -> None:
        self._rpc = rpc
        self._encode = encode
        self.time_remaining = rpc.time_remaining
        self.when_closed = rpc.when_closed

    def answer(self, response: object) -> None:
        """Send the response."""
        self._rpc.finish(self._encode(response))

    def finish_with(self, status: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        """Send a status instead."""
        self._rpc.finish_with(status, details, metadata)
