"""The first call after a restart: of a large module and of a small one, and how long until the server listens."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from bench import modules
from bench.figure import Figure
from bench.servers import FIXTURES, spear_server
from spear_wasm.client import Client

RESTARTS = 7
ARGUMENTS = {"large": [1], "small": [20, 22]}
"""Of `add`, which both modules have."""


def measure() -> list[Figure]:
    """Medians, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with spear_server(directory, modules.PATIENT_COMPILER) as server, Client(server.address) as client:
            client.upload(modules.large(), name="large")
            client.upload(FIXTURES / "calc.wasm", name="small")
            tasks = {name: client.call(name, "add", *given).task_id for name, given in ARGUMENTS.items()}
        rounds = [_restarted(directory, tasks) for _ in range(RESTARTS)]
    found = {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}
    return [
        Figure("first call of a 30 MiB module", found["large"], "ms", at_most=20),
        Figure("first call of a small module", found["small"], "ms", at_most=2),
        Figure("the call after that", found["again"], "ms"),
        Figure("until the server listens", found["start"], "ms"),
    ]


def _restarted(directory: Path, tasks: dict[str, str]) -> dict[str, float]:
    begun = time.perf_counter()
    with spear_server(directory, modules.PATIENT_COMPILER) as server:
        took = {"start": (time.perf_counter() - begun) * 1e3}
        with Client(server.address) as client:
            for _ in range(20):
                client.health()  # neither the connection nor the client's own first steps are the call
            for what in ("large", "small", "again"):
                name = what if what in tasks else "small"
                begun = time.perf_counter()
                client.call_task(tasks[name], "add", *ARGUMENTS[name])
                took[what] = (time.perf_counter() - begun) * 1e3
    return took
