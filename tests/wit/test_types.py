"""Types in WIT text: what is written can be read, and is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.wit.parsing import parse_function, parse_type
from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    VariantType,
    WitFunction,
    WitType,
)

names = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*|[A-Z][A-Z0-9]*(-[a-z]+)*", fullmatch=True)
some_names = st.lists(names, min_size=1, max_size=4, unique=True).map(tuple)


def compounds(inner: st.SearchStrategy[WitType]) -> st.SearchStrategy[WitType]:
    maybe = st.none() | inner
    return st.one_of(
        inner.map(ListType),
        inner.map(OptionType),
        st.lists(inner, min_size=1, max_size=3).map(lambda types: TupleType(tuple(types))),
        st.lists(st.tuples(names, inner), min_size=1, max_size=3).map(
            lambda fields: RecordType(tuple(fields))
        ),
        st.lists(st.tuples(names, maybe), min_size=1, max_size=3).map(
            lambda cases: VariantType(tuple(cases))
        ),
        st.builds(ResultType, maybe, maybe),
    )


leaves: st.SearchStrategy[WitType] = st.one_of(
    st.sampled_from(Primitive),
    st.builds(EnumType, some_names),
    st.builds(FlagsType, some_names),
    st.builds(ResourceType, names, owned=st.booleans()),
)
types = st.recursive(leaves, compounds, max_leaves=8)


@given(types)
def test_a_type_reads_back_as_it_was_written(kind: WitType) -> None:
    assert parse_type(str(kind)) == kind


@given(st.builds(WitFunction, st.lists(st.tuples(names, types), max_size=3).map(tuple), st.none() | types))
def test_a_function_reads_back_as_it_was_written(function: WitFunction) -> None:
    assert parse_function(str(function)) == function


def test_spaces_are_free() -> None:
    dense = "func(a:list<u8>,b:variant{x(s32),y})->result<_,string>"
    assert str(parse_function(dense)) == "func(a: list<u8>, b: variant { x(s32), y }) -> result<_, string>"


@pytest.mark.parametrize(
    "text",
    ["", "func", "func(", "func(a)", "func(a: u9)", "func() ->", "func() -> u8 u8", "func(a: list<u8)", "func(a: list)",
     "func(1: u8)", "func(a: tuple<u8,>> )", "func() u8", "func(a: u8;)", "(a: u8)"],
)  # fmt: skip
def test_what_is_no_type_is_refused_with_the_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"no WIT type: unexpected .* after"):
        parse_function(text)
