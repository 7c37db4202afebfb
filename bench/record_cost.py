"""What it costs a call without a key to be remembered: servers with and without records, asked in turns.

Two servers of the same kind differ by some percent, for as long as they live, and so do one that was started first and
one that was started second. So there are several pairs, each the other way round than the one before.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import h2load
from bench.figure import Figure, median_ratio
from bench.neighbours import undisturbed
from bench.rpc_cost import METHOD, existing_task
from bench.servers import FIXTURES, spear_server
from spear_wasm.client import Client

CALLS = 3000
PAIRS = 24
ROUNDS = 4
WARM_UP_CALLS = 12_000
"""More than are remembered: from then on each call's record takes the place of another's."""
CONFIGS = {"on": "", "off": "[execution]\nmax_records = 0\n"}


Pair = dict[str, float]
"""CPU us of the server for a call, with records on and off."""


def measure() -> list[Figure]:
    """CPU time of the server for a call."""
    h2load.check_installed()
    pairs = [_measured(sorted(CONFIGS, reverse=number % 2 == 0)) for number in range(PAIRS)]
    used = {name: [each[name] for each in pairs] for name in CONFIGS}
    return [
        Figure(
            "CPU a call without a key, records on / off", median_ratio(used["on"], used["off"]), at_most=1.05
        ),
        *(Figure(f"records {name}", statistics.median(used[name]), "CPU us a call") for name in used),
    ]


def _measured(names: list[str]) -> Pair:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        servers, tasks = {}, {}
        for name in names:
            directory = Path(folder) / name
            directory.mkdir()
            servers[name] = closing.enter_context(spear_server(directory, CONFIGS[name]))
            with Client(servers[name].address) as client:
                client.upload(FIXTURES / "calc.wasm", name="calc")
                tasks[name] = client.call("calc", "add", 20, 22).task_id

        def cpu_us(name: str, calls: int) -> float:
            server, start = servers[name], servers[name].cpu_seconds()
            h2load.run(server.address, METHOD, existing_task(tasks[name]), calls, Path(folder) / "body")
            return (server.cpu_seconds() - start) / calls * 1e6

        def both(turn: int) -> Pair:
            # Each goes first as often as the other: who follows a busy server finds the machine as that left it.
            return {name: cpu_us(name, CALLS) for name in sorted(servers, reverse=turn % 2 == 0)}

        for name in servers:
            cpu_us(name, WARM_UP_CALLS)
        rounds = [undisturbed(partial(both, turn), *servers.values()) for turn in range(ROUNDS)]
        return {name: statistics.median(each[name] for each in rounds) for name in names}
