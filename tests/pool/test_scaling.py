"""How many sandboxes are to be at hand: what every way of scaling guarantees, by a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_wasm.pool import PoolTerms
from spear_wasm.pool.scaling import Observation, Scaler, Scaling
from spear_wasm.pool.scaling.predictive import AHEAD, PARTS, SEASONS

MEMORY = 60.0
SEASON = PARTS * 10.0
PART = SEASON / PARTS
DAY = int(SEASON)


def scaler(scaling: Scaling, floor: int = 0, ceiling: int = 100, *, reuse: bool = False) -> Scaler:
    return PoolTerms(
        floor=floor, ceiling=ceiling, scaling=scaling, max_idle=MEMORY, season=SEASON, reuse=reuse
    ).scaler()


ADAPTIVE = [Scaling.REACTIVE, Scaling.PREDICTIVE]
OBSERVATIONS = st.lists(
    st.tuples(
        st.floats(0.001, 2000),  # seconds since the last look
        st.integers(0, 1000),
        st.integers(0, 50),
        st.none() | st.floats(0, 100),
    ),
    max_size=60,
)


def observed(steps: list[tuple[float, int, int, float | None]]) -> Iterator[Observation]:
    at = 5000.0
    for pause, arrivals, busy, preparation in steps:
        at += pause
        yield Observation(at, arrivals, busy, preparation)


def looks(scaler: Scaler, arrivals: dict[int, int], until: int, preparation: float = 2.0) -> list[int]:
    """What a scaler says each second, when calls arrive in the seconds given."""
    scaler.look(Observation(-1.0, 0, 0))
    return [
        scaler.look(Observation(float(second), arrivals.get(second, 0), 0, preparation))
        for second in range(until)
    ]


# --- every way --------------------------------------------------------------------------------------------


@given(
    scaling=st.sampled_from(Scaling),
    steps=OBSERVATIONS,
    floor=st.integers(0, 5),
    room=st.integers(0, 20),
    reuse=st.booleans(),
)
def test_it_is_never_below_the_floor_nor_above_the_ceiling(
    scaling: Scaling,
    steps: list[tuple[float, int, int, float | None]],
    floor: int,
    room: int,
    reuse: bool,
) -> None:
    scaled = scaler(scaling, floor, floor + room, reuse=reuse)
    for observation in observed(steps):
        assert floor <= scaled.look(observation) <= floor + room


@given(steps=OBSERVATIONS)
def test_fixed_is_the_floor(steps: list[tuple[float, int, int, float | None]]) -> None:
    fixed = scaler(Scaling.FIXED, 3, 10)
    assert {fixed.look(each) for each in observed(steps)} <= {3}


@pytest.mark.parametrize("scaling", ADAPTIVE)
@settings(deadline=None, max_examples=25)
@given(steps=OBSERVATIONS, reuse=st.booleans())
def test_where_nothing_has_come_for_long_there_is_nothing_but_the_floor(
    scaling: Scaling, steps: list[tuple[float, int, int, float | None]], reuse: bool
) -> None:
    scaled = scaler(scaling, 1, 50, reuse=reuse)
    at = 0.0
    for observation in observed(steps):
        scaled.look(observation)
        at = observation.at
    last = 50
    # More seasons without anything than are remembered, and longer than any preparation.
    for quiet in range(1, SEASONS * PARTS + PARTS):
        last = scaled.look(Observation(at + quiet * PART, 0, 0, 1.0))
    assert last == 1


@pytest.mark.parametrize("scaling", ADAPTIVE)
@given(
    arrivals=st.lists(st.integers(0, 30), min_size=1, max_size=50),
    preparation=st.integers(1, 20),
)
def test_what_came_within_one_preparation_would_have_been_served(
    scaling: Scaling, arrivals: list[int], preparation: int
) -> None:
    scaled = scaler(scaling, 0, 10**6)
    for second, number in enumerate(arrivals):
        said = scaled.look(Observation(float(second), number, 0, float(preparation)))
        first = max(0, second - preparation + 1)
        assert said >= sum(arrivals[first : second + 1])


@pytest.mark.parametrize("scaling", ADAPTIVE)
@given(busy=st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_where_sandboxes_serve_again_as_many_are_enough_as_were_busy_at_once(
    scaling: Scaling, busy: list[int]
) -> None:
    scaled = scaler(scaling, reuse=True)
    for second, number in enumerate(busy):
        said = scaled.look(Observation(float(second), 10**6, number, 5.0))
        assert said == max(busy[: second + 1])


@pytest.mark.parametrize("scaling", ADAPTIVE)
def test_sandboxes_that_are_made_in_no_time_are_not_made_ahead_in_numbers(scaling: Scaling) -> None:
    assert looks(scaler(scaling), dict.fromkeys(range(10), 100), 10, preparation=0.0001)[-1] == 1


@pytest.mark.parametrize("scaling", ADAPTIVE)
@given(quicker=st.floats(0.01, 30), slower=st.floats(0.01, 30))
def test_the_longer_it_takes_to_prepare_one_the_more_there_are(
    scaling: Scaling, quicker: float, slower: float
) -> None:
    quicker, slower = sorted((quicker, slower))
    arrivals = {second: second % 4 for second in range(40)}
    assert (
        looks(scaler(scaling), arrivals, 40, quicker)[-1] <= looks(scaler(scaling), arrivals, 40, slower)[-1]
    )


@pytest.mark.parametrize("scaling", ADAPTIVE)
def test_before_one_has_been_prepared_one_is_made_to_find_out(scaling: Scaling) -> None:
    scaled = scaler(scaling)
    assert scaled.look(Observation(0.0, 0, 0)) == 0
    assert scaled.look(Observation(1.0, 50, 0)) == 1


# --- reactive ---------------------------------------------------------------------------------------------


def test_the_greatest_need_is_remembered_for_so_long_and_no_longer() -> None:
    said = looks(scaler(Scaling.REACTIVE), {10: 7}, 100)
    assert said[:10] == [0] * 10
    assert said[10 : 11 + int(MEMORY)] == [7] * (1 + int(MEMORY))
    assert set(said[13 + int(MEMORY) :]) == {0}


# --- predictive -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    arrivals=st.dictionaries(st.integers(0, DAY - 1), st.integers(1, 20), max_size=5),
    days=st.integers(1, 3),
)
def test_it_is_never_less_than_what_reactive_says(arrivals: dict[int, int], days: int) -> None:
    recurring = {second + day * DAY: number for second, number in arrivals.items() for day in range(days)}
    until = days * DAY
    reactive = looks(scaler(Scaling.REACTIVE), recurring, until)
    predictive = looks(scaler(Scaling.PREDICTIVE), recurring, until)
    assert all(mine >= theirs for mine, theirs in zip(predictive, reactive, strict=True))


@settings(deadline=None, max_examples=25)
@given(
    part=st.integers(2, PARTS - 2),
    within=st.tuples(st.integers(0, int(PART) - 3), st.integers(0, int(PART) - 3)),
    number=st.integers(1, 50),
)
def test_a_rise_that_came_twice_at_that_time_is_expected_just_before_the_third(
    part: int, within: tuple[int, int], number: int
) -> None:
    begins = part * int(PART)
    arrivals = {begins + each + day * DAY: number for day, each in enumerate(within)}
    said = looks(scaler(Scaling.PREDICTIVE), arrivals, 3 * DAY)
    third, ahead = 2 * DAY + begins, int(AHEAD * PART)
    assert said[third - ahead : third + int(PART)] == [number] * (ahead + int(PART))
    assert said[third - ahead - 1] == said[third + int(PART)] == 0
    assert said[DAY + begins - 1] == 0, "after the first time it may have been chance"


def test_a_spike_that_came_once_is_never_expected_again() -> None:
    day = [0] * DAY
    said = looks(scaler(Scaling.PREDICTIVE), {1000: 80}, 5 * DAY)
    assert said[1000] == 80
    assert said[DAY:] == day * 4


def test_a_habit_outlives_a_few_days_without_it_and_is_forgotten_in_the_end() -> None:
    weekdays = {1005 + day * DAY: 6 for day in range(5)}
    said = looks(scaler(Scaling.PREDICTIVE), weekdays, (SEASONS + 6) * DAY)
    assert said[1004 + SEASONS * DAY] == 6, "after two days without it"
    assert said[1004 + (SEASONS + 5) * DAY] == 0


@settings(deadline=None, max_examples=21)
@given(pause=st.integers(0, 20))
def test_days_on_which_nobody_looked_count_as_days_without(pause: int) -> None:
    predictive = scaler(Scaling.PREDICTIVE)
    looks(predictive, {1005: 6, 1005 + DAY: 6}, 2 * DAY)
    at = 1004 + (2 + pause) * DAY
    said = predictive.look(Observation(float(at), 0, 0, 2.0))
    assert said == (6 if pause < SEASONS - 2 else 0)
