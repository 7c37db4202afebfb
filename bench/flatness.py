"""A million calls over a socket: resident memory, file descriptors and memory maps after the first 10,000.

The server is in a process of its own, and keeps all its books: counters, records (which are full after 10,000
calls), a JSON log in a file.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import h2load
from bench.figure import Figure
from bench.rpc_cost import METHOD, by_spec, completed
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.client import Client

CALLS = int(os.environ.get("BENCH_CALLS", "1000000"))
SETTLED_AFTER = 10_000
BATCH = 100_000
"""Calls that h2load makes at once; between batches connections are closed and opened anew."""
MOST_GROWTH_MIB = 4.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    mib: float
    descriptors: int
    maps: int

    @classmethod
    def of(cls, server: Server) -> Footprint:
        """What a server holds now."""
        maps = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8").splitlines()
        return cls(server.rss() / (1 << 20), server.process.num_fds(), len(maps))


def measure() -> list[Figure]:
    """Growth between the 10,000th call and the last."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with spear_server(directory) as server, Client(server.address) as client:
            client.upload(FIXTURES / "calc.wasm", name="calc")
            _call(server, SETTLED_AFTER, directory)
            before = Footprint.of(server)
            _call(server, CALLS - SETTLED_AFTER, directory)
            after = Footprint.of(server)
            if completed(client) != CALLS:
                raise RuntimeError("not every call that h2load made was completed")
    return [
        Figure("calls", CALLS),
        Figure("growth of resident memory", after.mib - before.mib, "MiB", at_most=MOST_GROWTH_MIB),
        Figure("growth of file descriptors", after.descriptors - before.descriptors, at_most=0),
        # The allocator and the timer's threads map and unmap a few as they go.
        Figure("growth of memory maps", after.maps - before.maps, at_most=32),
        Figure("resident memory at the end", after.mib, "MiB"),
    ]


def _call(server: Server, calls: int, directory: Path) -> None:
    for done in range(0, calls, BATCH):
        h2load.run(server.address, METHOD, by_spec(), min(BATCH, calls - done), directory / "body")
