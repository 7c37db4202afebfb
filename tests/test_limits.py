"""Limits: defaults, what a task asks for, what a call asks for, and the ceilings above them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.errors import ConfigurationError, InvalidRequest
from spear_wasm.limits import UNLIMITED_AT_ZERO, UNSAID, Limits, ResourceLimits

DEFAULT = Limits(
    max_memory_bytes=64 << 20,
    max_fuel=0,
    max_cpu_time_ms=0,
    max_table_elements=20_000,
    max_input_bytes=4 << 20,
    max_output_bytes=4 << 20,
    max_log_bytes=64 << 10,
    max_concurrency=10,
    max_wall_time_ms=30_000,
)
CEILING = replace(DEFAULT, max_memory_bytes=512 << 20, max_concurrency=1000, max_wall_time_ms=300_000)

NAMES = [field.name for field in fields(Limits)]
ASKED_NAMES = [field.name for field in fields(ResourceLimits)]
BOUNDED = sorted(set(NAMES) - UNLIMITED_AT_ZERO)

amounts = st.integers(1, 1000)
limits = st.builds(
    Limits, **{name: st.integers(0, 1000) if name in UNLIMITED_AT_ZERO else amounts for name in NAMES}
)
asked_limits = st.builds(ResourceLimits, **dict.fromkeys(ASKED_NAMES, st.integers(0, 1000)))


def tightness(value: int, name: str) -> float:
    """The limit as a number that is larger where it allows more."""
    return float("inf") if value == 0 and name in UNLIMITED_AT_ZERO else value


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_limit_is_negative(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"limit {name} is -1; it must be positive") as refused:
        replace(DEFAULT, **{name: -1})
    assert refused.value.metadata == {"limit": name}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_limit_of_zero_is_refused_where_zero_would_allow_nothing(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"limit {name} is 0"):
        replace(DEFAULT, **{name: 0})


@pytest.mark.parametrize("name", sorted(UNLIMITED_AT_ZERO))
def test_fuel_and_cpu_time_need_not_be_limited(name: str) -> None:
    assert getattr(replace(DEFAULT, **{name: 0}), name) == 0


def test_limits_that_nobody_said_anything_about_are_false() -> None:
    assert not UNSAID
    assert not ResourceLimits()
    assert ResourceLimits(max_fuel=1)


# --- the operator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_default_above_its_ceiling_is_the_operators_mistake(name: str) -> None:
    ceiling = replace(CEILING, **{name: 1000})
    too_high = replace(CEILING, **{name: 1001})
    assert ceiling.within(ceiling, whose="default_limits") is ceiling
    with pytest.raises(ConfigurationError, match=f"default_limits {name} is 1001, above its ceiling of 1000"):
        too_high.within(ceiling, whose="default_limits")


@pytest.mark.parametrize("name", sorted(UNLIMITED_AT_ZERO))
def test_unlimited_is_above_every_ceiling_but_unlimited(name: str) -> None:
    unlimited, limited = replace(CEILING, **{name: 0}), replace(CEILING, **{name: 5})
    assert limited.within(unlimited, whose="default_limits") is limited
    with pytest.raises(ConfigurationError, match=f"default_limits {name} is 0, above its ceiling of 5"):
        unlimited.within(limited, whose="default_limits")


# --- tasks ------------------------------------------------------------------------------------------------


def test_a_task_that_asks_for_nothing_gets_the_defaults() -> None:
    assert DEFAULT.for_task(UNSAID, 0, CEILING) == DEFAULT


def test_a_task_may_ask_for_more_than_the_default_up_to_the_ceiling() -> None:
    asked = ResourceLimits(max_memory_bytes=CEILING.max_memory_bytes, max_concurrency=1, max_fuel=7)
    assert DEFAULT.for_task(asked, 0, CEILING) == replace(
        DEFAULT, max_memory_bytes=CEILING.max_memory_bytes, max_concurrency=1, max_fuel=7
    )


@pytest.mark.parametrize("name", sorted(set(ASKED_NAMES) - UNLIMITED_AT_ZERO))
def test_a_task_that_asks_for_more_than_the_ceiling_is_refused(name: str) -> None:
    most = getattr(CEILING, name)
    with pytest.raises(
        InvalidRequest, match=f"{name} of {most + 1} is above the server's ceiling of {most}"
    ) as refused:
        DEFAULT.for_task(ResourceLimits(**{name: most + 1}), 0, CEILING)
    assert refused.value.metadata == {"limit": name, "asked": str(most + 1), "ceiling": str(most)}


@pytest.mark.parametrize("name", ASKED_NAMES)
def test_a_task_that_asks_for_less_than_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        DEFAULT.for_task(ResourceLimits(**{name: -1}), 0, CEILING)


@pytest.mark.parametrize(
    ("asked_ms", "wall_ms"), [(0, 30_000), (1, 1), (60_000, 60_000), (300_000, 300_000), (10**9, 300_000)]
)
def test_time_takes_the_least_instead_of_being_refused(asked_ms: int, wall_ms: int) -> None:
    assert DEFAULT.for_task(UNSAID, asked_ms, CEILING).max_wall_time_ms == wall_ms


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_execution_timeout_ms is -5; it must not be negative"):
        DEFAULT.for_task(UNSAID, -5, CEILING)


@given(limits, limits, asked_limits, st.integers(0, 2000))
def test_no_task_gets_more_than_the_ceiling_or_other_than_it_asked_for(
    default: Limits, ceiling: Limits, asked: ResourceLimits, timeout_ms: int
) -> None:
    try:
        merged = default.within(ceiling, whose="default_limits").for_task(asked, timeout_ms, ceiling)
    except (ConfigurationError, InvalidRequest):
        return
    for name in NAMES:
        assert tightness(getattr(merged, name), name) <= tightness(getattr(ceiling, name), name)
    for name in ASKED_NAMES:
        assert getattr(merged, name) == (getattr(asked, name) or getattr(default, name))


# --- calls ------------------------------------------------------------------------------------------------


def test_a_call_may_tighten_its_tasks_limits() -> None:
    asked = ResourceLimits(max_memory_bytes=1 << 20, max_cpu_time_ms=5, max_fuel=100)
    assert DEFAULT.for_call(asked) == replace(
        DEFAULT, max_memory_bytes=1 << 20, max_cpu_time_ms=5, max_fuel=100
    )


@pytest.mark.parametrize("name", sorted(set(ASKED_NAMES) - UNLIMITED_AT_ZERO - {"max_concurrency"}))
def test_a_call_may_not_widen_its_tasks_limits(name: str) -> None:
    most = getattr(DEFAULT, name)
    with pytest.raises(InvalidRequest, match=f"{name} of {most + 1} is above the task's limit of {most}"):
        DEFAULT.for_call(ResourceLimits(**{name: most + 1}))


def test_a_call_may_not_have_a_concurrency_of_its_own() -> None:
    with pytest.raises(InvalidRequest, match="max_concurrency belongs to a task, not to a call"):
        DEFAULT.for_call(ResourceLimits(max_concurrency=1))


@given(limits, asked_limits)
def test_no_call_gets_more_than_its_task_has(task: Limits, asked: ResourceLimits) -> None:
    try:
        merged = task.for_call(asked)
    except InvalidRequest:
        return
    for name in NAMES:
        assert tightness(getattr(merged, name), name) <= tightness(getattr(task, name), name)
    assert merged.max_wall_time_ms == task.max_wall_time_ms
