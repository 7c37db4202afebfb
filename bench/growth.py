"""Servers that hold 1, 100 and 10,000 artifacts, tasks and records, and some of them sandboxes: a call costs the same.

Artifacts and tasks are put into the data directories without servers; records come of calls. After each kind a server
is started: so what one of each costs in memory is seen, and in time to start.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import h2load, modules
from bench.figure import Figure, median_ratio
from bench.in_process import host_on
from bench.rpc_cost import METHOD, existing_task
from bench.servers import FIXTURES, spear_server
from spear_wasm.client import Client
from spear_wasm.config_sources import parse_config
from spear_wasm.engine.compilation import Compilation
from spear_wasm.engine.compiler import Compiler
from spear_wasm.execution.task import ArtifactSpec
from spear_wasm.host import Host

SIZES = (1, 100, 10_000)
MOST_SANDBOXES = 2000
"""That are ready: each has memory maps of its own, of which a process may have so many."""
ROUNDS = 9
CALLS = 4000
CONFIG = f"""
[artifacts]
max_artifacts = 20000
[execution]
max_tasks = 20000
[engine]
sandboxes = {MOST_SANDBOXES + 500}
[pool]
max_ready = {MOST_SANDBOXES}
max_ready_per_task = {MOST_SANDBOXES}
"""
MODULE = (FIXTURES / "calc.wasm").read_bytes()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a server needed until it could answer, in bytes and in seconds."""

    memory: int
    start: float


class OneCode:
    """A compiler of modules that differ in nothing but a custom section: it compiles the first one alone."""

    def __init__(self, compiler: Compiler, kept: Path) -> None:
        self._compiler = compiler
        self._kept = kept
        self._first: Compilation | None = None

    def fingerprint(self, *, metered: bool) -> str:
        """As the real one's."""
        return self._compiler.fingerprint(metered=metered)

    def compile(
        self, wasm: Path, output: Path, *, metered: bool, admit: Callable[[int], object]
    ) -> Compilation:
        """Code for the module in `wasm`."""
        if self._first is None:
            self._first = self._compiler.compile(wasm, self._kept, metered=metered, admit=admit)
        shutil.copy(self._kept, output)
        return self._first


def measure() -> list[Figure]:
    """CPU of a call beside many of everything, in that of one beside hardly anything; and what one of each costs."""
    h2load.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        directories = {size: Path(folder) / str(size) for size in SIZES}
        costs = {size: _stocked(directory, size) for size, directory in directories.items()}
        return [*_calls(directories), *_each(costs)]


def _stocked(directory: Path, size: int) -> dict[str, Cost]:
    """Put so many of everything into a data directory; what a server costs after each kind."""
    directory.mkdir()
    costs = {}
    with _host(directory) as host:
        for number in range(1, size):
            wasm = MODULE + modules.custom_section("number", number.to_bytes(4))
            with host.artifacts.begin_upload(f"artifact-{number}", "", "", len(wasm), {}) as upload:
                upload.write(wasm)
                upload.finish()
    costs["artifacts"] = _cost(directory)
    with _host(directory) as host:
        for number in range(size):
            host.registration.register(ArtifactSpec(artifact_id="bench"), f"task-{number}")
    costs["tasks"] = _cost(directory)
    ready = _sandboxes(size)
    with _host(directory) as host:
        host.registration.register(
            ArtifactSpec(artifact_id="bench", runtime_config={"ready_sandboxes": ready}), "ready"
        )
    costs["ready sandboxes"] = _cost(directory, ready)
    return costs


@contextmanager
def _host(directory: Path) -> Iterator[Host]:
    with host_on(directory, parse_config(tomllib.loads(CONFIG)), MODULE) as host:
        host.code._compiler = OneCode(host.compiler, directory / "kept.cwasm")
        yield host


def _cost(directory: Path, ready: int = 0) -> Cost:
    begun = time.monotonic()
    with spear_server(directory, CONFIG) as server:
        start = time.monotonic() - begun
        with Client(server.address) as client:
            if ready:
                client.call_task("ready", "add", 20, 22)
            _until_ready(client, ready)
        return Cost(server.rss(), start)


def _sandboxes(size: int) -> int:
    return min(size, MOST_SANDBOXES)


def _until_ready(client: Client, ready: int) -> None:
    while int(client.health().details.system_info["pool_ready"]) < ready:
        time.sleep(0.05)


def _calls(directories: dict[int, Path]) -> list[Figure]:
    with ExitStack() as closing:
        servers, requests = {}, {}
        for size, directory in directories.items():
            config = CONFIG.replace("max_tasks = 20000", f"max_tasks = 20000\nmax_records = {size}")
            server = servers[size] = closing.enter_context(spear_server(directory, config))
            with Client(server.address) as client:
                client.call_task("ready", "add", 20, 22)
                _until_ready(client, _sandboxes(size))
                requests[size] = existing_task(client.call_task("task-0", "add", 20, 22).task_id)
        body = Path(directories[SIZES[0]]) / "body"

        def cpu_us(size: int, calls: int) -> float:
            before = servers[size].cpu_seconds()
            h2load.run(servers[size].address, METHOD, requests[size], calls, body)
            return (servers[size].cpu_seconds() - before) / calls * 1e6

        # As many calls as there are to be records: from then on each takes the place of another.
        for size in SIZES:
            cpu_us(size, max(size, 500))
        rounds = [{size: cpu_us(size, CALLS) for size in SIZES} for _ in range(ROUNDS)]
    used = {size: [each[size] for each in rounds] for size in SIZES}
    least, *larger = SIZES
    return [
        *(
            Figure(
                f"CPU a call, beside {size:,} / {least}", median_ratio(used[size], used[least]), at_most=1.1
            )
            for size in larger
        ),
        *(Figure(f"beside {size:,}: CPU a call", statistics.median(used[size]), "us") for size in SIZES),
    ]


def _each(costs: dict[int, dict[str, Cost]]) -> Iterator[Figure]:
    least, most = costs[SIZES[0]], costs[SIZES[-1]]
    before = 0
    for kind, cost in most.items():
        number = _sandboxes(SIZES[-1]) if kind == "ready sandboxes" else SIZES[-1]
        more = cost.memory - least[kind].memory
        yield Figure(f"resident memory of {kind}, each", (more - before) / 1024 / number, "KiB")
        before = more
    for kind, cost in most.items():
        yield Figure(f"until a server listens that has {kind}, too", cost.start, "s")
    yield Figure("until one listens that has hardly anything", least["artifacts"].start, "s")
