"""Callers' values against WIT types: what fits, and what is said of what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.wit.from_json import Meter, Misfit, from_text, taker
from spear_wasm.wit.parsing import parse_type
from spear_wasm.wit.to_json import giver
from spear_wasm.wit.values import Case, Err, Ok, Some

POINT = "record { x: s32, y: option<s32> }"
SHAPE = "variant { circle(u32), nothing }"


def taken(kind: str, value: Any) -> Any:
    return taker(parse_type(kind))(value, Meter())


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        ("bool", True, True),
        ("u8", 255, 255), ("u8", 255.0, 255), ("u8", "255", 255), ("s8", -128, -128),
        ("u64", 2**64 - 1, 2**64 - 1), ("u64", str(2**64 - 1), 2**64 - 1), ("s64", str(-(2**63)), -(2**63)),
        ("f32", 1, 1.0), ("f64", "1.5", 1.5), ("f64", "-Infinity", -math.inf), ("f32", "Infinity", math.inf),
        ("f64", 2**70, float(2**70)),
        ("char", "ß", "ß"), ("string", "", ""),
        ("list<u8>", "aGk=", b"hi"), ("list<u8>", [104, 105], b"hi"), ("list<u8>", b"hi", b"hi"),
        ("list<s32>", [1, "2"], [1, 2]), ("tuple<u8, string>", [1, "a"], (1, "a")),
        (POINT, {"x": 1}, {"x": 1, "y": None}), (POINT, {"y": 2, "x": 1}, {"x": 1, "y": 2}),
        (SHAPE, "nothing", Case("nothing")), (SHAPE, {"circle": 3}, Case("circle", 3)),
        (SHAPE, {"nothing": None}, Case("nothing")),
        ("enum { red, green }", "red", "red"),
        ("flags { read, write }", ["write", "write"], frozenset({"write"})), ("flags { read }", [], frozenset()),
        ("option<u8>", None, None), ("option<u8>", 3, 3),
        ("option<option<u8>>", None, None), ("option<option<u8>>", {"some": None}, Some(None)),
        ("option<option<u8>>", {"some": 3}, Some(3)),
        ("result<u8, string>", {"ok": 3}, Ok(3)), ("result<u8, string>", {"err": "no"}, Err("no")),
        ("result", "ok", Ok()), ("result", {"err": None}, Err()),
    ],
)  # fmt: skip
def test_what_fits_is_taken(kind: str, value: Any, result: Any) -> None:
    assert taken(kind, value) == result


@pytest.mark.parametrize(
    ("kind", "value", "place", "problem"),
    [
        ("bool", 1, "", "must be true or false, not 1"),
        ("u8", 256, "", "is 256; u8 takes 0 to 255"), ("u8", -1, "", "is -1; u8 takes 0 to 255"),
        ("s8", 128, "", "s8 takes -128 to 127"), ("u16", True, "", "must be a whole number (u16), not True"),
        ("u32", 1.5, "", "must be a whole number (u32), not 1.5"), ("u64", 2**64, "", "u64 takes 0 to"),
        ("s64", "1e3", "", "must be a whole number"), ("u8", None, "", "must be a whole number"),
        ("f32", 1e39, "", "too large for f32"), ("f64", "x", "", "must be a number"), ("f64", True, "", "must be"),
        ("f64", 10**400, "", "too large for f64"),
        ("char", "ab", "", "must be a text of one character"), ("char", "\ud800", "", "half of a pair"),
        ("string", 3, "", "must be a text, not 3"), ("string", "\ud800", "", "half of a pair"),
        ("list<u8>", "x", "", "must be base64"), ("list<u8>", [1, 256], "[1]", "u8 takes 0 to 255"),
        ("list<u8>", 3, "", "must be bytes"),
        ("list<s32>", {}, "", "must be a list"), ("list<list<s32>>", [[], [1, 2, "x"]], "[1][2]", "whole number"),
        ("tuple<u8, u8>", [1], "", "must be a list of 2 (tuple)"), ("tuple<u8, u8>", [1, "x"], "[1]", "whole number"),
        (POINT, {}, "", "the field x is missing"), (POINT, {"x": 1, "z": 2}, "", "no field 'z'; there are x, y"),
        (POINT, {"x": "a"}, ".x", "whole number"), (POINT, [], "", "must be an object with x, y"),
        (f"list<{POINT}>", [{"x": 1}, {"x": None}], "[1].x", "whole number"),
        (SHAPE, "square", "", "there is no case 'square'; there are circle, nothing"),
        (SHAPE, "circle", "", 'the case circle has a value: {"circle": …}'), (SHAPE, {"circle": ""}, ".circle", ""),
        (SHAPE, {"nothing": 1}, "", "the case nothing has no value"), (SHAPE, {}, "", "the name of a case"),
        (SHAPE, {"circle": 1, "nothing": None}, "", "the name of a case"),
        ("enum { red }", "blue", "", "must be one of red, not 'blue'"), ("enum { red }", ["red"], "", "must be one of"),
        ("flags { read }", "read", "", "must be a list of some of read"), ("flags { read }", ["x"], "[0]", "one of"),
        ("option<u8>", "x", "", "whole number"), ("option<option<u8>>", 3, "", 'null or {"some": …}'),
        ("option<option<u8>>", {"some": "x"}, ".some", "whole number"),
        ("result<u8, string>", {"ok": "x"}, ".ok", "whole number"), ("result<u8, string>", 3, "", "the name of a case"),
        ("borrow<thing>", 3, "", "is a handle (borrow<thing>), which nobody outside of the sandbox can have"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_place(kind: str, value: Any, place: str, problem: str) -> None:
    with pytest.raises(Misfit) as caught:
        taken(kind, value)
    assert problem in caught.value.problem
    assert caught.value.place == place


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "ok", "circle", "some"]), inner)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "kind",
    ["bool", "s64", "f32", "char", "list<u8>", "tuple<u8, u8>", POINT, SHAPE, "flags { x }", "option<option<u8>>",
     "result<u8>", f"list<result<{POINT}, {SHAPE}>>"],
)  # fmt: skip
@given(value=json_values)
def test_whatever_comes_is_taken_or_a_misfit_and_nothing_else(kind: str, value: Any) -> None:
    try:
        result = taken(kind, value)
    except Misfit as misfit:
        assert misfit.problem  # noqa: PT017  it is that, or nothing is raised
    else:
        assert taken(kind, giver(parse_type(kind))(result)) == result or result != result  # noqa: PLR0124  NaN


def test_what_values_take_is_counted() -> None:
    meter = Meter()
    taker(parse_type("list<tuple<u32, string>>"))([[1, "four"], [2, "five!"]], meter)
    assert (meter.parts, meter.numbers, meter.bytes) == (2 * 3, 0, 2 * 12 + 9)
    taker(parse_type("list<u8>"))("aGk=", meter)
    taker(parse_type("list<u64>"))([1, 2, 3], meter)
    assert (meter.parts, meter.numbers, meter.bytes) == (6, 5, 33 + 2 + 24)
    taker(parse_type("list<bool>"))([True, False], meter)
    assert (meter.parts, meter.numbers) == (6 + 2, 5)


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [("string", "[1]", "[1]"), ("u8", "12", "12"), ("list<u8>", "hi", b"hi"), ("enum { a }", "a", "a"),
     ("bool", "true", True), ("list<u8>", "", b""), ("list<u16>", "[1,2]", [1, 2]), (POINT, '{"x":1}', {"x": 1}),
     (SHAPE, "nothing", "nothing"), (SHAPE, '{"circle":1}', {"circle": 1}), ("option<string>", "a", "a"),
     ("option<bool>", "null", None), ("list<u16>", "no json", "no json")],
)  # fmt: skip
def test_text_is_what_the_type_makes_of_it(kind: str, text: str, meant: Any) -> None:
    assert from_text(parse_type(kind), text) == meant


@pytest.mark.parametrize(
    ("kind", "value", "given_"),
    [("u64", 2**53, 2**53), ("u64", 2**53 + 1, str(2**53 + 1)), ("s64", -(2**60), str(-(2**60))),
     ("f64", math.nan, "NaN"), ("f32", -math.inf, "-Infinity"), ("flags { b, a }", frozenset({"a", "b"}), ["b", "a"]),
     (SHAPE, Case("nothing"), "nothing"), ("result", Ok(), {"ok": None}), ("list<u8>", b"hi", "aGk=")],
)  # fmt: skip
def test_what_leaves_is_exact_as_json(kind: str, value: Any, given_: Any) -> None:
    assert giver(parse_type(kind))(value) == given_
