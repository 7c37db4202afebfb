"""Rounds that other processes of the machine have not disturbed: what they use, the servers measured cannot have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from bench.servers import Server

MOST_USED = 0.1
"""CPU time of others that disturbs nobody, as a share of one core."""
MOST_TRIES = 6

Result = TypeVar("Result")


def undisturbed(measure: Callable[[], Result], *servers: Server) -> Result:
    """What `measure` measures on servers while others leave them alone; the least disturbed of some tries."""
    tries: list[tuple[float, Result]] = []
    while not tries or (tries[-1][0] > MOST_USED and len(tries) < MOST_TRIES):
        before, begun = _used_by_others(*servers), time.monotonic()
        result = measure()
        used = (_used_by_others(*servers) - before) / (time.monotonic() - begun)
        tries.append((used, result))
    return min(tries, key=lambda each: each[0])[1]


def _used_by_others(*servers: Server) -> float:
    """CPU seconds so far of all but the servers, this process and those of its children that have ended."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    everybody = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
    ours = own.user + own.system + own.children_user + own.children_system
    return float(everybody - ours - sum(server.cpu_seconds() for server in servers))
