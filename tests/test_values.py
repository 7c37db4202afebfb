"""Callers' values against the types of WebAssembly: nothing is lost without the caller being told."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.errors import InvalidRequest
from spear_wasm.model import Json, Parameter, ValueType
from spear_wasm.values import NUMERIC_TYPES, TYPE_NAMES, shown, to_bytes, to_number

I32, I64, F32, F64 = ValueType.I32, ValueType.I64, ValueType.F32, ValueType.F64
BITS = {I32: 32, I64: 64}
LARGEST_F32 = float.fromhex("0x1.fffffep127")

integer_types = st.sampled_from([I32, I64])
float_types = st.sampled_from([F32, F64])
json_values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def number(value: Json | bytes, wanted: ValueType, said: str = "") -> int | float:
    return to_number(Parameter(value, type=said), wanted, "parameter 1")


def refusal(value: Json | bytes, wanted: ValueType, said: str = "") -> str:
    with pytest.raises(InvalidRequest) as refused:
        number(value, wanted, said)
    return refused.value.message


def wrapped(value: int, bits: int) -> int:
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


# --- integers ---------------------------------------------------------------------------------------------


@given(integer_types, st.data())
def test_an_integer_is_taken_from_the_least_signed_to_the_greatest_unsigned(
    wanted: ValueType, data: st.DataObject
) -> None:
    bits = BITS[wanted]
    value = data.draw(st.integers(-(1 << (bits - 1)), (1 << bits) - 1))
    assert number(value, wanted) == wrapped(value, bits)


@given(integer_types, st.integers(), st.booleans())
def test_an_integer_beyond_that_is_refused(wanted: ValueType, distance: int, below: bool) -> None:
    bits = BITS[wanted]
    value = -(1 << (bits - 1)) - 1 - abs(distance) if below else (1 << bits) + abs(distance)
    message = refusal(value, wanted)
    assert message.startswith("parameter 1 is ")
    assert message.endswith(f"{wanted} takes -2^{bits - 1} to 2^{bits}-1")


@pytest.mark.parametrize(
    ("value", "wanted", "taken"),
    [
        (2**31 - 1, I32, 2**31 - 1),
        (2**31, I32, -(2**31)),
        (2**32 - 1, I32, -1),
        (-(2**31), I32, -(2**31)),
        (2**63, I64, -(2**63)),
        (2**64 - 1, I64, -1),
        ("+7", I32, 7),
        ("-0", I32, 0),
        ("4294967295", I32, -1),
        (3.0, I32, 3),
        (-0.0, I64, 0),
        (2.0**63, I64, -(2**63)),
    ],
)
def test_integers_at_the_edges(value: Json, wanted: ValueType, taken: int) -> None:
    result = number(value, wanted)
    assert result == taken
    assert type(result) is int


@given(integer_types, st.integers(-(2**31), 2**32 - 1))
def test_an_integer_may_come_as_text_or_as_a_float_without_a_fraction(wanted: ValueType, value: int) -> None:
    assert number(str(value), wanted) == number(float(value), wanted) == number(value, wanted)


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        "1.5",
        "",
        " 1",
        "1e3",
        "0x10",
        "1_000",
        "٣",
        "9" * 26,
        math.nan,
        math.inf,
        True,
        None,
        b"1",
        [1],
        {"n": 1},
    ],
)
@pytest.mark.parametrize("wanted", [I32, I64])
def test_what_is_no_integer_is_refused_and_shown(value: Json | bytes, wanted: ValueType) -> None:
    assert refusal(value, wanted) == f"parameter 1 must be an integer ({wanted}), not {shown(value)}"


# --- floats -----------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False))
def test_a_double_stays_what_it_is_as_a_number_and_as_text(value: float) -> None:
    assert number(value, F64) == number(repr(value), F64) == value


@given(st.integers(-(2**1023), 2**1023))
def test_an_integer_may_stand_for_a_double(value: int) -> None:
    assert number(value, F64) == float(value)


@given(st.floats(-LARGEST_F32, LARGEST_F32))
def test_rounding_to_a_float_is_fine(value: float) -> None:
    taken = number(value, F32)
    assert struct.pack("<f", taken) == struct.pack("<f", value)


@pytest.mark.parametrize("text", ["inf", "-Inf", "Infinity", "-infinity", "nan", "NaN"])
@pytest.mark.parametrize("wanted", [F32, F64])
def test_infinities_and_nan_have_names(text: str, wanted: ValueType) -> None:
    taken = number(text, wanted)
    assert math.isnan(taken) if text.lower() == "nan" else taken == float(text)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("wanted", [F32, F64])
def test_infinities_and_nan_are_numbers_too(value: float, wanted: ValueType) -> None:
    assert repr(number(value, wanted)) == repr(value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("1e400", F64),
        ("-1e400", F64),
        ("9" * 400, F64),
        (10**400, F64),
        (1e39, F32),
        ("1e39", F32),
        (-1e39, F32),
        (10**400, F32),
        (LARGEST_F32 * 1.0001, F32),
    ],
)
def test_a_number_that_is_too_large_is_refused_instead_of_becoming_infinite(
    value: Json, wanted: ValueType
) -> None:
    assert refusal(value, wanted).endswith(f"which is too large for {wanted}")


@pytest.mark.parametrize(
    "value",
    [
        "",
        " 1.0",
        "1,5",
        "one",
        "1_0",
        "0x1p3",
        "1e",
        ".",
        "--1",
        "infinite",
        "٣",
        True,
        None,
        b"1.0",
        [1.0],
        {},
    ],
)
@pytest.mark.parametrize("wanted", [F32, F64])
def test_what_is_no_number_is_refused_and_shown(value: Json | bytes, wanted: ValueType) -> None:
    assert refusal(value, wanted) == f"parameter 1 must be a number ({wanted}), not {shown(value)}"


# --- the caller's type ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", sorted(NUMERIC_TYPES))
def test_a_callers_type_must_be_the_parameters_own_where_it_is_a_number_type(wanted: ValueType) -> None:
    assert number(1, wanted, str(wanted)) == number(1, wanted, "json") == number("1", wanted, "string") == 1
    for other in sorted(NUMERIC_TYPES - {wanted}):
        assert refusal(1, wanted, other) == f"parameter 1 is an {wanted}, but is given as {other}"


@given(st.text().filter(lambda text: text not in TYPE_NAMES))
def test_a_type_that_the_contract_does_not_have_is_refused(said: str) -> None:
    assert "types are i32 i64 f32 f64 string bytes json" in refusal(1, I32, said)
    with pytest.raises(InvalidRequest, match="types are i32 i64 f32 f64 string bytes json"):
        to_bytes(Parameter("x", type=said), "the input")


@given(json_values | st.binary(), st.sampled_from(sorted(NUMERIC_TYPES)), st.sampled_from(sorted(TYPE_NAMES)))
def test_a_value_is_taken_or_refused_as_the_callers_mistake_and_nothing_else(
    value: Json | bytes, wanted: ValueType, said: str
) -> None:
    try:
        taken = number(value, wanted, said)
    except InvalidRequest:
        return
    struct.pack({I32: "<i", I64: "<q", F32: "<f", F64: "<d"}[wanted], taken)


# --- bytes ------------------------------------------------------------------------------------------------


@given(st.binary(), st.sampled_from(["", "bytes", "string", "json"]))
def test_bytes_stay_as_they_are(content: bytes, said: str) -> None:
    assert to_bytes(Parameter(content, type=said), "the input") == content


@given(st.text(), st.sampled_from(["", "bytes", "string"]))
def test_text_becomes_utf_8(text: str, said: str) -> None:
    assert to_bytes(Parameter(text, type=said), "the input") == text.encode()


@given(json_values)
def test_anything_else_becomes_json_and_text_too_where_the_caller_says_so(value: Json) -> None:
    assert msgspec.json.decode(to_bytes(Parameter(value, type="json"), "the input")) == value
    if not isinstance(value, str):
        assert msgspec.json.decode(to_bytes(Parameter(value), "the input")) == value


def test_json_is_compact() -> None:
    assert to_bytes(Parameter({"a": [1, 2.5, None]}), "the input") == b'{"a":[1,2.5,null]}'


@pytest.mark.parametrize("said", sorted(NUMERIC_TYPES))
def test_bytes_are_not_given_as_numbers(said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the input is bytes, but is given as {said}"):
        to_bytes(Parameter(1, type=said), "the input")


# --- messages ---------------------------------------------------------------------------------------------


@given(json_values | st.binary(max_size=100), st.integers(1, 80))
def test_what_is_shown_is_short_and_plain(value: Json | bytes, length: int) -> None:
    text = shown(value, length)
    assert len(text) <= length + 1
    assert text.removesuffix("…").isascii()
    assert text.removesuffix("…").isprintable()


def test_short_values_are_shown_whole_and_long_ones_are_cut() -> None:
    assert shown("it's\n") == '"it\'s\\n"'
    assert shown("é\u202e") == r"'\xe9\u202e'"
    assert shown("x" * 100) == "'" + "x" * 59 + "…"
