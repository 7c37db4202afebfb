"""A million calls: resident memory, file descriptors and memory maps after the first 10,000."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.figure import Figure
from bench.in_process import host_with
from bench.servers import FIXTURES

CALLS = int(os.environ.get("BENCH_CALLS", "1000000"))
SETTLED_AFTER = 10_000
MOST_GROWTH_MIB = 4.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the process holds."""

    mib: float
    descriptors: int
    maps: int


def measure() -> list[Figure]:
    """Growth between the 10,000th call and the last."""
    calc = (FIXTURES / "calc.wasm").read_bytes()
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), calc, "add", (20, 22)) as guest,
    ):
        for _ in range(SETTLED_AFTER):
            guest.call()
        before = _footprint()
        for _ in range(CALLS - SETTLED_AFTER):
            guest.call()
        after = _footprint()
    return [
        Figure("calls", CALLS),
        Figure("growth of resident memory", after.mib - before.mib, "MiB", at_most=MOST_GROWTH_MIB),
        Figure("growth of file descriptors", after.descriptors - before.descriptors, at_most=0),
        # The allocator and the timer's threads map and unmap a few as they go.
        Figure("growth of memory maps", after.maps - before.maps, at_most=32),
        Figure("resident memory at the end", after.mib, "MiB"),
    ]


def _footprint() -> Footprint:
    process = psutil.Process()
    maps = len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    return Footprint(process.memory_info().rss / (1 << 20), process.num_fds(), maps)
