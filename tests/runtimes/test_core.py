"""The core runtime: what is callable, with what, what comes back, and whose fault it is when nothing does."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.core.host import RUNTIME
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import Sandbox
from spear_wasm.errors import InvalidRequest, UnlinkableArtifact
from spear_wasm.limits import Limits
from spear_wasm.model import (
    ErrorCode,
    Field,
    Json,
    Parameter,
    Signature,
    TypedValue,
    Usage,
    ValueType,
)
from spear_wasm.runtime import CallableFunction
from tests.workshop import LIMITS, Workshop, bare_sandbox, run_slice, run_to_end

I32, I64, F32, F64, BYTES = (ValueType(name) for name in ("i32", "i64", "f32", "f64", "bytes"))
ECHO_OF = {I32: "echo_i32", I64: "echo_i64", F32: "echo_f32", F64: "echo_f64"}
FLOAT32 = struct.Struct("<f")


class Guest:
    """A module as the core runtime sees it. Each call has a sandbox of its own."""

    def __init__(self, workshop: Workshop, source: str) -> None:
        _, self.module = workshop.compiled(source)
        self._linked = workshop.link(source, RUNTIME.host_functions(self.module))

    def bind(self, function: str) -> CallableFunction:
        bound = RUNTIME.bind(self.module, function, None)
        assert bound is not None
        return bound

    def run(
        self,
        function: str,
        *parameters: Parameter,
        limits: Limits = LIMITS,
        seen: Callable[[Sandbox], object] = id,
    ) -> tuple[TypedValue, ...]:
        """Call a function; `seen` looks at the sandbox before it is closed."""
        bound = self.bind(function)
        arguments = bound.arguments(parameters, limits, {})
        with bare_sandbox(self._linked, limits) as sandbox:
            run_to_end(sandbox, RUNTIME.preparation(self.module, None)(sandbox))
            try:
                return run_to_end(sandbox, bound.steps(sandbox, arguments))
            finally:
                seen(sandbox)

    def values(
        self, function: str, *values: Json | bytes, limits: Limits = LIMITS
    ) -> list[int | float | bytes]:
        """The results alone, of parameters by position."""
        return [each.value for each in self.run(function, *map(Parameter, values), limits=limits)]

    def fault(self, function: str, *values: Json | bytes, limits: Limits = LIMITS) -> GuestFault:
        with pytest.raises(GuestFault) as caught:
            self.values(function, *values, limits=limits)
        return caught.value

    def refusal(self, function: str, *parameters: Parameter, limits: Limits = LIMITS) -> InvalidRequest:
        """Why a call is refused before anything runs."""
        with pytest.raises(InvalidRequest) as caught:
            self.bind(function).arguments(parameters, limits, {})
        return caught.value

    def start_and_close(self, function: str, *values: Json | bytes) -> None:
        """Run an endless call for some slices, then end it."""
        bound = self.bind(function)
        with bare_sandbox(self._linked) as sandbox:
            run_to_end(sandbox, RUNTIME.preparation(self.module, None)(sandbox))
            steps = bound.steps(sandbox, bound.arguments([*map(Parameter, values)], LIMITS, {}))
            for _ in range(3):
                run_slice(sandbox, steps)
            steps.close()


@pytest.fixture(scope="session")
def calc(workshop: Workshop) -> Guest:
    return Guest(workshop, "calc")


@pytest.fixture(scope="session")
def text(workshop: Workshop) -> Guest:
    return Guest(workshop, "text")


@pytest.fixture(scope="session")
def bad_alloc(workshop: Workshop) -> Guest:
    return Guest(workshop, "bad_alloc")


def named(**values: Json) -> list[Parameter]:
    return [Parameter(value, name=name) for name, value in values.items()]


# --- what is callable -------------------------------------------------------------------------------------


def signatures(guest: Guest) -> dict[str, Signature]:
    return {each.name: each for each in RUNTIME.signatures(guest.module)}


def test_a_numeric_signature_has_the_modules_names_and_types(calc: Guest) -> None:
    assert signatures(calc)["mixed"] == Signature(
        "mixed",
        (Field("a", I32), Field("b", I64), Field("c", F32), Field("d", F64)),
        (Field("", F64), Field("", F32), Field("", I64), Field("", I32)),
    )


def test_parameters_without_names_are_shown_without(calc: Guest) -> None:
    assert signatures(calc)["unnamed"].params == (Field("", I32), Field("", I32))


def test_a_function_of_references_is_not_callable(calc: Guest) -> None:
    assert "opaque" not in signatures(calc)
    assert RUNTIME.bind(calc.module, "opaque", None) is None


def test_a_bytes_function_takes_an_input_and_returns_bytes(text: Guest) -> None:
    assert signatures(text)["upper"] == Signature("upper", (Field("input", BYTES),), (Field("", BYTES),))


def test_what_the_host_calls_itself_is_not_callable(text: Guest, workshop: Workshop) -> None:
    assert "spear_alloc" not in signatures(text)
    assert RUNTIME.bind(text.module, "spear_alloc", None) is None
    reactor = Guest(workshop, "initialize")
    assert set(signatures(reactor)) == {"get", "bump", "bump_memory", "bump_and_trap"}
    assert RUNTIME.bind(reactor.module, "_initialize", None) is None


@pytest.mark.parametrize("name", ["", "missing", "ADD", "add "])
def test_a_function_that_is_not_there_is_not_bound(calc: Guest, name: str) -> None:
    assert RUNTIME.bind(calc.module, name, None) is None


def test_what_is_listed_can_be_bound_and_the_other_way_round(calc: Guest, text: Guest) -> None:
    for guest in (calc, text):
        listed = signatures(guest)
        for export in guest.module.functions:
            bound = RUNTIME.bind(guest.module, export.name, None)
            assert (bound.signature if bound else None) == listed.get(export.name)


ALLOCATOR = '(func (export "spear_alloc") (param i32) (result i32) (i32.const 8))'
BYTES_FUNCTION = '(func (export "f") (param i32 i32) (result i64) (i64.const 0))'


@pytest.mark.parametrize(
    "parts",
    [
        '(memory (export "memory") 1)',
        f"{ALLOCATOR} (memory 1)",
        f'{ALLOCATOR} (memory (export "other") 1)',
        f"{ALLOCATOR}",
        '(memory (export "memory") 1) (func (export "spear_alloc") (param i64) (result i32) (i32.const 8))',
    ],
    ids=["no allocator", "hidden memory", "other name", "no memory", "other type"],
)
def test_without_a_memory_and_an_allocator_a_function_is_numeric(workshop: Workshop, parts: str) -> None:
    guest = Guest(workshop, f"(module {parts} {BYTES_FUNCTION})")
    assert signatures(guest)["f"] == Signature("f", (Field("", I32), Field("", I32)), (Field("", I64),))
    assert guest.values("f", 1, 2) == [0]


def test_an_initialize_of_another_type_is_a_function_like_any_other(workshop: Workshop) -> None:
    guest = Guest(workshop, '(module (func (export "_initialize") (param i32) (result i32) local.get 0))')
    assert guest.values("_initialize", 7) == [7]


# --- numbers ----------------------------------------------------------------------------------------------


@given(st.data())
@pytest.mark.parametrize("kind", [I32, I64])
def test_every_integer_makes_the_round_trip(calc: Guest, kind: ValueType, data: st.DataObject) -> None:
    bits = 32 if kind is I32 else 64
    value = data.draw(st.integers(-(1 << bits - 1), (1 << bits) - 1))
    signed = value - (1 << bits) if value >> (bits - 1) == 1 else value
    spellings: list[int | str] = [value, str(value)]
    spelled = data.draw(st.sampled_from(spellings))
    assert calc.run(ECHO_OF[kind], Parameter(spelled)) == (TypedValue(kind, signed),)


@given(st.data())
@pytest.mark.parametrize("kind", [I32, I64])
def test_every_integer_out_of_range_is_refused(calc: Guest, kind: ValueType, data: st.DataObject) -> None:
    bits = 32 if kind is I32 else 64
    value = data.draw(st.integers(max_value=-(1 << bits - 1) - 1) | st.integers(min_value=1 << bits))
    assert f"takes -2^{bits - 1} to 2^{bits}-1" in calc.refusal(ECHO_OF[kind], Parameter(value)).message


def same_float(one: object, other: float) -> bool:
    """Equal to the last bit, but for which NaN it is."""
    assert isinstance(one, float)
    return (math.isnan(one) and math.isnan(other)) or struct.pack("<d", one) == struct.pack("<d", other)


@given(st.floats(), st.booleans())
def test_every_f64_makes_the_round_trip(calc: Guest, value: float, as_text: bool) -> None:
    (result,) = calc.values("echo_f64", repr(value) if as_text else value)
    assert same_float(result, value)


@given(st.floats(width=32), st.booleans())
def test_every_f32_makes_the_round_trip(calc: Guest, value: float, as_text: bool) -> None:
    (result,) = calc.values("echo_f32", repr(value) if as_text else value)
    assert same_float(result, value)


@given(st.floats(-3.4e38, 3.4e38))
def test_a_number_between_two_f32_is_rounded(calc: Guest, value: float) -> None:
    (result,) = calc.values("echo_f32", value)
    assert same_float(result, FLOAT32.unpack(FLOAT32.pack(value))[0])


@given(st.floats(3.5e38, allow_infinity=False) | st.floats(max_value=-3.5e38, allow_infinity=False))
def test_a_number_too_large_for_f32_is_refused(calc: Guest, value: float) -> None:
    assert "too large for f32" in calc.refusal("echo_f32", Parameter(value)).message


@pytest.mark.parametrize("value", ["1e999", 10**400, -(10**400)])
def test_a_number_too_large_for_f64_is_refused(calc: Guest, value: Json) -> None:
    assert "too large for f64" in calc.refusal("echo_f64", Parameter(value)).message


@pytest.mark.parametrize("kind", list(ECHO_OF))
@pytest.mark.parametrize(
    "value", [None, True, False, "", "one", "0x10", "1_000", " 1", [], [1], {}, b"1"], ids=repr
)
def test_what_is_no_number_is_refused_by_every_type(
    calc: Guest, kind: ValueType, value: Json | bytes
) -> None:
    assert "parameter 1 ('value') must be" in calc.refusal(ECHO_OF[kind], Parameter(value)).message


@pytest.mark.parametrize("value", [0.5, "1.0", "1e3", math.inf, math.nan])
def test_a_fraction_is_no_integer(calc: Guest, value: Json) -> None:
    assert "must be an integer (i32)" in calc.refusal("echo_i32", Parameter(value)).message


def test_a_float_without_a_fraction_is_an_integer(calc: Guest) -> None:
    assert calc.values("echo_i64", -3.0) == [-3]


@pytest.mark.parametrize("kind", list(ECHO_OF))
@pytest.mark.parametrize("said", list(ECHO_OF))
def test_a_parameter_that_is_declared_to_be_of_another_number_type_is_refused(
    calc: Guest, kind: ValueType, said: ValueType
) -> None:
    parameter = Parameter(1, type=said)
    if said is kind:
        assert calc.run(ECHO_OF[kind], parameter) == (TypedValue(kind, 1),)
    else:
        assert f"is an {kind}, but is given as {said}" in calc.refusal(ECHO_OF[kind], parameter).message


def test_a_declared_type_that_does_not_exist_is_refused(calc: Guest) -> None:
    assert "'u8'" in calc.refusal("echo_i32", Parameter(1, type="u8")).message


def test_results_come_typed_and_in_their_order(calc: Guest) -> None:
    assert calc.run("mixed", *map(Parameter, (1, 2, 3, 4))) == (
        TypedValue(F64, 4.0), TypedValue(F32, 3.0), TypedValue(I64, 2), TypedValue(I32, 1),
    )  # fmt: skip
    assert calc.run("no_result") == ()
    assert calc.values("divmod", -7, 2) == [-3, -1]


# --- by position and by name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [named(dividend=7, divisor=2), named(divisor=2, dividend=7), [Parameter(7), Parameter(2)]],
    ids=["in order", "in another order", "by position"],
)
def test_parameters_are_given_by_name_in_any_order_or_by_position(
    calc: Guest, parameters: list[Parameter]
) -> None:
    assert calc.run("divide", *parameters) == (TypedValue(I32, 3),)


@pytest.mark.parametrize(
    "parameters",
    [
        named(dividend=7, other=2),
        [*named(dividend=7), Parameter(2)],
        named(dividend=7) * 2,
        named(Dividend=7, divisor=2),
    ],
    ids=["a wrong name", "one without a name", "one name twice", "another case"],
)
def test_names_that_are_not_the_functions_are_refused(calc: Guest, parameters: list[Parameter]) -> None:
    assert "has the parameters 'dividend, divisor'" in calc.refusal("divide", *parameters).message


def test_names_are_ignored_where_the_function_has_none(calc: Guest) -> None:
    assert calc.run("unnamed", *named(first=7, second=2)) == (TypedValue(I32, 5),)
    assert calc.run("unnamed", *named(same=7), *named(same=2)) == (TypedValue(I32, 5),)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_parameters_is_refused_with_their_types(calc: Guest, count: int) -> None:
    message = calc.refusal("addf64", *[Parameter(1)] * count).message
    assert message == f"'addf64' takes 2 parameters (f64, f64), not {count}"


def test_a_refused_parameter_is_named_by_its_number_and_name(calc: Guest) -> None:
    wrong_second = calc.refusal("divide", *named(divisor="two", dividend=1))
    assert wrong_second.message.startswith("parameter 2 ('divisor') must be an integer")
    assert calc.refusal("unnamed", Parameter(1), Parameter("two")).message.startswith("parameter 2 must be")


# --- bytes ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=5000))
def test_any_bytes_make_the_round_trip(text: Guest, content: bytes) -> None:
    assert text.run("echo", Parameter(content)) == (TypedValue(BYTES, content),)
    assert text.values("reverse", content) == [content[::-1]]


@pytest.mark.parametrize(
    ("parameter", "heard"),
    [
        (Parameter("grüße"), "grüße".encode()),
        (Parameter("text", type="json"), b'"text"'),
        (Parameter("text", type="string"), b"text"),
        (Parameter(b"\xff\0", type="bytes"), b"\xff\0"),
        (Parameter({"a": [1, None, True]}), b'{"a":[1,null,true]}'),
        (Parameter(1.5), b"1.5"),
        (Parameter("named", name="whatever"), b"named"),
    ],
)
def test_an_input_is_bytes_or_text_or_json(text: Guest, parameter: Parameter, heard: bytes) -> None:
    assert text.run("echo", parameter) == (TypedValue(BYTES, heard),)


@pytest.mark.parametrize("parameters", [[], [Parameter(b"")], [Parameter("")]], ids=["none", "bytes", "text"])
def test_an_input_may_be_empty(text: Guest, parameters: list[Parameter]) -> None:
    assert text.run("echo", *parameters) == (TypedValue(BYTES, b""),)


def test_two_inputs_are_refused(text: Guest) -> None:
    assert (
        "takes one parameter of bytes, not 2" in text.refusal("echo", Parameter(b""), Parameter(b"")).message
    )


def test_a_number_type_for_an_input_is_refused(text: Guest) -> None:
    assert "is bytes, but is given as i32" in text.refusal("echo", Parameter(1, type="i32")).message


def test_a_megabyte_goes_in_and_comes_out(text: Guest) -> None:
    content = bytes(range(256)) * 4096
    assert text.values("echo", content) == [content]


def test_the_last_bytes_of_a_memory_are_a_result(text: Guest) -> None:
    (result,) = text.values("last_bytes", b"")
    assert isinstance(result, bytes)
    assert len(result) == 16


@pytest.mark.parametrize("function", ["bad_range", "bad_range_edge", "log_bad_range", "fail_bad_range"])
def test_a_range_outside_of_the_memory_is_the_guests_fault(text: Guest, function: str) -> None:
    fault = text.fault(function, b"")
    assert fault.code is ErrorCode.GUEST_ERROR
    assert "its memory has" in fault.message


def test_a_result_of_no_bytes_is_empty_wherever_it_is(workshop: Workshop) -> None:
    nowhere = f"""
    (module (memory (export "memory") 1) {ALLOCATOR}
      (func (export "f") (param i32 i32) (result i64) (i64.const 0xffffffff)))"""
    assert Guest(workshop, nowhere).values("f", b"input") == [b""]


# --- allocators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 6, 100])
def test_an_allocator_that_behaves_is_used(bad_alloc: Guest, length: int) -> None:
    assert bad_alloc.values("echo", b"x" * length) == [b"x" * length]


@pytest.mark.parametrize(
    ("length", "code", "words"),
    [
        (1, ErrorCode.GUEST_ERROR, "no memory for 1 bytes of input"),
        (2, ErrorCode.GUEST_ERROR, "2 bytes at 4294967280"),
        (3, ErrorCode.GUEST_ERROR, "3 bytes at 65534"),
        (4, ErrorCode.TRAP_UNREACHABLE, "unreachable"),
    ],
    ids=["refuses", "far outside", "one byte outside", "traps"],
)
def test_an_allocator_that_misbehaves_fails_the_call(
    bad_alloc: Guest, length: int, code: ErrorCode, words: str
) -> None:
    fault = bad_alloc.fault("echo", b"x" * length)
    assert fault.code is code
    assert words in fault.message


def test_an_allocator_that_never_returns_can_be_stopped(bad_alloc: Guest) -> None:
    bad_alloc.start_and_close("echo", b"x" * 5)


@pytest.mark.parametrize("address", [0, -1, 0x7FFFFFFF])
def test_an_empty_input_goes_nowhere_whatever_the_allocator_says(workshop: Workshop, address: int) -> None:
    says = f"""
    (module (memory (export "memory") 1)
      (func (export "spear_alloc") (param i32) (result i32) (i32.const {address}))
      (func (export "where") (param i32 i32) (result i64)
        (i32.store (i32.const 16) (local.get 0))
        (i32.store (i32.const 20) (local.get 1))
        (i64.const 0x800000010)))"""
    assert Guest(workshop, says).values("where", b"") == [struct.pack("<iI", address, 0)]


# --- limits -----------------------------------------------------------------------------------------------


def test_an_input_above_its_limit_is_the_callers_mistake(text: Guest) -> None:
    limits = replace(LIMITS, max_input_bytes=5)
    assert text.values("echo", b"12345", limits=limits) == [b"12345"]
    refusal = text.refusal("echo", Parameter(b"123456"), limits=limits)
    assert refusal.message == "the parameters are 6 bytes; the limit is 5"
    assert refusal.metadata == {"limit": "max_input_bytes"}


def test_numbers_count_as_input_by_their_size(calc: Guest) -> None:
    parameters = [Parameter(1)] * 4
    assert (
        "are 24 bytes"
        in calc.refusal("mixed", *parameters, limits=replace(LIMITS, max_input_bytes=23)).message
    )
    assert len(calc.run("mixed", *parameters, limits=replace(LIMITS, max_input_bytes=24))) == 4


def test_an_output_above_its_limit_is_an_outcome(text: Guest) -> None:
    limits = replace(LIMITS, max_output_bytes=1000)
    (result,) = text.values("big_output", b"1000", limits=limits)
    assert isinstance(result, bytes)
    assert len(result) == 1000
    fault = text.fault("big_output", b"1001", limits=limits)
    assert (fault.code, fault.message) == (
        ErrorCode.OUTPUT_LIMIT,
        "the result is 1001 bytes; the limit is 1000",
    )


def test_an_output_that_claims_gigabytes_is_refused_by_its_size(workshop: Workshop) -> None:
    boasts = f"""
    (module (memory (export "memory") 1) {ALLOCATOR}
      (func (export "f") (param i32 i32) (result i64) (i64.const -1)))"""
    fault = Guest(workshop, boasts).fault("f", b"")
    assert (fault.code, "4294967295 bytes" in fault.message) == (ErrorCode.OUTPUT_LIMIT, True)


def test_numbers_count_as_output_by_their_size(calc: Guest) -> None:
    fault = calc.fault("extremes", limits=replace(LIMITS, max_output_bytes=23))
    assert fault.code is ErrorCode.OUTPUT_LIMIT
    assert len(calc.values("extremes", limits=replace(LIMITS, max_output_bytes=24))) == 4


# --- host functions ---------------------------------------------------------------------------------------


def log_of(guest: Guest, function: str, content: bytes, limits: Limits = LIMITS) -> tuple[bytes, bool]:
    """What a call logged, and whether more than that; the call may fail."""
    usages: list[Usage] = []
    with suppress(GuestFault):
        guest.run(
            function, Parameter(content), limits=limits, seen=lambda sandbox: usages.append(sandbox.usage(0))
        )
    return usages[0].stderr, usages[0].output_truncated


def test_what_a_guest_logs_is_kept_whether_it_completes_or_fails(text: Guest) -> None:
    assert log_of(text, "log_and_echo", b"\0\xff\n") == (b"\0\xff\n", False)
    assert log_of(text, "log_and_fail", b"before") == (b"before", False)


def test_a_flood_of_logs_is_cut_at_its_limit(text: Guest) -> None:
    log, truncated = log_of(text, "log_flood", b"3", replace(LIMITS, max_log_bytes=100_000))
    assert (len(log), truncated) == (100_000, True)
    log, truncated = log_of(text, "log_flood", b"3", replace(LIMITS, max_log_bytes=3 * 65536))
    assert (len(log), truncated) == (3 * 65536, False)


@pytest.mark.parametrize(
    ("said", "heard"),
    [(b"why", "why"), ("grüße".encode(), "grüße"), (b"\xff!", "\N{REPLACEMENT CHARACTER}!"), (b"", "")],
)
def test_a_guest_fails_with_its_own_words(text: Guest, said: bytes, heard: str) -> None:
    fault = text.fault("fail_with", said)
    assert (fault.code, fault.message, fault.trap_frames) == (ErrorCode.GUEST_ERROR, heard, ())


def test_of_a_guests_many_words_a_thousand_characters_are_kept(text: Guest) -> None:
    assert text.fault("fail_with", b"w" * 10_000).outcome().error_message == "w" * 1000
    wide = "\N{GRINNING FACE}" * 3000
    assert text.fault("fail_with", wide).outcome().error_message == wide[:1000]


# --- recognising and linking ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["calc", "text", "hidden_log", "no_memory", "initialize", "hostile", "emitter", "host_calls"]
)
def test_modules_without_foreign_imports_are_recognised(workshop: Workshop, source: str) -> None:
    _, module = workshop.compiled(source)
    assert RUNTIME.recognises(module)


@pytest.mark.parametrize(
    ("source", "wanted"), [("needs_import", "'env'.'mystery'"), ("wrong_import", "'spear'.'log'")]
)
def test_modules_with_foreign_imports_are_refused_by_name(
    workshop: Workshop, source: str, wanted: str
) -> None:
    _, module = workshop.compiled(source)
    assert not RUNTIME.recognises(module)
    with pytest.raises(UnlinkableArtifact) as caught:
        RUNTIME.host_functions(module)
    assert wanted in caught.value.message


# --- before the first call --------------------------------------------------------------------------------


def test_initialize_runs_once_before_each_call_and_nothing_is_left_of_the_call_before(
    workshop: Workshop,
) -> None:
    guest = Guest(workshop, "initialize")
    for _ in range(3):
        assert guest.values("get") == [7]
        assert guest.values("bump") == [8]
        assert guest.values("bump_memory") == [1]
        assert guest.fault("bump_and_trap").code is ErrorCode.TRAP_UNREACHABLE


def test_initialize_runs_after_the_start_function(workshop: Workshop) -> None:
    guest = Guest(
        workshop,
        """
        (module
          (global $state (mut i32) (i32.const 1))
          (func $begin (global.set $state (i32.mul (global.get $state) (i32.const 10))))
          (start $begin)
          (func (export "_initialize") (global.set $state (i32.add (global.get $state) (i32.const 3))))
          (func (export "get") (result i32) (global.get $state)))""",
    )
    assert guest.values("get") == [13]


def test_a_trap_of_initialize_is_the_outcome_of_the_call(workshop: Workshop) -> None:
    fault = Guest(workshop, "initialize_trap").fault("answer")
    assert fault.code is ErrorCode.TRAP_UNREACHABLE
    # 0x1 where a tick has cut the slice at the function's first instruction
    assert fault.trap_frames in {("_initialize+0x0",), ("_initialize+0x1",)}


@pytest.mark.parametrize("source", ["initialize_spin", "start_spin"])
def test_an_endless_preparation_can_be_stopped(workshop: Workshop, source: str) -> None:
    linked = workshop.link(source)
    with bare_sandbox(linked) as sandbox:
        steps = RUNTIME.preparation(linked.module, None)(sandbox)
        for _ in range(3):
            run_slice(sandbox, steps)
        steps.close()
