"""What a process may use of the machine, in whatever control group it is."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from spear_wasm.machine import usable_cores, usable_memory

CORES = len(os.sched_getaffinity(0))
MEMORY = psutil.virtual_memory().total


def test_without_a_control_group_it_is_all_there_is(tmp_path: Path) -> None:
    assert (usable_cores(tmp_path), usable_memory(tmp_path)) == (CORES, MEMORY)


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
def test_a_quota_of_processor_time_is_so_many_cores(said: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(f"{said}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("said", "memory"), [("max", MEMORY), ("1048576", 1 << 20), (str(MEMORY + 1), MEMORY)]
)
def test_a_bound_on_memory_holds_where_it_is_less_than_there_is(
    said: str, memory: int, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(f"{said}\n")
    assert usable_memory(tmp_path) == memory
