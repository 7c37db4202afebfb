"""wasi:http/types' messages: requests and responses, those that came and those of a guest, with their bodies."""

from __future__ import annotations

from collections.abc import Generator

from spear_wasm.engine.wait import Wait
from spear_wasm.wasi.descriptors import Written
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.http_types import ERROR_CODE, HTTP, Fields
from spear_wasm.wasi.preview2.poll import Pollable
from spear_wasm.wasi.preview2.resources import HeldBytes
from spear_wasm.wasi.preview2.streams import Closed, InputStream, OutputStream, Sink
from spear_wasm.wit.values import Err, Ok, WitValue


class Received:
    """The content of a message that came, read from its begin to its end. It is counted until it is closed."""

    def __init__(self, content: bytes, counted_by: HeldBytes | None = None) -> None:
        self._content = content
        self._at = 0
        self._counted_by = counted_by

    def read(self, size: int) -> bytes:
        """What comes next of it."""
        content = self._content[self._at : self._at + size]
        self._at += len(content)
        return content

    def close(self) -> None:
        """Nobody reads it any more."""
        counted_by, self._counted_by = self._counted_by, None
        if counted_by is not None:
            counted_by.give_back(len(self._content))
        self._content = b""


class Message:
    """A request or a response, with its header fields."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def close(self) -> None:
        """The guest has dropped it."""
        self.fields.close()


class IncomingMessage(Message):
    """One that came: its content is taken once."""

    def __init__(self, fields: Fields, content: Received) -> None:
        super().__init__(fields)
        self._content: Received | None = content

    def consume(self) -> Received | None:
        """Its content; None where somebody has it already."""
        content, self._content = self._content, None
        return content

    def close(self) -> None:
        """The guest has dropped it; who has its content keeps that."""
        super().close()
        if self._content is not None:
            self._content.close()


class IncomingBody:
    """wasi:http/types' `incoming-body`."""

    def __init__(self, content: Received) -> None:
        self._content: Received | None = content

    def stream(self) -> Received | None:
        """What its stream reads; None where there is one already."""
        content, self._content = self._content, None
        return content

    def close(self) -> None:
        """The guest has dropped it; a stream goes on."""
        if self._content is not None:
            self._content.close()


class FutureTrailers(Pollable):
    """wasi:http/types' `future-trailers`: there are none, which is known already."""

    is_told = False


class Content:
    """The content of a message that a guest makes. It collects here, until it is known where it goes."""

    def __init__(self, held: HeldBytes, most: int) -> None:
        self._held = held
        self._most = most
        self._collected = bytearray()
        self._sink: Sink | None = None
        self._is_open = True
        self.is_finished = False

    def write(self, content: bytes) -> Written:
        """Take all of it; closed where it is finished, or nobody wants it any more."""
        if not self._is_open or self.is_finished:
            raise Closed
        if self._sink is not None:
            return (yield from self._sink.write(content))
        self._held.take(len(content), self._most)
        self._collected += content
        return len(content)

    def pour_into(self, sink: Sink) -> Generator[Wait, None, None]:
        """Hand over what there is; what comes later follows it."""
        self._sink = sink
        collected = self.take()
        if collected:
            yield from sink.write(collected)

    def take(self) -> bytes:
        """What has been collected, which is not counted any more."""
        collected = bytes(self._collected)
        self._held.give_back(len(collected))
        self._collected.clear()
        return collected

    def close(self) -> None:
        """Nobody wants it any more."""
        self._is_open = False
        self.take()


class _ContentSink:
    """A guest's way to write a content, which is not its to close."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def write(self, content: bytes) -> Written:
        """Write all of it."""
        return (yield from self._content.write(content))

    def close(self) -> None:
        """The content goes on."""


class OutgoingBody:
    """wasi:http/types' `outgoing-body`."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self._is_written = False

    def begin(self) -> bool:
        """Whether this is the first who wants to write it."""
        is_first = not self._is_written
        self._is_written = True
        return is_first

    def finish(self) -> None:
        """The content is all there."""
        self.content.is_finished = True

    def close(self) -> None:
        """It was dropped without an end."""
        self.content.close()


class OutgoingMessage(Message):
    """One of a guest's own: it may write a content."""

    def __init__(self, guest: ComponentGuest, fields: Fields) -> None:
        super().__init__(fields)
        fields.is_frozen = True
        self._guest = guest
        self.content: Content | None = None

    def body(self) -> OutgoingBody | None:
        """Its body; None where somebody has it already."""
        if self.content is not None:
            return None
        self.content = Content(self._guest.contents, self._guest.max_output_bytes)
        return self._body_of(self.content)

    def _body_of(self, content: Content) -> OutgoingBody:
        return OutgoingBody(content)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is to come any more."""
        return self.content is None or self.content.is_finished

    def close(self) -> None:
        """Nobody wants it any more."""
        super().close()
        if self.content is not None:
            self.content.close()


def _headers(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.add(guest.resources.get(number, Message).fields.view())


def _consume(guest: ComponentGuest, number: int) -> WitValue:
    content = guest.resources.get(number, IncomingMessage).consume()
    return Err() if content is None else Ok(guest.resources.add(IncomingBody(content)))


def _body(guest: ComponentGuest, number: int) -> WitValue:
    body = guest.resources.get(number, OutgoingMessage).body()
    return Err() if body is None else Ok(guest.resources.add(body))


for _message in ("incoming-request", "incoming-response"):
    _self = f"self: borrow<{_message}>"
    HTTP.function(f"[method]{_message}.headers", f"func({_self}) -> own<fields>")(_headers)
    HTTP.function(f"[method]{_message}.consume", f"func({_self}) -> result<own<incoming-body>>")(_consume)

for _message in ("outgoing-request", "outgoing-response"):
    _self = f"self: borrow<{_message}>"
    HTTP.function(f"[method]{_message}.headers", f"func({_self}) -> own<fields>")(_headers)
    HTTP.function(f"[method]{_message}.body", f"func({_self}) -> result<own<outgoing-body>>")(_body)


@HTTP.function(
    "[method]incoming-body.stream", "func(self: borrow<incoming-body>) -> result<own<input-stream>>"
)
def stream(guest: ComponentGuest, number: int) -> WitValue:
    content = guest.resources.get(number, IncomingBody).stream()
    return Err() if content is None else Ok(guest.resources.add(InputStream(content)))


@HTTP.function("[static]incoming-body.finish", "func(this: own<incoming-body>) -> own<future-trailers>")
def finish_reading(guest: ComponentGuest, number: int) -> WitValue:
    guest.resources.take(number, IncomingBody).close()
    return guest.resources.add(FutureTrailers())


@HTTP.function("[method]future-trailers.subscribe", "func(self: borrow<future-trailers>) -> own<pollable>")
def subscribe_trailers(guest: ComponentGuest, _number: int) -> WitValue:
    return guest.resources.add(Pollable())


@HTTP.function(
    "[method]future-trailers.get",
    f"func(self: borrow<future-trailers>) -> option<result<result<option<own<fields>>, {ERROR_CODE}>>>",
)
def get_trailers(guest: ComponentGuest, number: int) -> WitValue:
    trailers = guest.resources.get(number, FutureTrailers)
    if trailers.is_told:
        return Err()
    trailers.is_told = True
    return Ok(Ok(None))


@HTTP.function(
    "[method]outgoing-body.write", "func(self: borrow<outgoing-body>) -> result<own<output-stream>>"
)
def write(guest: ComponentGuest, number: int) -> WitValue:
    body = guest.resources.get(number, OutgoingBody)
    return Ok(guest.resources.add(OutputStream(_ContentSink(body.content)))) if body.begin() else Err()


@HTTP.function(
    "[static]outgoing-body.finish",
    f"func(this: own<outgoing-body>, trailers: option<own<fields>>) -> result<_, {ERROR_CODE}>",
)
def finish_writing(guest: ComponentGuest, number: int, trailers: int | None) -> WitValue:
    if trailers is not None:
        guest.resources.take(trailers, Fields).close()
    guest.resources.take(number, OutgoingBody).finish()
    return Ok()
