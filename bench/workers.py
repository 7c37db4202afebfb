"""What a call costs where two workers serve instead of one process, and how soon a worker that was killed is back.

Both servers are asked by h2load, in turns. CPU time is that of all processes of a server.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import h2load
from bench.figure import Figure, median_ratio
from bench.rpc_cost import METHOD, completed, existing_task
from bench.servers import FIXTURES, Server, cpu_seconds_of, spear_server
from spear_wasm.client import Client
from spear_wasm.workers.restarts import STEADY_SECONDS

CALLS = 10_000
ROUNDS = 9
WARM_UP_CALLS = 4000
KILLS = 10
PATIENCE_SECONDS = 30.0
TWO_WORKERS = "[server]\nworkers = 2\n"


def measure() -> list[Figure]:
    """CPU time and throughput of two workers against one process, and the time that a place is empty."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        directories = [Path(folder) / name for name in ("one", "two")]
        for directory in directories:
            directory.mkdir()
        with (
            spear_server(directories[0]) as one,
            spear_server(directories[1], TWO_WORKERS) as two,
            Client(one.address) as client_of_one,
            Client(two.address) as client_of_two,
        ):
            figures = _compare([(one, client_of_one), (two, client_of_two)], Path(folder) / "body")
            empty = [_seconds_empty(client_of_two) for _ in range(KILLS)]
    return [
        *figures,
        Figure("seconds until a killed worker's successor answers, median", statistics.median(empty), "s"),
        Figure("seconds until a killed worker's successor answers, longest", max(empty), "s", at_most=1.0),
    ]


def _compare(servers: list[tuple[Server, Client]], body: Path) -> list[Figure]:
    asks: list[Callable[[int], float]] = []
    for server, client in servers:
        client.upload(FIXTURES / "calc.wasm", name="calc")
        request = existing_task(client.call("calc", "add", 20, 22).task_id)
        asks.append(
            lambda calls, server=server, request=request: h2load.run(  # type: ignore[misc]
                server.address, METHOD, request, calls, body
            )
        )
    before = [completed(client) for _, client in servers]
    rates: list[list[float]] = [[], []]
    costs: list[list[float]] = [[], []]
    for ask in asks:
        ask(WARM_UP_CALLS)
    for _ in range(ROUNDS):
        for number, (server, _) in enumerate(servers):
            start = _cpu_seconds(server)
            rates[number].append(asks[number](CALLS))
            costs[number].append((_cpu_seconds(server) - start) / CALLS * 1e6)
    made = WARM_UP_CALLS + ROUNDS * CALLS
    if [completed(client) for _, client in servers] != [count + made for count in before]:
        raise RuntimeError("not every call that h2load made was completed")
    return [
        Figure("CPU a call, two workers / one process", median_ratio(costs[1], costs[0]), at_most=1.10),
        Figure("calls/s, two workers / one process", median_ratio(rates[1], rates[0])),
        *(
            Figure(f"{name}: {what}", statistics.median(values[number]), unit)
            for what, unit, values in (("calls/s", "1/s", rates), ("CPU a call", "us", costs))
            for number, name in enumerate(("one process", "two workers"))
        ),
    ]


def _cpu_seconds(server: Server) -> float:
    """Of the server's process and those that it has started."""
    children = server.process.children(recursive=True)
    return server.cpu_seconds() + sum(cpu_seconds_of(each.pid) for each in children)


def _seconds_empty(client: Client) -> float:
    """How long it takes after a kill until there are as many workers as before, as another worker sees it."""
    time.sleep(2 * STEADY_SECONDS)  # who dies at once, again and again, is not started at once
    workers, answering = _workers(client)
    doomed = next(number for number in workers if number != answering)
    start = time.monotonic()
    os.kill(workers[doomed], signal.SIGKILL)
    while True:
        now, _ = _workers(client)
        if len(now) == len(workers) and doomed not in now:
            return time.monotonic() - start
        if time.monotonic() - start > PATIENCE_SECONDS:
            raise RuntimeError("nobody took the killed worker's place")
        time.sleep(0.005)


def _workers(client: Client) -> tuple[dict[int, int], int]:
    """The processes of the workers, by their numbers, and the number of the one that says so."""
    info = client.health().details.system_info
    said = {key: re.match(r"pid (\d+)", text) for key, text in info.items() if key.startswith("worker.")}
    return {int(key.removeprefix("worker.")): int(pid[1]) for key, pid in said.items() if pid}, int(
        info["worker"]
    )
