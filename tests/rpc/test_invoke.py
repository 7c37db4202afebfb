"""InvokeFunction: which task a call runs in, what goes in, what comes out, how long it may take."""

from __future__ import annotations

import contextlib
import math
import uuid
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from spear_wasm.api import function_pb2 as pb
from spear_wasm.engine.leb import encode_u32
from spear_wasm.errors import (
    ArtifactNotFound,
    ExecutionExists,
    FunctionNotFound,
    InvalidRequest,
    TaskExists,
    TaskNotFound,
)
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    Server,
    code_of,
    context,
    fixture,
    fresh,
    limits,
    parameters,
    refusal_of,
    refused,
    until,
    value_of,
)
from tests.rpc.test_executions import cancel

NEW, EXISTING = pb.INVOCATION_TYPE_NEW_TASK, pb.INVOCATION_TYPE_EXISTING_TASK
UNKNOWN = pb.INVOCATION_TYPE_UNKNOWN


def spec(artifact: str = "calc", **fields: Any) -> pb.ArtifactSpec:
    return pb.ArtifactSpec(artifact_id=artifact, **fields)


# --- which task -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UNKNOWN, NEW])
def test_a_spec_makes_a_task(kind: pb.InvocationType.ValueType, server: Server) -> None:
    name = fresh("task")
    answer = server.invoke(invocation_type=kind, task_name=name, artifact_spec=spec(), function_name="answer")
    assert value_of(answer) == 42
    assert server.get_task(answer.task_id).task.task_name == name


@pytest.mark.parametrize("kind", [UNKNOWN, EXISTING])
def test_a_task_is_called_by_its_id_or_its_name(kind: pb.InvocationType.ValueType, server: Server) -> None:
    task = server.get_task(server.task("calc")).task
    for reference in (task.task_id, task.task_name):
        answer = server.invoke(invocation_type=kind, task_id=reference, function_name="answer")
        assert (answer.task_id, value_of(answer)) == (task.task_id, 42)


def test_an_existing_task_can_be_meant_by_task_name_too(server: Server) -> None:
    task = server.get_task(server.task("calc")).task
    answer = server.invoke(invocation_type=EXISTING, task_name=task.task_name, function_name="answer")
    assert answer.task_id == task.task_id


def test_neither_task_nor_spec_is_invalid(server: Server) -> None:
    refused(InvalidRequest, lambda: server.invoke(function_name="answer"))
    refused(InvalidRequest, lambda: server.invoke(invocation_type=NEW, function_name="answer"))


def test_an_invocation_type_that_nobody_knows_is_invalid(server: Server) -> None:
    kind: Any = 7
    refused(
        InvalidRequest,
        lambda: server.invoke(invocation_type=kind, artifact_spec=spec(), function_name="answer"),
    )


@pytest.mark.parametrize("reference", ["task-of-nobody", ""])
def test_an_unknown_task_is_not_found(reference: str, server: Server) -> None:
    refused(
        TaskNotFound,
        lambda: server.invoke(invocation_type=EXISTING, task_id=reference, function_name="answer"),
    )


def test_an_unknown_task_is_made_only_where_a_spec_comes_with_the_wish(server: Server) -> None:
    name = fresh("task")
    asked: dict[str, Any] = {"invocation_type": EXISTING, "task_name": name, "function_name": "answer"}
    refused(TaskNotFound, lambda: server.invoke(**asked, create_if_not_exists=True))
    refused(TaskNotFound, lambda: server.invoke(**asked, artifact_spec=spec()))
    made = server.invoke(**asked, artifact_spec=spec(), create_if_not_exists=True)
    found = server.invoke(**asked, artifact_spec=spec(), create_if_not_exists=True)
    assert made.task_id == found.task_id == server.get_task(name).task.task_id


def test_a_task_made_for_want_of_one_is_named_by_task_name_not_by_the_id_that_was_unknown(
    server: Server,
) -> None:
    asked: dict[str, Any] = {"task_id": "task-of-nobody", "artifact_spec": spec(), "function_name": "answer"}
    answers = [server.invoke(**asked, create_if_not_exists=True) for _ in range(2)]
    assert {answer.task_id for answer in answers} == {server.get_task("calc:1").task.task_id}


def test_the_same_spec_reuses_its_task(server: Server) -> None:
    name = fresh("task")
    same = {"max_execution_timeout_ms": 9000, "resource_limits": limits(max_log_bytes=5)}
    first = server.call("calc", "answer", spec=same, task_name=name)
    labelled = {**same, "metadata": {"team": "blue"}, "description": "the same", "version": "1"}
    assert server.call("calc", "answer", spec=labelled, task_name=name).task_id == first.task_id


@pytest.mark.parametrize(
    "other",
    [
        {"max_execution_timeout_ms": 9001},
        {"resource_limits": limits(max_log_bytes=6)},
        {"runtime_config": ParseDict({"ready_sandboxes": 1}, Struct())},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_another_spec_under_the_same_name_already_exists(other: dict[str, Any], server: Server) -> None:
    name = fresh("task")
    first = server.call("calc", "answer", task_name=name)
    refusal = refused(TaskExists, lambda: server.call("calc", "answer", spec=other, task_name=name))
    assert refusal.metadata["task_id"] == first.task_id


def test_another_artifact_under_the_same_name_already_exists(server: Server) -> None:
    name = fresh("task")
    server.call("calc", "answer", task_name=name)
    refused(TaskExists, lambda: server.call("start_trap", "answer", task_name=name))


def test_a_task_without_a_name_is_called_after_its_artifact_and_version(server: Server) -> None:
    answer = server.call("calc", "answer")
    assert server.get_task("calc:1").task.task_id == answer.task_id
    pinned = server.invoke(artifact_spec=spec(version="1"), function_name="answer")
    assert pinned.task_id == answer.task_id


def test_a_task_stays_with_its_bytes_when_the_name_moves_on(server: Server) -> None:
    artifact, task = fresh("artifact"), fresh("task")
    server.upload(fixture("calc"), artifact, "1")
    first = server.call(artifact, "answer", task_name=task)
    server.upload(fixture("start_trap"), artifact, "2")
    assert value_of(server.invoke(task_id=first.task_id, function_name="answer")) == 42
    newest = server.call(artifact, "answer")
    assert code_of(newest) == "TRAP_UNREACHABLE"
    assert server.get_task(newest.task_id).task.task_name == f"{artifact}:2"
    refused(TaskExists, lambda: server.call(artifact, "answer", task_name=task))


def test_an_artifact_is_named_by_its_digest_too(server: Server) -> None:
    digest = server.artifact("calc").digest
    assert value_of(server.call(digest, "answer")) == 42


def test_the_checksum_of_a_spec_is_checked(server: Server) -> None:
    digest = server.artifact("calc").digest
    for checksum in (digest, digest.removeprefix("sha256:")):
        assert value_of(server.call("calc", "answer", spec={"checksum": checksum})) == 42
    refusal = refusal_of(lambda: server.call("calc", "answer", spec={"checksum": "0" * 64}))
    assert (refusal.reason, refusal.code) == ("CHECKSUM_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT)


def test_an_unknown_artifact_or_version_is_not_found(server: Server) -> None:
    refused(ArtifactNotFound, lambda: server.call("nobody-uploaded-this", "answer"))
    refused(ArtifactNotFound, lambda: server.call("calc", "answer", spec={"version": "99"}))


def test_the_runtime_can_be_named(server: Server) -> None:
    for kind in ("", "wasm", "core"):
        assert value_of(server.call("calc", "answer", spec={"artifact_type": kind})) == 42


def test_a_spec_comes_back_as_it_was_given(server: Server) -> None:
    given = spec(
        version="1",
        metadata={"team": "blue"},
        description="adds",
        resource_limits=limits(max_log_bytes=77),
        max_execution_timeout_ms=1234,
        invocation_type=EXISTING,
        runtime_config=ParseDict({"ready_sandboxes": 1}, Struct()),
    )
    answer = server.invoke(artifact_spec=given, task_name=fresh("task"), function_name="answer")
    task = server.get_task(answer.task_id).task
    assert task.artifact_spec == given
    assert task.metadata == {"team": "blue"}


@pytest.mark.parametrize(
    "config",
    [
        {"no_such_key": 1},
        {"ready_sandboxes": 0.5},
        {"ready_sandboxes": -1},
        {"ready_sandboxes": 5},
        {"reuse": 1},
        {"max_uses": 0},
        {"max_idle": "soon"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(config: dict[str, Any], server: Server) -> None:
    asked = {"runtime_config": ParseDict(config, Struct())}
    refused(InvalidRequest, lambda: server.call("calc", "answer", spec=asked))


def test_an_unknown_function_is_not_found_and_the_known_are_told(server: Server) -> None:
    for name in ("nope", "opaque"):
        refusal = refused(FunctionNotFound, partial(server.call, "calc", name))
        assert "add64" in refusal.message
    refused(InvalidRequest, lambda: server.call("calc", ""))


# --- modes ------------------------------------------------------------------------------------------------


def test_the_mode_may_be_left_out_or_sync(server: Server) -> None:
    for mode in (pb.EXECUTION_MODE_UNKNOWN, pb.EXECUTION_MODE_SYNC):
        assert value_of(server.call("calc", "answer", execution_mode=mode)) == 42


def test_streaming_is_not_for_invoke_function(server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "answer", execution_mode=pb.EXECUTION_MODE_STREAM))


def test_an_environment_that_no_guest_of_the_task_would_see_is_refused(server: Server) -> None:
    environment = {"LANG": "C"}
    refused(InvalidRequest, lambda: server.call("calc", "answer", spec={"environment": environment}))


def test_an_environment_of_a_call_is_refused_before_anything_happens(server: Server) -> None:
    name, environment = fresh("task"), context(environment={"LANG": "C"})
    refusal = refused(
        InvalidRequest, lambda: server.call("calc", "answer", task_name=name, context=environment)
    )
    assert "context.environment" in refusal.message
    assert not server.get_task(name).found
    task = server.task("calc")
    refused(InvalidRequest, lambda: server.invoke(task_id=task, function_name="answer", context=environment))
    assert server.get_task(task).task.execution_count == 1  # which made it


@pytest.mark.parametrize("priority", [0, 1, 9])
def test_a_priority_is_0_to_9(priority: int, server: Server) -> None:
    assert value_of(server.call("calc", "answer", priority=priority)) == 42


@pytest.mark.parametrize("priority", [-1, 10])
def test_any_other_priority_is_refused(priority: int, server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "answer", priority=priority))


# --- ids --------------------------------------------------------------------------------------------------


def test_ids_are_made_where_none_is_given(server: Server) -> None:
    answers = [server.call("calc", "answer") for _ in range(3)]
    assert len({answer.execution_id for answer in answers}) == 3
    assert len({answer.instance_id for answer in answers}) == 3
    assert answers[0].status_endpoint == f"executions/{answers[0].execution_id}"
    assert answers[0].estimated_completion_ms == 0


def test_an_execution_id_is_for_one_request(server: Server) -> None:
    execution_id = str(uuid.uuid4())
    assert server.call("calc", "answer", execution_id=execution_id).execution_id == execution_id
    refusal = refused(ExecutionExists, lambda: server.call("calc", "divide", 1, 1, execution_id=execution_id))
    assert refusal.metadata == {"execution_id": execution_id}


def test_an_execution_id_is_in_use_while_its_guest_runs(server: Server) -> None:
    execution_id = str(uuid.uuid4())
    running = server.call_later("hostile", "spin", execution_id=execution_id)
    server.wait_for_load(1)
    refused(ExecutionExists, lambda: server.call("calc", "answer", execution_id=execution_id))
    cancel(server, execution_id)
    assert code_of(running.answer()) == "CANCELLED"


def test_the_contexts_id_is_taken_where_it_is_free_and_only_noted_where_it_is_not(server: Server) -> None:
    wish = str(uuid.uuid4())
    first = server.call("calc", "answer", context=context(execution_id=wish))
    second = server.call("calc", "answer", context=context(execution_id=wish))
    assert first.execution_id == wish
    assert second.execution_id != wish
    assert value_of(second) == 42


def test_the_key_goes_before_the_wish(server: Server) -> None:
    key, wish = str(uuid.uuid4()), str(uuid.uuid4())
    answer = server.call("calc", "answer", execution_id=key, context=context(execution_id=wish))
    assert answer.execution_id == key


@pytest.mark.parametrize("bad", ["x" * 201, "line\nbreak", "\x1b[31m"])
def test_ids_that_would_spoil_logs_are_refused(bad: str, server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "answer", execution_id=bad))
    refused(InvalidRequest, lambda: server.call("calc", "answer", context=context(execution_id=bad)))


# --- parameters -------------------------------------------------------------------------------------------


def packed(message: Message) -> AnyMessage:
    result = AnyMessage()
    result.Pack(message)
    return result


def list_of(*items: Any) -> ListValue:
    result = ListValue()
    result.extend(items)
    return result


def call_packed(server: Server, artifact: str, function: str, *values: AnyMessage, **fields: Any) -> Any:
    messages = [pb.FunctionParameter(value=value, **fields) for value in values]
    return value_of(server.invoke(artifact_spec=spec(artifact), function_name=function, parameters=messages))


@pytest.mark.parametrize(
    "message",
    [
        Int32Value(value=7), Int64Value(value=7), UInt32Value(value=7), UInt64Value(value=7),
        FloatValue(value=7), DoubleValue(value=7), StringValue(value="7"), Value(number_value=7),
        Value(string_value="7"),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
@pytest.mark.parametrize("function", ["echo_i32", "echo_i64", "echo_f32", "echo_f64"])
def test_a_number_arrives_in_any_wrapper(function: str, message: Message, server: Server) -> None:
    assert call_packed(server, "calc", function, packed(message)) == 7


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        (BytesValue(value=b"\x00\xff"), b"\x00\xff"),
        (StringValue(value="grün"), "grün".encode()),
        (Value(string_value="text"), b"text"),
        (BoolValue(value=True), b"true"),
        (Int64Value(value=2**62), b"4611686018427387904"),
        (list_of(1, "two", None), b'[1,"two",null]'),
        (ParseDict({"key": [True]}, Struct()), b'{"key":[true]}'),
    ],
    ids=lambda case: type(case).__name__,
)
def test_anything_arrives_as_bytes(message: Message, arrives: bytes, server: Server) -> None:
    assert call_packed(server, "text", "echo", packed(message)) == arrives


@pytest.mark.parametrize("text", ["7", "hello", "grün", "\n\x04four", "\x08\x01", "89", "(0", ""])
def test_the_raw_text_of_old_clients_arrives(text: str, server: Server) -> None:
    raw = AnyMessage(type_url="type.googleapis.com/google.protobuf.StringValue", value=text.encode())
    canonical = StringValue.FromString(text.encode()).value if text == "\n\x04four" else text
    assert call_packed(server, "text", "echo", raw) == canonical.encode()


def test_a_text_may_be_declared_to_be_json(server: Server) -> None:
    assert call_packed(server, "text", "echo", packed(StringValue(value="a")), type="json") == b'"a"'


@pytest.mark.parametrize(
    ("function", "value", "arrives"),
    [
        ("echo_i32", -(2**31), -(2**31)), ("echo_i32", 2**32 - 1, -1), ("echo_i64", -(2**63), -(2**63)),
        ("echo_i64", 2**64 - 1, -1), ("echo_i64", 2**53 + 1, 2**53 + 1), ("echo_i64", str(2**63), -(2**63)),
        ("echo_f32", 0.1, 0.10000000149011612), ("echo_f64", "-1.5e3", -1500.0),
        ("echo_f64", math.inf, math.inf), ("echo_f64", "-inf", -math.inf),
    ],
)  # fmt: skip
def test_numbers_arrive_exactly(function: str, value: Any, arrives: Any, server: Server) -> None:
    assert value_of(server.call("calc", function, value)) == arrives


@pytest.mark.parametrize("value", [math.nan, "nan"])
def test_not_a_number_arrives_as_such(value: Any, server: Server) -> None:
    assert math.isnan(value_of(server.call("calc", "echo_f64", value)))


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("echo_i32", 2**32), ("echo_i32", -(2**31) - 1), ("echo_i32", 1.5), ("echo_i32", "one"),
        ("echo_i32", True), ("echo_i32", b"1"), ("echo_i32", None), ("echo_i32", [1]), ("echo_i32", math.nan),
        ("echo_i64", str(2**64)), ("echo_i64", "1" * 10_000), ("echo_f32", 1e300), ("echo_f64", "1e999"),
        ("echo_f64", {}), ("echo_f64", "0x10"),
    ],
)  # fmt: skip
def test_a_value_that_would_lose_something_is_refused(function: str, value: Any, server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", function, value))


@pytest.mark.parametrize(
    "value",
    [
        packed(pb.ArtifactSpec()),
        AnyMessage(type_url="type.googleapis.com/google.protobuf.Int32Value", value=b"\xff"),
        AnyMessage(type_url="type.googleapis.com/google.protobuf.StringValue", value=b"\xff\xfe"),
        AnyMessage(value=b"no type"),
        AnyMessage(type_url="x" * 1_000_000),
    ],
    ids=["another-message", "broken", "no-text", "no-type", "megabyte-type"],
)
def test_a_value_that_cannot_be_read_is_refused(value: AnyMessage, server: Server) -> None:
    refused(InvalidRequest, lambda: call_packed(server, "calc", "echo_i32", value))


@pytest.mark.parametrize("depth", [10, 40, 10_000])
def test_deeply_nested_json_is_refused_and_breaks_nothing(depth: int, server: Server) -> None:
    nested = Value(number_value=1).SerializeToString()
    for _ in range(depth):
        items = b"\x0a" + encode_u32(len(nested)) + nested
        nested = b"\x32" + encode_u32(len(items)) + items
    value = AnyMessage(type_url="type.googleapis.com/google.protobuf.Value", value=nested)
    refused(InvalidRequest, lambda: call_packed(server, "calc", "echo_i32", value))


def test_parameters_come_by_name_in_any_order(server: Server) -> None:
    named = [
        pb.FunctionParameter(name=name, value=packed(Int32Value(value=value)))
        for name, value in (("divisor", 3), ("dividend", 12))
    ]
    answer = server.invoke(artifact_spec=spec(), function_name="divide", parameters=named)
    assert value_of(answer) == 4


@pytest.mark.parametrize(
    "names", [("left", "left"), ("left", "middle"), ("left", ""), ("x" * 10**6, "right")]
)
def test_names_that_do_not_fit_are_refused(names: tuple[str, str], server: Server) -> None:
    named = [pb.FunctionParameter(name=name, value=packed(Int32Value(value=1))) for name in names]
    refused(
        InvalidRequest,
        lambda: server.invoke(artifact_spec=spec(), function_name="add", parameters=named),
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_parameters_is_checked(count: int, server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("calc", "add", *range(count)))


def test_a_bytes_function_takes_at_most_one_parameter(server: Server) -> None:
    assert value_of(server.call("text", "echo")) == b""
    refused(InvalidRequest, lambda: server.call("text", "echo", b"one", b"two"))


@pytest.mark.parametrize(("artifact", "function", "kind"), [
    ("calc", "echo_i32", "i64"), ("calc", "echo_i32", "number"), ("text", "echo", "i32")
])  # fmt: skip
def test_a_declared_type_that_contradicts_is_refused(
    artifact: str, function: str, kind: str, server: Server
) -> None:
    value = packed(Int32Value(value=1))
    refused(InvalidRequest, lambda: call_packed(server, artifact, function, value, type=kind))


# --- results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("echo_i32", Int32Value(value=-5)), ("echo_i64", Int64Value(value=-5)),
        ("echo_f32", FloatValue(value=-5)), ("echo_f64", DoubleValue(value=-5)),
    ],
)  # fmt: skip
def test_one_result_comes_in_the_wrapper_of_its_type(function: str, message: Message, server: Server) -> None:
    assert server.call("calc", function, -5).result.result == packed(message)


def test_one_large_result_is_exact(server: Server) -> None:
    assert server.call("calc", "echo_i64", 2**63 - 1).result.result == packed(Int64Value(value=2**63 - 1))


def test_no_result_is_no_value(server: Server) -> None:
    answer = server.call("calc", "no_result")
    assert answer.success
    assert not answer.result.HasField("result")


def listed(answer: pb.InvokeFunctionResponse) -> Any:
    message = ListValue()
    assert answer.result.result.Unpack(message)
    return MessageToDict(message)


def test_several_results_are_a_list(server: Server) -> None:
    assert listed(server.call("calc", "divmod", 17, 5)) == [3, 2]


@pytest.mark.parametrize(
    ("number", "arrives"),
    [(2**53, 2**53), (-(2**53), -(2**53)), (2**53 + 1, str(2**53 + 1)), (-(2**63), str(-(2**63)))],
)
def test_in_a_list_what_is_beyond_2_to_53_is_text(number: int, arrives: int | str, server: Server) -> None:
    assert listed(server.call("calc", "mixed", 1, number, 2.0, 3.0)) == [3, 2, arrives, 1]


def test_in_a_list_what_json_has_no_number_for_is_text(server: Server) -> None:
    assert listed(server.call("calc", "specials"))[:3] == ["Infinity", "-Infinity", "NaN"]


def test_bytes_come_as_bytes(server: Server) -> None:
    content = bytes(range(256))
    assert server.call("text", "reverse", content).result.result == packed(BytesValue(value=content[::-1]))


# --- sandboxes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [0, 2])
@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_left_from_one_call_to_the_next(ready: int, force: bool, server: Server) -> None:
    name = fresh("task")
    config = {"runtime_config": ParseDict({"ready_sandboxes": ready}, Struct())}
    answers = [
        server.call("initialize", "bump", spec=config, task_name=name, force_new_instance=force)
        for _ in range(6)
    ]
    assert len({value_of(answer) for answer in answers}) == 1
    assert len({answer.instance_id for answer in answers}) == 6


def test_a_task_that_asks_for_reuse_finds_what_it_left_and_names_the_sandbox(server: Server) -> None:
    name = fresh("task")
    config = {"runtime_config": ParseDict({"reuse": True, "max_uses": 3, "max_idle": "1m"}, Struct())}
    answers = [server.call("initialize", "bump", spec=config, task_name=name) for _ in range(6)]
    assert [value_of(answer) for answer in answers] == [8, 9, 10, 8, 9, 10]
    assert len({answer.instance_id for answer in answers}) == 2


def test_a_forced_new_instance_is_not_one_of_the_ready(start_server: StartServer) -> None:
    server = start_server()
    server.upload(fixture("initialize"), "initialize")
    config = {"runtime_config": ParseDict({"ready_sandboxes": 4}, Struct())}
    task = server.task("initialize", **config)

    def sandboxes() -> int:
        return server.stats().function_service_stats.instance_count

    def of_the_ready() -> str:
        return server.health().details.system_info["pool_hits"]

    until(lambda: sandboxes() == 4)
    before = of_the_ready()
    server.invoke(task_id=task, function_name="get", force_new_instance=True)
    assert of_the_ready() == before
    until(lambda: sandboxes() == 4)
    server.delete_task(task)
    until(lambda: sandboxes() == 0)


# --- time -------------------------------------------------------------------------------------------------


def test_the_calls_own_deadline_ends_the_guest(server: Server) -> None:
    task = server.task("hostile")
    with contextlib.suppress(
        grpc.RpcError
    ):  # whether the answer or the deadline comes first is anybody's guess
        assert code_of(server.invoke(task_id=task, function_name="spin", deadline=3)) == "TIMEOUT"
    server.wait_for_load(0)
    (execution,) = server.get_task(task, include_executions=True, execution_limit=1).executions
    assert execution.status in {pb.EXECUTION_STATUS_TIMEOUT, pb.EXECUTION_STATUS_CANCELLED}
    assert 100 <= execution.execution_time_ms < 15_000


def test_a_caller_who_hangs_up_ends_the_guest(server: Server) -> None:
    task = server.task("hostile")
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    call = server.functions.InvokeFunction.future(request)
    server.wait_for_load(1)
    call.cancel()
    server.wait_for_load(0)
    (execution,) = server.get_task(task, include_executions=True, execution_limit=1).executions
    assert execution.status == pb.EXECUTION_STATUS_CANCELLED
    assert execution.execution_time_ms < 15_000


def test_a_caller_who_hangs_up_in_the_line_leaves_it(server: Server) -> None:
    task = server.task("hostile", resource_limits=limits(max_concurrency=1))
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    running = server.functions.InvokeFunction.future(request)
    server.wait_for_load(1)
    waiting = server.functions.InvokeFunction.future(request)
    server.wait_for_load(1, 1)
    waiting.cancel()
    server.wait_for_load(1, 0)
    running.cancel()
    server.wait_for_load(0)
    executions = server.get_task(task, include_executions=True, execution_limit=2).executions
    assert [each.status for each in executions] == [pb.EXECUTION_STATUS_CANCELLED] * 2


def test_waiting_is_part_of_the_budget(server: Server) -> None:
    task = server.task("hostile", resource_limits=limits(max_concurrency=1))
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    running = server.functions.InvokeFunction.future(request)
    server.wait_for_load(1)
    answer = server.invoke(
        task_id=task, function_name="spin_for", parameters=parameters(1), context=context(timeout_ms=100)
    )
    running.cancel()
    assert code_of(answer) == "TIMEOUT"
    assert answer.result.queue_time_ms >= 99
    assert answer.result.execution_time_ms == 0
    server.wait_for_load(0)


def test_more_parameters_than_a_function_can_have_are_refused(server: Server) -> None:
    task = server.task("calc")
    empty = [pb.FunctionParameter() for _ in range(1001)]
    refusal = refused(
        InvalidRequest, lambda: server.invoke(task_id=task, function_name="add", parameters=empty)
    )
    assert refusal.message == "there are 1001 parameters; a call may have 1000"


def test_a_large_request_is_answered_like_any_other(server: Server) -> None:
    text = b"a" * (1 << 18)
    for _ in range(5):
        assert value_of(server.call("text", "upper", text)) == text.upper()
