"""A real server process, a connection to it, and what it refuses."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spear_wasm.api import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.client.values import Argument, decode, encode
from spear_wasm.errors import SpearError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "wasm"
SERVICES = ("spearlet.FunctionService", "spearlet.ArtifactService")
PATIENCE = 30.0
"""Seconds after which something that does not happen has failed; nothing waits for it to pass."""
MAX_DETAILS = 4096
FIRST_CALLS = {"calc": "answer", "host_calls": "time_now_ms", "hostile": "unreachable", "initialize": "get"}
"""For artifacts by name, what a task may be made by: a function without parameters that ends at once."""
CHUNK = 64 << 10

_numbers = itertools.count(1)


def fresh(kind: str) -> str:
    """A name that no test has used."""
    return f"{kind}-{next(_numbers)}"


@cache
def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.wasm").read_bytes()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what can only be seen by asking; every question is a round trip to the server."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


class Server:
    """A `spear-wasm serve` process on a port of its own, and a channel to it."""

    def __init__(self, directory: Path, config: str = "", *, address: str = "127.0.0.1:0") -> None:
        self.data_dir = directory / "data"
        self.temporary = temporary_of(directory)
        self.process, self._log = launch(directory, config, address=address)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = line.removeprefix("listening on ").strip()
        if not self.address:
            self.close()
            raise AssertionError(f"the server did not start: {self.log()}")
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])
        self.functions = function_pb2_grpc.FunctionServiceStub(self.channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        self.standard_health: Any = health_pb2_grpc.HealthStub(
            self.channel
        )  # whose type stubs lack its methods

    # Its life

    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM, and the exit code that it leads to."""
        self.signal()
        return self.exit_code()

    def close(self) -> None:
        """However it is, it is gone afterwards."""
        if self.address:
            self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    # Artifacts

    def upload(
        self, content: bytes, name: str, version: str = "", **header: Any
    ) -> artifact_pb2.UploadArtifactResponse:
        announced = artifact_pb2.UploadArtifactHeader(name=name, version=version, **header)
        return self.artifacts.UploadArtifact(upload_parts(announced, content), timeout=PATIENCE)

    def artifact(self, reference: str) -> artifact_pb2.ArtifactInfo:
        return self.artifacts.GetArtifact(
            artifact_pb2.GetArtifactRequest(reference=reference), timeout=PATIENCE
        )

    def delete_artifact(self, reference: str, *, force: bool = False) -> bool:
        request = artifact_pb2.DeleteArtifactRequest(reference=reference, force=force)
        return self.artifacts.DeleteArtifact(request, timeout=PATIENCE).deleted

    def uploads_in_progress(self) -> list[Path]:
        return list((self.data_dir / "uploads").iterdir())

    # Calls

    def invoke(
        self, *, deadline: float | None = PATIENCE, **fields: Any
    ) -> function_pb2.InvokeFunctionResponse:
        return self.functions.InvokeFunction(function_pb2.InvokeFunctionRequest(**fields), timeout=deadline)

    def call(
        self,
        artifact: str,
        function: str,
        *arguments: Argument,
        spec: dict[str, Any] | None = None,
        **fields: Any,
    ) -> function_pb2.InvokeFunctionResponse:
        """Call a function of an artifact; with a spec of one's own, in a task of its own."""
        if spec:
            fields.setdefault("task_name", fresh("task"))
        return self.invoke(
            artifact_spec=function_pb2.ArtifactSpec(artifact_id=artifact, **(spec or {})),
            function_name=function,
            parameters=parameters(*arguments),
            **fields,
        )

    def call_later(self, *arguments: Any, **fields: Any) -> Pending:
        """The same in the background."""
        return Pending(lambda: self.call(*arguments, **fields))

    def task(self, artifact: str, **spec: Any) -> str:
        """The id of a new task, which one call has been made of that says nothing."""
        return self.call(artifact, FIRST_CALLS[artifact], spec=spec, task_name=fresh("task")).task_id

    def get_task(self, reference: str, **fields: Any) -> function_pb2.GetTaskResponse:
        request = function_pb2.GetTaskRequest(task_id=reference, **fields)
        return self.functions.GetTask(request, timeout=PATIENCE)

    def delete_task(self, reference: str, **fields: Any) -> function_pb2.DeleteTaskResponse:
        request = function_pb2.DeleteTaskRequest(task_id=reference, **fields)
        return self.functions.DeleteTask(request, timeout=PATIENCE)

    # Figures

    def health(self) -> function_pb2.GetHealthResponse:
        request = function_pb2.GetHealthRequest(include_details=True)
        return self.functions.GetHealth(request, timeout=PATIENCE)

    def stats(self, **fields: Any) -> function_pb2.GetStatsResponse:
        request = function_pb2.GetStatsRequest(
            include_task_stats=True, include_execution_stats=True, **fields
        )
        return self.functions.GetStats(request, timeout=PATIENCE)

    def is_serving(self, service: str) -> bool:
        """What the standard health service says."""
        request = health_pb2.HealthCheckRequest(service=service)
        status = self.standard_health.Check(request, timeout=PATIENCE).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def load(self) -> tuple[int, int]:
        """Executions that run, and that wait."""
        details = self.health().details
        return details.running_executions, details.pending_executions

    def wait_for_load(self, running: int, pending: int = 0) -> None:
        until(lambda: self.load() == (running, pending))


def compilations_of(process: psutil.Process) -> list[psutil.Process]:
    """The compilations that a process runs; one that it has forked and that is no program yet is none.

    Whoever stops such a one stops its parent, who waits for it to become one.
    """
    found = []
    for each in process.children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "spear_wasm.engine.compile_child" in each.cmdline():
                found.append(each)
    return found


@contextlib.contextmanager
def no_disk(server: Server) -> Iterator[None]:
    """Meanwhile nothing can be written about executions."""
    with _executions_of(server) as database:
        database.execute("ALTER TABLE executions RENAME TO elsewhere")
    try:
        yield
    finally:
        repair_disk(server)


def repair_disk(server: Server) -> None:
    """What is to be written about executions can be from now on."""
    with _executions_of(server) as database:
        database.execute("ALTER TABLE elsewhere RENAME TO executions")


@contextlib.contextmanager
def no_outcomes(server: Server) -> Iterator[None]:
    """Meanwhile executions can be read, and accepted, but nothing more can be written about them."""
    with _executions_of(server) as database:
        database.execute(
            "CREATE TRIGGER refusing BEFORE UPDATE ON executions BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    try:
        yield
    finally:
        with _executions_of(server) as database:
            database.execute("DROP TRIGGER refusing")


@contextlib.contextmanager
def busy_disk(server: Server, *, breaks: bool = False) -> Iterator[None]:
    """Meanwhile whatever is to be written about executions waits; with `breaks` it fails afterwards."""
    with _executions_of(server) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        if breaks:
            database.execute("ALTER TABLE executions RENAME TO elsewhere")
        database.execute("COMMIT")


def wait_for_attempt(server: Server, execution_id: str, number: int = 1) -> None:
    """Wait until the disk knows that an execution has begun so often: before that no guest runs."""
    query = "SELECT attempts FROM executions WHERE execution_id = ?"
    with _executions_of(server) as database:
        until(lambda: database.execute(query, (execution_id,)).fetchone() == (number,))


def _executions_of(server: Server) -> contextlib.closing[sqlite3.Connection]:
    path = server.data_dir / "executions.db"
    return contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30))


class Pending:
    """Something that a thread of its own does."""

    def __init__(self, work: Callable[[], function_pb2.InvokeFunctionResponse]) -> None:
        threads = ThreadPoolExecutor(1)
        self._future = threads.submit(work)
        threads.shutdown(wait=False)

    def answer(self) -> function_pb2.InvokeFunctionResponse:
        return self._future.result(PATIENCE)

    def is_answered(self) -> bool:
        return self._future.done()


def launch(
    directory: Path, config: str = "", *, address: str = "127.0.0.1:0", data_dir: Path | None = None
) -> tuple[subprocess.Popen[str], Path]:
    """Start `spear-wasm serve`; its log goes to the file that is returned.

    It is one process, unless `config` says how many. Its temporary files lie beside its directory: servers of other
    runs of the tests must not clear them away.
    """
    directory.mkdir(parents=True, exist_ok=True)
    temporary_of(directory).mkdir(exist_ok=True)
    config_file, log_file = directory / "config.toml", directory / fresh("log")
    config_file.write_text(config)
    command = [sys.executable, "-m", "spear_wasm.cli", "serve", "--log-format", "json", "--addr", address]
    command += ["--data-dir", str(data_dir or directory / "data"), "--config", str(config_file)]
    if not re.search(r"^workers\s*=", config, re.MULTILINE):
        command += ["--workers", "1"]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"TMPDIR": str(temporary_of(directory))},
        )
    return process, log_file


def temporary_of(directory: Path) -> Path:
    """Where servers have their temporary files whose directories lie beside each other."""
    return directory.parent / "temporary"


def upload_parts(
    header: artifact_pb2.UploadArtifactHeader, content: bytes
) -> Iterator[artifact_pb2.UploadArtifactRequest]:
    yield artifact_pb2.UploadArtifactRequest(header=header)
    for start in range(0, len(content), CHUNK):
        yield artifact_pb2.UploadArtifactRequest(chunk=content[start : start + CHUNK])


def parameters(*values: Argument) -> list[function_pb2.FunctionParameter]:
    return [function_pb2.FunctionParameter(value=encode(value)) for value in values]


def limits(**fields: int) -> function_pb2.ResourceLimits:
    return function_pb2.ResourceLimits(**fields)


def context(**fields: Any) -> function_pb2.ExecutionContext:
    return function_pb2.ExecutionContext(**fields)


def value_of(answer: function_pb2.InvokeFunctionResponse) -> Any:
    """What the guest returned; it must have completed."""
    assert answer.success, f"{answer.result.error_code}: {answer.result.error_message}"
    return decode(answer.result.result)


def code_of(answer: function_pb2.InvokeFunctionResponse) -> str:
    """Why the guest failed; it must have."""
    assert not answer.success
    return answer.result.error_code


def reason_of(answer: function_pb2.InvokeFunctionResponse) -> str:
    """Why a call among others was refused; it must have been."""
    assert not answer.success
    assert answer.result.status == function_pb2.EXECUTION_STATUS_UNKNOWN
    assert answer.message
    return answer.result.error_code


@dataclass(frozen=True)
class Refusal:
    """A status that the server ended a call with."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    retry_after: float | None
    size: int


def refused(kind: type[SpearError], attempt: Callable[[], object]) -> Refusal:
    """The refusal that an attempt leads to, which must be of that kind in every respect."""
    refusal = refusal_of(attempt)
    assert (refusal.reason, refusal.code.value[0]) == (kind.reason, kind.status.value), refusal
    return refusal


def refusal_of(attempt: Callable[[], object]) -> Refusal:
    try:
        answer = attempt()
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError(f"the server did not refuse, it answered {answer}")


def read_refusal(error: grpc.RpcError) -> Refusal:
    call = cast("grpc.Call", error)  # what stubs raise is the ended call itself
    status = _status_of(call)
    assert status is not None, f"{call.code()} without details: {call.details()}"
    info = _only(ErrorInfo, status.details)
    assert info is not None
    assert info.domain == "spear-wasm"
    retry = _only(RetryInfo, status.details)
    size = status.ByteSize()
    assert size < MAX_DETAILS
    assert status.message.isascii()
    assert status.message.isprintable()
    assert all(value.isprintable() and value.isascii() for value in info.metadata.values())
    return Refusal(
        call.code(),
        status.message,
        info.reason,
        dict(info.metadata),
        retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None,
        size,
    )


def _status_of(call: grpc.Call) -> Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return Status.FromString(value)
    return None


def _only(kind: type[Any], details: Sequence[Any]) -> Any:
    found = [detail for detail in details if detail.Is(kind.DESCRIPTOR)]
    assert len(found) <= 1
    if not found:
        return None
    message = kind()
    assert found[0].Unpack(message)
    return message
