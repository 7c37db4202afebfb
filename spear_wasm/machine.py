"""What this process may use of the machine: its control group's part (version 2), where it is in one that has less."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_memory(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> int:
    """Bytes of memory."""
    bounds = (int(said) for said in _said("memory.max", groups, own) if said != "max")
    return min([psutil.virtual_memory().total, *bounds])


def usable_cores(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> int:
    """Cores that can be used at once, at least one; a part of one counts as a whole."""
    quotas = (said.split() for said in _said("cpu.max", groups, own))
    bounds = (math.ceil(int(quota) / int(period)) for quota, period in quotas if quota != "max")
    return max(1, min([len(os.sched_getaffinity(0)), *bounds]))


def _said(file: str, groups: Path, own: Path) -> Iterator[str]:
    """What the kernel says of the group of this process, and of those that it is in, as far as they can be seen."""
    group = groups / _path_of(own).lstrip("/")
    for each in (group, *group.parents):
        if each.is_relative_to(groups):
            try:
                yield (each / file).read_text(encoding="ascii").strip()
            except OSError:  # the outermost has no bounds, others none of this kind
                continue


def _path_of(own: Path) -> str:
    try:
        lines = os.fsdecode(own.read_bytes()).splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
