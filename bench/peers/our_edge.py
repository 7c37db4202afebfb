"""Our own edge, which runs nothing: what is left of a call, and of one on a stream, when all else costs nothing."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from typing import TYPE_CHECKING

from bench.peers.edge import answer
from bench.peers.null_server import run_nothing
from bench.rpc_cost import METHOD
from spear_wasm.api import function_pb2, function_pb2_grpc
from spear_wasm.config import ServerConfig
from spear_wasm.rpc.edge import EdgeServer

if TYPE_CHECKING:
    from spear_wasm.rpc.edge import Conversation, UnaryCall


class _Answers:
    """The answers on one stream. For the polling thread."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self._waiting: deque[bytes] = deque()
        self._sends = self._has_all = False

    def on_request(self, request: object, _: int) -> None:
        if not isinstance(request, function_pb2.InvokeFunctionRequest):
            self._has_all = True
            self._end_if_over()
            return
        self._waiting.append(answer(run_nothing, request).SerializeToString())
        if not self._sends:
            self._send_next()
        self._conversation.hear(self.on_request)

    def _send_next(self) -> None:
        self._sends = bool(self._waiting)
        if self._waiting:
            self._conversation.say(self._waiting.popleft(), self._send_next)
        else:
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._has_all and not self._sends:
            self._loop.call_soon_threadsafe(self.over.set)


class _Service(function_pb2_grpc.FunctionServiceServicer):
    async def InvokeStream(self, requests: object, conversation: Conversation) -> None:  # type: ignore[override]  # it writes by itself
        answers = _Answers(conversation)
        conversation.hear(answers.on_request)
        await answers.over.wait()


def _answer_at_once(calls: list[UnaryCall]) -> list[UnaryCall]:
    for call in calls:
        call.answer(answer(run_nothing, call.request))
    return []


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = EdgeServer([], ServerConfig().max_unread)
    function_pb2_grpc.add_FunctionServiceServicer_to_server(_Service(), server)  # type: ignore[abstract, arg-type]  # one method is enough; it has what generated code calls
    server.try_at_once(METHOD, _answer_at_once)
    print(f"listening on 127.0.0.1:{server.bind('127.0.0.1:0', None)}", flush=True)
    server.start()
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
