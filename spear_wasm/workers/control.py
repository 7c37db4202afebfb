"""What a supervisor and its workers tell each other: short messages over a pair of sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

MAX_MESSAGE_BYTES: Final = 16 << 10


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it answers calls."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From a worker: why it cannot serve, and ends."""

    message: str


class TakeOver(msgspec.Struct, frozen=True, tag=True):
    """To a worker: see to what a worker has left that is `gone`, one of so many parts; 0 is an earlier run."""

    gone: int
    part: int
    parts: int


class TakenOver(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it has what it was to take over."""

    what: TakeOver


class Retire(msgspec.Struct, frozen=True, tag=True):
    """To a worker: another one has its place; accept nothing more, finish, and end."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the server stops; in order, or `at_once`.

    It is told so here, and a signal says no more than the first of it: whoever stops a service may send one to all of
    its processes, and each must not count for two.
    """

    at_once: bool


Message: TypeAlias = Ready | Failed | TakeOver | TakenOver | Retire | Stop


class Line:
    """One end of the pair. Neither end ever waits for the other one."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.is_dead = False
        """Whether nothing will come any more, since the other end is gone."""
        end.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """For whoever waits until there is something to be received."""
        return self._end.fileno()

    def send(self, message: Message) -> None:
        """Tell the other end, if it is still there."""
        try:
            self._end.send(msgspec.json.encode(message))
        except OSError:  # it is gone, or takes nothing any more, which its supervisor or the kernel ends
            return

    def messages(self) -> Iterator[Message]:
        """What has come."""
        while not self.is_dead:
            try:
                content = self._end.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                content = b""
            if content:
                yield _MESSAGES.decode(content)
            else:
                self.is_dead = True

    def close(self) -> None:
        """Hang up; again is harmless."""
        self._end.close()


_MESSAGES: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
