"""What this process may use of the machine: its control group's part, where it is in one that has less."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")


def usable_memory(group: Path = _GROUP) -> int:
    """Bytes of memory."""
    total = psutil.virtual_memory().total
    limit = _said(group / "memory.max")
    return total if limit in {"", "max"} else min(int(limit), total)


def usable_cores(group: Path = _GROUP) -> int:
    """Cores that can be used at once, at least one; a part of one counts as a whole."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _said(group / "cpu.max").partition(" ")
    return cores if quota in {"", "max"} else max(1, min(cores, math.ceil(int(quota) / int(period))))


def _said(file: Path) -> str:
    """What the kernel says there; nothing where it has no such control group."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
