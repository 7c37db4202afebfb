"""wasi:io/streams and wasi:io/error: bytes in and out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Protocol

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.descriptors import File, Written
from spear_wasm.wasi.errno import Errno, WasiError, number_of
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import MAX_TRANSFER_BYTES, Interface
from spear_wasm.wasi.preview2.poll import Pollable
from spear_wasm.wit.values import Case, Err, Ok, WitValue

Steps = Generator[Wait, None, WitValue]

ERRORS = Interface("wasi:io/error", "error")
STREAMS = Interface("wasi:io/streams", "input-stream", "output-stream")

STREAM_ERROR = "variant { last-operation-failed(own<error>), closed }"
_CONTENT = f"result<list<u8>, {STREAM_ERROR}>"
_COUNT = f"result<u64, {STREAM_ERROR}>"
_NOTHING = f"result<_, {STREAM_ERROR}>"


class Failure:
    """wasi:io/error's `error`: why an operation of a stream failed."""

    def __init__(self, number: Errno) -> None:
        self.number = number

    def close(self) -> None:
        """There is nothing to give back."""


class Source(Protocol):
    """Where bytes come from: all that there will be are there, or an error is."""

    def read(self, size: int) -> bytes:
        """At most so many of those that are next; none at their end."""
        ...

    def close(self) -> None:
        """Nobody reads from here any more."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    def write(self, content: bytes) -> Written:
        """Take at least some of the bytes; returns how many."""
        ...

    def close(self) -> None:
        """Nobody writes here any more."""
        ...


class Closed(Exception):
    """There is nothing more to read from a stream, or it takes nothing more."""


class InputStream:
    """wasi:io/streams' `input-stream`. What can be read is always there: nobody ever waits for it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_over = False

    def read(self, size: int) -> bytes:
        """At most so many bytes, and at most what one call moves.

        Raises:
            Closed: there are none left.
        """
        if self._is_over:
            raise Closed
        if not size:
            return b""
        content = self._source.read(min(size, MAX_TRANSFER_BYTES))
        if not content:
            raise Closed
        return content

    def fail(self) -> None:
        """Nothing more can be read: it has failed, or come to its end."""
        self._is_over = True

    def close(self) -> None:
        """The guest has dropped it."""
        self._source.close()


class OutputStream:
    """wasi:io/streams' `output-stream`. There is always room in it: whoever writes waits until it has been written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.is_over = False

    def write(self, content: bytes) -> Generator[Wait, None, None]:
        """Write all of it.

        Raises:
            Closed: it takes nothing more.
            GuestFault: it is more than one call moves.
        """
        if self.is_over:
            raise Closed
        if len(content) > MAX_TRANSFER_BYTES:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the guest wrote {len(content)} bytes to a stream at once, which takes {MAX_TRANSFER_BYTES}",
            )
        at = 0
        while at < len(content):
            at += yield from self._sink.write(content[at:] if at else content)

    def fail(self) -> None:
        """It takes nothing more."""
        self.is_over = True

    def close(self) -> None:
        """The guest has dropped it."""
        self._sink.close()


class FileSource:
    """A file of its own, read from a place on."""

    def __init__(self, file: File, offset: int) -> None:
        self.file = file
        self._offset = offset

    def read(self, size: int) -> bytes:
        """What is there."""
        content = self.file.read_at(size, self._offset)
        self._offset += len(content)
        return content

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class FileSink:
    """A file of its own, written from a place on; at its end where there is none."""

    def __init__(self, file: File, offset: int | None) -> None:
        self.file = file
        self._offset = offset

    def write(self, content: bytes) -> Written:
        """Write what there is room for."""
        yield from ()  # it never waits
        if self._offset is None:
            return self.file.write_at(content, self.file.size())
        written = self.file.write_at(content, self._offset)
        self._offset += written
        return written

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _answered(work: Callable[[ComponentGuest, InputStream, int], WitValue]) -> Callable[..., WitValue]:
    """A function on an input stream, with an end and errors as the guest is told of them."""

    @wraps(work)
    def answer(guest: ComponentGuest, number: int, length: int) -> WitValue:
        stream = guest.resources.get(number, InputStream)
        try:
            return Ok(work(guest, stream, length))
        except (Closed, WasiError, OSError) as error:
            return _told(guest, stream, error)

    return answer


def _written(work: Callable[..., Steps]) -> Callable[..., Steps]:
    """The same for one on an output stream."""

    @wraps(work)
    def answer(guest: ComponentGuest, number: int, *args: WitValue) -> Steps:
        stream = guest.resources.get(number, OutputStream)
        try:
            return Ok((yield from work(guest, stream, *args)))
        except (Closed, WasiError, OSError) as error:
            return _told(guest, stream, error)

    return answer


def _told(
    guest: ComponentGuest, stream: InputStream | OutputStream, error: Closed | WasiError | OSError
) -> Err:
    stream.fail()
    if isinstance(error, Closed):
        return Err(Case("closed"))
    return Err(Case("last-operation-failed", guest.resources.add(Failure(number_of(error)))))


@ERRORS.function("[method]error.to-debug-string", "func(self: borrow<error>) -> string")
def to_debug_string(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.get(number, Failure).number.name.lower()


@STREAMS.function("[method]input-stream.read", f"func(self: borrow<input-stream>, len: u64) -> {_CONTENT}")
@STREAMS.function(
    "[method]input-stream.blocking-read", f"func(self: borrow<input-stream>, len: u64) -> {_CONTENT}"
)
@_answered
def read(_: ComponentGuest, stream: InputStream, length: int) -> WitValue:
    return stream.read(length)


@STREAMS.function("[method]input-stream.skip", f"func(self: borrow<input-stream>, len: u64) -> {_COUNT}")
@STREAMS.function(
    "[method]input-stream.blocking-skip", f"func(self: borrow<input-stream>, len: u64) -> {_COUNT}"
)
@_answered
def skip(_: ComponentGuest, stream: InputStream, length: int) -> WitValue:
    return len(stream.read(length))


@STREAMS.function("[method]input-stream.subscribe", "func(self: borrow<input-stream>) -> own<pollable>")
@STREAMS.function("[method]output-stream.subscribe", "func(self: borrow<output-stream>) -> own<pollable>")
def subscribe(guest: ComponentGuest, _number: int) -> WitValue:
    return guest.resources.add(Pollable())


@STREAMS.function("[method]output-stream.check-write", f"func(self: borrow<output-stream>) -> {_COUNT}")
def check_write(guest: ComponentGuest, number: int) -> WitValue:
    if guest.resources.get(number, OutputStream).is_over:
        return Err(Case("closed"))
    return Ok(MAX_TRANSFER_BYTES)


@STREAMS.waiting(
    "[method]output-stream.write", f"func(self: borrow<output-stream>, contents: list<u8>) -> {_NOTHING}"
)
@STREAMS.waiting(
    "[method]output-stream.blocking-write-and-flush",
    f"func(self: borrow<output-stream>, contents: list<u8>) -> {_NOTHING}",
)
@_written
def write(_: ComponentGuest, stream: OutputStream, content: bytes) -> Steps:
    yield from stream.write(content)
    return None


@STREAMS.waiting(
    "[method]output-stream.write-zeroes", f"func(self: borrow<output-stream>, len: u64) -> {_NOTHING}"
)
@STREAMS.waiting(
    "[method]output-stream.blocking-write-zeroes-and-flush",
    f"func(self: borrow<output-stream>, len: u64) -> {_NOTHING}",
)
@_written
def write_zeroes(_: ComponentGuest, stream: OutputStream, length: int) -> Steps:
    # One too many is one that `write` refuses, however many more there would be.
    yield from stream.write(bytes(min(length, MAX_TRANSFER_BYTES + 1)))
    return None


@STREAMS.function("[method]output-stream.flush", f"func(self: borrow<output-stream>) -> {_NOTHING}")
@STREAMS.function("[method]output-stream.blocking-flush", f"func(self: borrow<output-stream>) -> {_NOTHING}")
def flush(guest: ComponentGuest, number: int) -> WitValue:
    return Err(Case("closed")) if guest.resources.get(number, OutputStream).is_over else Ok()


_SPLICE = f"func(self: borrow<output-stream>, src: borrow<input-stream>, len: u64) -> {_COUNT}"


@STREAMS.waiting("[method]output-stream.splice", _SPLICE)
@STREAMS.waiting("[method]output-stream.blocking-splice", _SPLICE)
@_written
def splice(guest: ComponentGuest, stream: OutputStream, source: int, length: int) -> Steps:
    if stream.is_over:
        raise Closed
    content = guest.resources.get(source, InputStream).read(length)
    yield from stream.write(content)
    return len(content)
