"""Every error that the server raises on purpose, provoked over the socket, and what its status says."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
import psutil
import pytest
import wasmtime

from spear_wasm import errors
from spear_wasm.api import artifact_pb2, function_pb2
from spear_wasm.artifacts.seal import Seal, open_key
from spear_wasm.artifacts.sidecar import read_sidecar, sealed
from spear_wasm.errors import SpearError
from tests.engine.modules_by_hand import (
    CODE,
    CUSTOM,
    FUNCTION,
    HEADER,
    MEMORY,
    NULLARY,
    TABLE,
    TYPE,
    export,
    functions,
    module,
    section,
    sized,
)
from tests.rpc.conftest import StartServer
from tests.rpc.modules import COMPONENT, compile_bomb, long_import, unique_module
from tests.rpc.serving import (
    PATIENCE,
    Refusal,
    Server,
    context,
    fixture,
    fresh,
    no_disk,
    refusal_of,
    refused,
    until,
)
from tests.rpc.test_executions import cancel

CRAMPED = """
[execution]
max_running = 1
max_pending = 1
max_tasks = 5

[artifacts]
max_artifact = "1MiB"
max_artifacts = 8
max_uploads = 1
upload_idle_timeout = "3s"

[compile]
max_cpu_time = "2s"
max_functions = 100
max_function_bytes = "64KiB"

[server]
shutdown_grace = "1s"
"""
MEGABYTE = 1_000_000
NASTY = "\x1b[31m\r\n\u202e" + "é" * MEGABYTE


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose bounds are all within reach. Has `calc`, `hostile` and the task `kept`."""
    server = Server(tmp_path_factory.mktemp("cramped"), CRAMPED)
    with contextlib.closing(server):
        for name in ("calc", "hostile"):
            server.upload(fixture(name), name, "1")
        server.call("calc", "answer", task_name="kept")
        server.call("hostile", "unreachable", task_name="hostile")
        yield server


@contextlib.contextmanager
def spinning(server: Server, count: int) -> Iterator[None]:
    """That many endless guests of the task `hostile`, one of which runs."""
    request = function_pb2.InvokeFunctionRequest(task_id="hostile", function_name="spin")
    server.wait_for_load(0)
    guests = [server.functions.InvokeFunction.future(request) for _ in range(count)]
    server.wait_for_load(1, count - 1)
    yield
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)


@contextlib.contextmanager
def uploading(server: Server) -> Iterator[None]:
    """An upload that is under way."""
    leave = threading.Event()

    def parts() -> Iterator[artifact_pb2.UploadArtifactRequest]:
        yield artifact_pb2.UploadArtifactRequest(header=artifact_pb2.UploadArtifactHeader(name="slow"))
        while not leave.wait(0.05):
            yield artifact_pb2.UploadArtifactRequest(chunk=b"")

    call = server.artifacts.UploadArtifact.future(parts(), timeout=PATIENCE)
    until(lambda: bool(server.uploads_in_progress()))
    yield
    call.cancel()
    leave.set()
    until(lambda: not server.uploads_in_progress())


def filled_up(
    kind: type[SpearError], add: Callable[[str], object], remove: Callable[[str], object]
) -> Refusal:
    """Add until the server refuses; what was added goes again."""
    with contextlib.ExitStack() as removal:
        while True:
            name = fresh("filler")
            try:
                add(name)
            except grpc.RpcError:
                return refused(kind, partial(add, name))
            removal.callback(remove, name)


# --- every class once -------------------------------------------------------------------------------------

Provocation = Callable[[Server], Refusal]
PROVOCATIONS: dict[type[SpearError], Provocation] = {}


def provokes(kind: type[SpearError]) -> Callable[[Callable[[Server], Refusal]], Provocation]:
    def remember(provocation: Provocation) -> Provocation:
        PROVOCATIONS[kind] = provocation
        return provocation

    return remember


@provokes(errors.InvalidArtifact)
def _rubbish(server: Server) -> Refusal:
    return refused(errors.InvalidArtifact, lambda: server.upload(b"rubbish", fresh("artifact")))


@provokes(errors.ArtifactTooLarge)
def _too_large(server: Server) -> Refusal:
    return refused(errors.ArtifactTooLarge, lambda: server.upload(bytes(2 << 20), fresh("artifact")))


@provokes(errors.ChecksumMismatch)
def _wrong_checksum(server: Server) -> Refusal:
    return refused(
        errors.ChecksumMismatch, lambda: server.upload(fixture("calc"), "calc", "1", size_bytes=1 << 10)
    )


@provokes(errors.CompileRefused)
def _compile_bomb(server: Server) -> Refusal:
    return refused(errors.CompileRefused, lambda: server.upload(compile_bomb(), fresh("artifact")))


@provokes(errors.CompilerKilled)
def _killed_compiler(server: Server) -> Refusal:
    children = psutil.Process(server.process.pid).children

    def kill_what_compiles() -> None:
        until(lambda: bool(children()))
        children()[0].kill()

    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(kill_what_compiles)
        refusal = refused(errors.CompilerKilled, lambda: server.upload(compile_bomb(), fresh("artifact")))
        killed.result()
    return refusal


@provokes(errors.ArtifactNotFound)
def _unknown_artifact(server: Server) -> Refusal:
    return refused(errors.ArtifactNotFound, lambda: server.artifact("nobody/uploaded.this"))


@provokes(errors.VersionExists)
def _moved_version(server: Server) -> Refusal:
    return refused(errors.VersionExists, lambda: server.upload(fixture("hostile"), "calc", "1"))


@provokes(errors.ArtifactInUse)
def _artifact_in_use(server: Server) -> Refusal:
    return refused(errors.ArtifactInUse, lambda: server.delete_artifact("calc"))


@provokes(errors.ArtifactDeleted)
def _deleted_artifact(server: Server) -> Refusal:
    name = fresh("artifact")
    server.upload(unique_module(name), name)
    server.call(name, "answer", task_name=name)
    server.delete_artifact(name, force=True)
    refusal = refused(errors.ArtifactDeleted, lambda: server.invoke(task_id=name, function_name="answer"))
    server.delete_task(name)
    return refusal


@provokes(errors.StorageFull)
def _full_store(server: Server) -> Refusal:
    return filled_up(
        errors.StorageFull, lambda name: server.upload(unique_module(name), name), server.delete_artifact
    )


@provokes(errors.TooManyUploads)
def _many_uploads(server: Server) -> Refusal:
    with uploading(server):
        return refused(errors.TooManyUploads, lambda: server.upload(fixture("calc"), "calc", "1"))


@provokes(errors.UploadStalled)
def _stalled_upload(server: Server) -> Refusal:
    silent = threading.Event()

    def parts() -> Iterator[artifact_pb2.UploadArtifactRequest]:
        yield artifact_pb2.UploadArtifactRequest(header=artifact_pb2.UploadArtifactHeader(name="stalled"))
        silent.wait(PATIENCE)

    refusal = refused(
        errors.UploadStalled, lambda: server.artifacts.UploadArtifact(parts(), timeout=PATIENCE)
    )
    silent.set()
    return refusal


@provokes(errors.InvalidRequest)
def _invalid_request(server: Server) -> Refusal:
    return refused(errors.InvalidRequest, lambda: server.call("calc", "add", "one", 2))


@provokes(errors.TaskNotFound)
def _unknown_task(server: Server) -> Refusal:
    return refused(errors.TaskNotFound, lambda: server.delete_task("nobody's"))


@provokes(errors.FunctionNotFound)
def _unknown_function(server: Server) -> Refusal:
    return refused(errors.FunctionNotFound, lambda: server.invoke(task_id="kept", function_name="nope"))


@provokes(errors.TaskExists)
def _other_task(server: Server) -> Refusal:
    return refused(errors.TaskExists, lambda: server.call("hostile", "spin", task_name="kept"))


@provokes(errors.ExecutionExists)
def _used_execution_id(server: Server) -> Refusal:
    asked: dict[str, Any] = {"task_id": "kept", "function_name": "answer", "execution_id": fresh("execution")}
    server.invoke(**asked)
    return refused(errors.ExecutionExists, lambda: server.invoke(**asked, force_new_instance=True))


@provokes(errors.TaskBusy)
def _busy_task(server: Server) -> Refusal:
    with spinning(server, 1):
        return refused(errors.TaskBusy, lambda: server.delete_task("hostile"))


@provokes(errors.TooManyTasks)
def _many_tasks(server: Server) -> Refusal:
    return filled_up(
        errors.TooManyTasks, lambda name: server.call("calc", "answer", task_name=name), server.delete_task
    )


@provokes(errors.ServerBusy)
def _full_line(server: Server) -> Refusal:
    with spinning(server, 2):
        return refused(errors.ServerBusy, lambda: server.invoke(task_id="kept", function_name="answer"))


@provokes(errors.UnknownRuntime)
def _unknown_runtime(server: Server) -> Refusal:
    asked = {"artifact_type": "cobol"}
    return refused(errors.UnknownRuntime, lambda: server.call("calc", "answer", spec=asked))


@provokes(errors.UnlinkableArtifact)
def _unlinkable(server: Server) -> Refusal:
    return refused(errors.UnlinkableArtifact, lambda: server.upload(fixture("needs_import"), "needy"))


@provokes(errors.ExecutionNotFound)
def _unknown_execution(server: Server) -> Refusal:
    request = function_pb2.CancelExecutionRequest(execution_id="nobody's")
    return refused(errors.ExecutionNotFound, lambda: server.functions.CancelExecution(request))


@provokes(errors.JournalFailed)
def _failing_disk(server: Server) -> Refusal:
    with no_disk(server):
        return refused(
            errors.JournalFailed,
            lambda: server.invoke(
                task_id="kept", function_name="answer", execution_mode=function_pb2.EXECUTION_MODE_ASYNC
            ),
        )


ELSEWHERE = {
    errors.AccessDenied: "test_whoever_else_comes_is_told_what_to_bring: test_access",
    errors.BatchTooLarge: "test_more_inputs_or_bytes_than_the_server_takes_are_refused: test_batches",
    errors.ExecutionElsewhere: "workers alone are told: test_workers",
    errors.FetchFailed: "test_a_host_that_fails_is_not_our_failure: test_locations",
    errors.LocationForbidden: "test_nothing_is_fetched_unless_the_operator_allows_it: test_locations",
    errors.PermissionDenied: "test_a_host_that_the_operator_did_not_allow_is_refused: test_extism",
    errors.ReaderStalled: "test_a_reader_who_does_not_read_to_the_end_is_given_up: test_streams",
    errors.ServerDraining: "test_a_server_that_shuts_down_is_unavailable",
    errors.ConfigurationError: "the operator's mistake, at the command line: test_lifecycle",
    errors.SandboxUnavailable: "test_code_that_the_engine_does_not_take_is_the_servers_fault",
    errors.WorkerSilent: "test_a_worker_that_hangs_is_reported_and_not_waited_for: test_worker_lives",
}


def test_every_class_is_provoked() -> None:
    classes = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SpearError) and not kind.__subclasses__()
    }
    assert classes - {SpearError} == PROVOCATIONS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("kind", PROVOCATIONS, ids=lambda kind: kind.__name__)
def test_a_refusal_has_its_status_and_its_reason(kind: type[SpearError], cramped: Server) -> None:
    refusal = PROVOCATIONS[kind](cramped)
    assert refusal.reason == kind.reason
    assert refusal.message


EXHAUSTED = [kind for kind in PROVOCATIONS if kind.status is errors.StatusCode.RESOURCE_EXHAUSTED]


@pytest.mark.parametrize("kind", EXHAUSTED, ids=lambda kind: kind.__name__)
def test_what_is_exhausted_says_when_to_try_again(kind: type[SpearError], cramped: Server) -> None:
    refusal = PROVOCATIONS[kind](cramped)
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 10


@pytest.mark.parametrize("kind", [errors.InvalidArtifact, errors.TaskNotFound, errors.TaskExists])
def test_what_does_not_pass_by_itself_says_nothing_of_trying_again(
    kind: type[SpearError], cramped: Server
) -> None:
    assert PROVOCATIONS[kind](cramped).retry_after is None


def test_a_server_that_shuts_down_is_unavailable(start_server: StartServer) -> None:
    server = start_server('[server]\nshutdown_grace = "30s"')
    server.upload(fixture("hostile"), "hostile", "1")
    running = server.call_later("hostile", "spin", context=context(execution_id="running"))
    server.wait_for_load(1)
    server.signal()
    until(lambda: "server stopping" in server.log())
    refusal = refused(
        errors.ServerDraining, lambda: server.call("hostile", "unreachable", context=context(timeout_ms=100))
    )
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    cancel(server, "running")
    assert running.answer().result.error_code == "CANCELLED"
    assert server.exit_code() == 0


def test_code_that_the_engine_does_not_take_is_the_servers_fault(
    start_server: StartServer, tmp_path: Path
) -> None:
    before = start_server(directory=tmp_path)
    for name in ("calc", "hostile"):
        before.upload(fixture(name), name, "1")
    digest = before.artifact("calc").digest.removeprefix("sha256:")
    before.stop()
    damage_with_a_right_seal(before.data_dir, digest)
    server = start_server(directory=tmp_path)
    refusal = refused(errors.SandboxUnavailable, lambda: server.call("calc", "answer", task_name="damaged"))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert refusal.retry_after is None
    assert not server.get_task("damaged").found
    until(lambda: "call failed by our fault" in server.log())
    assert server.call("hostile", "unreachable").result.error_code == "TRAP_UNREACHABLE"


def damage_with_a_right_seal(data_dir: Path, digest: str) -> None:
    """Damage an artifact's code as only the server itself could have: the cache believes it, no engine does."""
    seal = Seal(open_key(data_dir / "key"))
    (code,) = (data_dir / "code").rglob(f"{digest}.cwasm")
    sidecar = code.with_suffix(".json")
    statement = read_sidecar(sidecar, seal)
    assert statement is not None
    for file in (code, sidecar):
        file.chmod(0o600)
    code.write_bytes(bytes(statement.size_bytes))
    damaged = msgspec.structs.replace(statement, code_seal=seal.of_code(code))
    sidecar.write_bytes(sealed(damaged, seal))


def test_after_all_of_that_the_server_is_well(cramped: Server) -> None:
    assert cramped.invoke(task_id="kept", function_name="answer").success


# --- modules that are none --------------------------------------------------------------------------------


def precompiled(content: bytes) -> bytes:
    return bytes(wasmtime.Module(wasmtime.Engine(), content).serialize())


NO_MODULES = {
    "empty": b"",
    "rubbish": b"\x00\x01\x02\x03 rubbish",
    "text": b'(module (func (export "answer") (result i32) i32.const 42))',
    "text-with-a-comment": b";; a comment\n(module)",
    "component": COMPONENT + bytes(20),
    "magic-only": b"\0asm",
    "header-of-another-version": b"\0asm\2\0\0\0",
    "elf": b"\x7fELF" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(60),
    "truncated": fixture("calc")[:-1],
    "truncated-in-a-section": fixture("calc")[: len(fixture("calc")) // 2],
    "trailing-rubbish": fixture("calc") + b"\xff\xff",
    "section-beyond-the-end": HEADER + b"\x01\xff\xff\xff\xff\x0f",
    "sections-out-of-order": module(section(FUNCTION), section(TYPE)),
    "section-twice": module(section(TYPE, NULLARY), section(TYPE, NULLARY)),
    "endless-leb": HEADER + b"\x01" + b"\x80" * 20,
    "no-code-for-a-function": module(section(TYPE, NULLARY), section(FUNCTION, b"\0")),
    "unknown-section": HEADER + b"\x3f\x00",
    "does-not-validate": module(section(TYPE, NULLARY), section(FUNCTION, b"\0"), section(CODE, b"\x03\x00\x1a\x0b")),
    "too-many-functions": functions(101),
    "too-large-a-function": module(
        section(TYPE, NULLARY), section(FUNCTION, b"\0"),
        section(CODE, sized(b"\0" + b"\x01" * (64 << 10) + b"\x0b")),
    ),
    "much-memory": module(section(MEMORY, b"\x00\xff\xff\x03")),
    "memory64": module(section(MEMORY, b"\x04\x01")),
    "shared-memory": module(section(MEMORY, b"\x03\x01\x02")),
    "two-memories": module(section(MEMORY, b"\x00\x01", b"\x00\x01")),
    "large-table": module(section(TABLE, b"\x70\x00\xff\xff\xff\x07")),
    "custom-section-without-a-name": HEADER + bytes((CUSTOM, 0)),
    "name-that-is-no-text": functions(1, b"\x02\xff\xfe\x00\x00"),
    "export-of-nothing": functions(1, export("answer", index=7)),
    "exports-of-one-name": functions(1, export("answer"), export("answer")),
}  # fmt: skip


@pytest.mark.parametrize("content", NO_MODULES.values(), ids=NO_MODULES.keys())
def test_what_is_no_module_is_refused_with_a_reason(content: bytes, cramped: Server) -> None:
    refusal = refused(errors.InvalidArtifact, lambda: cramped.upload(content, fresh("artifact")))
    assert len(refusal.message) > 15
    assert not cramped.uploads_in_progress()


@pytest.mark.parametrize(
    ("kind", "word"),
    [("text", "text"), ("text-with-a-comment", "text"), ("component", "component"), ("truncated", "byte"),
     ("too-many-functions", "100"), ("rubbish", "byte"), ("sections-out-of-order", "byte")],
)  # fmt: skip
def test_the_reason_helps(kind: str, word: str, cramped: Server) -> None:
    content = NO_MODULES[kind]
    assert word in refused(errors.InvalidArtifact, lambda: cramped.upload(content, "x")).message.lower()


def test_precompiled_code_is_refused_as_such(cramped: Server) -> None:
    content = precompiled(fixture("calc"))
    refusal = refused(errors.InvalidArtifact, lambda: cramped.upload(content, fresh("artifact")))
    assert "compiled" in refusal.message


@pytest.mark.parametrize("length", range(1, len(fixture("no_memory")), 9))
def test_no_beginning_of_a_module_is_one(length: int, cramped: Server) -> None:
    content = fixture("no_memory")[:length]
    refused(errors.InvalidArtifact, lambda: cramped.upload(content, fresh("artifact")))


# --- names that want to be a nuisance ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        lambda server: server.call("calc", NASTY),
        lambda server: server.call("calc", "answer", task_name=NASTY),
        lambda server: server.call(NASTY, "answer"),
        lambda server: server.call("calc", "answer", spec={"version": NASTY}),
        lambda server: server.call("calc", "answer", spec={"checksum": NASTY}),
        lambda server: server.call("calc", "answer", spec={"artifact_type": NASTY}),
        lambda server: server.call("calc", "answer", spec={"description": NASTY}),
        lambda server: server.call("calc", "answer", spec={"metadata": {NASTY: NASTY}}),
        lambda server: server.call("calc", "answer", execution_id=NASTY),
        lambda server: server.call("calc", "answer", context=context(execution_id=NASTY)),
        lambda server: server.call("calc", "echo_i32", NASTY),
        lambda server: server.call("calc", "echo_i32", [NASTY]),
        lambda server: server.invoke(task_id=NASTY, function_name="answer"),
        lambda server: server.invoke(task_id="kept", function_name=NASTY),
        lambda server: server.delete_task(NASTY),
        lambda server: server.artifact(NASTY),
        lambda server: server.delete_artifact(NASTY),
        lambda server: server.upload(fixture("calc"), NASTY),
        lambda server: server.upload(fixture("calc"), "calc", NASTY),
        lambda server: server.upload(fixture("calc"), "calc", "2", checksum=NASTY),
        lambda server: server.functions.ListTasks(function_pb2.ListTasksRequest(start_after=NASTY)),
    ],
)  # fmt: skip
def test_a_megabyte_of_nastiness_makes_a_small_and_printable_refusal(
    attempt: Callable[[Server], object], cramped: Server
) -> None:
    refusal = refusal_of(lambda: attempt(cramped))
    assert refusal.code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert refusal.size < 3000


def test_a_guests_megabyte_of_nastiness_makes_a_small_answer(server: Server) -> None:
    answer = server.call("text", "fail_with", NASTY[:500_000])
    assert answer.result.error_code == "GUEST_ERROR"
    assert len(answer.result.error_message) <= 1000
    (execution,) = server.get_task(answer.task_id, include_executions=True, execution_limit=1).executions
    assert execution.ByteSize() < 4096


def test_an_import_with_the_longest_name_makes_a_small_refusal(server: Server) -> None:
    refusal = refused(
        errors.UnlinkableArtifact, lambda: server.upload(long_import(100_000), fresh("artifact"))
    )
    assert refusal.size < 3000


def test_no_log_line_holds_a_raw_control_character(cramped: Server) -> None:
    refused(errors.FunctionNotFound, lambda: cramped.invoke(task_id="kept", function_name=NASTY))
    assert all(line.isprintable() for line in cramped.log().splitlines())
