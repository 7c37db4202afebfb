"""The line between a guest that emits and whoever reads: bounded, in order, and in nobody's way."""

from __future__ import annotations

import threading
from functools import partial
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.config import Config
from spear_wasm.execution.execution import Execution
from spear_wasm.execution.fiber import FiberState
from spear_wasm.execution.stream import MessageStream
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionMode, ExecutionStatus
from tests.execution.conftest import OpenGuests
from tests.execution.guests import Guests, ended, until


def size_of(stream: MessageStream) -> tuple[int, int]:
    """Messages that wait to be read, and their bytes."""
    return len(stream._messages), stream._bytes


def test_there_is_room_for_so_many_messages_and_no_more() -> None:
    stream = MessageStream(max_messages=3, max_bytes=100)
    for _ in range(3):
        assert stream.room_for(1) is None
        stream.put(b"x")
    assert stream.room_for(0) is not None


def test_there_is_room_for_so_many_bytes_and_no_more() -> None:
    stream = MessageStream(max_messages=100, max_bytes=10)
    assert stream.room_for(10) is None
    stream.put(b"1234567")
    assert stream.room_for(3) is None
    assert stream.room_for(4) is not None


def test_the_guest_is_woken_when_half_has_been_read() -> None:
    stream = MessageStream(max_messages=4, max_bytes=100)
    for _ in range(4):
        stream.put(b"x")
    wait = stream.room_for(1)
    assert wait is not None
    woken = []
    for _ in range(4):
        stream.take()
        woken.append(wait.over)
    assert woken == [False, True, True, True]


def test_the_guest_is_not_woken_before_there_is_room_for_what_it_has() -> None:
    stream = MessageStream(max_messages=4, max_bytes=10)
    for _ in range(2):
        stream.put(b"12345")
    wait = stream.room_for(10)
    assert wait is not None
    stream.take()
    assert not wait.over
    stream.take()
    assert wait.over


def test_the_reader_is_told_when_there_is_something_after_nothing() -> None:
    stream, told = MessageStream(10, 100), []
    stream.put(b"before anybody listens")
    stream.listen(lambda: told.append(size_of(stream)[0]))
    stream.put(b"behind another")
    assert told == []
    while stream.take() is not None:
        pass
    stream.put(b"first")
    stream.put(b"second")
    assert told == [1]


def test_what_is_closed_is_empty() -> None:
    stream = MessageStream(10, 100)
    stream.put(b"unread")
    stream.close()
    assert stream.take() is None
    assert size_of(stream) == (0, 0)


@given(st.lists(st.binary(max_size=30), max_size=60), st.integers(1, 5), st.integers(30, 60))
def test_all_messages_arrive_in_order_within_the_bounds(
    messages: list[bytes], max_messages: int, max_bytes: int
) -> None:
    stream, read = MessageStream(max_messages, max_bytes), []
    for message in messages:
        while (wait := stream.room_for(len(message))) is not None:
            while not wait.over:
                taken = stream.take()
                assert taken is not None, "the guest waits, and there is nothing to read"
                read.append(taken)
        stream.put(message)
        count, size = size_of(stream)
        assert count <= max_messages
        assert size <= max_bytes
    while (rest := stream.take()) is not None:
        read.append(rest)
    assert read == messages


# --- with real guests -------------------------------------------------------------------------------------


def streamed(guests: Guests, function: str, *values: int, stream: MessageStream) -> Execution:
    limits = ResourceLimits(max_output_bytes=4 << 20, max_memory_bytes=1 << 20)
    task = guests.task("emitter", "emitter", limits=limits)
    return guests.submit(task, function, *values, stream=stream, mode=ExecutionMode.STREAM, on_the_spot=True)


def is_waiting(execution: Execution) -> bool:
    return execution.fiber is not None and execution.fiber.state is FiberState.WAITING


def test_a_guest_whose_reader_does_not_read_waits_with_the_buffer_full(guests: Guests) -> None:
    stream = MessageStream(max_messages=8, max_bytes=1000)
    execution = streamed(guests, "emit_forever", 100, stream=stream)
    until(lambda: is_waiting(execution))
    assert size_of(stream) == (8, 800)
    fiber = execution.fiber
    assert fiber is not None
    used = fiber.cpu_ns
    task = guests.task("calc")
    assert guests.values(task, "answer") == (42,)
    assert (fiber.cpu_ns, size_of(stream)) == (used, (8, 800))
    for number in range(100):
        until(lambda: size_of(stream)[0])
        message = stream.take()
        assert message is not None
        assert message[:4] == number.to_bytes(4, "little")
    guests.cancel(execution)
    assert execution.status is ExecutionStatus.CANCELLED


def test_many_guests_that_wait_leave_the_executor_to_others(open_guests: OpenGuests) -> None:
    guests = open_guests(execution={"max_running": 290}, pool={"max_ready": 10})
    streams = [MessageStream(2, 1000) for _ in range(200)]
    executions = [streamed(guests, "emit_forever", 100, stream=stream) for stream in streams]
    for execution in executions:
        until(partial(is_waiting, execution))
    assert len(guests.manager._executor._queue) == 0
    assert guests.values(guests.task("calc"), "answer") == (42,)
    read = [stream.take() for stream in streams]
    assert all(message is not None and message[:4] == bytes(4) for message in read)
    guests.cancel(*executions)


def test_a_reader_on_another_thread_gets_all_of_it(guests: Guests) -> None:
    stream = MessageStream(max_messages=4, max_bytes=1000)
    news, over, read = threading.Event(), threading.Event(), list[bytes]()

    def tell() -> None:
        news.set()

    stream.listen(tell)
    execution = streamed(guests, "emit_numbers", 5000, 8, stream=stream)

    def tell_of_the_end(_: Execution) -> None:
        over.set()
        news.set()

    execution.add_done_callback(tell_of_the_end)
    ending = False
    while not ending:
        ending = over.is_set()
        news.clear()
        while (message := stream.take()) is not None:
            read.append(message)
        if not (ending or over.is_set()):
            news.wait(10)
    assert ended(execution).status is ExecutionStatus.COMPLETED
    numbers = [int.from_bytes(message[:4], "little") for message in read]
    assert len(numbers) == 5000
    assert all(right == left + 1 for left, right in pairwise(numbers))


def test_a_stream_holds_by_default_what_the_configuration_says() -> None:
    execution = Config().execution
    assert (execution.max_unread, execution.max_unread_messages) == (256 << 10, 256)
