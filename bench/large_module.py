"""A 30 MiB module: what its upload costs the server's memory, and its first call after a restart."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from bench import modules
from bench.figure import Figure
from bench.servers import Server, spear_server
from spear_wasm.client import Client

CONFIG = '[compile]\nmax_wall_time = "5m"\nmax_cpu_time = "5m"\n'
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
    """MiB and ms."""
    module = modules.large()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with spear_server(directory, CONFIG) as server, Client(server.address) as client:
            with PeakMemory(server) as memory:
                client.upload(module, name="large")
            task_id = client.call("large", "add", 1).task_id
        with spear_server(directory, CONFIG) as server, Client(server.address) as client:
            client.health()  # the connection is not the call
            start = time.perf_counter()
            client.call_task(task_id, "add", 1)
            first = time.perf_counter() - start
    return [
        Figure("size of the module", len(module) / (1 << 20), "MiB"),
        Figure(
            "extra memory while it is uploaded",
            (memory.peak - memory.before) / (1 << 20),
            "MiB",
            at_most=32.0,
        ),
        Figure("first call after a restart", first * 1e3, "ms", at_most=100.0),
    ]
