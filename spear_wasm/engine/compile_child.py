"""The process that one compilation runs in: `python -m spear_wasm.engine.compile_child`.

It reads a Job as a line of JSON from standard input, limits itself, checks the module, compiles it, and writes
a Report as a line of JSON to standard output. The machine code goes into its file when another line of input
says that there is room for it. Whatever the module does to the compiler happens here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from spear_wasm.engine import capi
from spear_wasm.engine.binary import ModuleCeiling, inspect, with_memory_exported
from spear_wasm.engine.components.interface import counted, described
from spear_wasm.engine.leb import invalid
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
    """The module as its binary describes it and how many bytes its code has, or why it is refused."""

    module: ModuleInfo | None = None
    code_bytes: int = 0
    refusal: str = ""
    offset: str = ""


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    _limit_this_process(job)
    try:
        module, code = _compile(job)
    except InvalidArtifact as error:
        _tell(Report(refusal=error.message, offset=error.metadata.get("offset", "")))
        return
    _tell(Report(module, len(code)))
    if sys.stdin.buffer.readline():
        Path(job.output).write_bytes(code)


def _tell(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _limit_this_process(job: Job) -> None:
    with contextlib.suppress(OSError):  # a kernel without it: the parent's own clean-up is left
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICENESS)
    # At the hard limit the kernel sends SIGKILL, as its out-of-memory killer does; at the soft one SIGXCPU.
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_seconds, job.cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The engine reserves slots of the ceiling's size, which is address space, not memory.
    reserved = job.settings.reserved_bytes
    resource.setrlimit(resource.RLIMIT_AS, (job.memory_bytes + reserved, job.memory_bytes + 2 * reserved))


def _make_room_for_another_engine() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _compile(job: Job) -> tuple[ModuleInfo, bytes]:
    wasm = Path(job.wasm).read_bytes()
    module = inspect(wasm, job.ceiling)
    engine = job.settings.new_engine()
    if module.component is not None:
        return _compile_component(engine, job.settings, wasm, module)
    return module, _machine_code(engine, wasm, module)


def _compile_component(
    engine: int, settings: EngineSettings, wasm: bytes, outline: ModuleInfo
) -> tuple[ModuleInfo, bytes]:
    compiled, code = ctypes.c_void_p(), capi.ByteVec()
    error = capi.component_new(engine, wasm, len(wasm), ctypes.addressof(compiled))
    error = error or capi.component_serialize(compiled, ctypes.addressof(code))
    if error:
        raise _refused("component", _in_one_line(capi.take_error(error)))
    assert compiled.value is not None
    info = described(engine, compiled.value, outline)
    content = capi.take_bytes(code)
    _make_room_for_another_engine()
    return counted(settings, content, info), content


def _machine_code(engine: int, wasm: bytes, module: ModuleInfo) -> bytes:
    prepared = with_memory_exported(wasm, module)
    compiled, code = ctypes.c_void_p(), capi.ByteVec()
    error = capi.module_new(engine, prepared, len(prepared), ctypes.addressof(compiled))
    error = error or capi.module_serialize(compiled, ctypes.addressof(code))
    if error:
        raise _complaint(engine, wasm, capi.take_error(error))
    return capi.take_bytes(code)


def _complaint(engine: int, wasm: bytes, of_compiler: str) -> InvalidArtifact:
    """What the library has against a module, at which byte of the module as it was uploaded.

    What was compiled may have one export more, so that in there the places are others.
    """
    error = capi.module_validate(engine, wasm, len(wasm))
    if not error:
        return InvalidArtifact(f"the module does not compile: {_in_one_line(of_compiler)}")
    return _refused("module", _in_one_line(capi.take_error(error)))


def _refused(what: str, problem: str) -> InvalidArtifact:
    place = re.search(r" \(at offset 0x([0-9a-f]+)\)$", problem)
    if place is None:
        return InvalidArtifact(f"the {what} is not valid: {problem}")
    return invalid(f"the {what} is not valid: {problem[: place.start()]}", int(place[1], 16))


def _in_one_line(text: str) -> str:
    return " ".join(text.split())[:500]


if __name__ == "__main__":
    main()
