from __future__ import annotations

import hashlib
import math
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import (
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt64Value,
)
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.client import CallResult, Client, GuestFailure, RemoteError, ServerUnreachable
from spear_wasm.client.stubs import artifact_pb2, function_pb2
from spear_wasm.client.values import decode, encode
from spear_wasm.errors import ArtifactInUse, InvalidRequest, ServerBusy, SpearError, TaskNotFound
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionStatus
from tests.cli.fake_server import FakeServer, artifact, fake_server, status_of


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


# --- values -------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


def over_the_wire(packed: AnyMessage) -> AnyMessage:
    return AnyMessage.FromString(packed.SerializeToString())


@given(scalars)
def test_scalars_arrive_as_they_were_sent(value: bool | float | str | bytes | None) -> None:
    arrived = decode(over_the_wire(encode(value)))
    assert arrived == value
    assert type(arrived) is type(value)


@given(json_values)
def test_structured_values_arrive_equal(value: Any) -> None:
    assert decode(over_the_wire(encode(value))) == value


def test_nan_arrives() -> None:
    arrived = decode(encode(math.nan))
    assert isinstance(arrived, float)
    assert math.isnan(arrived)


@pytest.mark.parametrize("number", [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**64])
def test_an_integer_in_a_list_loses_no_digit(number: int) -> None:
    arrived: Any
    (arrived,) = cast("list[Any]", decode(encode([number])))
    assert int(arrived) == number
    assert isinstance(arrived, int) == (abs(number) <= 2**53)


def test_bytes_in_a_dict_are_base64() -> None:
    assert decode(encode({"data": b"\xff\0"})) == {"data": "/wA="}


def test_whole_numbers_in_lists_are_ints_where_an_int_can_tell_all() -> None:
    message = ListValue()
    message.extend([3.0, 2.5, -0.0, 1e300])
    packed = AnyMessage()
    packed.Pack(message)
    arrived = decode(packed)
    assert repr(arrived) == "[3, 2.5, -0.0, 1e+300]"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, Int64Value),
        (-(2**63), Int64Value),
        (2**63, UInt64Value),
        (True, Value),
        (None, Value),
        (1.0, DoubleValue),
        ("1", StringValue),
        (b"1", BytesValue),
        ({"a": 1}, Struct),
        ([1], ListValue),
        ((1, 2), ListValue),
    ],
)
def test_each_python_type_has_its_message(value: Any, kind: Any) -> None:
    assert encode(value).Is(kind.DESCRIPTOR)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_an_integer_beyond_64_bits_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match="64 bits"):
        encode(number)


@pytest.mark.parametrize("value", [object(), [object()], {"a": {1, 2}}])
def test_what_cannot_travel_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


# --- calls --------------------------------------------------------------------------------------------------


def test_a_call_names_the_artifact_and_no_task(server: FakeServer, client: Client) -> None:
    server.answers_with(Int32Value(value=3))
    result = client.call("calc", "add", 1, 2)
    assert result.value == 3
    assert result.ok
    request = server.request
    assert request.invocation_type == function_pb2.INVOCATION_TYPE_NEW_TASK
    assert request.execution_mode == function_pb2.EXECUTION_MODE_SYNC
    assert (request.task_name, request.task_id) == ("", "")
    assert request.artifact_spec == function_pb2.ArtifactSpec(artifact_id="calc")
    assert request.function_name == "add"
    assert [decode(parameter.value) for parameter in request.parameters] == [1, 2]
    assert [(parameter.name, parameter.type) for parameter in request.parameters] == [("", ""), ("", "")]
    assert not request.HasField("limits")
    assert server.time_remaining is None or server.time_remaining > 10**6


@pytest.mark.parametrize(
    ("reference", "artifact_id", "version"),
    [
        ("calc", "calc", ""),
        ("team/calc:1.2", "team/calc", "1.2"),
        (f"sha256:{'0' * 64}", f"sha256:{'0' * 64}", ""),
    ],
)
def test_references_are_split_as_the_spec_has_them(
    server: FakeServer, client: Client, reference: str, artifact_id: str, version: str
) -> None:
    server.answers_with()
    assert client.call(reference, "f").value is None
    spec = server.request.artifact_spec
    assert (spec.artifact_id, spec.version) == (artifact_id, version)


def test_everything_about_a_call_is_sent(server: FakeServer, client: Client) -> None:
    server.answers_with()
    client.call(
        "calc",
        "f",
        1,
        parameters={"divisor": 2},
        timeout=0.2501,
        limits=ResourceLimits(max_fuel=2**64 - 1, max_memory_bytes=65536),
        environment={"MODE": "fast"},
    )
    request = server.request
    assert [parameter.name for parameter in request.parameters] == ["", "divisor"]
    assert request.context.timeout_ms == 251
    assert request.context.environment == {"MODE": "fast"}
    assert request.limits == function_pb2.ResourceLimits(max_fuel=2**64 - 1, max_memory_bytes=65536)


CONFIG: dict[str, Any] = {"reuse": True, "config": {"greeting": "hi"}}


def test_a_call_with_a_config_is_of_a_task_for_that_config_and_artifact(
    server: FakeServer, client: Client
) -> None:
    server.answers["GetArtifact"] = artifact("calc", "3")
    server.answers_with()
    for config in (CONFIG, dict(reversed(CONFIG.items())), {**CONFIG, "reuse": False}):
        client.call("calc", "f", runtime_config=config)
    looked_up, first, _, same, _, other = server.requests
    assert looked_up.reference == "calc"
    assert first.artifact_spec.version == "3"  # whatever is uploaded meanwhile
    assert MessageToDict(first.artifact_spec.runtime_config) == CONFIG
    assert first.task_name == same.task_name != other.task_name
    assert {each.task_name.partition("#")[0] for each in (first, other)} == {"calc:3"}


def test_a_digest_stays_the_reference_of_a_call_with_a_config(server: FakeServer, client: Client) -> None:
    reference = f"sha256:{'0' * 64}"
    server.answers["GetArtifact"] = artifact("calc", "3")
    server.answers_with()
    client.call(reference, "f", runtime_config=CONFIG)
    _, request = server.requests
    assert (request.artifact_spec.artifact_id, request.artifact_spec.version) == (reference, "")


def test_a_task_that_is_named_is_not_looked_up(server: FakeServer, client: Client) -> None:
    server.answers_with()
    client.call("calc", "f", runtime_config=CONFIG, task_name="kept")
    assert server.request.task_name == "kept"
    assert server.request.artifact_spec.version == ""


@pytest.mark.parametrize("config", [{"a": object()}, {"a": [{1}]}])
def test_a_config_that_cannot_travel_is_a_type_error(
    server: FakeServer, client: Client, config: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        client.call("calc", "f", runtime_config=config)
    assert not server.requests


def test_the_deadline_leaves_the_server_time_to_answer_what_a_timeout_cost(
    server: FakeServer, client: Client
) -> None:
    server.answers_with()
    client.call("calc", "f", timeout=2)
    assert server.time_remaining is not None
    assert 30 < server.time_remaining < 63


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf])
def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(
    server: FakeServer, client: Client, timeout: float
) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        client.call("calc", "f", timeout=timeout)
    assert not server.requests


def test_a_task_is_called_by_its_id_or_name(server: FakeServer, client: Client) -> None:
    server.answers_with(StringValue(value="hi"))
    assert client.call_task("task-1", "greet").value == "hi"
    assert server.request.invocation_type == function_pb2.INVOCATION_TYPE_EXISTING_TASK
    assert server.request.task_id == "task-1"
    assert not server.request.HasField("artifact_spec")


def test_a_result_tells_all_that_the_server_measured(server: FakeServer, client: Client) -> None:
    server.answers_with(
        FloatValue(value=0.5), execution_time_ms=12, memory_used_bytes=65536, cpu_time_ms=1.25,
        fuel_used=2**64 - 1, queue_time_ms=0.5, stdout=b"out", stderr=b"log", exit_code=0,
        output_truncated=True,
    )  # fmt: skip
    assert client.call("calc", "f") == CallResult(
        value=0.5,
        status=ExecutionStatus.COMPLETED,
        error_code="",
        error_message="",
        trap_frames=(),
        exit_code=0,
        logs=b"log",
        stdout=b"out",
        output_truncated=True,
        cpu_time_ms=1.25,
        execution_time_ms=12,
        queue_time_ms=0.5,
        fuel_used=2**64 - 1,
        memory_used_bytes=65536,
        execution_id="exec-1",
        task_id="task-1",
        instance_id="inst-1",
    )


@pytest.mark.parametrize(("said", "attempts"), [("3", 3), ("", 1), ("many", 1), ("9" * 5000, 1)])
def test_a_result_tells_how_often_its_execution_began(
    said: str, attempts: int, server: FakeServer, client: Client
) -> None:
    server.answers_with(FloatValue(value=0.5), metrics={"attempts": said})
    assert client.call("calc", "f").attempts == attempts


def test_a_guest_that_failed_is_raised_with_its_result(server: FakeServer, client: Client) -> None:
    server.fails_with("TRAP_UNREACHABLE", "wasm trap", trap_frames=["inner", "outer"], stderr=b"last words")
    with pytest.raises(GuestFailure, match="TRAP_UNREACHABLE: wasm trap") as raised:
        client.call("hostile", "outer")
    result = raised.value.result
    assert result.error_code == ErrorCode.TRAP_UNREACHABLE
    assert (result.trap_frames, result.logs, result.exit_code) == (("inner", "outer"), b"last words", None)
    assert not isinstance(raised.value, SpearError)


def test_a_guest_that_failed_is_returned_unless_checked(server: FakeServer, client: Client) -> None:
    server.fails_with("TIMEOUT", "too long")
    result = client.call("hostile", "spin", check=False)
    assert result.status is ExecutionStatus.TIMEOUT
    assert not result.ok


def test_a_guest_failure_survives_pickling(server: FakeServer, client: Client) -> None:
    server.fails_with("OUT_OF_FUEL")
    with pytest.raises(GuestFailure) as raised:
        client.call("hostile", "spin")
    assert pickle.loads(pickle.dumps(raised.value)).result == raised.value.result


def test_answers_that_mean_nothing_are_the_servers_fault(server: FakeServer, client: Client) -> None:
    server.answers_with(Duration(seconds=1))
    with pytest.raises(RemoteError, match=r"google\.protobuf\.Duration"):
        client.call("calc", "f")
    server.answers_with(status=99)
    with pytest.raises(RemoteError, match="status 99"):
        client.call("calc", "f")


# --- artifacts ----------------------------------------------------------------------------------------------


def test_an_upload_announces_what_it_sends(server: FakeServer, client: Client, tmp_path: Path) -> None:
    module = bytes(range(256)) * 2000
    file = tmp_path / "calc.wasm"
    file.write_bytes(module)
    server.answers["UploadArtifact"] = artifact_pb2.UploadArtifactResponse(artifact=artifact(), created=True)
    heard: list[tuple[int, int]] = []
    answer = client.upload(
        file,
        name="calc",
        version="1",
        labels={"team": "a"},
        progress=lambda sent, total: heard.append((sent, total)),
    )
    assert answer.created
    assert answer.artifact.name == "calc"
    header, *parts = server.request
    assert header.header == artifact_pb2.UploadArtifactHeader(
        name="calc",
        version="1",
        checksum=f"sha256:{hashlib.sha256(module).hexdigest()}",
        size_bytes=len(module),
        labels={"team": "a"},
    )
    assert b"".join(part.chunk for part in parts) == module
    assert all(len(part.chunk) <= 256 << 10 for part in parts)
    assert [total for _, total in heard] == [len(module)] * len(parts)
    assert heard[-1] == (len(module), len(module))


def test_bytes_can_be_uploaded(server: FakeServer, client: Client) -> None:
    server.answers["UploadArtifact"] = artifact_pb2.UploadArtifactResponse()
    client.upload(b"\0asm", name="tiny")
    header, part = server.request
    assert (header.header.size_bytes, part.chunk) == (4, b"\0asm")


def test_a_file_that_is_not_there_is_an_os_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload(tmp_path / "nothing.wasm", name="nothing")


def test_lists_are_fetched_page_by_page(server: FakeServer, client: Client) -> None:
    server.answers["ListArtifacts"] = [
        artifact_pb2.ListArtifactsResponse(artifacts=[artifact("a"), artifact("b")], next_page_token="b"),
        artifact_pb2.ListArtifactsResponse(artifacts=[artifact("c")]),
    ]
    artifacts = client.artifacts("x")
    assert not server.requests
    assert [info.name for info in artifacts] == ["a", "b", "c"]
    assert [(request.prefix, request.page_token) for request in server.requests] == [("x", ""), ("x", "b")]


def test_tasks_are_fetched_page_by_page(server: FakeServer, client: Client) -> None:
    server.answers["ListTasks"] = [
        function_pb2.ListTasksResponse(
            tasks=[function_pb2.TaskInfo(task_id="1")], has_more=True, next_start_after="1"
        ),
        function_pb2.ListTasksResponse(tasks=[function_pb2.TaskInfo(task_id="2")]),
    ]
    assert [task.task_id for task in client.tasks()] == ["1", "2"]
    assert [(request.start_after, request.include_details) for request in server.requests] == [
        ("", True),
        ("1", True),
    ]


def test_one_artifact_is_looked_up_and_deleted(server: FakeServer, client: Client) -> None:
    server.answers["GetArtifact"] = artifact("calc")
    server.answers["DeleteArtifact"] = artifact_pb2.DeleteArtifactResponse(deleted=True)
    assert client.artifact("calc:1").name == "calc"
    assert client.delete_artifact("calc:1", force=True)
    looked_up, deleted = server.requests
    assert looked_up.reference == "calc:1"
    assert deleted == artifact_pb2.DeleteArtifactRequest(reference="calc:1", force=True)


def test_one_task_is_looked_up_and_deleted(server: FakeServer, client: Client) -> None:
    server.answers["GetTask"] = [
        function_pb2.GetTaskResponse(found=True, task=function_pb2.TaskInfo(task_name="calc:1")),
        function_pb2.GetTaskResponse(found=False),
    ]
    server.answers["DeleteTask"] = function_pb2.DeleteTaskResponse(success=True, deleted=True)
    assert client.task("task-1").task_name == "calc:1"
    assert client.delete_task("task-1")
    with pytest.raises(TaskNotFound, match="'task-2'"):
        client.task("task-2")


def test_health_and_stats_are_asked_for_with_everything(server: FakeServer, client: Client) -> None:
    server.answers["GetHealth"] = function_pb2.GetHealthResponse(status="healthy")
    server.answers["GetStats"] = function_pb2.GetStatsResponse()
    assert client.health().status == "healthy"
    client.stats()
    health, stats = server.requests
    assert health.include_details
    assert stats.include_task_stats
    assert stats.include_execution_stats


# --- errors -------------------------------------------------------------------------------------------------

SERVERS_ERRORS = [kind for kind in SpearError.by_reason.values() if not issubclass(kind, RemoteError)]


@pytest.mark.parametrize("kind", SERVERS_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_arrives_as_itself(
    server: FakeServer, client: Client, kind: type[SpearError]
) -> None:
    server.answers["GetArtifact"] = kind("it went wrong", retry_after=1.5, name="calc", size=3)
    with pytest.raises(SpearError) as raised:
        client.artifact("calc")
    assert type(raised.value) is kind
    assert raised.value.message == "it went wrong"
    assert raised.value.metadata == {"name": "calc", "size": "3"}
    assert raised.value.retry_after == 1.5


def test_metadata_may_have_any_key(server: FakeServer, client: Client) -> None:
    error = ArtifactInUse("in use")
    error.metadata = {"message": "a", "retry_after": "b", "self": "c"}
    server.answers["DeleteArtifact"] = error
    with pytest.raises(ArtifactInUse) as raised:
        client.delete_artifact("calc")
    assert raised.value.metadata == error.metadata
    assert raised.value.retry_after is None


@pytest.mark.parametrize(
    "status",
    [
        status_of(ServerBusy("no"), domain="elsewhere.example"),
        status_of(ServerBusy("no"), reason="OF_A_NEWER_SERVER"),
        status_of(ServerBusy("no"), reason="REMOTE_ERROR"),
        Status(code=8, message="no"),
    ],
    ids=["foreign domain", "unknown reason", "reason of our own side", "no details"],
)
def test_an_error_that_is_not_ours_is_remote(server: FakeServer, client: Client, status: Status) -> None:
    server.answers["GetHealth"] = status
    with pytest.raises(RemoteError, match=r"^no$") as raised:
        client.health()
    assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_status_without_any_details_is_remote(server: FakeServer, client: Client) -> None:
    server.answers["GetHealth"] = grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(RemoteError, match="in plain words") as raised:
        client.health()
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_a_foreign_servers_retry_hint_is_kept(server: FakeServer, client: Client) -> None:
    server.answers["GetHealth"] = status_of(ServerBusy("no", retry_after=0.25), domain="elsewhere.example")
    with pytest.raises(RemoteError) as raised:
        client.health()
    assert raised.value.retry_after == 0.25


def test_nobody_at_the_address_is_said_clearly() -> None:
    with socket.socket() as silent:  # bound, so that nobody else is there, but not listening
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(address) as client,
            pytest.raises(ServerUnreachable, match=f"no server answers at {address}"),
        ):
            client.health()


def test_a_server_that_is_slow_to_answer_is_remote() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout=0.05) as client, pytest.raises(RemoteError) as raised:
            client.health()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


OLD_STUBS_FIRST = """
from google.protobuf import descriptor_pb2, descriptor_pool
old = descriptor_pb2.FileDescriptorProto(name="function.proto", package="spearlet", syntax="proto3")
old.message_type.add(name="FunctionParameter")
descriptor_pool.Default().Add(old)
from spear_wasm import Client
"""


def test_old_stubs_in_the_process_are_named_as_the_reason() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OLD_STUBS_FIRST], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "ImportError: A process cannot load the old stubs and ours together" in ended.stderr


def test_the_package_offers_the_client() -> None:
    import spear_wasm  # noqa: PLC0415  what the package itself offers

    assert spear_wasm.Client is Client
    assert spear_wasm.GuestFailure is GuestFailure
