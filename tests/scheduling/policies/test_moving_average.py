"""The average stays within what was counted, and follows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.scheduling.policies import MovingAverage

figures = st.floats(0, 1000)
shares = st.floats(0.01, 1)


def average(figures: list[float], share: float) -> float:
    moving = MovingAverage(share)
    for figure in figures:
        moving.add(figure)
    assert moving.value is not None
    return moving.value


def test_there_is_no_average_of_nothing() -> None:
    assert MovingAverage().value is None


def test_the_newest_figure_has_its_share() -> None:
    assert average([1.0, 2.0], 0.25) == 1.25
    assert average([1.0, 2.0, 2.0], 0.5) == 1.75


@given(st.lists(figures, min_size=1), shares)
def test_it_lies_between_the_least_and_the_most(figures: list[float], share: float) -> None:
    assert min(figures) - 1e-9 <= average(figures, share) <= max(figures) + 1e-9


@given(st.lists(figures), figures, shares)
def test_what_was_is_forgotten_in_the_end(past: list[float], now: float, share: float) -> None:
    assert average([*past, *[now] * 3000], share) == pytest.approx(now, abs=1e-6)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match="it must be above 0 and at most 1"):
        MovingAverage(share)
