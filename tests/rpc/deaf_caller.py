"""A caller who has calls made, and takes no byte of any answer."""

from __future__ import annotations

import socket
import struct

from tests.rpc.serving import PATIENCE


class DeafCaller:
    """A client of HTTP/2 that gives the server no room to send."""

    SETTINGS, HEADERS, DATA, RST_STREAM = 4, 1, 0, 3
    END_STREAM, END_HEADERS = 1, 4
    INITIAL_WINDOW_SIZE = 4

    def __init__(self, port: int) -> None:
        self._stream = -1
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(self.SETTINGS, 0, 0, struct.pack(">HI", self.INITIAL_WINDOW_SIZE, 0))

    def call(self, method: str, message: bytes) -> None:
        self._stream += 2
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "here",
                   "te": "trailers", "content-type": "application/grpc"}  # fmt: skip
        block = b"".join(b"\0" + _of_header(name) + _of_header(value) for name, value in headers.items())
        self._send(self.HEADERS, self.END_HEADERS, self._stream, block)
        self._send(self.DATA, self.END_STREAM, self._stream, struct.pack(">BI", 0, len(message)) + message)

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._socket.sendall(
            struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
        )

    def hung_up_on(self) -> int:
        """Which of its calls is given up next, the first being 1; waits for that."""
        while True:
            length, kind, _, stream = struct.unpack(">IBBI", b"\0" + self._receive(9))
            self._receive(length)
            if kind == self.RST_STREAM:
                return int(stream + 1) // 2

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self._socket.recv(size - len(received))
            assert part, "the server has closed the connection"
            received += part
        return received

    def close(self) -> None:
        self._socket.close()


def _of_header(text: str) -> bytes:
    """A literal of HPACK, as it is."""
    return bytes([len(text)]) + text.encode()
