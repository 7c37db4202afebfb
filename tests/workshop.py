"""Engines, a compiler and sandboxes for tests that run real guests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from runtimes.core.host import INTERFACE
from spear_wasm.config import CompileConfig, DefaultLimits
from spear_wasm.engine.compiler import Compiler
from spear_wasm.engine.components.host_functions import ComponentImports
from spear_wasm.engine.engine import Engine
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.engine.sandbox import ExportedFunction, Sandbox, Values
from spear_wasm.engine.settings import WHOLE_MEMORY, EngineSettings
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.engine.ticker import Pace
from spear_wasm.limits import Limits
from spear_wasm.model import ModuleInfo

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wasm"
TICK = 0.001
POOL_SIZE = 16
PLAIN = EngineSettings(
    metered=False,
    max_memory_bytes=64 << 20,
    memory_reservation=WHOLE_MEMORY,
    max_table_elements=10_000,
    wasm_stack_bytes=512 << 10,
    sandboxes=POOL_SIZE,
)
METERED = replace(PLAIN, metered=True)
LIMITS = replace(DefaultLimits().limits(), max_memory_bytes=16 << 20, max_table_elements=5000)

Returned = TypeVar("Returned")
HostFunctions = Mapping[tuple[str, str], HostFunction]


def wasm_of(source: str | bytes) -> bytes:
    """A module in binary or text form, or the one of that name in fixtures/wasm."""
    if isinstance(source, bytes):
        return source
    if source.lstrip().startswith(("(", ";;")):
        return wat_to_wasm(source)
    return (FIXTURES / f"{source}.wasm").read_bytes()


class Workshop:
    """One engine of each kind and a compiler for both. Compiles no module twice."""

    def __init__(self, directory: Path, settings: EngineSettings = PLAIN) -> None:
        plain, metered = settings, replace(settings, metered=True)
        self.plain, self.metered = Engine(plain, TICK), Engine(metered, TICK)
        self._compiler = Compiler(plain, metered, CompileConfig())
        self._directory = directory
        self._compiled: dict[tuple[str | bytes, bool], tuple[Path, ModuleInfo]] = {}

    def compiled(self, source: str | bytes, *, metered: bool = False) -> tuple[Path, ModuleInfo]:
        """A module's machine code and what its binary says."""
        key = source, metered
        if key not in self._compiled:
            wasm = self._directory / f"{len(self._compiled)}.wasm"
            wasm.write_bytes(wasm_of(source))
            code = wasm.with_suffix(".code")
            self._compiled[key] = code, self._compiler.compile(wasm, code, metered=metered).module
        return self._compiled[key]

    def link(
        self,
        source: str | bytes,
        functions: HostFunctions | ComponentImports | None = None,
        *,
        metered: bool = False,
    ) -> LinkedArtifact:
        """A module linked with the core runtime's host functions, as far as it imports them, or with others."""
        code, module = self.compiled(source, metered=metered)
        if functions is None:
            functions = INTERFACE.needed_by(module)
        engine = self.metered if metered else self.plain
        return engine.link(code, module, functions)

    def close(self) -> None:
        self._compiler.close()
        for engine in (self.plain, self.metered):
            engine.close()


def run_to_end(sandbox: GuestSandbox, steps: Generator[None, None, Returned]) -> Returned:
    """Run a guest, slice by slice; what it returns, or the fault that it raises."""
    while True:
        try:
            run_slice(sandbox, steps)
        except StopIteration as stop:
            returned: Returned = stop.value
            return returned


def run_slice(sandbox: GuestSandbox, steps: Generator[None, None, object]) -> None:
    """Run a guest for one slice; StopIteration where it returns in it."""
    ticker = sandbox.linked.engine.ticker
    ticker.begin_slice(Pace.FULL)
    try:
        next(steps)
    finally:
        ticker.end_slice()


def exported(linked: LinkedArtifact, name: str) -> ExportedFunction:
    """A function of a module."""
    function = next(each for each in linked.module.functions if each.name == name)
    return ExportedFunction(name, function.type)


def start(sandbox: GuestSandbox, name: str, *args: float) -> Values:
    """A call of a function, of which nothing has run yet."""
    return cast("Sandbox", sandbox).call(exported(sandbox.linked, name), args)


def call(sandbox: GuestSandbox, name: str, *args: float) -> tuple[int | float, ...]:
    """Call a function and see it to its end."""
    return run_to_end(sandbox, start(sandbox, name, *args))


@contextmanager
def bare_sandbox(linked: LinkedArtifact, limits: Limits = LIMITS) -> Iterator[Sandbox]:
    """A sandbox without an instance, closed at the end."""
    sandbox = linked.new_sandbox(limits)
    try:
        yield cast("Sandbox", sandbox)
    finally:
        sandbox.close()


@contextmanager
def sandbox_of(linked: LinkedArtifact, limits: Limits = LIMITS) -> Iterator[Sandbox]:
    """A sandbox with its instance, closed at the end."""
    with bare_sandbox(linked, limits) as sandbox:
        run_to_end(sandbox, sandbox.instantiate())
        yield sandbox


def at_once(actions: Sequence[Callable[[], Returned]]) -> list[Returned]:
    """Do each on a thread of its own, all starting together; what they return, in their order."""
    together = threading.Barrier(len(actions))

    def when_all_are_there(action: Callable[[], Returned]) -> Returned:
        together.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(when_all_are_there, actions))
