"""A 30 MiB module: what its upload costs the server's memory. Its first call is in `cold`."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Self

from bench import modules
from bench.figure import Figure
from bench.servers import Server, spear_server
from spear_wasm.client import Client

LOOK_EVERY_SECONDS = 0.005


class PeakMemory:
    """Looks at a server's resident memory, without its children's, until it is closed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.before = self.peak = server.rss()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY_SECONDS):
            self.peak = max(self.peak, self._server.rss())


def measure() -> list[Figure]:
    """MiB."""
    module = modules.large()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            spear_server(directory, modules.PATIENT_COMPILER) as server,
            Client(server.address) as client,
            PeakMemory(server) as memory,
        ):
            client.upload(module, name="large")
    return [
        Figure("size of the module", len(module) / (1 << 20), "MiB"),
        Figure(
            "extra memory while it is uploaded",
            (memory.peak - memory.before) / (1 << 20),
            "MiB",
            at_most=32.0,
        ),
    ]
