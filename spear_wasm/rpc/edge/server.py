"""Which handler answers an RPC, and on which thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import grpc

from spear_wasm.rpc.edge.conversation import NO_MESSAGE, Conversation
from spear_wasm.rpc.edge.core import Core, Metadata, Rpc
from spear_wasm.rpc.edge.gathering import Gathering
from spear_wasm.rpc.edge.method import Method, method_of
from spear_wasm.rpc.edge.unary_call import UnaryCall

Check: TypeAlias = "Callable[[Rpc], bool]"
"""Whether an RPC may go on; where it may not, it has been finished."""
AnswerAtOnce: TypeAlias = "Callable[[list[UnaryCall]], Iterable[UnaryCall]]"
"""Takes calls of a method that have been read. Those that it answers neither now nor later, but a coroutine does."""


class _Details(NamedTuple):
    """What grpcio's tables of handlers are asked with."""

    method: str
    invocation_metadata: Metadata


class EdgeServer:
    """A gRPC server, to which generated code adds services as to grpcio's own.

    RPCs come in on a thread of its own. Handlers are coroutines, and run on the event loop of whoever starts the
    server. A method may have something tried first, on the thread that reads the requests: what can be answered
    there needs no other thread and no loop.
    """

    def __init__(
        self, options: Iterable[tuple[str, int]], max_unread: int, check: Check | None = None
    ) -> None:
        """Where more than `max_unread` bytes of single answers wait to be read, their callers are hung up on."""
        self._core = Core(options, max_unread, self._on_rpc)
        self._check = check
        self._tables: list[grpc.GenericRpcHandler] = []
        self._at_once: dict[str, Gathering[UnaryCall]] = {}
        self._methods: dict[str, Method] = {}  # those that were asked for; the polling thread's
        self._conversations: set[asyncio.Task[None]] = set()  # the event loop's
        self._is_stopping = self._is_closed = False
        self._loop: asyncio.AbstractEventLoop
        self._poller = threading.Thread(target=self._core.poll, name="spear-edge", daemon=True)

    # What generated code calls

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Answer the methods of these tables."""
        self._tables.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """The methods of a table once more, which for gRPC's core could be known by number. They are not."""

    # Life

    def try_at_once(self, method: str, at_once: AnswerAtOnce) -> None:
        """Try this first for a method, `/SERVICE/NAME`, on the polling thread; it must not block or raise."""

        def answer(calls: list[UnaryCall]) -> None:
            for call in at_once(calls):
                self._loop.call_soon_threadsafe(self._converse, call.rpc, call.method, call.request)

        self._at_once[method] = Gathering(answer)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listen on `HOST:PORT`; returns the port, or 0 where that cannot be: the server is of no use then."""
        port = self._core.bind(address, credentials)
        if not port:
            self._core.abandon()
        return port

    def start(self) -> None:
        """Answer RPCs. To be called on the event loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._core.start()
        self._poller.start()

    async def stop(self, grace: float) -> None:
        """Take no RPC any more, and end those that are left after so many seconds; again: then, if that is sooner."""
        if not self._is_stopping:
            self._is_stopping = True
            self._core.stop()
        await asyncio.to_thread(self._poller.join, grace)
        if self._poller.is_alive():
            self._core.end_all()
            await asyncio.to_thread(self._poller.join)
        if not self._is_closed:
            self._is_closed = True
            self._core.close()
        for each in self._conversations:
            each.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    # RPCs, on the polling thread

    def _on_rpc(self, rpc: Rpc) -> None:
        if self._check is not None and not self._check(rpc):
            return
        method = self._methods.get(rpc.method) or self._find(rpc)
        if method is None:
            rpc.finish_with(grpc.StatusCode.UNIMPLEMENTED, "this server has no such method")
        elif method.takes_stream:
            self._loop.call_soon_threadsafe(self._converse, rpc, method, None)
        else:
            rpc.receive(partial(self._on_request, rpc, method))

    def _find(self, rpc: Rpc) -> Method | None:
        details = _Details(rpc.method, rpc.metadata)
        for table in self._tables:
            handler = table.service(details)  # type: ignore[arg-type]  # it looks at the names alone
            if handler is not None:
                method = self._methods[rpc.method] = method_of(handler)
                return method
        return None

    def _on_request(self, rpc: Rpc, method: Method, message: bytes | None, well: bool) -> None:  # noqa: FBT001  as core tells it
        if not well:
            rpc.finish_with(grpc.StatusCode.CANCELLED)
        elif message is None:
            rpc.finish_with(grpc.StatusCode.UNIMPLEMENTED, "this method takes one request, and none was sent")
        else:
            self._answer(rpc, method, message)

    def _answer(self, rpc: Rpc, method: Method, message: bytes) -> None:
        try:
            request = method.decode(message)
        except Exception:  # noqa: BLE001  each kind of message has errors of its own
            rpc.finish_with(grpc.StatusCode.INTERNAL, NO_MESSAGE)
            return
        at_once = self._at_once.get(rpc.method)
        if at_once is not None:
            at_once.add(UnaryCall(rpc, method, request, len(message)), rpc.soon)
        else:
            self._loop.call_soon_threadsafe(self._converse, rpc, method, request)

    # RPCs, on the event loop

    def _converse(self, rpc: Rpc, method: Method, request: object) -> None:
        task = Conversation(rpc, method).begin(request)
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
