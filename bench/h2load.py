"""h2load as a client of gRPC and of plain HTTP: it costs little, and nothing of it is Python.

It does not look at what gRPC says in its trailers: whether the calls did what they should is to be seen in the
server's own figures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from google.protobuf.message import Message

CONNECTIONS = 8
STREAMS = 4
"""Calls under way on each connection; plain HTTP gets as many connections instead."""
_FINISHED = re.compile(r"finished in .*?, ([\d.]+) req/s")
_SUCCEEDED = re.compile(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout")


class NoH2load(Exception):
    """The machine does not have it."""


def check_installed() -> None:
    """Raise NoH2load where it is not to be found."""
    if shutil.which("h2load") is None:
        raise NoH2load("h2load is not installed (package nghttp2-client)")


def run(address: str, method: str, request: Message, calls: int, body_file: Path, *, times: int = 1) -> float:
    """So many calls, as fast as the server answers them; returns calls a second.

    Each call sends the request so many `times`: more than once is for methods that take a stream of them.
    """
    return _ask([*_of_grpc(request, body_file, times), f"http://{address}{method}"], calls)


def run_plain(address: str, calls: int) -> float:
    """So many GET requests over HTTP/1.1, as fast as the server answers them; returns requests a second."""
    return _ask(["--h1", "-c", str(CONNECTIONS * STREAMS), f"http://{address}/"], calls)


def pace(
    address: str, method: str, request: Message, calls: int, body_file: Path, *, calls_per_second: float
) -> list[float]:
    """So many calls at a steady rate; returns the milliseconds that each took."""
    log = body_file.with_suffix(".log")
    log.unlink(missing_ok=True)
    rate = ["--rps", str(max(1, round(calls_per_second / CONNECTIONS))), f"--log-file={log}"]
    _ask([*_of_grpc(request, body_file), *rate, f"http://{address}{method}"], calls)
    return [int(line.split("\t")[2]) / 1e3 for line in log.read_text(encoding="ascii").splitlines()]


def _of_grpc(request: Message, body_file: Path, times: int = 1) -> list[str]:
    content = request.SerializeToString()
    body_file.write_bytes((b"\0" + len(content).to_bytes(4) + content) * times)
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return ["-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(body_file), *headers]


def _ask(options: list[str], calls: int) -> float:
    command = ["h2load", "-n", str(calls), *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    finished, succeeded = _FINISHED.search(said), _SUCCEEDED.search(said)
    if finished is None or succeeded is None or int(succeeded[1]) != calls:
        raise RuntimeError(f"h2load did not get its answers:\n{said}")
    return float(finished[1])
