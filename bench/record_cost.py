"""What it costs a call without a key to be remembered: servers with and without records, asked in turns."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import h2load
from bench.figure import Figure, median_ratio
from bench.rpc_cost import METHOD, existing_task
from bench.servers import FIXTURES, Server, spear_server
from spear_wasm.client import Client

CALLS = 4000
ROUNDS = 30
WARM_UP_CALLS = 12_000
"""More than are remembered: from then on each call's record takes the place of another's."""
CONFIGS = {"on": "", "off": "[execution]\nmax_records = 0\n"}


def measure() -> list[Figure]:
    """CPU time of the server for a call."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        servers, tasks = {}, {}
        for name, config in CONFIGS.items():
            directory = Path(folder) / name
            directory.mkdir()
            servers[name] = closing.enter_context(spear_server(directory, config))
            with Client(servers[name].address) as client:
                client.upload(FIXTURES / "calc.wasm", name="calc")
                tasks[name] = client.call("calc", "add", 20, 22).task_id

        def cpu_us(name: str, server: Server, calls: int) -> float:
            start = server.cpu_seconds()
            h2load.run(server.address, METHOD, existing_task(tasks[name]), calls, Path(folder) / "body")
            return (server.cpu_seconds() - start) / calls * 1e6

        for name, server in servers.items():
            cpu_us(name, server, WARM_UP_CALLS)
        used: dict[str, list[float]] = {name: [] for name in servers}
        for turn in range(ROUNDS):
            # Each goes first as often as the other: who follows a busy server finds the machine as that left it.
            for name in sorted(servers, reverse=turn % 2 == 0):
                used[name].append(cpu_us(name, servers[name], CALLS))
    return [
        Figure(
            "CPU a call without a key, records on / off", median_ratio(used["on"], used["off"]), at_most=1.05
        ),
        *(Figure(f"records {name}", statistics.median(used[name]), "CPU us a call") for name in used),
    ]
