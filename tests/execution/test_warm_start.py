"""What a server has at hand when it comes back: the code of the tasks that were used last."""

from __future__ import annotations

from pathlib import Path

import pytest

from spear_wasm.execution import warm_start
from spear_wasm.execution.task import Task
from tests.execution.guests import Guests, config_with, guests_on, upload


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Of a server that has called two tasks, and made a third one."""
    with guests_on(tmp_path, config_with()) as guests:
        for name in ("calc", "text", "canary"):
            upload(guests.host.artifacts, name)
        guests.task("canary", "uncalled")
        guests.run(guests.task("calc", "called first"), "answer")
        guests.run(guests.task("calc", "called last"), "answer")
    return tmp_path


def linked(guests: Guests) -> set[str]:
    tasks: list[Task] = guests.host.tasks.all()
    return {task.name for task in tasks if task.linkages}


def code_in(data_dir: Path) -> list[Path]:
    return list((data_dir / "code").rglob("*.cwasm"))


def test_the_tasks_that_were_used_are_linked_before_anybody_calls(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "LONGEST_SECONDS", 60.0)
    with guests_on(data_dir, config_with()) as guests:
        assert linked(guests) == {"called first", "called last"}


def test_the_one_used_last_comes_first_where_time_is_short(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 1.0])
    monkeypatch.setattr(warm_start, "time", type("", (), {"monotonic": lambda: next(times)}))
    with guests_on(data_dir, config_with()) as guests:
        assert linked(guests) == {"called last"}


def test_nothing_is_compiled_for_it(data_dir: Path) -> None:
    for code in code_in(data_dir):
        code.chmod(0o600)
        code.write_bytes(code.read_bytes()[:-1] + b"!")
    with guests_on(data_dir, config_with()) as guests:
        assert linked(guests) == set()
        task = guests.host.tasks.get("called last")
        guests.host.registration.link(task, metered=False)
        guests.run(task, "answer")


def test_an_artifact_that_is_gone_is_nobodys_trouble_until_it_is_called(data_dir: Path) -> None:
    with guests_on(data_dir, config_with()) as guests:
        digest = guests.host.tasks.get("called last").record.digest
        guests.host.artifacts.delete(f"sha256:{digest}", force=True, in_use=lambda _: True)
    with guests_on(data_dir, config_with()) as guests:
        assert linked(guests) == set()
