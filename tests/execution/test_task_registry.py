"""Which tasks exist: by id and name, within a bound, in the order of their creation, and on disk."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.core.host import RUNTIME
from spear_wasm.errors import InvalidRequest, TaskExists, TaskNotFound, TooManyTasks
from spear_wasm.execution.storage import SqliteTaskStore, TaskStore
from spear_wasm.execution.task import ArtifactSpec, Task, TaskRecord
from spear_wasm.execution.task_policy import TaskPolicy
from spear_wasm.execution.task_registry import TaskRegistry
from spear_wasm.limits import ResourceLimits
from tests.workshop import LIMITS, at_once

SPEC = ArtifactSpec(
    artifact_id="calc",
    version="1",
    metadata={"team": "blue"},
    environment={"KEY": "value"},
    runtime_config={"ready_sandboxes": 2, "nested": {"list": [1, 2.5, None, "é"]}},
    resource_limits=ResourceLimits(max_fuel=2**64 - 1),
    max_execution_timeout_ms=500,
    invocation_type=1,
)

_ids = itertools.count(1)


def record(name: str, spec: ArtifactSpec = SPEC, digest: str = "ab" * 32) -> TaskRecord:
    return TaskRecord(
        task_id=f"task-{next(_ids)}",
        name=name,
        description=f"the task {name}",
        digest=digest,
        runtime="core",
        spec=spec,
        created_at=1_700_000_000_000,
    )


def task(name: str, spec: ArtifactSpec = SPEC, digest: str = "ab" * 32) -> Task:
    return Task(record(name, spec, digest), LIMITS, TaskPolicy(), RUNTIME)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TaskStore]:
    with closing(SqliteTaskStore(tmp_path / "tasks.db")) as store:
        yield store


@pytest.fixture
def registry(store: TaskStore) -> TaskRegistry:
    return TaskRegistry(store, most=5)


# --- finding ----------------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_id_and_by_its_name(registry: TaskRegistry) -> None:
    adder = registry.add(task("adder"))
    assert registry.get(adder.id) is registry.get("adder") is registry.find("adder") is adder
    assert len(registry) == 1


def test_the_name_of_a_task_that_is_being_deleted_is_free(registry: TaskRegistry) -> None:
    going = registry.add(task("adder"))
    going.deleted = True
    coming = registry.add(task("adder", digest="cd" * 32))
    registry.remove(going)
    assert registry.get("adder") is coming


def test_an_unknown_task_is_not_found(registry: TaskRegistry) -> None:
    assert registry.find("nobody") is None
    with pytest.raises(TaskNotFound, match="there is no task 'nobody'") as refused:
        registry.get("nobody")
    assert refused.value.metadata == {"task": "nobody"}


def test_nobody_can_take_a_tasks_place_by_using_its_id_as_a_name(registry: TaskRegistry) -> None:
    victim = registry.add(task("victim"))
    registry.add(task(victim.id))
    assert registry.get(victim.id) is victim


# --- adding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, metadata={}),
        replace(SPEC, description="another"),
        replace(SPEC, version=""),
        replace(SPEC, checksum="ab" * 32),
        replace(SPEC, invocation_type=2),
    ],
)
def test_the_same_work_under_the_same_name_is_the_same_task(
    registry: TaskRegistry, spec: ArtifactSpec
) -> None:
    first = registry.add(task("adder"))
    assert registry.add(task("adder", spec)) is first
    assert registry.reuse(record("adder", spec)) is first
    assert len(registry) == 1


@pytest.mark.parametrize(
    "other",
    [
        task("adder", replace(SPEC, environment={})),
        task("adder", replace(SPEC, runtime_config={})),
        task("adder", replace(SPEC, resource_limits=ResourceLimits(max_fuel=1))),
        task("adder", replace(SPEC, max_execution_timeout_ms=0)),
        task("adder", digest="cd" * 32),
    ],
    ids=["environment", "runtime_config", "limits", "timeout", "digest"],
)
def test_other_work_under_the_same_name_is_refused(registry: TaskRegistry, other: Task) -> None:
    first = registry.add(task("adder"))
    with pytest.raises(TaskExists, match="task 'adder' exists with another spec") as refused:
        registry.add(other)
    assert refused.value.metadata == {"task_id": first.id}
    with pytest.raises(TaskExists):
        registry.reuse(other.record)
    assert registry.all() == [first]


def test_the_same_work_under_another_name_is_another_task(registry: TaskRegistry) -> None:
    assert registry.add(task("adder")) is not registry.add(task("adder too"))
    assert len(registry) == 2


def test_there_is_room_for_so_many_tasks_and_no_more(registry: TaskRegistry, store: TaskStore) -> None:
    tasks = [registry.add(task(f"task {number}")) for number in range(5)]
    with pytest.raises(TooManyTasks, match="the server holds 5 tasks, its bound; delete some"):
        registry.check_room()
    with pytest.raises(TooManyTasks):
        registry.add(task("one too many"))
    assert registry.add(task("task 3")) is tasks[3]  # which is not new
    registry.remove(tasks[0])
    assert registry.add(task("in its place")).name == "in its place"
    assert len(store.load()) == 5


def test_of_many_who_add_a_task_of_one_name_at_once_all_get_the_same(
    registry: TaskRegistry, store: TaskStore
) -> None:
    added = at_once([partial(registry.add, task("adder")) for _ in range(8)])
    assert len(set(added)) == 1
    assert [each.task_id for each in store.load()] == [added[0].id]


def test_a_task_that_cannot_be_kept_on_disk_is_not_in_service(
    registry: TaskRegistry, store: TaskStore
) -> None:
    store.close()
    with pytest.raises(sqlite3.Error):
        registry.add(task("adder"))
    assert registry.find("adder") is None


# --- removing ---------------------------------------------------------------------------------------------


def test_a_removed_task_is_gone_from_service_and_disk(registry: TaskRegistry, store: TaskStore) -> None:
    adder = registry.add(task("adder"))
    registry.remove(adder)
    assert registry.find(adder.id) is registry.find("adder") is None
    assert store.load() == []


def test_removing_a_task_twice_spares_the_one_that_has_its_name_since(registry: TaskRegistry) -> None:
    old = registry.add(task("adder"))
    registry.remove(old)
    new = registry.add(task("adder"))
    registry.remove(old)
    assert registry.get("adder") is registry.get(new.id) is new


# --- pages ------------------------------------------------------------------------------------------------


def test_pages_follow_the_order_of_creation_whatever_is_removed_meanwhile(registry: TaskRegistry) -> None:
    tasks = [registry.add(task(name)) for name in ("z", "y", "x", "w")]
    page, more = registry.page("", "", 2)
    assert (page, more) == (tasks[:2], True)
    cursor = f"@{page[-1].record.sequence}"
    for gone in page:
        registry.remove(gone)
    assert registry.page("", cursor, 2) == (tasks[2:], False)
    assert registry.page("", tasks[2].id, 2) == (tasks[3:], False)


def test_a_prefix_narrows_the_list(registry: TaskRegistry) -> None:
    tasks = [registry.add(task(name)) for name in ("blue/1", "red/1", "blue/2")]
    assert registry.page("blue/", "", 10) == ([tasks[0], tasks[2]], False)
    assert registry.page("green/", "", 10) == ([], False)


@pytest.mark.parametrize("cursor", ["@", "@x", "@-1", "@" + "9" * 30, "7", "task-unknown"])
def test_a_cursor_that_is_not_ours_is_refused(registry: TaskRegistry, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="is neither a cursor of ours nor a task id"):
        registry.page("", cursor, 10)


@settings(max_examples=25)  # each keeps its tasks on disk
@given(names=st.lists(st.sampled_from(["a", "ab", "b", "ba"]), max_size=12), size=st.integers(1, 5))
def test_page_after_page_lists_every_task_once(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], size: int
) -> None:
    with closing(SqliteTaskStore(tmp_path_factory.mktemp("pages") / "tasks.db")) as store:
        registry = TaskRegistry(store, most=100)
        tasks = [registry.add(task(f"{name}{number}")) for number, name in enumerate(names)]
        listed: list[Task] = []
        cursor, more = "", True
        while more:
            page, more = registry.page("a", cursor, size)
            assert len(page) == size or not more
            listed += page
            cursor = page[-1].id if page else cursor
        assert listed == [each for each in tasks if each.name.startswith("a")]


# --- the store --------------------------------------------------------------------------------------------


def test_records_survive_reopening_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with closing(SqliteTaskStore(path)) as store:
        kept = [store.add(record(name), most=100) for name in ("first", "second", "third")]
        store.remove(kept[1].task_id)
    with closing(SqliteTaskStore(path)) as store:
        assert store.load() == [kept[0], kept[2]]
        assert kept[0].spec == SPEC


def test_the_order_of_creation_survives_too_and_no_number_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with closing(SqliteTaskStore(path)) as store:
        newest = [store.add(record(f"task {number}"), most=100) for number in range(3)][-1]
        store.remove(newest.task_id)
    with closing(SqliteTaskStore(path)) as store:
        assert store.add(record("afterwards"), most=100).sequence > newest.sequence


def test_forgetting_an_unknown_record_is_harmless(store: TaskStore) -> None:
    store.remove("task-unknown")
    assert store.load() == []


def test_a_restored_task_is_in_service_under_both_of_its_names(store: TaskStore) -> None:
    restored = Task(store.add(record("adder"), most=100), LIMITS, TaskPolicy(), RUNTIME)
    registry = TaskRegistry(store, most=5)
    registry.restore(restored)
    assert registry.get("adder") is registry.get(restored.id) is restored
    assert registry.add(task("adder")) is restored
