"""Every way in which a call can end, for every kind of guest, over the socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.errors import UnlinkableArtifact
from tests.rpc.plugins import PLUGINS
from tests.rpc.programs import program
from tests.rpc.serving import Server, code_of, context, limits, refused, value_of

COMPLETED, FAILED, TIMEOUT = (
    pb.EXECUTION_STATUS_COMPLETED, pb.EXECUTION_STATUS_FAILED, pb.EXECUTION_STATUS_TIMEOUT,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A call of a kind of guest, and how it ends: with a value, or for a reason."""

    kind: str
    outcome: str
    artifact: str
    function: str
    arguments: Sequence[Argument] = ()
    _: KW_ONLY
    value: object = None
    code: str = ""
    message: str = ""
    exit_code: int | None = None
    status: int = FAILED
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}, {self.outcome}"


def completed(kind: str, *call: Any, value: object, **expected: Any) -> Case:
    return Case(kind, "success", *call, value=value, status=COMPLETED, **expected)


def failed(kind: str, message: str, *call: Any) -> Case:
    return Case(kind, "guest error", *call, code="GUEST_ERROR", message=message)


def trapped(kind: str, *call: Any) -> Case:
    return Case(kind, "trap", *call, code="TRAP_UNREACHABLE")


def exited(kind: str, *call: Any) -> Case:
    return Case(kind, "exit code", *call, code="EXIT_STATUS", exit_code=7)


def timed_out(kind: str, *call: Any) -> Case:
    in_time = {"context": context(timeout_ms=150)}
    return Case(kind, "timeout, asleep", *call, code="TIMEOUT", status=TIMEOUT, fields=in_time)


def too_long(kind: str, *call: Any) -> Case:
    return Case(
        kind, "output too long", *call, code="OUTPUT_LIMIT", fields={"limits": limits(max_output_bytes=1000)}
    )


CORE, COMMAND, REACTOR, EXTISM = "core", "wasi_command", "wasi_reactor", "extism"
CASES = [
    completed(CORE, "calc", "add", (40, 2), value=42),
    failed(CORE, "nothing to throw", "dice", "throw", (0, 0)),
    trapped(CORE, "hostile", "unreachable"),
    timed_out(CORE, "dice", "throw", (1, 60_000)),
    too_long(CORE, "text", "big_output", ("1001",)),
    completed(COMMAND, "program", "_start", ("arguments", "a"), value=b"0: program\n1: arguments\n2: a\n", exit_code=0),
    failed(COMMAND, "not like this", "beacon", "_start", ("fail", "not like this")),
    trapped(COMMAND, "program", "_start", ("trap",)),
    exited(COMMAND, "program", "_start", ("exit", 7)),
    timed_out(COMMAND, "program", "_start", ("sleep", 60_000)),
    too_long(COMMAND, "program", "_start", ("flood",)),
    completed(REACTOR, "library", "say", (41,), value=42),
    failed(REACTOR, "not like this", "library", "complain"),
    trapped(REACTOR, "library", "fall"),
    exited(REACTOR, "library", "leave", (7,)),
    timed_out(REACTOR, "library", "sleep_for", (60_000,)),
    too_long(REACTOR, "library", "print", (1001,)),
    too_long(REACTOR, "library", "bytes", ("1001",)),
    completed(EXTISM, "libc", "greet", ("you",), value=b"Hello, you! 42"),
    failed(EXTISM, "it does not like that", "plugin", "complain"),
    trapped(EXTISM, "plugin", "complain_and_trap"),
    exited(EXTISM, "libc", "leave", ("7",)),
    timed_out(EXTISM, "libc", "doze", ("60000",)),
    too_long(EXTISM, "plugin", "echo", (b"x" * 1001,)),
    too_long(EXTISM, "libc", "print", ("x" * 1001,)),
]  # fmt: skip


@pytest.fixture(scope="module")
def guests(server: Server) -> Server:
    """The server with a guest or two of every kind."""
    for name in ("program", "beacon", "library"):
        server.upload(program(name), name, "1")
    for name in ("libc", "plugin"):
        server.upload((PLUGINS / f"{name}.wasm").read_bytes(), name, "1")
    return server


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_ends_as_its_guest_does(guests: Server, case: Case) -> None:
    assert guests.artifact(case.artifact).runtime_type == case.kind
    answer = guests.call(case.artifact, case.function, *case.arguments, **case.fields)
    result = answer.result
    assert result.status == case.status
    if case.status == COMPLETED:
        assert value_of(answer) == case.value
    else:
        assert code_of(answer) == case.code
        assert case.message in result.error_message
    assert (result.exit_code if result.HasField("exit_code") else None) == case.exit_code


MISSING = {
    CORE: '(import "spear" "slep_ms" (func (param i32)))',
    COMMAND: """(import "wasi_snapshot_preview1" "fd_wrte" (func (param i32 i32 i32 i32) (result i32)))
                (func (export "_start"))""",
    REACTOR: """(import "wasi_snapshot_preview1" "clock_time_gt" (func (param i32 i64 i32) (result i32)))
                (func (export "f"))""",
    EXTISM: """(import "extism:host/env" "alloc" (func (param i64) (result i64)))
               (import "extism:host/env" "config_gt" (func (param i64) (result i64)))""",
}
NEAREST = {CORE: "spear.sleep_ms", COMMAND: "fd_write", REACTOR: "clock_time_get", EXTISM: "config_get"}


@pytest.mark.parametrize("kind", MISSING)
def test_an_import_that_nobody_has_is_refused_with_what_comes_nearest(guests: Server, kind: str) -> None:
    module = wat_to_wasm(f"(module {MISSING[kind]})")
    refusal = refused(UnlinkableArtifact, lambda: guests.upload(module, "lacking"))
    assert NEAREST[kind] in refusal.message
