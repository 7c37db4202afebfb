"""Pages of executions: every entry once, in order, whatever comes and goes between two pages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.listing import cursor_after, entries_after, sequence_in
from spear_wasm.execution.records import ExecutionRecord
from spear_wasm.model import ExecutionStatus

statuses = st.sampled_from([ExecutionStatus.COMPLETED, ExecutionStatus.FAILED])
TEMPLATE = ExecutionRecord("exec", 0, "task", "add", ExecutionStatus.COMPLETED, 0.0, 0.0, 0, 0, "")


def records(
    sequences: set[int], status: ExecutionStatus = ExecutionStatus.COMPLETED
) -> list[ExecutionRecord]:
    return [
        msgspec.structs.replace(TEMPLATE, sequence=sequence, status=status) for sequence in sorted(sequences)
    ]


@given(
    st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)), st.sets(st.integers(61, 99)), st.integers(1, 9)
)
def test_whoever_turns_the_pages_sees_all_that_stays_and_nothing_twice(
    there: set[int], forgotten: set[int], new: set[int], limit: int
) -> None:
    seen: list[int] = []
    after, entries = 0, records(there)
    while page := entries_after(entries, after, None)[:limit]:
        seen += [entry.sequence for entry in page]
        after = sequence_in(cursor_after(page[-1]))
        entries = records(there - forgotten | new)
    assert seen == sorted(set(seen))
    if seen:
        assert set(seen) >= there - forgotten | new


@given(st.lists(statuses), statuses)
def test_a_filter_leaves_those_of_its_status(mixed: list[ExecutionStatus], wanted: ExecutionStatus) -> None:
    entries = [
        msgspec.structs.replace(TEMPLATE, sequence=number, status=status)
        for number, status in enumerate(mixed, 1)
    ]
    found = entries_after(entries, 0, wanted)
    assert [entry.status for entry in found] == [status for status in mixed if status is wanted]


@pytest.mark.parametrize("cursor", ["", "@", "5", "@-1", "@1x", "@" + "9" * 30])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        sequence_in(cursor)
