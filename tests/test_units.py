"""Sizes and durations: what people write is read, what we write for people can be read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("512b", 512),
        ("64KiB", 64 << 10),
        ("64k", 64 << 10),
        ("64kB", 64_000),
        ("1 MiB", 1 << 20),
        ("  2m\n", 2 << 20),
        ("1.5GiB", 3 << 29),
        ("1.5G", 3 << 29),
        ("2TB", 2 * 10**12),
        ("0.5", 0),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1.", ".5k", "1e3", "1_000", "1 2", "12 parsecs", "1kk", "inf"]
)
def test_what_is_no_size_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write 512, 64KiB, 1\.5GiB") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("0.25", 0.25),
        ("2s", 2.0),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("1m", 60.0),
        ("1h30m", 5400.0),
        ("1d2h3m4s5ms", 86400 + 7200 + 180 + 4.005),
        ("1.5h", 5400.0),
        (" 3s ", 3.0),
    ],
)
def test_a_duration_is_read_with_its_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1h 30m", "1x", "1s!", "1e3", "nan", "inf", "1.s"])
def test_what_is_no_duration_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 250ms, 2s, 1h30m") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (64 << 10, "64 KiB"),
        (3 << 29, "1.5 GiB"),
        ((1 << 20) - 1, "1.0 MiB"),  # not 1024.0 KiB
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_suits_it(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (0.00085, "850 us"),
        (0.0009999, "1.0 ms"),  # not 1000 us
        (0.0123, "12.3 ms"),
        (0.99999, "1.0 s"),
        (4.2, "4.2 s"),
        (119.99, "1m 59s"),  # not 120.0 s
        (150.0, "2m 30s"),
        (3720.0, "1h 02m"),
        (90_000.0, "25h 00m"),
    ],
)
def test_a_duration_is_shown_in_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 1 << 54))
def test_a_size_that_we_show_is_read_back_as_nearly_the_same(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.06)


@given(st.floats(0, 400 * 86400))
def test_a_duration_that_we_show_is_read_back_as_nearly_the_same(seconds: float) -> None:
    read = parse_duration(format_duration(seconds).replace(" ", ""))
    assert math.isclose(read, seconds, rel_tol=0.06, abs_tol=1e-6)


@given(st.integers(0, 10**12), st.sampled_from(["", "b", "k", "KiB", "m", "MB", "g", "GiB"]))
def test_sizes_add_up_whatever_their_unit(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count * parse_size(f"1{unit}")


@given(st.text())
def test_any_other_text_is_refused_with_a_value_error_and_nothing_else(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            number = parse(text)
        except ValueError:
            continue
        assert number >= 0
