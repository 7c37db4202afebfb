"""What a process may use of the machine, in whatever control group it is."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from spear_wasm.machine import usable_cores, usable_memory

CORES = len(os.sched_getaffinity(0))
MEMORY = psutil.virtual_memory().total


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Control groups of which this process is in the inner one."""
    (tmp_path / "groups" / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=other:/elsewhere\n0::/outer/inner\n")
    return tmp_path / "groups"


def test_without_control_groups_it_is_all_there_is(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert usable_cores(tmp_path, nothing) == CORES
    assert usable_memory(tmp_path, nothing) == MEMORY
    assert 1 <= usable_cores() <= CORES
    assert 0 < usable_memory() <= MEMORY


@pytest.mark.parametrize("group", ["outer/inner", "outer", "."])
@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ("max 100000", CORES),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", min(2, CORES)),
        ("99900000 100000", CORES),
    ],
)
def test_a_quota_of_processor_time_is_so_many_cores(group: str, said: str, cores: int, groups: Path) -> None:
    (groups / group / "cpu.max").write_text(f"{said}\n")
    assert usable_cores(groups, groups.parent / "own") == cores


@pytest.mark.parametrize("group", ["outer/inner", "outer", "."])
@pytest.mark.parametrize(
    ("said", "memory"), [("max", MEMORY), ("1048576", 1 << 20), (str(MEMORY + 1), MEMORY)]
)
def test_a_bound_on_memory_holds_where_it_is_less_than_there_is(
    group: str, said: str, memory: int, groups: Path
) -> None:
    (groups / group / "memory.max").write_text(f"{said}\n")
    assert usable_memory(groups, groups.parent / "own") == memory


def test_the_least_of_all_groups_counts(groups: Path) -> None:
    for group, mib in (("outer/inner", 3), ("outer", 2), (".", 4)):
        (groups / group / "memory.max").write_text(f"{mib << 20}\n")
    assert usable_memory(groups, groups.parent / "own") == 2 << 20
