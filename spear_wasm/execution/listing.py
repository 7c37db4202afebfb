"""Pages of executions: stable while executions come, end and are forgotten."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from spear_wasm.errors import InvalidRequest
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.records import ExecutionRecord
    from spear_wasm.model import ExecutionStatus

Entry: TypeAlias = "Execution | ExecutionRecord"

CURSOR_CHARS = 20


def cursor_after(entry: Entry) -> str:
    """What to give as `start_after` for the page that follows one which ends with this entry."""
    return f"@{entry.sequence}"


def sequence_in(cursor: str) -> int:
    """The sequence number in a cursor of ours.

    Raises:
        InvalidRequest: it is none.
    """
    if not cursor.startswith("@") or not cursor[1:].isdecimal() or len(cursor) > CURSOR_CHARS:
        raise InvalidRequest(
            f"start_after {shown(cursor)} is neither a cursor of ours nor a known execution id"
        )
    return int(cursor[1:])


def entries_after(entries: Sequence[Entry], sequence: int, status: ExecutionStatus | None) -> list[Entry]:
    """Those of a status (None: of any) behind a sequence number; `entries` are in the order of admission."""
    start = bisect.bisect_right(entries, sequence, key=lambda entry: entry.sequence)
    return [entry for entry in entries[start:] if status is None or entry.status is status]
