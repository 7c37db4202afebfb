"""Tasks: lists, questions, removal, and what of them outlives the server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import (
    CompileRefused,
    FunctionNotFound,
    InvalidRequest,
    SpearError,
    TaskBusy,
    TaskNotFound,
)
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    context,
    fixture,
    fresh,
    limits,
    parameters,
    refused,
    value_of,
)

PAGE_BYTES = 1 << 20
NO_COMPILING = '[compile]\nmax_wall_time = "1ms"'


def listed(server: Server, **fields: object) -> pb.ListTasksResponse:
    request = pb.ListTasksRequest(**fields)  # type: ignore[arg-type]  # as the test has it
    page = server.functions.ListTasks(request, timeout=PATIENCE)
    assert page.ByteSize() < PAGE_BYTES
    assert page.has_more == bool(page.next_start_after)
    return page


def made(server: Server, *names: str) -> None:
    for name in names:
        server.call("calc", "answer", task_name=name)


# --- lists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 0])
def test_pages_follow_each_other_in_the_order_of_creation(limit: int, server: Server) -> None:
    prefix = fresh("listed")
    names = [f"{prefix}.{number}" for number in (3, 1, 2, 5, 4)]
    made(server, *names)
    page = listed(server, prefix=prefix, limit=limit)
    seen = [task.task_name for task in page.tasks]
    while page.has_more:
        assert len(page.tasks) == limit
        page = listed(server, prefix=prefix, limit=limit, start_after=page.next_start_after)
        seen += [task.task_name for task in page.tasks]
    assert seen == names


def test_a_list_goes_on_behind_a_task_id(server: Server) -> None:
    prefix = fresh("listed")
    made(server, *(f"{prefix}.{number}" for number in range(3)))
    second = server.get_task(f"{prefix}.1").task.task_id
    assert [task.task_name for task in listed(server, prefix=prefix, start_after=second).tasks] == [
        f"{prefix}.2"
    ]


def test_a_cursor_survives_the_task_that_it_stands_behind(server: Server) -> None:
    prefix = fresh("listed")
    made(server, *(f"{prefix}.{number}" for number in range(3)))
    cursor = listed(server, prefix=prefix, limit=2).next_start_after
    server.delete_task(f"{prefix}.1")
    rest = listed(server, prefix=prefix, start_after=cursor).tasks
    assert [task.task_name for task in rest] == [f"{prefix}.2"]


def test_details_are_left_out_unless_asked_for(server: Server) -> None:
    name = fresh("task")
    spec = {"metadata": {"team": "blue"}, "description": "adds"}
    server.call("calc", "answer", spec=spec, task_name=name)
    (brief,) = listed(server, prefix=name).tasks
    (full,) = listed(server, prefix=name, include_details=True).tasks
    assert not brief.HasField("artifact_spec")
    assert not brief.metadata
    assert full.metadata == {"team": "blue"}
    assert full.artifact_spec.description == "adds"
    assert brief.task_id == full.task_id


@pytest.mark.parametrize(
    "fields",
    [{"limit": -1}, {"start_after": "nobody"}, {"start_after": "@x"}, {"start_after": "@" + "9" * 99}],
)
def test_a_list_that_makes_no_sense_is_refused(fields: dict[str, object], server: Server) -> None:
    refused(InvalidRequest, partial(listed, server, **fields))


def test_a_page_ends_before_it_is_too_large_for_whatever_tasks_are_called(server: Server) -> None:
    prefix = fresh("wordy")
    label = {"note": "n" * 4000}
    for number in range(250):
        server.call("calc", "answer", spec={"metadata": label}, task_name=f"{prefix}.{number}")
    page = listed(server, prefix=prefix, limit=1000, include_details=True)
    assert 0 < len(page.tasks) < 250
    seen = len(page.tasks)
    while page.has_more:
        page = listed(
            server, prefix=prefix, limit=1000, include_details=True, start_after=page.next_start_after
        )
        seen += len(page.tasks)
    assert seen == 250


# --- one task ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["nobody's", "", "x" * 1_000_000])
def test_an_unknown_task_is_not_found_which_is_no_error(reference: str, server: Server) -> None:
    answer = server.get_task(reference)
    assert not answer.found
    assert not answer.HasField("task")
    assert answer.message
    assert len(answer.message) < 1000


def test_a_task_tells_how_it_fares(server: Server) -> None:
    name = fresh("task")
    for function in ("answer", "answer"):
        server.call("calc", function, task_name=name)
    server.call("calc", "divide", 1, 0, task_name=name)
    task = server.get_task(name).task
    assert task.execution_count == 3
    assert task.last_status == pb.EXECUTION_STATUS_FAILED
    assert 0 < task.created_at <= task.updated_at


def test_executions_come_where_asked_for_newest_first(server: Server) -> None:
    name = fresh("task")
    ids = [server.call("calc", "divide", 6, divisor, task_name=name).execution_id for divisor in (1, 2, 0)]
    assert not server.get_task(name).executions
    executions = server.get_task(name, include_executions=True).executions
    assert [each.execution_id for each in executions] == ids[::-1]
    failed, completed, _ = executions
    assert failed.status == pb.EXECUTION_STATUS_FAILED
    assert failed.error_message
    assert completed.status == pb.EXECUTION_STATUS_COMPLETED
    assert completed.function_name == "divide"
    assert completed.execution_mode == pb.EXECUTION_MODE_SYNC
    assert completed.HasField("started_at")
    assert completed.HasField("completed_at")
    newest = server.get_task(name, include_executions=True, execution_limit=2).executions
    assert [each.execution_id for each in newest] == ids[:0:-1]


def test_executions_that_wait_or_run_are_told_too(server: Server) -> None:
    task = server.task("hostile", resource_limits=limits(max_concurrency=1))
    request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
    guests = [server.functions.InvokeFunction.future(request) for _ in range(2)]
    server.wait_for_load(1, 1)
    executions = server.get_task(task, include_executions=True, execution_limit=2).executions
    assert [each.status for each in executions] == [pb.EXECUTION_STATUS_PENDING, pb.EXECUTION_STATUS_RUNNING]
    assert [each.HasField("completed_at") for each in executions] == [False, False]
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)


def test_a_negative_number_of_executions_makes_no_sense(server: Server) -> None:
    refused(InvalidRequest, lambda: server.get_task("calc:1", execution_limit=-1))


# --- removal ----------------------------------------------------------------------------------------------


def test_a_deleted_task_is_gone_and_its_name_free(server: Server) -> None:
    name = fresh("task")
    made(server, name)
    answer = server.delete_task(name)
    assert (answer.success, answer.deleted, answer.cleaned_executions) == (True, True, 0)
    assert not server.get_task(name).found
    refused(TaskNotFound, lambda: server.invoke(task_id=name, function_name="answer"))
    refused(TaskNotFound, lambda: server.delete_task(name))
    assert server.call("hostile", "unreachable", task_name=name).task_id


def test_an_empty_id_is_refused(server: Server) -> None:
    refused(InvalidRequest, lambda: server.delete_task(""))


def test_the_records_of_its_executions_go_where_asked_for(server: Server) -> None:
    name = fresh("task")
    made(server, name, name, name)
    assert server.delete_task(name, cleanup_executions=True).cleaned_executions == 3


def test_a_task_that_runs_goes_only_by_force_which_ends_its_guests(server: Server) -> None:
    task = server.task("hostile", resource_limits=limits(max_concurrency=1))
    name = server.get_task(task).task.task_name
    spec = {"resource_limits": limits(max_concurrency=1)}
    guests = [server.call_later("hostile", "spin", spec=spec, task_name=name) for _ in range(2)]
    server.wait_for_load(1, 1)
    assert refused(TaskBusy, lambda: server.delete_task(task)).metadata == {"active": "2"}
    assert server.delete_task(task, force=True).deleted
    for guest in guests:
        answer = guest.answer()
        assert code_of(answer) == "CANCELLED"
        assert answer.result.status == pb.EXECUTION_STATUS_CANCELLED
    server.wait_for_load(0)


# --- calls that are refused -------------------------------------------------------------------------------

REFUSED_CALLS: dict[str, tuple[type[SpearError], dict[str, Any]]] = {
    "unknown function": (FunctionNotFound, {"function_name": "nothing"}),
    "no function": (InvalidRequest, {"function_name": ""}),
    "a parameter too few": (InvalidRequest, {"parameters": parameters(1)}),
    "text for a number": (InvalidRequest, {"parameters": parameters("one", 2)}),
    "unreadable parameter": (InvalidRequest, {"parameters": [pb.FunctionParameter()]}),
    "more than the task may": (InvalidRequest, {"limits": limits(max_memory_bytes=1 << 40)}),
    "concurrency of its own": (InvalidRequest, {"limits": limits(max_concurrency=1)}),
    "negative timeout": (InvalidRequest, {"context": context(timeout_ms=-1)}),
    "unprintable id": (InvalidRequest, {"execution_id": "\n"}),
}


def adding(name: str, **fields: Any) -> dict[str, Any]:
    """A call of a task that adds, which must be made first."""
    return {
        "artifact_spec": pb.ArtifactSpec(artifact_id="calc"),
        "task_name": name,
        "function_name": "add",
        "parameters": parameters(1, 2),
        **fields,
    }


@pytest.mark.parametrize(("kind", "fields"), REFUSED_CALLS.values(), ids=REFUSED_CALLS.keys())
def test_a_call_that_is_refused_leaves_no_new_task(
    kind: type[SpearError], fields: dict[str, Any], server: Server
) -> None:
    name, before = fresh("task"), server.stats().service_stats.total_tasks
    refused(kind, lambda: server.invoke(**adding(name, **fields)))
    assert not server.get_task(name).found
    assert server.stats().service_stats.total_tasks == before
    assert value_of(server.invoke(**adding(name))) == 3


def test_a_call_that_is_refused_leaves_the_task_that_was_there(server: Server) -> None:
    name = fresh("task")
    task = server.invoke(**adding(name)).task_id
    for kind, fields in REFUSED_CALLS.values():
        refused(kind, partial(server.invoke, **adding(name, **fields)))
    assert server.get_task(name).task.task_id == task


def test_of_calls_that_make_a_task_together_the_refused_do_not_harm_the_others(server: Server) -> None:
    for _ in range(10):
        name = fresh("task")
        calls = [adding(name, function_name=function) for function in ("nothing", "add") * 8]
        futures = [server.functions.InvokeFunction.future(pb.InvokeFunctionRequest(**call)) for call in calls]
        for future in futures[::2]:
            refused(FunctionNotFound, future.result)
        answers = [future.result() for future in futures[1::2]]
        assert [value_of(answer) for answer in answers] == [3] * 8
        assert {answer.task_id for answer in answers} == {server.get_task(name).task.task_id}


# --- another life -----------------------------------------------------------------------------------------


def test_tasks_and_artifacts_survive_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc", "1", labels={"team": "blue"})
    before.call("calc", "answer", spec={"metadata": {"a": "b"}}, task_name="first")
    before.call("calc", "answer", spec={"resource_limits": limits(max_fuel=10**6)}, task_name="second")
    tasks, artifact = listed(before, include_details=True), before.artifact("calc")
    assert before.stop() == 0
    after = start_server(NO_COMPILING, tmp_path)
    assert after.artifact("calc") == artifact
    survivors = listed(after, include_details=True).tasks
    assert [(each.task_id, each.task_name, each.artifact_spec, each.created_at) for each in survivors] == [
        (each.task_id, each.task_name, each.artifact_spec, each.created_at) for each in tasks.tasks
    ]
    assert value_of(after.call("calc", "answer", spec={"metadata": {"a": "b"}}, task_name="first")) == 42
    metered = after.invoke(task_id="second", function_name="count_to", parameters=parameters(10))
    assert value_of(metered) == 10
    assert metered.result.fuel_used > 10


def test_a_task_deleted_before_a_restart_stays_away(start_server: StartServer, tmp_path: Path) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc", "1")
    made(before, "kept", "deleted")
    before.delete_task("deleted")
    before.close()  # as if the machine had gone down
    after = start_server(directory=tmp_path)
    assert [task.task_name for task in listed(after).tasks] == ["kept"]
    made(after, "new")
    assert [task.task_name for task in listed(after).tasks] == ["kept", "new"]


def test_an_upload_that_a_crash_cut_off_is_cleared_away(start_server: StartServer, tmp_path: Path) -> None:
    before = start_server(directory=tmp_path)
    before.close()
    leftover = before.data_dir / "uploads" / "upload-cut-off"
    leftover.write_bytes(b"\0asm")
    start_server(directory=tmp_path)
    assert not leftover.exists()


@pytest.mark.parametrize("position", [0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".cwasm", ".json"])
def test_code_of_which_a_byte_flipped_is_compiled_again(
    position: float, suffix: str, start_server: StartServer, tmp_path: Path
) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc", "1")
    before.call("calc", "answer", task_name="kept")
    before.stop()
    (file,) = (before.data_dir / "code").rglob("*" + suffix)
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 0x10
    file.chmod(0o600)
    file.write_bytes(content)
    after = start_server(directory=tmp_path)
    assert value_of(after.invoke(task_id="kept", function_name="answer")) == 42
    (remade,) = (before.data_dir / "code").rglob("*" + suffix)
    assert remade.read_bytes() != content


def test_code_that_cannot_be_used_is_not_loaded_where_compiling_fails(
    start_server: StartServer, tmp_path: Path
) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc", "1")
    before.stop()
    (code,) = (before.data_dir / "code").rglob("*.cwasm")
    code.unlink()
    after = start_server(NO_COMPILING, tmp_path)
    refused(CompileRefused, lambda: after.call("calc", "answer"))


def test_how_often_tasks_were_called_is_kept_and_the_calls_are_not(
    start_server: StartServer, tmp_path: Path
) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc", "1")
    made(before, "kept")
    before.stop()
    after = start_server(directory=tmp_path)
    answer = after.get_task("kept", include_executions=True)
    assert (answer.task.execution_count, len(answer.executions)) == (1, 0)
    assert answer.task.last_status == pb.EXECUTION_STATUS_COMPLETED
    after.invoke(task_id="kept", function_name="answer")
    after.invoke(
        task_id="kept", function_name="answer", execution_id="key"
    )  # which the disk counts by itself
    after.stop()
    assert start_server(directory=tmp_path).get_task("kept").task.execution_count == 3
