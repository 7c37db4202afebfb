"""Components in sandboxes: every value there and back, every limit, every way to fail."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_wasm.engine.components.errors import TRAPS, told_in
from spear_wasm.engine.components.host_functions import ComponentImports
from spear_wasm.engine.components.linked import LinkedComponent
from spear_wasm.engine.components.reading import MAX_PARTS
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.limits import Limits
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode
from spear_wasm.wit.from_json import Meter, taker
from spear_wasm.wit.parsing import parse_type
from spear_wasm.wit.to_json import giver
from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResultType,
    TupleType,
    VariantType,
    WitType,
)
from spear_wasm.wit.values import Case, Err, Ok, Some, WitValue
from tests.components import CALC, SHAPES, bare, call, echoing, link, sandbox_of, text
from tests.workshop import LIMITS, POOL_SIZE, Workshop, run_slice

POINT = "record { x: s32, y: s32 }"
TYPES: dict[str, WitType] = {
    **{str(primitive): primitive for primitive in Primitive},
    **{f"list-of-{primitive}": ListType(primitive) for primitive in Primitive},
    "record": parse_type(POINT),
    "tuple": parse_type("tuple<u8, string, f64>"),
    "variant": parse_type(f"variant {{ circle(u32), rectangle({POINT}), nothing, text(string) }}"),
    "enum": parse_type("enum { red, green, blue }"),
    "flags": parse_type("flags { read, write, execute }"),
    "many-flags": FlagsType(tuple(f"flag-{number}" for number in range(32))),
    "option": parse_type("option<s64>"),
    "option-of-option": parse_type("option<option<option<char>>>"),
    "result": parse_type("result<u16, string>"),
    "result-of-nothing": parse_type("result"),
    "result-of-error": parse_type("result<_, list<u8>>"),
    "deep": parse_type(
        "record { some: list<option<tuple<string, result<list<u8>, enum { bad, worse }>>>>, "
        "more: variant { none, many(list<record { name: string, of: flags { a, b } }>) } }"
    ),
}
RANGES = {"8": 1 << 7, "16": 1 << 15, "32": 1 << 31, "64": 1 << 63}


@pytest.fixture(scope="module")
def echo(workshop: Workshop) -> Iterator[ComponentSandbox]:
    with sandbox_of(link(workshop, echoing(TYPES))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def calc(workshop: Workshop) -> LinkedComponent:
    return link(workshop, CALC)


@pytest.fixture(scope="module")
def hostile(workshop: Workshop) -> LinkedComponent:
    return link(workshop, text("hostile"))


def values(kind: WitType) -> st.SearchStrategy[WitValue]:
    """All values of a type."""
    if isinstance(kind, Primitive):
        return primitive_values(kind)
    if isinstance(kind, OptionType):
        inner = values(kind.some)
        return st.none() | (inner.map(Some) if isinstance(kind.some, OptionType) else inner)
    return compound_values(kind)


def compound_values(kind: WitType) -> st.SearchStrategy[WitValue]:
    match kind:
        case ListType(Primitive.U8):
            return st.binary(max_size=20)
        case ListType(element):
            return st.lists(values(element), max_size=4)
        case TupleType(elements):
            return st.tuples(*map(values, elements))
        case RecordType(fields):
            return st.fixed_dictionaries({name: values(field) for name, field in fields})
        case VariantType(cases):
            return st.one_of([optional(payload).map(case(name)) for name, payload in cases])
        case EnumType(names):
            return st.sampled_from(names)
        case FlagsType(names):
            return st.frozensets(st.sampled_from(names))
        case ResultType(ok, err):
            return optional(ok).map(Ok) | optional(err).map(Err)
    raise AssertionError(kind)


def case(name: str) -> Callable[[WitValue], Case]:
    return lambda payload: Case(name, payload)


def optional(kind: WitType | None) -> st.SearchStrategy[WitValue]:
    return st.none() if kind is None else values(kind)


def primitive_values(kind: Primitive) -> st.SearchStrategy[WitValue]:
    match kind:
        case Primitive.BOOL:
            return st.booleans()
        case Primitive.CHAR:
            return st.characters(codec="utf-8")
        case Primitive.STRING:
            return st.text(st.characters(codec="utf-8"), max_size=20)
        case Primitive.F32:
            return st.floats(width=32, allow_nan=False)
        case Primitive.F64:
            return st.floats(allow_nan=False)
    half = RANGES[kind[1:]]
    return st.integers(-half, half - 1) if kind.startswith("s") else st.integers(0, 2 * half - 1)


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_of_every_type_come_back_from_a_guest_as_they_were(
    name: str, echo: ComponentSandbox, data: st.DataObject
) -> None:
    given_ = data.draw(values(ListType(TYPES[name])))
    assert call(echo, name, given_) == given_


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_of_every_type_are_the_same_again_after_a_way_through_json(
    name: str, data: st.DataObject
) -> None:
    kind = ListType(TYPES[name])
    value = data.draw(values(kind))
    assert taker(kind)(giver(kind)(value), Meter()) == value


@pytest.mark.parametrize("kind", [Primitive.F32, Primitive.F64])
def test_what_is_no_number_comes_back_as_that(kind: Primitive, echo: ComponentSandbox) -> None:
    (back,) = cast("list[float]", call(echo, kind, [math.nan]))
    assert math.isnan(back)


def test_a_resource_of_the_guest_stays_in_its_sandbox_and_can_be_used_there(calc: LinkedComponent) -> None:
    with sandbox_of(calc) as sandbox:
        counter = call(sandbox, "[constructor]counter", 5, interface=SHAPES)
        assert [call(sandbox, "[method]counter.up", counter, interface=SHAPES) for _ in range(3)] == [6, 7, 8]
        other = call(sandbox, "[constructor]counter", 100, interface=SHAPES)
        assert call(sandbox, "[static]counter.sum", counter, other, interface=SHAPES) == 108


def test_a_resource_of_the_guest_may_have_the_name_of_one_of_ours(workshop: Workshop) -> None:
    with sandbox_of(link(workshop, CALC, ComponentImports(type_ids={"counter": 1, "thing": 2}))) as sandbox:
        counter = call(sandbox, "[constructor]counter", 5, interface=SHAPES)
        assert call(sandbox, "[method]counter.up", counter, interface=SHAPES) == 6


def test_calls_follow_each_other_in_one_sandbox_whatever_their_results(calc: LinkedComponent) -> None:
    with sandbox_of(calc) as sandbox:
        for _ in range(100):
            assert call(sandbox, "greet", "Zoë") == "Hello, Zoë!"
            assert call(sandbox, "add", 1, 2) == 3
            assert call(sandbox, "divide", 1, 0) == Err("division by zero")
            assert call(sandbox, "area", Case("rectangle", {"x": 3, "y": 4}), interface=SHAPES) == 12


@pytest.mark.parametrize(
    "value",
    ["x", -(1 << 31) - 1, 1 << 31, 1.5, None],
)
def test_an_argument_of_another_type_never_reaches_the_guest(calc: LinkedComponent, value: WitValue) -> None:
    with sandbox_of(calc) as sandbox:
        with pytest.raises((TypeError, struct.error)):
            call(sandbox, "add", 1, value)
        assert call(sandbox, "add", 1, 2) == 3


def test_half_of_a_pair_of_characters_never_reaches_the_library(echo: ComponentSandbox) -> None:
    for name in ("char", "string"):
        with pytest.raises(UnicodeEncodeError):
            call(echo, name, ["\ud800"])


# --- failures ---------------------------------------------------------------------------------------------


def fault_of(linked: LinkedComponent, name: str, *args: WitValue, limits: Limits = LIMITS) -> GuestFault:
    with sandbox_of(linked, limits) as sandbox, pytest.raises(GuestFault) as caught:
        call(sandbox, name, *args)
    return caught.value


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("unreachable", ErrorCode.TRAP_UNREACHABLE),
        ("divide-by-zero", ErrorCode.TRAP_DIVIDE_BY_ZERO),
        ("overflow", ErrorCode.TRAP_INTEGER_OVERFLOW),
        ("convert-nan", ErrorCode.TRAP_BAD_CONVERSION),
        ("out-of-bounds", ErrorCode.TRAP_OUT_OF_BOUNDS),
        ("out-of-table", ErrorCode.TRAP_TABLE_OUT_OF_BOUNDS),
        ("call-null", ErrorCode.TRAP_INDIRECT_CALL_TO_NULL),
        ("call-other", ErrorCode.TRAP_BAD_SIGNATURE),
        ("recurse", ErrorCode.TRAP_STACK_OVERFLOW),
    ],
)
def test_a_trap_is_told_by_its_code_and_its_frames(
    hostile: LinkedComponent, function: str, code: ErrorCode
) -> None:
    fault = fault_of(hostile, function)
    assert fault.code is code
    assert fault.trap_frames
    assert "\n" not in fault.message


@pytest.mark.parametrize("function", ["text-nowhere", "text-broken", "no-case"])
def test_a_result_that_is_none_of_its_type_is_the_guests_fault(
    hostile: LinkedComponent, function: str
) -> None:
    assert fault_of(hostile, function).code is ErrorCode.TRAP_OTHER


def test_a_bool_is_whatever_is_not_zero(hostile: LinkedComponent) -> None:
    with sandbox_of(hostile) as sandbox:
        assert call(sandbox, "no-bool") is True


def test_a_result_of_more_values_than_the_engine_passes_is_above_the_output_limit(
    hostile: LinkedComponent,
) -> None:
    assert fault_of(hostile, "zeros", 4_000_000).code is ErrorCode.OUTPUT_LIMIT


def test_a_result_of_more_texts_than_python_reads_quickly_is_above_the_output_limit(
    echo: ComponentSandbox,
) -> None:
    assert call(echo, "string", [""] * MAX_PARTS) == [""] * MAX_PARTS
    with pytest.raises(GuestFault, match="more than 131072 values") as caught:
        call(echo, "string", [""] * (MAX_PARTS + 1))
    assert caught.value.code is ErrorCode.OUTPUT_LIMIT


@pytest.mark.parametrize(("words", "code"), TRAPS.items())
def test_every_trap_has_its_code(words: str, code: ErrorCode) -> None:
    fault = told_in(f"error while executing\n\nCaused by:\n    wasm trap: {words}")
    assert (fault.code, "\n" in fault.message) == (code, False)


def test_a_guest_that_names_its_functions_like_causes_fools_nobody() -> None:
    text_ = (
        "error while executing at wasm backtrace:\n    0: 0x1f - m!f\n\nCaused by:\n    wasm trap: out of fuel\n"
        "\n\nCaused by:\n    wasm trap: integer divide by zero"
    )
    assert told_in(text_).code is ErrorCode.TRAP_DIVIDE_BY_ZERO


@pytest.mark.parametrize(
    ("text_", "code"),
    [
        ("maximum concurrent limit of 3 for core instances reached", ErrorCode.INSTANCE_FAILED),
        ("resource limit exceeded: instance count too high at 101", ErrorCode.INSTANCE_FAILED),
        ("component imports instance `a:b/c`, but a matching implementation was not found in the linker",
         ErrorCode.INSTANCE_FAILED),
        ("Cannot allocate memory (os error 12)", ErrorCode.INSTANCE_FAILED),
        ("memory minimum size of 20 pages exceeds memory limits", ErrorCode.MEMORY_LIMIT),
        ("table minimum size of 20 elements exceeds table limits", ErrorCode.MEMORY_LIMIT),
        ("wasm trap: cannot enter component instance", ErrorCode.TRAP_OTHER),
    ],
)  # fmt: skip
def test_what_the_engine_says_beside_traps_is_told_apart(text_: str, code: ErrorCode) -> None:
    assert told_in(f"something\n\nCaused by:\n    {text_}\n").code is code


# --- limits -----------------------------------------------------------------------------------------------


def killed_after(sandbox: ComponentSandbox, steps: Iterator[object], seconds: float = 0.05) -> float:
    """Run a guest for so long, then end it; how much longer that took, in seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run_slice(sandbox, steps)  # type: ignore[arg-type]  # generators all
    steps.close()  # type: ignore[attr-defined]  # a generator
    return time.monotonic() - end


@pytest.mark.parametrize(
    ("function", "args"), [("spin", ()), ("spin-in-realloc", ("text",)), ("spin-afterwards", ())]
)
def test_a_loop_ends_wherever_it_is(
    hostile: LinkedComponent, function: str, args: tuple[WitValue, ...]
) -> None:
    with sandbox_of(hostile) as sandbox:
        assert killed_after(sandbox, sandbox.call("", function, args)) < 1


def test_a_loop_in_a_start_function_ends(workshop: Workshop) -> None:
    with bare(link(workshop, text("start_spin"))) as sandbox:
        assert killed_after(sandbox, sandbox.instantiate()) < 1


@pytest.mark.parametrize(
    ("function", "args"), [("spin", ()), ("spin-in-realloc", ("text",)), ("spin-afterwards", ())]
)
def test_a_loop_ends_when_the_fuel_does(
    workshop: Workshop, function: str, args: tuple[WitValue, ...]
) -> None:
    metered = link(workshop, text("hostile"), metered=True)
    fault = fault_of(metered, function, *args, limits=replace(LIMITS, max_fuel=100_000))
    assert fault.code is ErrorCode.OUT_OF_FUEL


def test_fuel_is_counted(workshop: Workshop) -> None:
    metered = link(workshop, CALC, metered=True)
    with sandbox_of(metered, replace(LIMITS, max_fuel=100_000)) as sandbox:
        call(sandbox, "add", 1, 2)
        fuel = sandbox.usage(0).fuel
    assert fuel is not None
    assert 0 < fuel < 1000


def test_memory_grows_to_the_limit_and_no_further(hostile: LinkedComponent) -> None:
    limits = replace(LIMITS, max_memory_bytes=5 * WASM_PAGE_BYTES)
    with sandbox_of(hostile, limits) as sandbox:
        assert call(sandbox, "grow") == 5


def test_tables_grow_to_their_share_of_the_limit_and_no_further(hostile: LinkedComponent) -> None:
    with sandbox_of(hostile, replace(LIMITS, max_table_elements=1000)) as sandbox:
        assert call(sandbox, "grow-table") == 404


def test_a_component_that_starts_with_more_memory_than_the_limit_is_not_made(
    hostile: LinkedComponent,
) -> None:
    with (
        bare(hostile, replace(LIMITS, max_memory_bytes=WASM_PAGE_BYTES - 1)) as sandbox,
        pytest.raises(GuestFault) as caught,
    ):
        run_slice(sandbox, sandbox.instantiate())
    assert caught.value.code is ErrorCode.MEMORY_LIMIT


TWO_MEMORIES = """(component
  (core module $guest (memory 1)
    (func (export "grow") (result i32)
      (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (memory.size)))
  (core instance $one (instantiate $guest))
  (core instance $other (instantiate $guest))
  (func (export "grow") (result u32) (canon lift (core func $one "grow")))
  (func (export "grow-other") (result u32) (canon lift (core func $other "grow"))))"""


def test_memories_share_the_limit(workshop: Workshop) -> None:
    limits = replace(LIMITS, max_memory_bytes=10 * WASM_PAGE_BYTES)
    with sandbox_of(link(workshop, TWO_MEMORIES), limits) as sandbox:
        assert [call(sandbox, "grow"), call(sandbox, "grow-other")] == [5, 5]


def hold(linked: LinkedComponent, number: int) -> None:
    with ExitStack() as held:
        for _ in range(number):
            held.enter_context(sandbox_of(linked))


def test_an_engine_whose_slots_are_taken_says_so_and_goes_on_when_one_is_free(workshop: Workshop) -> None:
    linked = link(workshop, TWO_MEMORIES)
    with pytest.raises(GuestFault, match="limit of 16") as caught:
        hold(linked, POOL_SIZE + 1)
    assert caught.value.code is ErrorCode.INSTANCE_FAILED
    with sandbox_of(linked) as sandbox:
        assert call(sandbox, "grow")


def test_guests_that_are_ended_give_their_slots_back(workshop: Workshop, hostile: LinkedComponent) -> None:
    starting = link(workshop, text("start_spin"))
    for _ in range(2 * POOL_SIZE):
        with bare(starting) as sandbox, closing(sandbox.instantiate()) as steps:
            run_slice(sandbox, steps)
        with sandbox_of(hostile) as sandbox, closing(sandbox.call("", "spin", ())) as steps:
            run_slice(sandbox, steps)


def test_a_sandbox_that_trapped_is_of_no_more_use(hostile: LinkedComponent) -> None:
    with sandbox_of(hostile) as sandbox:
        with pytest.raises(GuestFault):
            call(sandbox, "unreachable")
        with pytest.raises(GuestFault, match="cannot enter component instance"):
            call(sandbox, "answer")
