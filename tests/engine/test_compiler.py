"""Compiling in child processes: what comes out, what is refused, and that no module costs more than its limits."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace as replaced

from spear_wasm.config import CompileConfig, Seconds, Size
from spear_wasm.engine import compiler as compiler_module
from spear_wasm.engine.compile_child import NICENESS, Job, Report
from spear_wasm.engine.compiler import Compiler, OwnTurns
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.errors import CompileRefused, CompilerKilled, InvalidArtifact, ServerDraining, StorageFull
from spear_wasm.model import WASM_PAGE_BYTES
from tests.engine.modules_by_hand import (
    CODE,
    FUNCTION,
    HEADER,
    I32,
    MEMORY,
    NULLARY,
    TYPE,
    function_type,
    functions,
    module,
    section,
    sized,
)
from tests.workshop import METERED, PLAIN, Workshop, call, sandbox_of, wasm_of

ROOMY = CompileConfig()
BOMBS_LET_IN = CompileConfig(max_functions=1 << 20, max_function_bytes=Size(16 << 20))
MakeCompiler = Callable[[CompileConfig], Compiler]


@pytest.fixture
def make_compiler() -> Iterator[MakeCompiler]:
    made: list[Compiler] = []

    def make(config: CompileConfig) -> Compiler:
        made.append(Compiler(PLAIN, METERED, config))
        return made[-1]

    yield make
    for compiler in made:
        compiler.close()


class Compilations:
    """Modules to compile and where to: files, or pipes that hold the child until a module is written to them."""

    def __init__(self, directory: Path, threads: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._threads = threads
        self._count = 0

    def _new_path(self) -> Path:
        self._count += 1
        return self._directory / f"{self._count}.wasm"

    def run(self, compiler: Compiler, wasm: bytes) -> Path:
        """Compile a module; the path of its machine code."""
        source = self._new_path()
        source.write_bytes(wasm)
        code = source.with_suffix(".code")
        compiler.compile(source, code, metered=False)
        return code

    def refusal(self, compiler: Compiler, wasm: bytes) -> CompileRefused:
        with pytest.raises(CompileRefused) as caught:
            self.run(compiler, wasm)
        return caught.value

    def begin(self, compiler: Compiler) -> HeldCompilation:
        """Start to compile what will come out of a pipe."""
        pipe = self._new_path()
        os.mkfifo(pipe)
        return HeldCompilation(pipe, self._threads.submit(self._compile, compiler, pipe))

    def _compile(self, compiler: Compiler, pipe: Path) -> Path:
        code = pipe.with_suffix(".code")
        compiler.compile(pipe, code, metered=False)
        return code


class HeldCompilation:
    """A compilation whose child waits for its module."""

    def __init__(self, pipe: Path, result: Future[Path]) -> None:
        self.result = result
        self._pipe = pipe

    def wait_for_child(self) -> None:
        """Return when the child has limited itself and reads its module."""
        self._module = self._pipe.open("wb")

    def has_child(self) -> bool:
        """Whether a process reads the pipe."""
        try:
            os.close(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False
            raise
        return True

    def release(self, wasm: bytes) -> None:
        with self._module:
            self._module.write(wasm)

    def let_go(self) -> None:
        """Leave the child's pipe; for a child that has been killed."""
        self._module.close()


@pytest.fixture
def compilations(tmp_path: Path) -> Iterator[Compilations]:
    with ThreadPoolExecutor(4) as threads:
        yield Compilations(tmp_path, threads)


def one_function(body: bytes, kind: bytes = NULLARY) -> bytes:
    return module(section(TYPE, kind), section(FUNCTION, b"\0"), section(CODE, sized(b"\0" + body + b"\x0b")))


def many_branches(count: int) -> bytes:
    """One block with that many conditional branches out of it."""
    return one_function(b"\x02\x40" + b"\x20\x00\x0d\x00" * count + b"\x0b", function_type(I32))


def many_additions(count: int) -> bytes:
    return one_function(b"\x41\x01" + b"\x41\x01\x6a" * count + b"\x1a")


# --- what comes out ---------------------------------------------------------------------------------------


def test_machine_code_and_a_description_come_out(make_compiler: MakeCompiler, tmp_path: Path) -> None:
    wasm, code = tmp_path / "calc.wasm", tmp_path / "calc.code"
    wasm.write_bytes(wasm_of("calc"))
    before = time.monotonic()
    compilation = make_compiler(ROOMY).compile(wasm, code, metered=True)
    assert 0 < compilation.seconds <= time.monotonic() - before
    assert code.read_bytes().startswith(b"\x7fELF")
    assert "add" in {each.name for each in compilation.module.functions}


def test_a_memory_that_a_module_hides_is_exported_in_its_machine_code(workshop: Workshop) -> None:
    linked = workshop.link("hidden_memory")
    assert not linked.module.memory_exported_by_guest
    with sandbox_of(linked) as sandbox:
        assert call(sandbox, "pages") == (1,)
        assert sandbox.memory_bytes() == WASM_PAGE_BYTES


def test_the_size_of_the_code_is_told_before_any_is_written(
    make_compiler: MakeCompiler, tmp_path: Path
) -> None:
    wasm, code = tmp_path / "module.wasm", tmp_path / "code"
    wasm.write_bytes(functions(10))
    told: list[tuple[int, bool]] = []
    make_compiler(ROOMY).compile(
        wasm, code, metered=False, admit=lambda size: told.append((size, code.exists()))
    )
    assert told == [(code.stat().st_size, False)]


def test_code_that_is_not_admitted_is_not_written(make_compiler: MakeCompiler, tmp_path: Path) -> None:
    wasm, code = tmp_path / "module.wasm", tmp_path / "code"
    wasm.write_bytes(functions(1))
    compiler = make_compiler(ROOMY)

    def refuse(size: int) -> None:
        raise StorageFull(f"no room for {size} bytes")

    with pytest.raises(StorageFull, match="no room for"):
        compiler.compile(wasm, code, metered=False, admit=refuse)
    assert compiler.child_pids() == []
    assert not code.exists()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wasm", "words", "offset"),
    [
        (b"", "empty", "0"),
        (b"(module)", "wat2wasm", "0"),
        (HEADER + b"\x0a", "ends", "9"),
        (functions(1)[:-1], "past the end", "23"),
    ],
    ids=["nothing", "text", "header", "truncated"],
)
def test_bytes_that_are_no_module_are_refused_with_the_offset_of_what_is_wrong(
    make_compiler: MakeCompiler, compilations: Compilations, wasm: bytes, words: str, offset: str
) -> None:
    with pytest.raises(InvalidArtifact, match=words) as caught:
        compilations.run(make_compiler(ROOMY), wasm)
    assert caught.value.metadata == {"offset": offset}


@pytest.mark.parametrize("before", [(), (section(MEMORY, b"\x00\x01"),)], ids=["plain", "with-hidden-memory"])
def test_a_module_that_is_not_valid_is_refused_with_the_engines_words_and_the_byte_that_was_uploaded(
    make_compiler: MakeCompiler, compilations: Compilations, before: tuple[bytes, ...]
) -> None:
    pops_nothing = module(
        section(TYPE, NULLARY), section(FUNCTION, b"\0"), *before, section(CODE, sized(b"\0\x1a\x0b"))
    )
    offset = pops_nothing.index(b"\x1a\x0b")
    with pytest.raises(InvalidArtifact, match=rf"not valid: type mismatch.* \(at byte {offset}\)$") as caught:
        compilations.run(make_compiler(ROOMY), pops_nothing)
    assert "\n" not in caught.value.message
    assert caught.value.metadata == {"offset": str(offset)}


def test_what_is_valid_and_yet_does_not_compile_is_refused_with_the_compilers_words(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    large_instance = wasm_of(f"(module {'(global i32 (i32.const 0))' * 100_000})")
    with pytest.raises(InvalidArtifact, match=r"does not compile: .*instance size") as caught:
        compilations.run(make_compiler(ROOMY), large_instance)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(module (memory 1) (memory 1))", "memor"),
        ("(module (memory i64 1))", "64"),
        ("(module (memory 1 1 shared))", "shared"),
        ("(module (tag))", "exception handling"),
        (f"(module (memory {PLAIN.max_memory_bytes // WASM_PAGE_BYTES + 1}))", "memory"),
        (f"(module (table {PLAIN.max_table_elements + 1} funcref))", "table"),
    ],
)
def test_modules_that_need_what_the_engines_do_not_have_are_refused(
    make_compiler: MakeCompiler, compilations: Compilations, text: str, words: str
) -> None:
    with pytest.raises(InvalidArtifact, match=words):
        compilations.run(make_compiler(ROOMY), wasm_of(text))


def test_too_many_functions_are_refused_without_compiling_them(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    with pytest.raises(InvalidArtifact, match="100000 functions; 50000 are accepted"):
        compilations.run(make_compiler(ROOMY), functions(100_000))


def test_too_large_a_function_is_refused_without_compiling_it(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    with pytest.raises(InvalidArtifact, match="bytes"):
        compilations.run(make_compiler(ROOMY), many_additions(1_000_000))


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bomb", "config", "limit"),
    [
        (many_branches(1_000_000), replaced(BOMBS_LET_IN, max_wall_time=Seconds(0.5)), "max_wall_time"),
        (many_additions(1_000_000), replaced(BOMBS_LET_IN, max_wall_time=Seconds(0.5)), "max_wall_time"),
        (functions(200_000), replaced(BOMBS_LET_IN, max_wall_time=Seconds(0.5)), "max_wall_time"),
        (many_additions(1_000_000), replaced(BOMBS_LET_IN, max_cpu_time=Seconds(1)), "max_cpu_time"),
        (many_branches(200_000), replaced(BOMBS_LET_IN, max_memory=Size(96 << 20)), "max_memory"),
        (many_additions(1_000_000), replaced(BOMBS_LET_IN, max_memory=Size(256 << 20)), "max_memory"),
    ],
    ids=[
        "branches-wall",
        "additions-wall",
        "functions-wall",
        "additions-cpu",
        "branches-memory",
        "additions-memory",
    ],
)
def test_a_bomb_is_refused_at_the_first_limit_that_it_exceeds(
    make_compiler: MakeCompiler,
    compilations: Compilations,
    bomb: bytes,
    config: CompileConfig,
    limit: str,
) -> None:
    compiler = make_compiler(config)
    refusal = compilations.refusal(compiler, bomb)
    assert refusal.metadata == {"limit": limit}
    assert f"{getattr(config, limit):g}" in refusal.message or str(getattr(config, limit)) in refusal.message
    assert compiler.child_pids() == []


def test_a_refused_bomb_leaves_no_machine_code(
    make_compiler: MakeCompiler, compilations: Compilations, tmp_path: Path
) -> None:
    compilations.refusal(make_compiler(CompileConfig(max_memory=Size(64 << 20))), many_branches(200_000))
    assert list(tmp_path.glob("*.code")) == []


def test_a_child_that_cannot_even_start_within_its_memory_is_a_refusal(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    refusal = compilations.refusal(make_compiler(CompileConfig(max_memory=Size(1 << 20))), functions(1))
    assert refusal.metadata == {"limit": "max_memory"}


def test_a_child_that_gets_nowhere_is_ended_at_the_wall_limit(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(CompileConfig(max_wall_time=Seconds(0.5)))
    held = compilations.begin(compiler)
    with pytest.raises(CompileRefused, match=r"more than 0\.5 s"):
        held.result.result()
    assert compiler.child_pids() == []
    assert not held.has_child()


def test_a_child_killed_by_another_signal_is_a_refusal_that_says_so(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(ROOMY)
    held = compilations.begin(compiler)
    held.wait_for_child()
    os.kill(compiler.child_pids()[0], signal.SIGSEGV)
    with pytest.raises(CompileRefused, match="failed on the module") as caught:
        held.result.result()
    held.let_go()
    assert caught.value.metadata == {"status": str(-signal.SIGSEGV)}


def test_a_child_that_is_killed_from_outside_is_our_fault_and_not_the_modules(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(ROOMY)
    held = compilations.begin(compiler)
    held.wait_for_child()
    os.kill(compiler.child_pids()[0], signal.SIGKILL)
    with pytest.raises(CompilerKilled, match="something killed the compilation"):
        held.result.result()
    held.let_go()


def test_a_child_that_is_gone_before_it_hears_of_its_job_is_a_refusal_too(
    make_compiler: MakeCompiler, compilations: Compilations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report_of_the_dead(child: subprocess.Popen[bytes], job: Job) -> Report:
        child.kill()
        child.wait()
        return report_of(child, job)

    report_of = compiler_module._report_of
    monkeypatch.setattr(compiler_module, "_report_of", report_of_the_dead)
    compiler = make_compiler(ROOMY)
    with pytest.raises(CompilerKilled):
        compilations.begin(compiler).result.result()
    assert compiler.child_pids() == []


# --- the child --------------------------------------------------------------------------------------------


@pytest.fixture
def child(
    make_compiler: MakeCompiler, compilations: Compilations, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psutil.Process]:
    monkeypatch.setenv("OUR_SECRET", "to be kept")
    compiler = make_compiler(CompileConfig(max_cpu_time=Seconds(7), max_memory=Size(300 << 20)))
    held = compilations.begin(compiler)
    held.wait_for_child()
    (pid,) = compiler.child_pids()
    yield psutil.Process(pid)
    held.release(functions(1))
    held.result.result()


def test_a_child_knows_nothing_of_our_environment(child: psutil.Process) -> None:
    assert set(child.environ()) == {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "RAYON_NUM_THREADS"}


def test_a_child_is_limited_and_steps_back_behind_calls(child: psutil.Process) -> None:
    of_an_engine = replace(PLAIN, sandboxes=1).reserved_bytes
    address_space = (300 << 20) + of_an_engine
    assert child.rlimit(resource.RLIMIT_CPU) == (7, 8)
    assert child.rlimit(resource.RLIMIT_AS) == (address_space, address_space + of_an_engine)
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert child.nice() == NICENESS


def test_a_child_has_a_session_of_its_own_so_that_an_interrupt_is_ours_alone(child: psutil.Process) -> None:
    assert os.getsid(child.pid) == child.pid


def test_a_child_imports_nothing_from_the_working_directory(
    make_compiler: MakeCompiler, compilations: Compilations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {"", "."}])
    (tmp_path / "msgspec.py").write_text("raise SystemExit('this is not ours')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert compilations.run(make_compiler(ROOMY), functions(1)).exists()


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    pipe = tmp_path / "module.wasm"
    os.mkfifo(pipe)
    script = f"""
from pathlib import Path
from spear_wasm.config import CompileConfig
from spear_wasm.engine.compiler import Compiler, OwnTurns
from tests.workshop import METERED, PLAIN
Compiler(PLAIN, METERED, CompileConfig()).compile(Path({str(pipe)!r}), Path({str(tmp_path / "code")!r}), metered=False)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], env={"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        descriptor = os.open(pipe, os.O_WRONLY)
        try:
            parent.kill()
            nobody_reads = select.poll()
            nobody_reads.register(descriptor, 0)
            assert nobody_reads.poll(10_000) == [(descriptor, select.POLLERR)]
        finally:
            os.close(descriptor)
    finally:
        parent.kill()
        parent.wait()


# --- turns and the end ------------------------------------------------------------------------------------


class WatchedTurns(OwnTurns):
    """Turns that tell when somebody has to wait for one."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.somebody_waits = threading.Event()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            self.somebody_waits.set()
            self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()


def test_compilations_above_the_number_allowed_wait_their_turn(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(ROOMY)
    compiler._turns = turns = WatchedTurns(1)
    first = compilations.begin(compiler)
    first.wait_for_child()
    pids = compiler.child_pids()
    second = compilations.begin(compiler)
    turns.somebody_waits.wait()
    assert compiler.child_pids() == pids
    first.release(functions(1))
    second.wait_for_child()
    assert set(compiler.child_pids()).isdisjoint(pids)
    second.release(functions(1))
    assert first.result.result().exists()
    assert second.result.result().exists()


def test_as_many_compilations_as_allowed_run_at_once(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(CompileConfig(max_concurrency=2))
    both = [compilations.begin(compiler) for _ in range(2)]
    for each in both:
        each.wait_for_child()
    assert len(compiler.child_pids()) == 2
    for each in both:
        each.release(functions(1))
    assert all(each.result.result().exists() for each in both)


def test_closing_ends_what_runs_and_what_waits_and_refuses_what_comes(
    make_compiler: MakeCompiler, compilations: Compilations
) -> None:
    compiler = make_compiler(ROOMY)
    compiler._turns = turns = WatchedTurns(1)
    running = compilations.begin(compiler)
    running.wait_for_child()
    (pid,) = compiler.child_pids()
    waiting = compilations.begin(compiler)
    turns.somebody_waits.wait()
    compiler.close()
    for compilation in (running, waiting):
        with pytest.raises(ServerDraining):
            compilation.result.result()
    running.let_go()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ServerDraining):
        compilations.run(compiler, functions(1))


# --- fingerprints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        METERED,
        replace(PLAIN, max_memory_bytes=PLAIN.max_memory_bytes + WASM_PAGE_BYTES),
        replace(PLAIN, max_table_elements=PLAIN.max_table_elements + 1),
        replace(PLAIN, wasm_stack_bytes=PLAIN.wasm_stack_bytes + 4096),
    ],
)
def test_engines_of_other_settings_have_other_fingerprints(other: EngineSettings) -> None:
    assert other.fingerprint() != PLAIN.fingerprint()


def test_the_number_of_sandboxes_does_not_change_a_fingerprint() -> None:
    assert replace(PLAIN, sandboxes=PLAIN.sandboxes + 1).fingerprint() == PLAIN.fingerprint()


def test_other_features_or_another_version_of_the_engine_change_a_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = PLAIN.fingerprint()
    with monkeypatch.context() as patched:
        patched.setattr("spear_wasm.engine.capi.PINNED_VERSION", "51.0.0")
        assert PLAIN.fingerprint() != ours
    with monkeypatch.context() as patched:
        patched.setitem(vars(sys.modules["spear_wasm.engine.settings"])["_FEATURES"], "wasm_simd", False)
        assert PLAIN.fingerprint() != ours
    with monkeypatch.context() as patched:
        patched.setattr("spear_wasm.engine.settings._cpu", lambda: "another processor")
        assert PLAIN.fingerprint() != ours
    assert PLAIN.fingerprint() == ours


def test_a_compiler_knows_the_fingerprints_of_both_of_its_engines(make_compiler: MakeCompiler) -> None:
    compiler = make_compiler(ROOMY)
    assert compiler.fingerprint(metered=False) == PLAIN.fingerprint()
    assert compiler.fingerprint(metered=True) == METERED.fingerprint()


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    script = "from tests.workshop import PLAIN; print(PLAIN.fingerprint())"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert printed.stdout.strip() == PLAIN.fingerprint()
