"""The component runtime: which functions there are, by which names, and what they are given."""

from __future__ import annotations

from typing import Any, cast

import pytest

from runtimes.component.host import RUNTIME
from spear_wasm.component_functions import MAX_NUMBERS, ComponentFunctionCall, bind
from spear_wasm.engine.components.linked import LinkedComponent
from spear_wasm.engine.components.reading import MAX_PARTS
from spear_wasm.engine.outcome import GuestError, GuestFault
from spear_wasm.errors import InvalidRequest, UnlinkableArtifact
from spear_wasm.model import (
    ComponentFunctionInfo,
    ComponentInfo,
    ErrorCode,
    ExecutionStatus,
    Parameter,
    TypedValue,
    ValueType,
)
from tests.components import CALC, SHAPES, link, sandbox_of
from tests.workshop import LIMITS, Workshop, run_to_end


@pytest.fixture(scope="module")
def calc(workshop: Workshop) -> LinkedComponent:
    return link(workshop, CALC)


def info(name: str, type_: str, interface: str = "") -> ComponentFunctionInfo:
    return ComponentFunctionInfo(interface, name, type_)


def bound(linked: LinkedComponent, name: str) -> Any:
    function = RUNTIME.bind(linked.module, name, None)
    assert function is not None
    return function


def run(linked: LinkedComponent, name: str, *values: Any, **named: Any) -> tuple[TypedValue, ...]:
    """Call a function with values by position, or by name."""
    function = bound(linked, name)
    parameters = [Parameter(value) for value in values]
    parameters += [Parameter(value, name) for name, value in named.items()]
    arguments = function.arguments(parameters, LIMITS, {})
    with sandbox_of(linked) as sandbox:
        return cast("tuple[TypedValue, ...]", run_to_end(sandbox, function.steps(sandbox, arguments)))


def refusal(linked: LinkedComponent, name: str, *values: Any, **named: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        run(linked, name, *values, **named)
    return caught.value


def test_functions_are_presented_with_their_wit_types(calc: LinkedComponent) -> None:
    signatures = {each.name: each for each in RUNTIME.signatures(calc.module)}
    assert {"add", "divide", "greet", f"{SHAPES}#area", f"{SHAPES}#counter.up"} <= signatures.keys()
    find = signatures["find"]
    assert [(field.name, field.type) for field in find.params] == [
        ("texts", "list<string>"),
        ("wanted", "string"),
    ]
    assert [field.type for field in find.results] == ["option<u32>"]
    up = signatures[f"{SHAPES}#counter.up"]
    assert [field.type for field in up.params] == ["counter as record { start: u32 }"]


@pytest.mark.parametrize(
    ("function", "values", "result"),
    [
        ("add", (1, "-2"), (ValueType.I32, -1)),
        ("total", ([1, 2, 3],), (ValueType.I64, 6)),
        ("greet", ("Zoë",), (ValueType.STRING, "Hello, Zoë!".encode())),
        ("divide", (7, 2), (ValueType.I32, 3)),
        ("find", (["a", "b"], "b"), (ValueType.JSON, b"1")),
        ("find", ('["a", "b"]', "c"), (ValueType.JSON, b"null")),
        ("reversed", (b"\1\2\3",), (ValueType.BYTES, b"\3\2\1")),
        ("reversed", ("abc",), (ValueType.BYTES, b"cba")),
        (f"{SHAPES}#area", ({"rectangle": {"x": 3, "y": 4}},), (ValueType.U32, 12)),
        ("lab:calc/shapes#area", ("nothing",), (ValueType.U32, 0)),
        ("lab:calc/shapes#move-by", ({"x": 1, "y": 2}, {"x": 3, "y": 4}), (ValueType.JSON, b'{"x":4,"y":6}')),
        ("lab:calc/shapes#paint", ("green", ["write"]), (ValueType.JSON, b'["green",["write"]]')),
    ],
)
def test_a_call_answers_with_a_value_of_its_type(
    calc: LinkedComponent, function: str, values: tuple[Any, ...], result: tuple[ValueType, Any]
) -> None:
    assert run(calc, function, *values) == (TypedValue(*result),)


def test_parameters_go_by_name_in_any_order(calc: LinkedComponent) -> None:
    assert run(calc, "find", wanted="b", texts=["a", "b"]) == (TypedValue(ValueType.JSON, b"1"),)


@pytest.mark.parametrize("named", [{"texts": []}, {"texts": [], "wanted": "", "more": 1}, {"what": ""}])
def test_names_that_are_missing_or_unknown_are_the_callers_mistake(
    calc: LinkedComponent, named: dict[str, Any]
) -> None:
    assert "find has the parameters" in refusal(calc, "find", **named).message


def test_parameters_too_few_or_too_many_are_the_callers_mistake(calc: LinkedComponent) -> None:
    for values in ((), (1,), (1, 2, 3)):
        assert "add takes 2 parameters" in refusal(calc, "add", *values).message


def test_an_option_may_be_left_out_where_parameters_have_names() -> None:
    component = ComponentInfo((info("f", "func(a: u8, b: option<u8>)"),))
    function = bind(component, "f")
    assert function is not None
    assert function.arguments([Parameter(1, "a")], LIMITS, {}) == [1, None]


def test_a_call_without_parameters_leaves_all_of_them_out_where_all_are_options() -> None:
    component = ComponentInfo((info("f", "func(a: option<u8>, b: option<u8>)"),))
    function = bind(component, "f")
    assert function is not None
    assert function.arguments([], LIMITS, {}) == [None, None]
    with pytest.raises(InvalidRequest, match="f takes 2 parameters"):
        function.arguments([Parameter(1)], LIMITS, {})


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        ("find", (["a", "b", "c", 3], "b"), "find.texts[3]: must be a text, not 3"),
        ("add", (1, 2**31), "add.b: is 2147483648; s32 takes -2147483648 to 2147483647"),
        ("lab:calc/shapes#move-by", ({"x": 1}, {}), "move-by.point: the field y is missing"),
        (
            "lab:calc/shapes#area",
            ({"rectangle": {"x": "?", "y": 1}},),
            "area.of.rectangle.x: must be a whole number",
        ),
        ("lab:calc/shapes#counter.up", ({"start": -1},), "counter.up.self.start: is -1; u32 takes"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_place_before_a_sandbox_is_spent(
    calc: LinkedComponent, function: str, values: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bound(calc, function).arguments([Parameter(value) for value in values], LIMITS, {})
    assert message in caught.value.message


def test_input_above_its_limit_is_the_callers_mistake(calc: LinkedComponent) -> None:
    too_long = "x" * (LIMITS.max_input_bytes + 1)
    assert refusal(calc, "greet", too_long).metadata["limit"] == "max_input_bytes"
    too_many = [0] * (LIMITS.max_input_bytes // 4 + 1)
    assert refusal(calc, "total", too_many).metadata["limit"] == "max_input_bytes"


def test_more_values_than_the_engine_moves_quickly_are_the_callers_mistake(calc: LinkedComponent) -> None:
    too_many = refusal(calc, "reversed", bytes(MAX_NUMBERS + 1)).message
    assert f"have {MAX_NUMBERS + 1} numbers and bytes in lists; a component takes {MAX_NUMBERS}" in too_many
    assert run(calc, "reversed", bytes(MAX_NUMBERS))
    too_many = refusal(calc, "find", [""] * (MAX_PARTS + 1), "").message
    assert f"have {MAX_PARTS + 1} other values in lists; a component takes {MAX_PARTS}" in too_many
    assert run(calc, "find", ["", *["x"] * (MAX_PARTS - 1)], "")


def test_an_error_of_the_guest_has_its_value(calc: LinkedComponent) -> None:
    with pytest.raises(GuestError) as caught:
        run(calc, "divide", 1, 0)
    outcome = caught.value.outcome()
    assert (outcome.status, outcome.error_code) == (ExecutionStatus.FAILED, ErrorCode.GUEST_ERROR)
    assert outcome.error_message == "division by zero"
    assert outcome.values == (TypedValue(ValueType.STRING, b"division by zero"),)


ERRORS = """(component
  (core module $guest
    (func (export "number") (result i32)
      (i32.store (i32.const 16) (i32.const 1))
      (i32.store (i32.const 20) (i32.const 3))
      (i32.const 16))
    (func (export "nothing") (result i32) (i32.const 1))
    (memory (export "memory") 1))
  (core instance $i (instantiate $guest))
  (func (export "number") (result (result u8 (error u32)))
    (canon lift (core func $i "number") (memory (core memory $i "memory"))))
  (func (export "nothing") (result (result)) (canon lift (core func $i "nothing"))))"""


def test_an_error_says_what_there_is_to_say(workshop: Workshop) -> None:
    errors = link(workshop, ERRORS)
    with pytest.raises(GuestError, match="the function returned the error 3") as caught:
        run(errors, "number")
    assert caught.value.values == (TypedValue(ValueType.U32, 3),)
    with pytest.raises(GuestError, match="an error without a value") as caught:
        run(errors, "nothing")
    assert caught.value.values == ()


def test_a_result_above_its_limit_is_the_guests_fault(calc: LinkedComponent) -> None:
    with pytest.raises(GuestFault) as caught:
        run(calc, "zeros", 4 << 20 | 1)
    assert caught.value.code is ErrorCode.OUTPUT_LIMIT


# --- resources --------------------------------------------------------------------------------------------


def test_a_method_is_called_with_what_its_resource_is_made_from(calc: LinkedComponent) -> None:
    assert run(calc, "lab:calc/shapes#counter.up", {"start": 5}) == (TypedValue(ValueType.U32, 6),)
    both = run(calc, f"{SHAPES}#[static]counter.sum", one={"start": 5}, other={"start": 6})
    assert both == (TypedValue(ValueType.U32, 11),)


@pytest.mark.parametrize("name", ["[constructor]counter", "counter", "counter.same"])
def test_a_function_that_returns_a_resource_cannot_be_called_and_says_why(
    calc: LinkedComponent, name: str
) -> None:
    message = refusal(calc, f"{SHAPES}#{name}").message
    assert "it returns a handle (own<counter>), which cannot leave its sandbox" in message
    assert f"{SHAPES}#{name}" not in {each.name for each in RUNTIME.signatures(calc.module)}


def test_a_resource_without_a_constructor_cannot_be_given() -> None:
    component = ComponentInfo((info("[method]thing.use", "func(self: borrow<thing>)", "a:b/c"),))
    with pytest.raises(InvalidRequest, match="self is a thing, which has no constructor"):
        bind(component, "a:b/c#thing.use")


def test_a_resource_within_another_value_cannot_be_given() -> None:
    component = ComponentInfo((info("use", "func(things: list<own<thing>>)", "a:b/c"),))
    with pytest.raises(InvalidRequest, match="has a handle"):
        bind(component, "a:b/c#use")


# --- names ------------------------------------------------------------------------------------------------


def test_a_version_may_be_left_out_where_there_is_one() -> None:
    one = ComponentInfo((info("f", "func()", "a:b/c@1.0.0"), info("f", "func()")))
    for name in ("a:b/c@1.0.0#f", "a:b/c#f", "f"):
        assert isinstance(bind(one, name), ComponentFunctionCall)
    two = ComponentInfo((info("f", "func()", "a:b/c@1.0.0"), info("f", "func()", "a:b/c@2.0.0")))
    with pytest.raises(InvalidRequest, match=r"say 'a:b/c@1.0.0#f' or 'a:b/c@2.0.0#f'"):
        bind(two, "a:b/c#f")


def test_there_is_no_function_of_another_name(calc: LinkedComponent) -> None:
    for name in ("", "area", "shapes#area", f"{SHAPES}#", f"{SHAPES}#cabi_realloc"):
        assert RUNTIME.bind(calc.module, name, None) is None


def test_what_componentize_py_exports_for_itself_is_not_offered() -> None:
    component = ComponentInfo((info("init", "func(app-name: string)", "exports"),))
    assert bind(component, "exports#init") is None


# --- at the door ------------------------------------------------------------------------------------------


def test_a_component_whose_imports_nobody_provides_is_refused(workshop: Workshop) -> None:
    _, module = workshop.compiled('(component (import "a:b/c@1.0.0" (instance (export "f" (func)))))')
    assert not RUNTIME.recognises(module)
    with pytest.raises(UnlinkableArtifact, match=r"'a:b/c@1.0.0'#'f' 'func\(\)'"):
        RUNTIME.host_functions(module)


def test_an_environment_is_refused(calc: LinkedComponent) -> None:
    with pytest.raises(InvalidRequest, match="environment"):
        bound(calc, "add").arguments([Parameter(1), Parameter(2)], LIMITS, {"A": "1"})
