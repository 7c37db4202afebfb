"""A web server on loopback that answers as it is told."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """What it has, by path; `asked` are the paths that were asked for, with the header `Host`.

    Of each of them `headers` has the headers, and `bodies` what came with it.
    """

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.over = threading.Event()
        self._scheme = scheme

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def put(self, path: str, content: bytes, status: int = 200) -> str:
        def answer(request: BaseHTTPRequestHandler) -> None:
            _begin(request, status, {"Content-Length": str(len(content))})
            request.wfile.write(content)

        self.answers[path] = answer
        return self.url(path)

    def put_after(self, path: str, content: bytes, event: threading.Event) -> None:
        """Content that comes when something has happened."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            event.wait()
            _begin(request, 200, {"Content-Length": str(len(content))})
            request.wfile.write(content)

        self.answers[path] = answer

    def put_endless(self, path: str) -> str:
        """More and more, for as long as anybody reads."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            _begin(request, 200, {})
            while not self.over.is_set():
                request.wfile.write(bytes(1 << 16))

        self.answers[path] = answer
        return self.url(path)

    def put_stalling(self, path: str, content: bytes = b"") -> str:
        """A few bytes, then nothing."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            _begin(request, 200, {"Content-Length": str(len(content) + 1)})
            request.wfile.write(content)
            self.over.wait()

        self.answers[path] = answer
        return self.url(path)

    def put_dripping(self, path: str, header_only: bool = False) -> str:
        """One byte after the other, each of them soon enough, of the headers or of the body."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            if header_only:
                request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            else:
                _begin(request, 200, {})
            while not self.over.wait(0.02):
                request.wfile.write(b"x")

        self.answers[path] = answer
        return self.url(path)

    def put_cut_short(self, path: str, content: bytes) -> str:
        """Less than was announced."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            _begin(request, 200, {"Content-Length": str(len(content) + 1)})
            request.wfile.write(content)

        self.answers[path] = answer
        return self.url(path)

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        def answer(request: BaseHTTPRequestHandler) -> None:
            _begin(request, status, {"Location": target, "Content-Length": "0"})

        self.answers[path] = answer
        return self.url(path)


def _begin(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


@contextlib.contextmanager
def web_server(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """One on a free port, gone at the end."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            web.asked.append((self.path, self.headers.get("Host", "")))
            web.headers.append(dict(self.headers))
            web.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            with contextlib.suppress(OSError):  # whoever asked has had enough
                web.answers[self.path](self)

        do_GET = do_POST = answer  # noqa: N815  names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Not said."""

    server = _QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    web = Web(server.server_port, "https" if tls is not None else "http")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that do not trust us, and the like."""
