"""How many executions ended how: since the start, and by the hour."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.counters import (
    KEPT_HOURS,
    MAX_FUNCTIONS,
    MAX_NAME_CHARS,
    OTHERS,
    Counters,
    Tally,
)
from spear_wasm.execution.state import FINAL
from spear_wasm.model import ExecutionStatus

HOUR = 3600.0
NOON = 1_700_006_400.0  # on the hour

ends = st.tuples(st.sampled_from(sorted(FINAL)), st.integers(0, 50), st.integers(0, 50), st.integers(-100, 0))


def counted(*statuses: ExecutionStatus) -> Tally:
    tally = Tally()
    for status in statuses:
        tally.count(status, 0.5, 2.0, "run")
    return tally


def test_nothing_has_ended_at_the_start() -> None:
    tally = Counters().since(0, NOON)
    assert (tally.ended, tally.success_percent, tally.average_run_ms, tally.average_response_ms) == (
        0,
        0,
        0,
        0,
    )


def test_a_timeout_counts_as_failed() -> None:
    tally = counted(*FINAL)
    assert (tally.completed, tally.failed, tally.cancelled, tally.ended) == (1, 2, 1, 4)


def test_averages_are_over_all_that_ended() -> None:
    tally = counted(ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
    assert tally.success_percent == 50
    assert tally.average_run_ms == 500
    assert tally.average_response_ms == 2000


def test_the_present_hour_is_one_of_the_last_hours() -> None:
    counters = Counters()
    for hours_ago in (2, 1, 0):
        counters.count(ExecutionStatus.COMPLETED, 0, 0, "run", NOON - hours_ago * HOUR)
    assert [counters.since(hours, NOON + HOUR - 1).ended for hours in (1, 2, 3, 99, 0)] == [1, 2, 3, 3, 3]
    assert counters.since(1, NOON + HOUR).ended == 0


def test_old_hours_are_forgotten_and_the_total_is_not() -> None:
    counters = Counters()
    for hour in range(3 * KEPT_HOURS):
        counters.count(ExecutionStatus.COMPLETED, 0, 0, "run", NOON + hour * HOUR)
    now = NOON + (3 * KEPT_HOURS - 1) * HOUR
    assert counters.since(10**6, now).ended == KEPT_HOURS
    assert counters.since(0, now).ended == 3 * KEPT_HOURS


def test_what_is_returned_does_not_change_afterwards() -> None:
    counters = Counters()
    before = counters.since(0, NOON), counters.since(1, NOON)
    counters.count(ExecutionStatus.COMPLETED, 1, 1, "run", NOON)
    assert [tally.ended for tally in before] == [0, 0]
    assert [tally.by_function for tally in before] == [{}, {}]


@given(st.lists(ends, max_size=100), st.integers(1, 100))
def test_the_tally_of_some_hours_is_that_of_the_ends_in_them(
    ended: Sequence[tuple[ExecutionStatus, int, int, int]], hours: int
) -> None:
    counters, expected = Counters(), Tally()
    for status, run, response, hour in sorted(ended, key=lambda end: end[3]):
        counters.count(status, run, response, f"f{run}", NOON + hour * HOUR)
        if hour > -hours:
            expected.count(status, run, response, f"f{run}")
    assert counters.since(hours, NOON) == expected
    assert counters.since(0, NOON).ended == len(ended)


@pytest.mark.parametrize("status", [ExecutionStatus.PENDING, ExecutionStatus.RUNNING])
def test_only_ends_are_counted_as_completed(status: ExecutionStatus) -> None:
    assert counted(status).completed == 0


# --- by function ------------------------------------------------------------------------------------------


def test_functions_are_counted_by_name_in_the_hours_asked_for() -> None:
    counters = Counters()
    for hours_ago, function in ((2, "old"), (1, "add"), (0, "add"), (0, "new")):
        counters.count(ExecutionStatus.COMPLETED, 0, 0, function, NOON - hours_ago * HOUR)
    assert counters.since(1, NOON).by_function == {"add": 1, "new": 1}
    assert counters.since(2, NOON).by_function == {"add": 2, "new": 1}
    assert counters.since(0, NOON).by_function == {"old": 1, "add": 2, "new": 1}


def test_a_name_of_any_length_is_cut() -> None:
    tally = Tally()
    tally.count(ExecutionStatus.FAILED, 0, 0, "x" * 100_000)
    assert tally.by_function == {"x" * MAX_NAME_CHARS: 1}


def test_however_many_names_guests_choose_those_called_most_are_kept() -> None:
    tally = Tally()
    for number in range(10 * MAX_FUNCTIONS):
        for name in ("busy", f"once {number}"):
            tally.count(ExecutionStatus.COMPLETED, 0, 0, name)
    assert len(tally.by_function) == MAX_FUNCTIONS + 1
    assert tally.by_function["busy"] == 10 * MAX_FUNCTIONS
    assert tally.by_function[OTHERS] == 9 * MAX_FUNCTIONS + 1
    assert sum(tally.by_function.values()) == tally.ended


def test_however_many_hours_are_added_up_their_names_are_as_few() -> None:
    counters = Counters()
    for number in range(5 * MAX_FUNCTIONS):
        for name in ("busy", f"once {number}"):
            counters.count(ExecutionStatus.COMPLETED, 0, 0, name, NOON + number * HOUR)
    for hours in (0, 10**6):
        tally = counters.since(hours, NOON)
        assert len(tally.by_function) <= MAX_FUNCTIONS + 1
        assert tally.by_function["busy"] == 5 * MAX_FUNCTIONS
        assert sum(tally.by_function.values()) == tally.ended == 10 * MAX_FUNCTIONS


def test_where_the_clock_was_ahead_what_ended_then_counts_in_the_hour_that_it_is() -> None:
    counters = Counters()
    for hours_ago in (-5, 0, 0):
        counters.count(ExecutionStatus.COMPLETED, 0, 0, "run", NOON - hours_ago * HOUR)
    counters.count(ExecutionStatus.COMPLETED, 0, 0, "run", NOON + HOUR)
    assert [counters.since(hours, NOON + HOUR).ended for hours in (0, 1, 2)] == [4, 1, 4]


def test_what_ends_late_in_an_hour_that_is_over_counts_in_the_present_one() -> None:
    counters = Counters()
    for hours_ago in (1, 0, 1):
        counters.count(ExecutionStatus.COMPLETED, 0, 0, "run", NOON - hours_ago * HOUR)
    assert [counters.since(hours, NOON).ended for hours in (0, 1, 2)] == [3, 2, 3]


def test_tallies_that_are_added_up_keep_the_names_that_were_called_most() -> None:
    some, others = Tally(), Tally()
    for number in range(MAX_FUNCTIONS):
        for _ in range(3 + number):
            some.count(ExecutionStatus.COMPLETED, 0, 0, f"f{number}")
    for name in ("new", *["f0"] * 50):
        others.count(ExecutionStatus.COMPLETED, 0, 0, name)
    some.add(others)
    assert some.by_function["f0"] == 53
    assert some.by_function[OTHERS] == 1


def test_what_was_lost_has_failed_and_changes_no_average() -> None:
    counters = Counters()
    counters.count(ExecutionStatus.COMPLETED, 1.0, 3.0, "add", 7200.0)
    counters.count_lost("add", 7200.0)
    for tally in (counters.since(0, 7200.0), counters.since(1, 7200.0)):
        assert (tally.ended, tally.failed, tally.by_function) == (2, 1, {"add": 2})
        assert (tally.average_run_ms, tally.average_response_ms) == (1000, 3000)
