"""How many workers there are, and what each gets of the bounds that are the server's.

How many executions run at once and the memory that sandboxes may grow to are shared: each worker claims of them what
it needs (`execution.shared_allowance`). Of other things how many may be at once is divided, so that nobody has to ask
anybody. What is on disk (artifacts, tasks, their bytes) is one, and counted together. What is bounded for one call,
task, connection or sandbox is as it is; so are an engine's sandboxes, which those that run and those that are ready
bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from spear_wasm.board import part_of
from spear_wasm.config import MOST_WORKERS, Config, Section
from spear_wasm.errors import ConfigurationError
from spear_wasm.machine import usable_cores, usable_memory

DIVIDED: Final = {
    "artifacts": ("max_uploads",),
    "execution": ("max_pending", "threads", "max_unfinished_bytes", "max_records", "max_record_bytes"),
    "pool": ("max_ready",),
    "batches": ("max_batches",),
    "runtimes": ("max_http_requests",),
}
"""Keys by table."""
ONE_AT_LEAST: Final = ("threads", "max_records")
"""Those of which one more than configured does no harm."""
ONE_FOR_EACH: Final = (
    ("execution", "max_running"),
    *((table, key) for table, keys in DIVIDED.items() for key in keys if key not in ONE_AT_LEAST),
)
"""Tables and keys of what there must be as much of as there are workers, if there is to be any."""
WORKER_MEMORY: Final = 256 << 20
"""Bytes of the machine's memory for each worker that nobody asked for: one that does nothing has a quarter of it."""


def worker_count(config: Config) -> int:
    """How many processes are to serve: as many as are configured, or as there are cores.

    There are fewer where there is little memory, where a worker's part of that of sandboxes would not hold one as large
    as any may be, or where there would not be one for each of what is divided.
    """
    if config.server.workers:
        return config.server.workers
    bounds = (bound for _, bound in _bounds(config))
    of_memory = usable_memory() // WORKER_MEMORY
    of_sandboxes = config.execution.total_memory() // max(1, config.ceiling.max_memory)
    return max(1, min(usable_cores(), of_memory, of_sandboxes, MOST_WORKERS, *bounds))


def share_of(config: Config, place: int, places: int) -> Config:
    """The configuration of one worker.

    Raises:
        ConfigurationError: there is less of something than there are workers.
    """
    for key, bound in _bounds(config):
        if bound < places:
            raise ConfigurationError(
                f"{key} is {bound}, which is less than one for each of the {places} workers",
                keys=f"{key}, server.workers",
            )
    shares = {table: _divided(getattr(config, table), keys, place, places) for table, keys in DIVIDED.items()}
    return msgspec.structs.replace(config, **shares)


def _bounds(config: Config) -> Iterator[tuple[str, int]]:
    """What bounds the number of workers, by the keys' full names."""
    for table, key in ONE_FOR_EACH:
        bound = getattr(getattr(config, table), key)
        if bound:
            yield f"{table}.{key}", bound


def _divided(section: Section, keys: tuple[str, ...], place: int, places: int) -> Section:
    shares: dict[str, Any] = {}
    for key in keys:
        whole = getattr(section, key)
        shares[key] = type(whole)(part_of(whole, place, places) or min(whole, 1))
    return msgspec.structs.replace(section, **shares)
