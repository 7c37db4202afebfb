"""WASI programs over the socket: what they are told, what they answer, and every way in which they end.

Preview 1 or 2 makes no difference, so what is made for one is asked of the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from wasmtime import wat2wasm

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument
from spear_wasm.errors import FunctionNotFound, InvalidRequest, UnlinkableArtifact
from tests.rpc.components import component
from tests.rpc.programs import named, program, run
from tests.rpc.serving import Server, code_of, context, limits, parameters, refused, until, value_of
from tests.rpc.test_streams import Stream, content_of

COMPLETED, FAILED = pb.EXECUTION_STATUS_COMPLETED, pb.EXECUTION_STATUS_FAILED


@dataclass(frozen=True)
class Programs:
    """The server with the program in C, as a module for preview 1 or as a component for preview 2."""

    server: Server
    artifact: str

    def run(self, *arguments: Argument, **fields: Any) -> pb.InvokeFunctionResponse:
        return run(self.server, *arguments, artifact=self.artifact, **fields)

    def status(self, number: int) -> int:
        """What is known of an exit status: wasi:cli/exit tells a failure, and not which."""
        return number if self.artifact == "program" else int(number != 0)


@pytest.fixture(scope="module", params=["program", "program-component"])
def programs(request: pytest.FixtureRequest, server: Server) -> Programs:
    server.upload(program() if request.param == "program" else component("program"), request.param, "1")
    return Programs(server, request.param)


def lines(answer: pb.InvokeFunctionResponse) -> list[str]:
    """What a program that completed has printed."""
    output: bytes = value_of(answer)
    return output.decode().splitlines()


# --- what it is -------------------------------------------------------------------------------------------


def test_a_program_is_recognised_and_has_one_function(programs: Programs) -> None:
    artifact = programs.server.artifact(programs.artifact)
    assert artifact.runtime_type == ("wasi_command" if programs.artifact == "program" else "component")
    (function,) = artifact.functions
    assert (function.name, [each.type for each in function.results]) == ("_start", ["bytes"])


def test_a_program_has_no_other_function(programs: Programs) -> None:
    refusal = refused(FunctionNotFound, lambda: programs.server.call(programs.artifact, "main"))
    assert "_start" in refusal.message


# --- what it is told --------------------------------------------------------------------------------------


def test_what_it_prints_is_its_result(programs: Programs) -> None:
    answer = programs.run()
    assert value_of(answer) == b"hello\n"
    assert answer.result.status == COMPLETED
    assert answer.result.exit_code == 0
    assert answer.result.HasField("exit_code")
    assert answer.result.stdout == b"hello\n"


def test_parameters_are_its_arguments(programs: Programs) -> None:
    arguments = ("arguments", "two words", "", 42, -1.5, b"\xc3\xa9", {"a": [1]}, True)
    assert lines(programs.run(*arguments)) == [
        "0: program", "1: arguments", "2: two words", "3: ", "4: 42", "5: -1.5", "6: é", '7: {"a":[1]}', "8: true",
    ]  # fmt: skip


def test_its_name_is_the_tasks_to_choose(programs: Programs) -> None:
    assert lines(programs.run("arguments", config={"argv0": "report"}))[0] == "0: report"


@pytest.mark.parametrize("content", [b"three of them", "three of them", {"three": 1, "of": 2, "them": 3}])
def test_a_parameter_called_stdin_is_its_standard_input(content: Any, programs: Programs) -> None:
    copied = value_of(programs.run("copy", stdin=content))
    assert (json.loads(copied) if isinstance(content, dict) else copied) == (
        content.encode() if isinstance(content, str) else content
    )


def test_a_large_input_is_read_to_its_end(programs: Programs) -> None:
    content = bytes(range(256)) * 2048
    assert value_of(programs.run("copy", stdin=content)) == content


def test_without_an_input_it_is_at_its_end_at_once(programs: Programs) -> None:
    assert lines(programs.run("words")) == ["0"]


@pytest.mark.parametrize(
    ("given", "document"),
    [
        (parameters("a", 1, [True, None]), ["a", 1, [True, None]]),
        (named(name="a", size=1), {"name": "a", "size": 1}),
        ([], []),
    ],
)
def test_parameters_can_be_a_document_on_its_input(given: Any, document: Any, programs: Programs) -> None:
    # Without arguments the program in C says hello; this one copies what it is given.
    programs.server.upload(bytes(wat2wasm(COPIER)), "copier")
    spec = pb.ArtifactSpec(artifact_id="copier")
    spec.runtime_config.update({"parameters": "json"})
    answer = programs.server.invoke(
        artifact_spec=spec, task_name="documents", function_name="_start", parameters=given
    )
    assert json.loads(value_of(answer)) == document


def test_the_calls_variables_come_on_top_of_the_tasks(programs: Programs) -> None:
    answer = programs.run(
        "environment",
        environment={"LEVEL": "task", "HOME": "/"},
        context=context(environment={"LEVEL": "call", "CALL": "1"}),
    )
    assert sorted(lines(answer)) == ["CALL=1", "HOME=/", "LEVEL=call"]


def test_it_sees_no_variable_of_the_hosts(programs: Programs) -> None:
    assert lines(programs.run("environment")) == []


def test_clocks_and_random_numbers_are_there(programs: Programs) -> None:
    wall, monotonic = map(int, lines(programs.run("clocks"))[0].split())
    assert wall > 1_700_000_000 * 10**9
    assert 0 < monotonic < 3600 * 10**9
    assert lines(programs.run("random")) != lines(programs.run("random"))


# --- how it ends ------------------------------------------------------------------------------------------


def test_a_status_other_than_zero_is_a_failure_that_keeps_the_output(programs: Programs) -> None:
    answer = programs.run("exit", 7)
    assert code_of(answer) == "EXIT_STATUS"
    assert answer.result.status == FAILED
    assert answer.result.exit_code == programs.status(7)
    assert answer.result.stdout == b"leaving\n"
    assert answer.result.stderr == b"with a status\n"
    assert answer.result.error_message == f"the guest exited with status {programs.status(7)}"


def test_a_status_may_be_any_number_of_32_bits(programs: Programs) -> None:
    for status in (1, 125, 126, 255, 256, 2**31 - 1, -1, -(2**31)):
        answer = programs.run("exit", status)
        assert (code_of(answer), answer.result.exit_code) == ("EXIT_STATUS", programs.status(status))


def test_a_program_that_exits_with_zero_has_completed(programs: Programs) -> None:
    answer = programs.run("exit", 0)
    assert value_of(answer) == b"leaving\n"
    assert answer.result.stderr == b"with a status\n"


def test_a_trap_is_a_failure_that_keeps_the_output(programs: Programs) -> None:
    answer = programs.run("trap")
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert answer.result.stdout == b"falling\n"
    assert not answer.result.HasField("exit_code")


def test_a_program_that_sleeps_ends_at_its_deadline(programs: Programs) -> None:
    answer = programs.run("sleep", 60_000, context=context(timeout_ms=2000))
    assert code_of(answer) == "TIMEOUT"
    assert 2000 <= answer.result.execution_time_ms < 10_000
    assert answer.result.cpu_time_ms < 100
    assert answer.result.stdout == b"asleep\n"


def test_a_program_sleeps_as_long_as_it_asks_for(programs: Programs) -> None:
    first, second = lines(programs.run("sleep", 120))
    assert first == "asleep"
    assert int(second.split()[2]) >= 120


def test_waiting_for_input_is_over_at_once(programs: Programs) -> None:
    answer = programs.run("wait", 60_000, stdin=b"something")
    assert lines(answer) == ["1"]


def test_a_program_that_gives_its_turns_away_ends_at_its_deadline(programs: Programs) -> None:
    assert code_of(programs.run("spin", context=context(timeout_ms=100))) == "TIMEOUT"


def test_a_program_that_prints_too_much_ends_and_what_there_was_room_for_is_kept(programs: Programs) -> None:
    answer = programs.run("flood", limits=limits(max_output_bytes=10_000))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert len(answer.result.stdout) == 10_000
    assert answer.result.output_truncated


def test_a_log_that_is_full_is_cut_and_the_program_goes_on(programs: Programs) -> None:
    answer = programs.run("flood-log", limits=limits(max_log_bytes=5000), context=context(timeout_ms=1000))
    assert code_of(answer) == "TIMEOUT"
    assert len(answer.result.stderr) == 5000
    assert answer.result.output_truncated


def test_parameters_above_the_input_limit_are_refused(programs: Programs) -> None:
    refusal = refused(
        InvalidRequest, lambda: programs.run("copy", stdin=b"x" * 1000, limits=limits(max_input_bytes=999))
    )
    assert refusal.metadata["limit"] == "max_input_bytes"
    refused(InvalidRequest, lambda: programs.run(*["arguments"] * 200, limits=limits(max_input_bytes=999)))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fields", "words"),
    [
        (["a\0b"], {}, "holds a zero"),
        ([], {"parameters": named(stdin=b"1") * 2}, "given 2 times"),
    ],
)
def test_what_no_program_can_be_told_is_refused(
    arguments: list[str], fields: dict[str, Any], words: str, programs: Programs
) -> None:
    fields.setdefault("parameters", parameters(*arguments))
    refusal = refused(
        InvalidRequest,
        lambda: programs.server.invoke(
            artifact_spec=pb.ArtifactSpec(artifact_id=programs.artifact), function_name="_start", **fields
        ),
    )
    assert words in refusal.message


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"reuse": True}, "reuse"),
        ({"parameters": "xml"}, "parameters"),
        ({"argv0": "a\0b"}, "argv0"),
        ({"argv": "json"}, "argv"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    config: dict[str, Any], key: str, programs: Programs
) -> None:
    assert refused(InvalidRequest, lambda: programs.run(config=config)).metadata["key"] == key


def test_an_import_that_nobody_has_is_refused_at_upload_with_what_comes_nearest(programs: Programs) -> None:
    near = COPIER.replace('"fd_write"', '"fd_wrte"')
    refusal = refused(UnlinkableArtifact, lambda: programs.server.upload(bytes(wat2wasm(near)), "near"))
    assert "did you mean wasi_snapshot_preview1.fd_write" in refusal.message


# --- who reads along --------------------------------------------------------------------------------------


def test_what_it_prints_comes_while_it_runs(programs: Programs) -> None:
    stream = streamed(programs, "count")
    printed = b""
    while len(printed) < 6:  # a line may come in pieces
        printed += content_of(stream.next())
    assert printed.startswith(b"0\n1\n2\n")
    stream.hang_up()
    until(lambda: programs.server.load() == (0, 0))


def test_the_end_of_a_stream_has_the_status_and_not_the_output_again(programs: Programs) -> None:
    messages, final = streamed(programs, "exit", "3").rest()
    assert b"".join(messages) == b"leaving\n"
    assert final.status == FAILED
    assert final.result.exit_code == programs.status(3)
    assert final.result.stdout == b""
    messages, final = streamed(programs, "arguments").rest()
    assert b"".join(messages) == b"0: program\n1: arguments\n"
    assert final.status == COMPLETED
    assert not final.HasField("chunk_data")


def test_a_program_in_a_stream_that_nobody_reads_waits_for_that_and_ends_in_time(programs: Programs) -> None:
    messages, final = streamed(programs, "sleep", "60000", context=context(timeout_ms=1000)).rest()
    assert b"".join(messages) == b"asleep\n"
    assert final.status == pb.EXECUTION_STATUS_TIMEOUT


def streamed(programs: Programs, *arguments: str, **fields: Any) -> Stream:
    return Stream(programs.server.functions, "_start", *arguments, artifact=programs.artifact, **fields)


COPIER = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)) (then unreachable))
    (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))))
"""
