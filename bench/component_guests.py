"""What components from toolchains cost: an interpreter of Python, an HTTP guest in C, and 10,000 of those asleep.

In process a call is a fresh sandbox with its limits armed, the instance, the call, its outcome, the sandbox closed.
Beside three requests that loop it is over the socket, from the request to the response. Those that sleep are on one
engine: a server has two, whose pools take 4 maps for a sandbox, and such a guest takes 4 more when it runs, of the
65,530 that Linux gives a process unless told otherwise. So one process of a server has room for some 8,000.
"""

from __future__ import annotations

import lzma
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from bench.figure import Figure, percentile
from bench.in_process import host_with
from bench.neighbours import undisturbed
from bench.sandbox_cost import microseconds, sandbox_call
from bench.servers import FIXTURES, spear_server
from spear_wasm.client import Client
from spear_wasm.config import CompileConfig, Config, RuntimeConfig, Seconds
from spear_wasm.engine.compiler import Compiler
from spear_wasm.engine.engine import Engine
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.engine.ticker import Pace
from spear_wasm.execution.fiber import Run
from spear_wasm.model import Parameter
from spear_wasm.runtime import Runtime
from spear_wasm.runtime_manager import RuntimeManager
from spear_wasm.wishes import Wishes

COMPONENTS = FIXTURES.parent / "components"
HTTP = COMPONENTS / "http.wasm"
LANGUAGES = ("python", "javascript")
ROUNDS = 11
CALLS, CALLS_OF_HTTP = 100, 500
LOOPING = 3
REQUESTS = 500
LOOP_SECONDS = 120.0
SLEEPERS = int(os.environ.get("BENCH_WAITING", "10000"))
MOST_MS_PYTHON, MOST_MS_HTTP, MOST_MS_BESIDE_LOOPS, MOST_KIB_ASLEEP = 3.0, 0.4, 30.0, 120.0
PATIENT = Config(compile=CompileConfig(max_wall_time=Seconds(600), max_cpu_time=Seconds(600)))
"""An interpreter takes seconds to compile, and on a busy machine more than a server gives it."""
BESIDE = f"""
[default_limits]
max_wall_time = "{LOOP_SECONDS:.0f}s"
"""


def measure() -> list[Figure]:
    """Milliseconds a call; then beside those that loop; then what one costs that is asleep."""
    return [*_fresh(), *_beside_loops(), *_asleep()]


def _fresh() -> list[Figure]:
    greetings = [
        Figure(
            f"a greeting by {language}, fresh",
            _milliseconds(lzma.decompress(_packed(language)), "greet", "Ada", CALLS),
            "ms",
            at_most=MOST_MS_PYTHON if language == "python" else None,
        )
        for language in LANGUAGES
    ]
    answer = _milliseconds(HTTP.read_bytes(), "handle", "/", CALLS_OF_HTTP)
    return [*greetings, Figure("a response by C, fresh", answer, "ms", at_most=MOST_MS_HTTP)]


def _packed(language: str) -> bytes:
    return (COMPONENTS / f"{language}.wasm.xz").read_bytes()


def _milliseconds(component: bytes, function: str, argument: str, calls: int) -> float:
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), component, function, (argument,), config=PATIENT) as guest,
    ):
        rounds = undisturbed(
            lambda: [microseconds(lambda: sandbox_call(guest, metered=False), calls) for _ in range(ROUNDS)]
        )
    return statistics.median(rounds) / 1000


def _beside_loops() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory() as directory,
        spear_server(Path(directory), BESIDE) as server,
        Client(server.address) as client,
    ):
        client.upload(HTTP, name="http")
        alone = undisturbed(lambda: _latencies(client), server)
        loops = [client.submit("http", "handle", "/spin") for _ in range(LOOPING)]
        beside = undisturbed(lambda: _latencies(client), server)
        if not all(client.cancel(each).success for each in loops):
            raise RuntimeError("what was to loop has ended")
    return [
        Figure("a response over the socket, p50", percentile(alone, 50), "ms"),
        Figure("a response over the socket, p99", percentile(alone, 99), "ms"),
        Figure(f"beside {LOOPING} that loop, p50", percentile(beside, 50), "ms"),
        Figure(
            f"beside {LOOPING} that loop, p99", percentile(beside, 99), "ms", at_most=MOST_MS_BESIDE_LOOPS
        ),
    ]


def _latencies(client: Client) -> list[float]:
    """Milliseconds from a request to its response, one after the other."""
    taken = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        answer = client.call("http", "handle", "/")
        taken.append((time.perf_counter() - begun) * 1000)
        if not answer.ok:
            raise RuntimeError(answer.error_message)
    return taken


def _asleep() -> list[Figure]:
    settings = EngineSettings(
        metered=False, max_memory_bytes=1 << 20, memory_reservation=1 << 20, max_table_elements=10_000,
        wasm_stack_bytes=512 << 10, sandboxes=SLEEPERS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        code = Path(directory) / "http.cwasm"
        module = Compiler(settings, settings, CompileConfig()).compile(HTTP, code, metered=False).module
        engine = Engine(settings, 0.001)
        kind = RuntimeManager(RuntimeConfig()).recognise(module)
        linked = engine.link(code, module, kind.host_functions(module))
    before = psutil.Process().memory_info().rss
    guests = [_sleeper(kind, linked) for _ in range(SLEEPERS)]
    each = (psutil.Process().memory_info().rss - before) / 1024 / SLEEPERS
    for sandbox, run in guests:
        run.close()
        sandbox.close()
    engine.close()
    return [
        Figure("HTTP guests asleep at once", SLEEPERS),
        Figure("resident memory of each", each, "KiB", at_most=MOST_KIB_ASLEEP),
    ]


def _sleeper(kind: Runtime, linked: LinkedArtifact) -> tuple[GuestSandbox, Run]:
    """A guest that has come as far as to wait, with all that its runtime keeps for it."""
    wishes, limits = Wishes({}), Config().default_limits.limits()
    settings = kind.settings(linked.module, {}, wishes, RuntimeConfig())
    function = kind.bind(linked.module, "handle", settings)
    assert function is not None
    arguments = function.arguments([Parameter("/sleep?ms=3600000")], limits, {})
    sandbox = linked.new_sandbox(limits)

    def run() -> Run:
        yield from kind.preparation(linked.module, settings)(sandbox)
        return (yield from function.steps(sandbox, arguments))

    steps = run()
    while sandbox.waits_for is None:
        linked.engine.ticker.begin_slice(Pace.FULL)
        next(steps)
    return sandbox, steps
