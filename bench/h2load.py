"""h2load as a gRPC client: it costs little, and nothing of it is Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from google.protobuf.message import Message

CONNECTIONS = 8
STREAMS = 4
"""Calls under way on each connection."""
_FINISHED = re.compile(r"finished in .*?, ([\d.]+) req/s")
_SUCCEEDED = re.compile(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout")


class NoH2load(Exception):
    """The machine does not have it."""


def check_installed() -> None:
    """Raise NoH2load where it is not to be found."""
    if shutil.which("h2load") is None:
        raise NoH2load("h2load is not installed (package nghttp2-client)")


def run(address: str, method: str, request: Message, calls: int, body_file: Path) -> float:
    """So many calls, as fast as the server answers them; returns calls a second.

    h2load does not look at what gRPC says in its trailers: whether the calls did what they should is to be seen
    in the server's own figures.
    """
    content = request.SerializeToString()
    body_file.write_bytes(b"\0" + len(content).to_bytes(4) + content)
    command = ["h2load", "-n", str(calls), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(body_file)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{address}{method}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    finished, succeeded = _FINISHED.search(said), _SUCCEEDED.search(said)
    if finished is None or succeeded is None or int(succeeded[1]) != calls:
        raise RuntimeError(f"h2load did not get its answers:\n{said}")
    return float(finished[1])
