"""gRPC's core as Python has it: RPCs come in, and what was asked of them is told when it is done.

The one file that reaches into grpcio's private `cygrpc`, whose version is pinned therefore. grpcio's two servers are
built on it, too. What they add costs more than all else that a short call needs: the asyncio one carries every step
of every RPC to an event loop, and the threaded one hands each RPC to a thread and back. `bench/rpc_cost.py` compares.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave it out

from spear_wasm.rpc.edge.unread import Unread

log = structlog.get_logger()

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"
Received: TypeAlias = "Callable[[bytes | None, bool], None]"
"""Is told a message and whether all is well: no message is the end of what the caller sends, or a broken RPC."""
Event: TypeAlias = "Any"
"""An event of cygrpc, which has no types."""

_NO_FLAGS = 0
_NEVER = 2.0**62
"""Less than what core has for a deadline that never comes, which is the largest time that it can hold."""


class Rpc:
    """One RPC. Its methods may be called on any thread; what they are given is called on the one that polls.

    Whoever has it finishes it, whatever becomes of it, and asks nothing of it afterwards: gRPC ends the process that
    asks for anything once the queue is closed, and the queue is closed when all RPCs have been finished.
    """

    __slots__ = ("_call", "_deadline", "_ended", "_opened", "_received", "_unread", "metadata", "method")

    def __init__(self, event: Event, ended: Callable[[Event], None], unread: Unread[Rpc]) -> None:
        self._call = event.call
        self._ended = ended
        self._unread = unread
        self._opened = False
        self.method: str = event.call_details.method.decode("utf-8", "replace")
        self._deadline: float = event.call_details.deadline  # a time.time() value
        self.metadata: Metadata = event.invocation_metadata

    def time_remaining(self) -> float | None:
        """Seconds that the caller waits yet; None where that has no end."""
        return max(0.0, self._deadline - time.time()) if self._deadline < _NEVER else None

    def receive(self, received: Received) -> None:
        """Ask for the next message. One at a time."""
        self._received = received
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._on_message)

    def _on_message(self, event: Event) -> None:
        received = self._received
        del self._received  # which may hold this RPC: what goes round is found by the garbage collector only
        received(event.batch_operations[0].message(), event.success)

    def when_closed(self, closed: Callable[[bool], None]) -> None:
        """Ask to be told, once, when nothing more can be done; with whether that is because the caller is gone."""

        def on_close(event: Event) -> None:
            closed(bool(event.batch_operations[0].cancelled()))

        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), on_close)

    def soon(self, action: Callable[[], None]) -> None:
        """Have something called on the thread that polls, behind what has come before."""
        self._call.start_server_batch((), lambda _: action())  # nothing to do is done at once

    def send(self, message: bytes, sent: Callable[[bool], None]) -> None:
        """Send a message. One at a time; `sent` is told whether the transport has taken it, as the caller reads."""
        operations = [cygrpc.SendMessageOperation(message, _NO_FLAGS), *self._opening()]
        self._call.start_server_batch(operations, lambda event: sent(event.success))

    def finish(self, message: bytes) -> None:
        """Answer with one message, and that all went well; callers who do not read theirs may be hung up on for it."""
        for other in self._unread.add(self, len(message)):
            other.hang_up()

        def on_taken(event: Event) -> None:
            self._unread.remove(self)
            self._ended(event)

        self._end(
            on_taken,
            cygrpc.SendMessageOperation(message, _NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", _NO_FLAGS),
        )

    def hang_up(self) -> None:
        """Give up an answer that was sent and is not taken."""
        log.warning("an answer given up that was not read", method=self.method)
        self._call.cancel()

    def finish_with(self, status: grpc.StatusCode, details: str = "", metadata: Metadata = ()) -> None:
        """Say how it ended, behind whatever messages were sent."""
        code, text = status.value[0], details.encode()
        self._end(self._ended, cygrpc.SendStatusFromServerOperation(tuple(metadata), code, text, _NO_FLAGS))

    def _end(self, ended: Callable[[Event], None], *operations: object) -> None:
        self._call.start_server_batch((*operations, *self._opening()), ended)

    def _opening(self) -> Iterable[object]:
        if self._opened:
            return ()
        self._opened = True
        return (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),)


class Core:
    """A server and its queue of events.

    Single answers that wait to be read have `max_unread` bytes together, or are one. `on_rpc` is called for each RPC
    that comes, on the thread that runs `poll`: there is one, and what it calls must not block.
    """

    def __init__(
        self, options: Iterable[tuple[str, int]], max_unread: int, on_rpc: Callable[[Rpc], None]
    ) -> None:
        self._unread: Unread[Rpc] = Unread(max_unread)
        self._on_rpc = on_rpc
        self._unfinished = 0  # RPCs; the polling thread's
        self._stopped = False  # the polling thread's, too
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)  # without xDS
        self._server.register_completion_queue(self._queue)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """The port that is bound; 0 where the address cannot be, which gRPC explains on standard error only."""
        secret = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]  # as above
        try:
            return int(self._server.add_http2_port(address.encode(), *secret))
        except RuntimeError:
            return 0

    def start(self) -> None:
        """Take RPCs from now on; they are told once somebody polls."""
        self._server.start()
        self._ask_for_rpc()

    def _ask_for_rpc(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_call)

    def _on_call(self, event: Event) -> None:
        if not event.success:  # the server stops
            return
        self._unfinished += 1
        rpc = Rpc(event, self._on_end, self._unread)
        with contextlib.suppress(ValueError):  # it has begun to stop since this one came
            self._ask_for_rpc()
        try:
            self._on_rpc(rpc)
        except Exception:
            # One that nobody has taken is answered all the same, or the server would wait for it when it stops.
            log.exception("an RPC failed by a bug", method=rpc.method)
            rpc.finish_with(grpc.StatusCode.INTERNAL, "the server failed; the cause is in its log")

    def _on_end(self, _: Event) -> None:
        self._unfinished -= 1
        self._close_if_idle()

    def _on_stopped(self, _: Event) -> None:
        self._stopped = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._stopped and not self._unfinished:
            self._queue.shutdown()

    def poll(self) -> None:
        """Tell what happens, until the server has been stopped and every RPC has been finished."""
        while True:
            event = self._queue.poll()
            if event.completion_type is cygrpc.CompletionType.queue_shutdown:
                return
            try:
                event.tag(event)
            except Exception:
                # The thread goes on for all other RPCs.
                log.exception("an event of an RPC failed by a bug")
            # An event keeps its RPC, and one that is over must be gone before the next poll.
            del event

    def stop(self) -> None:
        """Take no RPC from now on. `poll` returns when all that there are have been finished."""
        self._server.shutdown(self._queue, self._on_stopped)

    def end_all(self) -> None:
        """Tell every RPC that its caller is gone, after `stop`."""
        self._server.cancel_all_calls()

    def close(self) -> None:
        """Give the server back, after `poll` has returned."""
        self._server.destroy()

    def abandon(self) -> None:
        """The same for one that was never started."""
        self._server.destroy()
        self._queue.shutdown()
        self.poll()
