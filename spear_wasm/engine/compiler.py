"""Compiling in a process of its own, with limits: a compile bomb costs its uploader an error, others nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from spear_wasm.config import CompileConfig
from spear_wasm.engine.binary import ModuleCeiling
from spear_wasm.engine.compilation import Compilation
from spear_wasm.engine.compile_child import Job, Report
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.errors import CompileRefused, CompilerKilled, InvalidArtifact, ServerDraining
from spear_wasm.machine import usable_cores

GO_ON = b"write\n"
"""What a child waits for that has machine code to write."""


def _admit_any(_code_bytes: int) -> None:
    pass


class Turns(Protocol):
    """Who may compile at present."""

    def taken(self) -> AbstractContextManager[object]:
        """Wait for a turn, and have it; once `close` was called, nobody waits."""
        ...

    def close(self) -> None:
        """Let nobody wait any longer."""
        ...


class OwnTurns:
    """Those of a process that has nobody to share them with."""

    def __init__(self, most: int) -> None:
        self._turns = threading.Semaphore(most)

    def taken(self) -> AbstractContextManager[object]:
        """Wait for a turn, and have it."""
        return self._turns

    def close(self) -> None:
        """Nothing to do: the compilations that are waited for are ended, and each turn is short from then on."""


class Compiler:
    """Runs compilations in child processes, a bounded number at once; others wait their turn.

    `settings` are those of the two engines that will run the code: without and with fuel metering. `turns` are those
    of all workers, where there are several.
    """

    def __init__(
        self,
        plain: EngineSettings,
        metered: EngineSettings,
        config: CompileConfig,
        turns: Turns | None = None,
    ) -> None:
        self._settings = {False: plain, True: metered}
        self._config = config
        self._turns = turns or OwnTurns(config.max_concurrency)
        self._lock = threading.Lock()  # guards: _children, _closing
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closing = False

    def fingerprint(self, *, metered: bool) -> str:
        """Names the conditions that machine code depends on."""
        return self._settings[metered].fingerprint()

    def compile(
        self, wasm: Path, output: Path, *, metered: bool, admit: Callable[[int], object] = _admit_any
    ) -> Compilation:
        """Check the module in `wasm` and write its machine code to `output`. Blocks; `seconds` is wall time.

        `admit` is called with the code's size in bytes before any of it is written, and may raise to prevent that.

        Raises:
            InvalidArtifact: it is no module that we run, or does not compile.
            CompileRefused: compiling it took more time or memory than one compilation may.
            CompilerKilled: something outside ended the compilation.
            ServerDraining: `close` was called.
        """
        job = self._job(wasm, output, metered=metered)
        with self._turns.taken():
            start = time.monotonic()
            report = self._run(job, admit)
            seconds = time.monotonic() - start
        if report.module is None:
            raise _refused(report)
        return Compilation(report.module, seconds)

    def close(self) -> None:
        """End the running compilations; their callers get ServerDraining."""
        with self._lock:
            self._closing = True
            children = list(self._children)
        self._turns.close()
        for child in children:
            child.kill()

    def child_pids(self) -> list[int]:
        """The processes that compile at present."""
        with self._lock:
            return [child.pid for child in self._children]

    def _job(self, wasm: Path, output: Path, *, metered: bool) -> Job:
        settings, config = self._settings[metered], self._config
        return Job(
            wasm=str(wasm),
            output=str(output),
            settings=replace(settings, sandboxes=1),
            ceiling=ModuleCeiling(
                max_functions=config.max_functions,
                max_function_bytes=int(config.max_function_bytes),
                max_memory_bytes=settings.max_memory_bytes,
                max_table_elements=settings.max_table_elements,
            ),
            cpu_seconds=max(1, round(config.max_cpu_time)),
            memory_bytes=int(config.max_memory),
        )

    def _run(self, job: Job, admit: Callable[[int], object]) -> Report:
        child = self._start()
        try:
            with self._wall_limit(child) as time_is_up:
                report = _report_of(child, job)
                if report.module is not None:
                    admit(report.code_bytes)
                _, complaint = child.communicate(GO_ON)
        finally:
            self._end(child)
        if child.returncode == 0:
            return report
        with self._lock:
            closing = self._closing
        if closing:
            raise ServerDraining("the server is shutting down; the compilation was ended")
        if time_is_up.is_set():
            raise CompileRefused(
                f"compiling the module took more than {self._config.max_wall_time:g} s", limit="max_wall_time"
            )
        raise self._why_it_died(child.returncode, complaint)

    @contextlib.contextmanager
    def _wall_limit(self, child: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
        """Kill the child when its time is up, which the event then says."""
        time_is_up = threading.Event()

        def kill() -> None:
            time_is_up.set()
            child.kill()

        timer = threading.Timer(self._config.max_wall_time, kill)
        timer.start()
        try:
            yield time_is_up
        finally:
            timer.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closing:
                raise ServerDraining("the server is shutting down and compiles nothing more")
            child = subprocess.Popen(
                # -P: what lies in our working directory is not on our path, nor on the child's.
                [sys.executable, "-P", "-m", "spear_wasm.engine.compile_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_child_environment(),
                start_new_session=True,  # a Ctrl-C at our terminal is ours to handle
            )
            self._children.add(child)
            return child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._children.discard(child)

    def _why_it_died(self, returncode: int, complaint: bytes) -> CompileRefused | CompilerKilled:
        if returncode == -signal.SIGKILL:
            return CompilerKilled(
                "something killed the compilation, most likely because the server's machine ran out of memory; "
                "try again later"
            )
        if returncode == -signal.SIGXCPU:
            return CompileRefused(
                f"compiling the module took more than {self._config.max_cpu_time:g} s of CPU time",
                limit="max_cpu_time",
            )
        if returncode == -signal.SIGABRT or b"MemoryError" in complaint:
            return CompileRefused(
                f"compiling the module took more than {self._config.max_memory} bytes of memory",
                limit="max_memory",
            )
        return CompileRefused(f"the compiler failed on the module (status {returncode})", status=returncode)


def _report_of(child: subprocess.Popen[bytes], job: Job) -> Report:
    """What the child says of its module; an empty report where it died before it said anything."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        # Past the pipe's buffer: what that cannot hand to a dead child, it tries again whenever it is closed.
        os.write(child.stdin.fileno(), msgspec.json.encode(job) + b"\n")
    line = child.stdout.readline()
    return msgspec.json.decode(line, type=Report) if line.endswith(b"\n") else Report()


def _refused(report: Report) -> InvalidArtifact:
    if report.offset:
        return InvalidArtifact(report.refusal, offset=report.offset)
    return InvalidArtifact(report.refusal)


def _child_environment() -> dict[str, str]:
    """Nothing of ours but the way to our packages, and how many threads may compile."""
    return {
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": str(max(1, usable_cores() // 2)),
    }
