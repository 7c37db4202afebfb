"""A compiler that needs no engine, and races that happen every time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest

from spear_wasm.artifacts import single_flight
from spear_wasm.engine.compilation import Compilation
from spear_wasm.errors import CompileRefused, InvalidArtifact
from spear_wasm.model import FunctionExport, FunctionType, ModuleInfo, ValueType

Result = TypeVar("Result")

PATIENCE = 20.0
"""Seconds after which a thread that should have come is given up; never waited for in a test that passes."""


def digest_of(wasm: bytes) -> str:
    return hashlib.sha256(wasm).hexdigest()


def everything_runs(_: ModuleInfo) -> None:
    """For a store that asks nobody whether there is a runtime for a module."""


class FakeCompiler:
    """Machine code is a function of the module's bytes and of `metered`.

    Modules that begin with `invalid` or `bomb` are refused. `during` runs within each compilation, before
    there is any output, and `writing` when there is room for it.
    """

    def __init__(self, generation: str = "a") -> None:
        self.compiled: list[tuple[str, bool]] = []
        self.during: Callable[[], object] = lambda: None
        self.writing: Callable[[], object] = lambda: None
        self.info = module_info("run")
        self.ending = b""
        self._generation = generation

    def fingerprint(self, *, metered: bool) -> str:
        return hashlib.sha256(f"{self._generation} {metered}".encode()).hexdigest()[:32]

    def compile(
        self, wasm: Path, output: Path, *, metered: bool, admit: Callable[[int], object]
    ) -> Compilation:
        content = wasm.read_bytes()
        self.compiled.append((digest_of(content), metered))
        self.during()
        if content.startswith(b"invalid"):
            raise InvalidArtifact("bad magic at byte 0")
        if content.startswith(b"bomb"):
            output.write_bytes(b"half a file")
            raise CompileRefused("took too long")
        code = machine_code(content, metered=metered) + self.ending
        admit(len(code))
        self.writing()
        output.write_bytes(code)
        return Compilation(self.info, seconds=0.25)


def machine_code(wasm: bytes, *, metered: bool) -> bytes:
    return b"machine code of " + wasm + (b", metered" if metered else b"")


def module_info(*functions: str) -> ModuleInfo:
    kind = FunctionType((ValueType.I32,), (ValueType.I64,))
    return ModuleInfo(
        functions=tuple(FunctionExport(name, kind, ("n",)) for name in functions), memory_export="memory"
    )


class Gate:
    """Holds whoever passes until it is opened, and says when somebody has come."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._arrived.release()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    def wait_for_arrival(self) -> None:
        assert self._arrived.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


class Followers:
    """Says when somebody has begun to wait for work that another caller does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waiting = self._waiting = threading.Semaphore(0)

        class ObservedFuture(Future[Result]):
            def result(self, timeout: float | None = None) -> Result:
                if not self.done():
                    waiting.release()
                return super().result(timeout)

        monkeypatch.setattr(single_flight, "Future", ObservedFuture)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self._waiting.acquire(timeout=PATIENCE), "nobody waits for another's work"


class Background:
    """Runs functions in threads of their own; `join` gives what one returned or raises what it raised."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], Result]) -> Callable[[], Result]:
        outcome: Future[Result] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001  raised again where it is asked for
                outcome.set_exception(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return lambda: outcome.result(PATIENCE)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a thread is left"
