"""What each worker gets of the bounds that are the server's: all of them together never have more.

How many may do something at once is divided, so that nobody has to ask anybody. What is on disk (artifacts, tasks,
their bytes) is one, and counted together. What is bounded for one call, task, connection or sandbox is as it is; so
are an engine's sandboxes, which those that run and those that are ready bound.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spear_wasm.board import part_of
from spear_wasm.config import Config, Section
from spear_wasm.errors import ConfigurationError

DIVIDED = {
    "artifacts": ("max_uploads",),
    "execution": (
        "max_running", "max_pending", "max_total_memory", "threads", "max_unfinished_bytes", "max_records",
        "max_record_bytes",
    ),
    "pool": ("max_ready",),
    "batches": ("max_batches",),
    "runtimes": ("max_http_requests",),
}  # fmt: skip
"""Keys by table."""
ONE_AT_LEAST = ("threads", "max_records")
"""Those of which one more than configured does no harm."""


def share_of(config: Config, place: int, places: int) -> Config:
    """The configuration of one worker.

    Raises:
        ConfigurationError: there is less of something than there are workers.
    """
    measured = msgspec.structs.replace(
        config.execution,
        max_total_memory=type(config.execution.max_total_memory)(config.execution.total_memory()),
        threads=config.execution.thread_count(),
    )
    whole = msgspec.structs.replace(config, execution=measured)
    return msgspec.structs.replace(
        whole,
        **{table: _divided(getattr(whole, table), table, place, places) for table in DIVIDED},
    )


def _divided(section: Section, table: str, place: int, places: int) -> Section:
    shares: dict[str, Any] = {}
    for key in DIVIDED[table]:
        whole = getattr(section, key)
        share = part_of(whole, place, places)
        if not share and whole:
            if key not in ONE_AT_LEAST:
                raise ConfigurationError(
                    f"{table}.{key} is {whole}, which is less than one for each of the {places} workers",
                    keys=f"{table}.{key}, server.workers",
                )
            share = 1
        shares[key] = type(whole)(share)
    return msgspec.structs.replace(section, **shares)
