"""The life of an execution: every pair of states, and the story that an illegal move tells."""

from __future__ import annotations

from itertools import product, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.state import FINAL, TRANSITIONS, InvalidTransition, Lifecycle
from spear_wasm.model import ExecutionStatus

PENDING, RUNNING = ExecutionStatus.PENDING, ExecutionStatus.RUNNING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
CANCELLED, TIMEOUT = ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT

ALLOWED = {
    (PENDING, RUNNING),
    (PENDING, FAILED),
    (PENDING, CANCELLED),
    (PENDING, TIMEOUT),
    (RUNNING, PENDING),
    (RUNNING, COMPLETED),
    (RUNNING, FAILED),
    (RUNNING, CANCELLED),
    (RUNNING, TIMEOUT),
}
PAIRS = list(product(ExecutionStatus, repeat=2))


def lifecycle_at(status: ExecutionStatus) -> Lifecycle:
    """One that came to the state by the shortest way."""
    lifecycle = Lifecycle()
    if status is COMPLETED:
        lifecycle.move(RUNNING)
    if status is not PENDING:
        lifecycle.move(status)
    return lifecycle


@pytest.mark.parametrize(("start", "finish"), sorted(ALLOWED))
def test_a_listed_move_is_made(start: ExecutionStatus, finish: ExecutionStatus) -> None:
    lifecycle = lifecycle_at(start)
    lifecycle.move(finish)
    assert lifecycle.status is finish
    assert lifecycle.is_final is (finish in FINAL)


@pytest.mark.parametrize(("start", "finish"), [pair for pair in PAIRS if pair not in ALLOWED])
def test_any_other_move_raises_with_the_story_and_changes_nothing(
    start: ExecutionStatus, finish: ExecutionStatus
) -> None:
    lifecycle = lifecycle_at(start)
    story = lifecycle.story
    with pytest.raises(InvalidTransition) as refused:
        lifecycle.move(finish)
    assert (refused.value.story, refused.value.wanted) == (story, finish)
    assert str(refused.value) == f"{' -> '.join(story)} does not lead to {finish}"
    assert lifecycle.story == story


def test_the_table_lists_those_moves_and_no_others() -> None:
    assert {(start, finish) for start, finishes in TRANSITIONS.items() for finish in finishes} == ALLOWED
    assert TRANSITIONS.keys() == set(ExecutionStatus)


def test_the_final_states_are_those_that_lead_nowhere() -> None:
    assert {status for status in ExecutionStatus if not TRANSITIONS[status]} == FINAL


def test_a_life_begins_pending() -> None:
    assert Lifecycle().story == (PENDING,)
    assert not Lifecycle().is_final


@given(st.lists(st.sampled_from(ExecutionStatus), max_size=6))
def test_whatever_is_tried_the_story_is_that_of_the_moves_that_were_made(
    wanted: list[ExecutionStatus],
) -> None:
    lifecycle = Lifecycle()
    made = [PENDING]
    for status in wanted:
        try:
            lifecycle.move(status)
        except InvalidTransition:
            continue
        made.append(status)
    assert lifecycle.story == tuple(made)
    assert len(list(takewhile(lambda status: status not in FINAL, made))) >= len(made) - 1
