"""How tasks come, survive a restart, and go: with what runs, waits and is being prepared at that moment."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactNotFound,
    ChecksumMismatch,
    InvalidRequest,
    LocationForbidden,
    TaskBusy,
    TaskExists,
    TaskNotFound,
    TooManyTasks,
    UnknownRuntime,
)
from spear_wasm.execution.execution import Call
from spear_wasm.execution.task import ArtifactSpec
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode, ExecutionStatus
from tests.execution.conftest import OpenGuests
from tests.execution.guests import Guests, config_with, ended, guests_on, until, upload
from tests.execution.test_cancelling import PoolThatTellsFirst

ONE_AT_A_TIME = ResourceLimits(max_concurrency=1)
CANCELLED = ExecutionStatus.CANCELLED
CALC = ArtifactSpec(artifact_id="calc")


def ready_room(guests: Guests) -> int:
    """How many ready sandboxes hold room, on all tasks' behalf."""
    return guests.host.registration._pools._capacity.taken


def remove_artifact(guests: Guests, name: str) -> None:
    """By force, as the door does it."""
    digest = guests.host.artifacts.resolve(name).digest
    guests.host.artifacts.delete(name, force=True, in_use=guests.host.registration.is_referenced)
    guests.host.registration.artifact_removed(digest)


# --- coming -----------------------------------------------------------------------------------------------


def test_a_task_is_named_after_its_artifact_where_it_has_no_name(guests: Guests) -> None:
    task = guests.host.registration.register(CALC)
    assert task.name == "calc:1"
    assert guests.host.registration.register(replace(CALC, version="1", metadata={"team": "blue"})) is task


def test_the_name_of_other_work_is_taken(guests: Guests) -> None:
    guests.task("calc", "mine")
    with pytest.raises(TaskExists):
        guests.task("hostile", "mine")


@pytest.mark.parametrize(
    ("spec", "name", "error"),
    [
        (ArtifactSpec(artifact_id="nothing"), "", ArtifactNotFound),
        (ArtifactSpec(artifact_id="nothing", location="https://example.com/x.wasm"), "", LocationForbidden),
        (replace(CALC, checksum="00" * 32), "", ChecksumMismatch),
        (replace(CALC, artifact_type="cobol"), "", UnknownRuntime),
        (replace(CALC, environment={"KEY": "value"}), "", InvalidRequest),
        (replace(CALC, runtime_config={"reuse": "yes"}), "", InvalidRequest),
        (replace(CALC, resource_limits=ResourceLimits(max_memory_bytes=1 << 40)), "", InvalidRequest),
        (replace(CALC, description="x" * 5000), "", InvalidRequest),
        (replace(CALC, metadata={str(number): "" for number in range(65)}), "", InvalidRequest),
        (CALC, "x" * 401, InvalidRequest),
        (CALC, "two\nlines", InvalidRequest),
        (CALC, " padded ", InvalidRequest),
    ],
)
def test_what_cannot_be_a_task_is_refused_and_leaves_nothing_behind(
    guests: Guests, spec: ArtifactSpec, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        guests.host.registration.register(spec, name)
    assert len(guests.host.tasks) == 0


def test_a_task_too_many_is_refused_and_leaves_no_sandboxes_behind(
    open_guests: OpenGuests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = open_guests(execution={"max_tasks": 1})
    guests.task("calc")
    with pytest.raises(TooManyTasks):
        guests.task("initialize", ready=2)
    # The early look may have come too early.
    monkeypatch.setattr(guests.host.tasks, "check_room", monkeypatch.undo)
    with pytest.raises(TooManyTasks):
        guests.task("initialize", ready=2)
    until(lambda: ready_room(guests) == 0)


# --- staying ----------------------------------------------------------------------------------------------


def test_tasks_outlive_their_host(stocked_dir: Path, tmp_path: Path) -> None:
    data_dir = shutil.copytree(stocked_dir, tmp_path / "data")
    with guests_on(data_dir, config_with()) as guests:
        task = guests.task("calc", "adder", limits=ONE_AT_A_TIME)
        assert guests.values(task, "add", 1, 2) == (3,)
    with guests_on(data_dir, config_with()) as guests:
        restored = guests.host.tasks.get("adder")
        assert restored is not task
        assert (restored.record, restored.limits, restored.executions) == (task.record, task.limits, 1)
        guests.host.registration.link(restored, metered=False)
        assert guests.values(restored, "add", 1, 2) == (3,)


def test_a_task_that_can_no_longer_be_is_left_out_and_keeps_no_other_from_being_restored(
    stocked_dir: Path, tmp_path: Path
) -> None:
    data_dir = shutil.copytree(stocked_dir, tmp_path / "data")
    with guests_on(data_dir, config_with()) as guests:
        for artifact in ("calc", "hostile", "initialize"):
            guests.task(artifact, artifact)
        remove_artifact(guests, "hostile")
    with guests_on(data_dir, config_with()) as guests:
        assert [task.name for task in guests.host.tasks.all()] == ["calc", "initialize"]


# --- going ------------------------------------------------------------------------------------------------


def test_a_task_with_executions_is_busy(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.spinning(task)
    with pytest.raises(
        TaskBusy, match="has 2 executions waiting or running; wait for them, or force"
    ) as refused:
        guests.delete(task.id, force=False, forget_records=False)
    assert refused.value.metadata == {"active": "2"}
    assert guests.host.tasks.get(task.name) is task
    guests.cancel(running, waiting)
    assert guests.delete(task.id, force=False, forget_records=True) == 2
    assert guests.host.tasks.find(task.name) is None


def test_force_ends_what_waits_and_runs(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    executions = [guests.spinning(task) for _ in range(3)]
    guests.delete(task.name, force=True, forget_records=False)
    assert [ended(each).status for each in executions] == [CANCELLED] * 3
    assert {ended(each).error_message for each in executions} == {"the task was deleted"}


def test_a_deleted_task_accepts_nothing(guests: Guests) -> None:
    task = guests.task("calc")
    guests.delete(task.id, force=False, forget_records=False)
    with pytest.raises(TaskNotFound, match="was deleted"):
        guests.submit(task, "answer")
    with pytest.raises(TaskNotFound):
        guests.delete(task.id, force=True, forget_records=False)


def test_nothing_is_remembered_of_what_ends_after_its_task_is_gone(guests: Guests) -> None:
    task = guests.task()
    running = guests.spinning(task, execution_id="mine")
    guests.delete(task.id, force=True, forget_records=True)
    ended(running)
    assert guests.host.executions.of_task(task, 10) == ([], [])
    assert guests.run(guests.task("calc"), "answer", execution_id="mine").status is ExecutionStatus.COMPLETED


def test_records_are_kept_unless_they_are_to_be_forgotten(guests: Guests) -> None:
    task = guests.task("calc")
    guests.run(task, "answer", execution_id="mine")
    assert guests.delete(task.id, force=False, forget_records=False) == 0
    assert [record.execution_id for record in guests.host.executions.of_task(task, 10)[1]] == ["mine"]


def test_an_execution_about_to_start_when_its_task_is_deleted_is_cancelled(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    PoolThatTellsFirst(task, lambda: guests.delete(task.id, force=True, forget_records=False))
    assert ended(guests.spinning(task)).status is CANCELLED


def test_what_is_ready_or_being_prepared_goes_with_its_task(guests: Guests) -> None:
    ready, preparing = (
        guests.task("initialize", ready=2),
        guests.task("initialize_spin", ready=2, timeout_ms=4000),
    )
    until(lambda: guests.ready_of(ready) == 2)
    assert ready_room(guests) == 4
    for task in (ready, preparing):
        guests.delete(task.id, force=True, forget_records=False)
    until(lambda: ready_room(guests) == 0)


def test_a_task_that_is_deleted_while_it_is_linked_keeps_no_sandboxes(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = guests.task("initialize", ready=2)
    until(lambda: guests.ready_of(task) == 2)
    guests.host.registration.artifact_removed(task.record.digest)  # so that it has to be linked again
    load = guests.host.code.load

    def delete_and_load(*args: object, **options: object) -> object:
        guests.delete(task.id, force=True, forget_records=False)
        return load(*args, **options)  # type: ignore[arg-type]  # whatever it is given

    monkeypatch.setattr(guests.host.code, "load", delete_and_load)
    guests.host.registration.link(task, metered=False)
    assert not task.linkages
    until(lambda: ready_room(guests) == 0)


# --- artifacts that go ------------------------------------------------------------------------------------


def test_a_removed_artifact_ends_what_waits_for_it_and_links_no_more(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running, waiting = guests.spinning(task), guests.spinning(task)
    remove_artifact(guests, "hostile")
    guests.cancel(running)
    outcome = ended(waiting)
    assert (outcome.status, outcome.error_code) == (ExecutionStatus.FAILED, ErrorCode.INSTANCE_FAILED)
    assert outcome.error_message == "the task's artifact was removed"
    with pytest.raises(ArtifactDeleted, match="was deleted; upload it again"):
        guests.host.registration.link(task, metered=False)


def test_a_line_of_any_length_ends_when_its_artifact_is_removed(guests: Guests) -> None:
    task = guests.task(limits=ONE_AT_A_TIME)
    running = guests.spinning(task)
    waiting = [guests.spinning(task) for _ in range(1500)]
    remove_artifact(guests, "hostile")
    guests.cancel(running)
    assert {ended(each).error_code for each in waiting} == {ErrorCode.INSTANCE_FAILED}


def test_a_removed_artifact_serves_its_tasks_again_once_it_is_uploaded_again(guests: Guests) -> None:
    task = guests.task("calc")
    remove_artifact(guests, "calc")
    upload(guests.host.artifacts, "calc")
    guests.host.registration.link(task, metered=False)
    assert guests.values(task, "add", 1, 2) == (3,)


def test_an_artifact_that_is_removed_while_a_task_is_linked_leaves_no_sandboxes(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = guests.task("initialize", ready=2)
    guests.host.registration.artifact_removed(task.record.digest)
    link = guests.host.engines.get(metered=False).link

    def remove_and_link(*args: object) -> object:
        linked = link(*args)  # type: ignore[arg-type]  # whatever it is given
        remove_artifact(guests, "initialize")
        return linked

    monkeypatch.setattr(guests.host.engines.get(metered=False), "link", remove_and_link)
    guests.host.registration.link(task, metered=False)
    assert not task.linkages
    until(lambda: ready_room(guests) == 0)


def test_a_call_that_finds_no_linkage_ends_instead_of_hanging(guests: Guests) -> None:
    task = guests.task("calc")
    remove_artifact(guests, "calc")
    execution = guests.manager.submit(Call(task, "answer"))
    assert ended(execution).error_code is ErrorCode.INSTANCE_FAILED
