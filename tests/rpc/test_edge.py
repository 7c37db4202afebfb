"""The gRPC server by itself, with a service of bytes, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave it out

from spear_wasm.rpc.edge import EdgeServer, UnaryCall
from spear_wasm.rpc.edge.core import Core, Rpc
from tests.rpc.deaf_caller import DeafCaller

PATIENCE = 30.0
SERVICE = "tests.Bytes"
ROOMY = 1 << 30
METHODS = {
    "echo": grpc.unary_unary_rpc_method_handler,
    "count": grpc.unary_stream_rpc_method_handler,
    "join": grpc.stream_unary_rpc_method_handler,
    "double": grpc.stream_stream_rpc_method_handler,
    "wait": grpc.unary_unary_rpc_method_handler,
    "fail": grpc.unary_unary_rpc_method_handler,
    "refuse": grpc.unary_unary_rpc_method_handler,
    "chatter": grpc.unary_stream_rpc_method_handler,
}


def text(message: bytes) -> str:
    """A message that is not UTF-8 is none."""
    return message.decode()


class Bytes:
    """A method of each kind, and some that do not end well. `waiting` and `cancelled` are set by `wait`."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self.written = 0
        self.times: list[float | None] = []

    async def echo(self, request: str, context: Any) -> str:
        self.times.append(context.time_remaining())
        return request

    async def count(self, request: str, context: Any) -> AsyncIterator[str]:
        for number in range(int(request)):
            yield str(number)

    async def join(self, requests: AsyncIterator[str], context: Any) -> str:
        return "".join([each async for each in requests])

    async def double(self, requests: AsyncIterator[str], context: Any) -> None:
        async for each in requests:
            await context.write(each * 2)

    async def wait(self, request: str, context: Any) -> str:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return request

    async def fail(self, request: str, context: Any) -> str:
        raise ValueError(request)

    async def refuse(self, request: str, context: Any) -> str:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, request, (("why", "because"),))
        return request

    async def chatter(self, request: str, context: Any) -> None:
        while True:
            await context.write("x" * 65536)
            self.written += 1


class Running:
    """A server on an event loop of its own, and a channel to it."""

    def __init__(self, check: Callable[[Any], bool] | None = None) -> None:
        self.service = Bytes()
        self.stopped = False
        self._check = check
        self.at_once: Callable[[UnaryCall], bool] | None = None
        """Whether it answers a call."""
        self.max_unread = ROOMY
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self) -> None:
        self.run(self._start())
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.enable_http_proxy", 0)])

    async def _start(self) -> None:
        self.server = EdgeServer([], self.max_unread, self._check)
        handlers = {
            name: kind(getattr(self.service, name), text, str.encode) for name, kind in METHODS.items()
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if self.at_once is not None:
            answers = self.at_once
            self.server.try_at_once(
                f"/{SERVICE}/echo", lambda calls: [call for call in calls if not answers(call)]
            )
        self.port = self.server.bind("127.0.0.1:0", None)
        self.server.start()

    def stop(self, grace: float = 0) -> None:
        self.begin_to_stop(grace).result(PATIENCE)

    def begin_to_stop(self, grace: float) -> Future[None]:
        self.stopped = True
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace), self._loop)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def method(
        self, name: str, kind: str = "unary_unary", encode: Callable[[Any], bytes] = str.encode
    ) -> Any:
        return getattr(self.channel, kind)(f"/{SERVICE}/{name}", encode, bytes.decode)

    def close(self) -> None:
        self.channel.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def unstarted() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


@pytest.fixture
def running(unstarted: Running) -> Iterator[Running]:
    unstarted.start()
    yield unstarted
    if not unstarted.stopped:
        unstarted.stop()


@pytest.mark.parametrize(
    "symbol",
    [
        "CompletionQueue.poll", "CompletionQueue.shutdown", "CompletionType.queue_shutdown",
        "Server.register_completion_queue", "Server.add_http2_port", "Server.start", "Server.request_call",
        "Server.shutdown", "Server.cancel_all_calls", "Server.destroy", "Call.start_server_batch",
        "RequestCallEvent.call", "RequestCallEvent.call_details", "RequestCallEvent.invocation_metadata",
        "CallDetails.method", "CallDetails.deadline", "BatchOperationEvent.batch_operations",
        "BatchOperationEvent.success", "ReceiveMessageOperation.message",
        "ReceiveCloseOnServerOperation.cancelled", "SendInitialMetadataOperation", "SendMessageOperation",
        "SendStatusFromServerOperation", "StatusCode.ok",
    ],
)  # fmt: skip
def test_grpcio_has_what_the_edge_takes_of_its_core(symbol: str) -> None:
    owner: Any = cygrpc
    for name in symbol.split("."):
        owner = getattr(owner, name)


def test_methods_of_all_four_kinds_are_answered(running: Running) -> None:
    assert running.method("echo")("word") == "word"
    assert list(running.method("count", "unary_stream")("3")) == ["0", "1", "2"]
    assert running.method("join", "stream_unary")(iter("abc")) == "abc"
    doubled = running.method("double", "stream_stream")(iter("ab"))
    assert list(doubled) == ["aa", "bb"]


def test_a_handler_knows_how_long_its_caller_waits(running: Running) -> None:
    running.method("echo")("word")
    running.method("echo")("word", timeout=20)
    endless, bounded = running.service.times
    assert endless is None
    assert bounded is not None
    assert 0 < bounded < 21  # gRPC rounds what it sends


def test_many_calls_at_once_get_their_own_answers(running: Running) -> None:
    echo = running.method("echo")
    words = [str(number) for number in range(500)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(echo, words)) == words


def _bytes(message: bytes) -> bytes:
    return message


@pytest.mark.parametrize(
    ("name", "request_bytes", "code"),
    [
        ("echo", b"\xff", grpc.StatusCode.INTERNAL),
        ("join", b"\xff", grpc.StatusCode.INTERNAL),
        ("fail", b"word", grpc.StatusCode.INTERNAL),
        ("refuse", b"no", grpc.StatusCode.FAILED_PRECONDITION),
        ("nowhere", b"word", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_goes_wrong_has_a_status(
    running: Running, name: str, request_bytes: bytes, code: grpc.StatusCode
) -> None:
    # To those who send, one message and a stream of one are the same.
    method = running.method(name, "stream_unary", _bytes)
    with pytest.raises(grpc.RpcError) as raised:
        method(iter([request_bytes]))
    assert raised.value.code() == code
    assert running.method("echo")("and the server goes on") == "and the server goes on"


@pytest.mark.parametrize("name", ["echo", "join"])
def test_bytes_that_are_no_message_are_told_of_and_are_nobodys_bug(
    running: Running, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        running.method(name, "stream_unary", _bytes)(iter([b"\xff"]))
    error: Any = raised.value
    assert error.details() == "the request is not a message of this method"
    assert "bug" not in capsys.readouterr().out


def test_a_status_brings_its_metadata(running: Running) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        running.method("refuse")("no")
    error: Any = raised.value
    assert error.details() == "no"
    assert ("why", "because") in [tuple(each) for each in error.trailing_metadata()]


def test_a_method_of_one_request_refuses_a_call_without_any(running: Running) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        running.method("echo", "stream_unary")(iter(()))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_handler_whose_caller_hangs_up_is_cancelled(running: Running) -> None:
    call = running.method("wait").future("word")
    assert running.service.waiting.wait(PATIENCE)
    call.cancel()
    assert running.service.cancelled.wait(PATIENCE)


def test_a_handler_whose_callers_deadline_passes_is_cancelled(running: Running) -> None:
    assert running.method("echo")("word") == "word"  # so it is connected
    with pytest.raises(grpc.RpcError) as raised:
        running.method("wait")("word", timeout=1.2)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert running.service.cancelled.wait(PATIENCE)


def test_a_writer_waits_for_its_reader_and_ends_with_him(running: Running) -> None:
    chatter = running.method("chatter", "unary_stream")("")
    assert next(chatter)
    steady = -1
    while steady != running.service.written:  # until the transport takes no more
        steady = running.service.written
        running.method("echo")("time passes")
    assert running.service.written < 10_000
    chatter.cancel()
    running.stop(PATIENCE)  # returns when no handler is left


def test_who_leaves_answers_unread_for_longest_is_hung_up_on_where_there_are_too_many(
    unstarted: Running,
) -> None:
    unstarted.max_unread = 10_000
    unstarted.start()
    echo = unstarted.method("echo")
    with contextlib.closing(DeafCaller(unstarted.port)) as deaf:
        for _ in range(4):  # two find room
            deaf.call(f"/{SERVICE}/echo", b"x" * 4000)
        assert [deaf.hung_up_on(), deaf.hung_up_on()] == [1, 2]
        assert len(echo("x" * 4000)) == 4000
        assert deaf.hung_up_on() == 3
        assert len(echo("x" * 20_000)) == 20_000  # more than all of the room
        assert deaf.hung_up_on() == 4
    unstarted.stop()


def test_what_is_tried_first_may_answer_at_once_or_leave_it(unstarted: Running) -> None:
    threads: list[str] = []

    def at_once(call: UnaryCall) -> bool:
        threads.append(threading.current_thread().name)
        if call.request == "leave it":
            return False
        if call.request == "refuse":
            call.finish_with(grpc.StatusCode.ABORTED, "refused", ())
        else:
            call.answer(f"{call.request} at once")
        return True

    unstarted.at_once = at_once
    unstarted.start()
    echo = unstarted.method("echo")
    assert [echo("word"), echo("leave it")] == ["word at once", "leave it"]
    with pytest.raises(grpc.RpcError) as raised:
        echo("refuse")
    assert raised.value.code() == grpc.StatusCode.ABORTED
    assert threads == ["spear-edge"] * 3
    unstarted.stop()


def test_a_call_may_be_answered_by_any_thread_when_its_time_comes(unstarted: Running) -> None:
    held: Future[UnaryCall] = Future()

    def at_once(call: UnaryCall) -> bool:
        held.set_result(call)
        return True

    unstarted.at_once = at_once
    unstarted.start()
    asked = unstarted.method("echo").future("word")
    held.result(PATIENCE).answer("later")
    assert asked.result(PATIENCE) == "later"
    unstarted.stop()


def test_a_call_that_is_answered_after_its_end_holds_up_the_stop_and_harms_nobody(unstarted: Running) -> None:
    held: Future[UnaryCall] = Future()
    closed = threading.Event()

    def at_once(call: UnaryCall) -> bool:
        call.when_closed(lambda gone: closed.set())
        held.set_result(call)
        return True

    unstarted.at_once = at_once
    unstarted.start()
    asked = unstarted.method("echo").future("word")
    call = held.result(PATIENCE)
    stopping = unstarted.begin_to_stop(0)
    assert closed.wait(PATIENCE)
    assert not stopping.done()
    call.answer("too late")
    stopping.result(PATIENCE)
    with pytest.raises(grpc.RpcError):
        asked.result(PATIENCE)


def test_a_stop_lets_calls_end_in_their_grace(running: Running) -> None:
    calls = running.method("join", "stream_unary")
    go = threading.Event()

    def parts() -> Iterator[str]:
        yield "a"
        go.wait(PATIENCE)
        yield "b"

    asked = calls.future(parts())
    assert running.method("echo")("the other call is under way by now, or soon") != ""
    stopping = running.begin_to_stop(PATIENCE)
    go.set()
    stopping.result(PATIENCE)
    # Whether it came in before the stop is not known; what came in was answered.
    assert asked.exception(PATIENCE) is None or asked.code() == grpc.StatusCode.UNAVAILABLE


def test_a_call_leaves_nothing_to_the_garbage_collector(running: Running) -> None:
    calls = [
        ("echo", "unary_unary", "word"),
        ("double", "stream_stream", iter("ab")),
        ("refuse", "unary_unary", ""),
    ]
    gc.collect()
    gc.disable()
    try:
        for name, kind, request in calls:
            with contextlib.suppress(grpc.RpcError):
                list(running.method(name, kind)(request))
        running.stop()  # when everything that was under way has ended
        left = [each for each in gc.get_objects() if isinstance(each, Rpc)]
    finally:
        gc.enable()
    assert left == []


def test_a_call_that_came_before_the_stop_and_is_seen_after_it_is_answered(
    unstarted: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, on_call = Core.stop, Core._on_call
    stopping: list[Future[None]] = []
    has_begun = threading.Event()

    def begun(core: Core) -> None:
        stop(core)
        has_begun.set()

    def seen_too_late(core: Core, event: Any) -> None:
        if event.success:
            stopping.append(unstarted.begin_to_stop(PATIENCE))
            assert has_begun.wait(PATIENCE)
        on_call(core, event)

    monkeypatch.setattr(Core, "stop", begun)
    monkeypatch.setattr(Core, "_on_call", seen_too_late)
    unstarted.start()
    assert unstarted.method("echo")("word") == "word"
    stopping[0].result(PATIENCE)


def test_an_rpc_that_a_bug_keeps_from_everybody_is_answered_and_holds_up_no_stop() -> None:
    def broken(_: Rpc) -> bool:
        raise ValueError("a bug")

    running = Running(broken)
    running.start()
    with pytest.raises(grpc.RpcError) as raised:
        running.method("echo")("word")
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    running.stop(PATIENCE)  # returns when none is left
    running.close()


def test_a_check_refuses_before_anything_is_read() -> None:
    seen: list[str] = []

    def check(rpc: Any) -> bool:
        seen.append(rpc.method)
        if dict(rpc.metadata).get("pass") == "yes":
            return True
        rpc.finish_with(grpc.StatusCode.UNAUTHENTICATED, "who are you", ())
        return False

    running = Running(check)
    running.start()
    with pytest.raises(grpc.RpcError) as raised:
        running.method("wait")("word")
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert running.method("echo")("word", metadata=(("pass", "yes"),)) == "word"
    assert seen == [f"/{SERVICE}/wait", f"/{SERVICE}/echo"]
    running.stop()
    running.close()


def test_an_address_that_is_taken_is_told(running: Running) -> None:
    second = EdgeServer([("grpc.so_reuseport", 0)], ROOMY)
    assert second.bind(f"127.0.0.1:{running.port}", None) == 0
