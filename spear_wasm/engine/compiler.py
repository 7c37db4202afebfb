"""Compiling in a process of its own, with limits: a compile bomb costs its uploader an error, others nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from spear_wasm.config import CompileConfig
from spear_wasm.engine.binary import ModuleCeiling
from spear_wasm.engine.compilation import Compilation
from spear_wasm.engine.compile_child import Job, Report
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.errors import CompileRefused, CompilerKilled, InvalidArtifact, ServerDraining


class Compiler:
    """Runs compilations in child processes, a bounded number at once; others wait their turn.

    `settings` are those of the two engines that will run the code: without and with fuel metering.
    """

    def __init__(self, plain: EngineSettings, metered: EngineSettings, config: CompileConfig) -> None:
        self._settings = {False: plain, True: metered}
        self._config = config
        self._turns = threading.Semaphore(config.max_concurrency)
        self._lock = threading.Lock()  # guards: _children, _closing
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closing = False

    def fingerprint(self, *, metered: bool) -> str:
        """Names the conditions that machine code depends on."""
        return self._settings[metered].fingerprint()

    def compile(self, wasm: Path, output: Path, *, metered: bool) -> Compilation:
        """Check the module in `wasm` and write its machine code to `output`. Blocks; `seconds` is wall time.

        Raises:
            InvalidArtifact: it is no module that we run, or does not compile.
            CompileRefused: compiling it took more time or memory than one compilation may.
            CompilerKilled: something outside ended the compilation.
            ServerDraining: `close` was called.
        """
        job = self._job(wasm, output, metered=metered)
        with self._turns:
            start = time.monotonic()
            report = self._run(job)
            seconds = time.monotonic() - start
        if report.module is None:
            raise _refused(report)
        return Compilation(report.module, seconds)

    def close(self) -> None:
        """End the running compilations; their callers get ServerDraining."""
        with self._lock:
            self._closing = True
            children = list(self._children)
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

    def _run(self, job: Job) -> Report:
        child = self._start()
        try:
            reply, complaint = child.communicate(msgspec.json.encode(job), timeout=self._config.max_wall_time)
        except subprocess.TimeoutExpired:
            raise CompileRefused(
                f"compiling the module took more than {self._config.max_wall_time:g} s", limit="max_wall_time"
            ) from None
        finally:
            self._end(child)
        if child.returncode == 0:
            return msgspec.json.decode(reply, type=Report)
        with self._lock:
            closing = self._closing
        if closing:
            raise ServerDraining("the server is shutting down; the compilation was ended")
        raise self._why_it_died(child.returncode, complaint)

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


def _refused(report: Report) -> InvalidArtifact:
    if report.offset:
        return InvalidArtifact(report.refusal, offset=report.offset)
    return InvalidArtifact(report.refusal)


def _child_environment() -> dict[str, str]:
    """Nothing of ours but the way to our packages, and how many threads may compile."""
    cores = len(os.sched_getaffinity(0))
    return {
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": str(max(1, cores // 2)),
    }
