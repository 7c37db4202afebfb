"""The process that one compilation runs in: `python -m spear_wasm.engine.compile_child`.

It reads a Job as JSON from standard input, limits itself, checks the module, compiles it into a file, and
writes a Report as JSON to standard output. Whatever the module does to the compiler happens here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from spear_wasm.engine import capi
from spear_wasm.engine.binary import ModuleCeiling, check_kind, inspect, with_memory_exported
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import ModuleInfo

NICENESS = 19
"""Compilations yield to calls: they have minutes, a call has microseconds."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What to compile, for which engine, and within which limits (seconds and bytes)."""

    wasm: str
    output: str
    settings: EngineSettings
    ceiling: ModuleCeiling
    cpu_seconds: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The module as its binary describes it, or why it is refused."""

    module: ModuleInfo | None = None
    refusal: str = ""
    offset: str = ""


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    _limit_this_process(job)
    try:
        report = Report(module=_compile(job))
    except InvalidArtifact as error:
        report = Report(refusal=error.message, offset=error.metadata.get("offset", ""))
    sys.stdout.buffer.write(msgspec.json.encode(report))


def _limit_this_process(job: Job) -> None:
    with contextlib.suppress(OSError):  # a kernel without it: the parent's own clean-up is left
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICENESS)
    # At the hard limit the kernel sends SIGKILL, as its out-of-memory killer does; at the soft one SIGXCPU.
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_seconds, job.cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The engine reserves a slot of the ceiling's size, which is address space, not memory.
    address_space = job.memory_bytes + job.settings.max_memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))


def _compile(job: Job) -> ModuleInfo:
    wasm = Path(job.wasm).read_bytes()
    check_kind(wasm[:64])
    module = inspect(wasm, job.ceiling)
    engine = job.settings.new_engine()
    Path(job.output).write_bytes(_machine_code(engine, with_memory_exported(wasm, module)))
    return module


def _machine_code(engine: int, wasm: bytes) -> bytes:
    compiled, code = ctypes.c_void_p(), capi.ByteVec()
    error = capi.module_new(engine, wasm, len(wasm), ctypes.addressof(compiled))
    error = error or capi.module_serialize(compiled, ctypes.addressof(code))
    if error:
        raise InvalidArtifact(
            f"the module does not compile: {' '.join(capi.take_error(error).split())[:500]}"
        )
    return capi.take_bytes(code)


if __name__ == "__main__":
    main()
