"""The gRPC server: from grpcio's core to handlers, on the thread that polls or on an event loop."""

from spear_wasm.rpc.edge.conversation import Conversation
from spear_wasm.rpc.edge.gathering import Gathering
from spear_wasm.rpc.edge.server import EdgeServer
from spear_wasm.rpc.edge.unary_call import UnaryCall

__all__ = ["Conversation", "EdgeServer", "Gathering", "UnaryCall"]
