"""Sandboxes: what guests get and give back, how they end, and that nothing of them is left."""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast

import pytest

from spear_wasm.engine import waiting_call
from spear_wasm.engine.host_calls import CallingSandbox, HostFunction
from spear_wasm.engine.linked import LinkedArtifact
from spear_wasm.engine.outcome import MAX_FRAMES, MAX_MESSAGE_CHARS, MAX_NAME_BYTES, GuestFault
from spear_wasm.engine.sandbox import LARGE_MEMORY_BYTES, Sandbox
from spear_wasm.engine.settings import MAX_INSTANCES
from spear_wasm.errors import SandboxUnavailable, UnlinkableArtifact
from spear_wasm.limits import Limits
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode, ExecutionStatus, FunctionType, ValueType
from tests.workshop import (
    LIMITS,
    PLAIN,
    POOL_SIZE,
    Workshop,
    at_once,
    bare_sandbox,
    call,
    run_slice,
    run_to_end,
    sandbox_of,
    start,
)

I32 = ValueType.I32
FUEL = 10_000
LOGS_ITS_MEMORY = """
(module
  (import "spear" "write_log" (func $log (param i32 i32)))
  (memory 1)
  (data (i32.const 0) "abcdefgh")
  (func (export "say") (param i32 i32) (call $log (local.get 0) (local.get 1))))
"""


@pytest.fixture(params=[False, True], ids=["plain", "metered"])
def metered(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def fault_of(sandbox: Sandbox, name: str, *args: float) -> GuestFault:
    with pytest.raises(GuestFault) as caught:
        call(sandbox, name, *args)
    return caught.value


def fault_of_start(linked: LinkedArtifact, limits: Limits = LIMITS) -> GuestFault:
    with bare_sandbox(linked, limits) as sandbox, pytest.raises(GuestFault) as caught:
        run_to_end(sandbox, sandbox.instantiate())
    return caught.value


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("echo_i32", [0, 1, -1, 2**31 - 1, -(2**31)]),
        ("echo_i64", [0, 1, -1, 2**63 - 1, -(2**63)]),
        ("echo_f32", [0.0, 1.5, -math.inf, math.inf, 2.0**-149, struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]]),
        ("echo_f64", [0.0, -1.5, -math.inf, math.inf, 5e-324, 1.7976931348623157e308]),
    ],
)
def test_numbers_of_each_type_come_back_as_they_went_in(
    workshop: Workshop, metered: bool, name: str, values: list[float]
) -> None:
    with sandbox_of(workshop.link("calc", metered=metered)) as sandbox:
        assert [call(sandbox, name, value) for value in values] == [(value,) for value in values]


@pytest.mark.parametrize("name", ["echo_f32", "echo_f64"])
def test_negative_zero_and_not_a_number_survive_a_call(workshop: Workshop, name: str) -> None:
    with sandbox_of(workshop.link("calc")) as sandbox:
        (zero,) = call(sandbox, name, -0.0)
        (not_a_number,) = call(sandbox, name, math.nan)
    assert math.copysign(1, zero) == -1
    assert math.isnan(not_a_number)


def test_parameters_and_results_of_all_types_keep_their_places(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("calc")) as sandbox:
        assert call(sandbox, "mixed", -(2**31), 2**63 - 1, 0.5, -1e300) == (-1e300, 0.5, 2**63 - 1, -(2**31))


def test_the_extremes_of_all_types_are_returned_signed_and_exact(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("calc")) as sandbox:
        assert call(sandbox, "extremes") == (
            -(2**31), -(2**63), float.fromhex("0x1.fffffep+127"), float.fromhex("0x1.fffffffffffffp+1023"),
        )  # fmt: skip


def test_a_function_without_results_returns_none(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("calc")) as sandbox:
        assert call(sandbox, "no_result") == ()


def test_a_call_of_many_parameters_fits_its_buffer(workshop: Workshop) -> None:
    count = 200
    wide = f"""(module (func (export "f") (param {"i64 " * count}) (result {"i64 " * count})
        {" ".join(f"local.get {index}" for index in reversed(range(count)))}))"""
    with sandbox_of(workshop.link(wide)) as sandbox:
        assert call(sandbox, "f", *range(count)) == tuple(reversed(range(count)))


def test_what_a_closed_sandbox_left_in_its_buffer_does_not_reach_the_next(workshop: Workshop) -> None:
    linked = workshop.link("calc")
    with sandbox_of(linked) as first:
        call(first, "mixed", -1, -1, -1.0, -1.0)
    with sandbox_of(linked) as second:
        assert call(second, "answer") == (42,)
        assert call(second, "echo_i32", 0) == (0,)


def test_each_sandbox_has_its_own_globals_and_memory(workshop: Workshop) -> None:
    linked = workshop.link("initialize")
    with sandbox_of(linked) as one, sandbox_of(linked) as other:
        assert [call(one, "bump") for _ in range(3)] == [(1,), (2,), (3,)]
        assert call(one, "bump_memory") == (1,)
        assert call(other, "bump") == (1,)
        assert call(other, "bump_memory") == (1,)


# --- traps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("unreachable", ErrorCode.TRAP_UNREACHABLE),
        ("out_of_bounds", ErrorCode.TRAP_OUT_OF_BOUNDS),
        ("out_of_bounds_edge", ErrorCode.TRAP_OUT_OF_BOUNDS),
        ("divide_by_zero", ErrorCode.TRAP_DIVIDE_BY_ZERO),
        ("divide_overflow", ErrorCode.TRAP_INTEGER_OVERFLOW),
        ("trunc_overflow", ErrorCode.TRAP_INTEGER_OVERFLOW),
        ("trunc_nan", ErrorCode.TRAP_BAD_CONVERSION),
        ("call_null", ErrorCode.TRAP_INDIRECT_CALL_TO_NULL),
        ("call_bad_signature", ErrorCode.TRAP_BAD_SIGNATURE),
        ("call_out_of_table", ErrorCode.TRAP_TABLE_OUT_OF_BOUNDS),
    ],
)
def test_each_trap_has_its_code_and_the_frame_that_it_happened_in(
    workshop: Workshop, metered: bool, name: str, code: ErrorCode
) -> None:
    with sandbox_of(workshop.link("hostile", metered=metered)) as sandbox:
        fault = fault_of(sandbox, name)
    (frame,) = fault.trap_frames
    assert (fault.code, frame.split("+")[0]) == (code, name)
    assert fault.message
    assert fault.outcome().status is ExecutionStatus.FAILED


def test_frames_are_named_from_the_innermost_outwards(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("hostile")) as sandbox:
        assert fault_of(sandbox, "outer").trap_frames == ("inner+0x0", "middle+0x1", "outer+0x1")


def test_frames_without_names_have_numbers(workshop: Workshop) -> None:
    nameless = '(module (func unreachable) (func (export "f") call 0))'
    with sandbox_of(workshop.link(nameless)) as sandbox:
        assert fault_of(sandbox, "f").trap_frames == ("func[0]+0x0", "func[1]+0x1")


def test_a_frame_with_an_endless_name_is_cut(workshop: Workshop) -> None:
    name = "n" * 10_000
    with sandbox_of(workshop.link(f'(module (func ${name} (export "f") unreachable))')) as sandbox:
        assert fault_of(sandbox, "f").trap_frames == (name[:MAX_NAME_BYTES] + "+0x0",)


def test_a_stack_overflow_is_a_trap_with_a_bounded_number_of_frames(
    workshop: Workshop, metered: bool
) -> None:
    with sandbox_of(workshop.link("hostile", metered=metered)) as sandbox:
        fault = fault_of(sandbox, "recurse")
    assert fault.code is ErrorCode.TRAP_STACK_OVERFLOW
    assert 2 <= len(fault.trap_frames) <= MAX_FRAMES
    assert {frame.split("+")[0] for frame in fault.trap_frames} == {"deeper"}


def test_a_frame_whose_offset_is_unknown_shows_none(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("hostile")) as sandbox:
        assert fault_of(sandbox, "recurse").trap_frames[0] == "deeper"


def test_host_functions_work_at_any_depth_of_the_guests_stack(workshop: Workshop) -> None:
    logs_at_each_depth = """
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory 1)
      (func $deeper (export "deeper") (result i32)
        (call $log (i32.const 0) (i32.const 1))
        (i32.add (call $deeper) (i32.const 1))))"""
    with sandbox_of(workshop.link(logs_at_each_depth)) as sandbox:
        assert fault_of(sandbox, "deeper").code is ErrorCode.TRAP_STACK_OVERFLOW
        assert len(sandbox.usage(0).stderr) > 1000


def test_a_sandbox_can_be_called_again_after_a_trap(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("initialize")) as sandbox:
        fault_of(sandbox, "bump_and_trap")
        assert call(sandbox, "get") == (1,)


def test_a_trap_of_a_start_function_is_the_outcome_of_instantiation(workshop: Workshop) -> None:
    fault = fault_of_start(workshop.link("start_trap"))
    assert (fault.code, fault.trap_frames) == (ErrorCode.TRAP_UNREACHABLE, ("broken+0x0",))


# --- fuel -------------------------------------------------------------------------------------------------


def fuel_of(linked: LinkedArtifact, turns: int) -> int:
    with sandbox_of(linked) as sandbox:
        call(sandbox, "spin_for", turns)
        fuel = sandbox.usage(0).fuel
    assert fuel is not None
    return fuel


def test_fuel_is_counted_and_the_same_work_costs_the_same(workshop: Workshop) -> None:
    linked = workshop.link("hostile", metered=True)
    some, more = fuel_of(linked, 1000), fuel_of(linked, 2000)
    assert 1000 < some < more
    assert fuel_of(linked, 1000) == some


def test_fuel_is_not_counted_where_the_engine_meters_none(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("hostile"), replace(LIMITS, max_fuel=1)) as sandbox:
        assert call(sandbox, "spin_for", 1000) == (1000,)
        assert sandbox.usage(0).fuel is None


def test_a_guest_that_uses_up_its_fuel_is_ended_and_its_fuel_counted(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("hostile", metered=True), replace(LIMITS, max_fuel=FUEL)) as sandbox:
        fault = fault_of(sandbox, "spin")
        assert (fault.code, fault.trap_frames[0].split("+")[0]) == (ErrorCode.OUT_OF_FUEL, "spin")
        assert sandbox.usage(0).fuel == FUEL


def test_a_start_function_is_fuelled_like_any_other(workshop: Workshop) -> None:
    linked = workshop.link("start_spin", metered=True)
    assert fault_of_start(linked, replace(LIMITS, max_fuel=FUEL)).code is ErrorCode.OUT_OF_FUEL


def test_a_sandbox_that_is_armed_again_has_a_full_tank_and_an_empty_log(workshop: Workshop) -> None:
    log_loudly = """
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory 1)
      (data (i32.const 0) "!")
      (func (export "shout") (call $log (i32.const 0) (i32.const 1)) (call $log (i32.const 0) (i32.const 1))))"""
    limits = replace(LIMITS, max_fuel=FUEL, max_log_bytes=1)
    with sandbox_of(workshop.link(log_loudly, metered=True), limits) as sandbox:
        call(sandbox, "shout")
        before = sandbox.usage(0)
        sandbox.arm(limits)
        armed = sandbox.usage(0)
        call(sandbox, "shout")
        assert sandbox.usage(0) == before
    assert before.stderr == b"!"
    assert before.output_truncated
    assert (armed.fuel, armed.stderr, armed.output_truncated) == (0, b"", False)


# --- guests that do not end -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spin", "recurse_forever", "grow_and_fill"])
def test_an_endless_guest_runs_in_slices_and_ends_when_its_steps_are_closed(
    workshop: Workshop, metered: bool, name: str
) -> None:
    with sandbox_of(workshop.link("hostile", metered=metered)) as sandbox:
        steps = start(sandbox, name)
        for _ in range(3):
            run_slice(sandbox, steps)
        steps.close()
        assert call(sandbox, "spin_for", 7) == (7,)


def test_closing_one_guests_steps_leaves_its_sibling_running(workshop: Workshop) -> None:
    turns = 100_000_000
    linked = workshop.link("hostile")
    with sandbox_of(linked) as doomed, sandbox_of(linked) as sibling:
        endless, honest = start(doomed, "spin"), start(sibling, "spin_for", turns)
        run_slice(doomed, endless)
        run_slice(sibling, honest)
        endless.close()
        assert run_to_end(sibling, honest) == (turns,)


def test_an_endless_start_function_can_be_stopped_and_gives_its_slot_back(
    workshop: Workshop, metered: bool
) -> None:
    linked = workshop.link("start_spin", metered=metered)
    for _ in range(2 * POOL_SIZE):
        with bare_sandbox(linked) as sandbox:
            steps = sandbox.instantiate()
            run_slice(sandbox, steps)
            steps.close()


def test_one_sandbox_may_be_driven_by_different_threads_in_turn(workshop: Workshop, metered: bool) -> None:
    turns, slices = 100_000_000, 0
    with sandbox_of(workshop.link("hostile", metered=metered)) as sandbox:
        steps = start(sandbox, "spin_for", turns)

        def result_of_slice() -> tuple[int | float, ...] | None:
            try:
                run_slice(sandbox, steps)
            except StopIteration as stop:
                return cast("tuple[int | float, ...]", stop.value)
            return None

        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            threads = cycle((one, other))
            while (result := next(threads).submit(result_of_slice).result()) is None:
                slices += 1
    assert result == (turns,)
    assert slices >= 2


# --- memory and tables ------------------------------------------------------------------------------------


def test_memory_grows_up_to_the_limit_and_no_further(workshop: Workshop) -> None:
    pages = 20
    limits = replace(LIMITS, max_memory_bytes=pages * WASM_PAGE_BYTES)
    with sandbox_of(workshop.link("hostile"), limits) as sandbox:
        assert call(sandbox, "grow_forever") == (pages,)
        assert sandbox.usage(0).peak_memory_bytes == pages * WASM_PAGE_BYTES


def test_memory_grows_up_to_the_engines_ceiling(workshop: Workshop) -> None:
    limits = replace(LIMITS, max_memory_bytes=PLAIN.max_memory_bytes)
    with sandbox_of(workshop.link("hostile"), limits) as sandbox:
        assert call(sandbox, "grow_forever") == (PLAIN.max_memory_bytes // WASM_PAGE_BYTES,)


def test_a_module_that_starts_with_more_memory_than_its_limit_is_refused(workshop: Workshop) -> None:
    linked = workshop.link("big_memory")
    needed = 512 * WASM_PAGE_BYTES
    fault = fault_of_start(linked, replace(LIMITS, max_memory_bytes=needed - 1))
    assert fault.code is ErrorCode.MEMORY_LIMIT
    assert str(needed) in fault.message
    with sandbox_of(linked, replace(LIMITS, max_memory_bytes=needed)) as sandbox:
        assert call(sandbox, "touch_last") == (42,)


def test_a_memory_that_is_not_exported_is_measured_and_limited(workshop: Workshop) -> None:
    limits = replace(LIMITS, max_memory_bytes=4 * WASM_PAGE_BYTES)
    with sandbox_of(workshop.link("hidden_memory"), limits) as sandbox:
        assert call(sandbox, "grow", 3) == (1,)
        assert call(sandbox, "grow", 1) == (-1,)
        assert sandbox.usage(0).peak_memory_bytes == 4 * WASM_PAGE_BYTES


def test_a_module_without_a_memory_uses_none(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("no_memory")) as sandbox:
        assert call(sandbox, "square", -3) == (9,)
        assert sandbox.usage(0).peak_memory_bytes == 0


def test_tables_grow_up_to_the_limit_and_no_further(workshop: Workshop) -> None:
    limits = replace(LIMITS, max_table_elements=3000)
    with sandbox_of(workshop.link("hostile"), limits) as sandbox:
        assert call(sandbox, "table_grow_forever") == (1 + 1024,)  # of 1500: there are two tables


GREEDY_TABLES = """
    (module
      (table $a 1 funcref) (table $b 7 externref) (table $c 0 funcref)
      (func $grow (export "grow") (result i32)
        (loop $again (br_if $again (i32.ne (table.grow $a (ref.null func) (i32.const 1)) (i32.const -1))))
        (loop $again (br_if $again (i32.ne (table.grow $b (ref.null extern) (i32.const 1)) (i32.const -1))))
        (loop $again (br_if $again (i32.ne (table.grow $c (ref.null func) (i32.const 1)) (i32.const -1))))
        (call $size))
      (func $size (export "size") (result i32)
        (i32.add (i32.add (table.size $a) (table.size $b)) (table.size $c)))
      (func $start START))
"""


@pytest.mark.parametrize("limit", [21, 22, 23, 100, 3000])
@pytest.mark.parametrize("start", ["", "(drop (call $grow))) (start $start"], ids=["called", "at-the-start"])
def test_all_tables_together_grow_up_to_the_limit_and_no_further(
    limit: int, start: str, workshop: Workshop
) -> None:
    linked = workshop.link(GREEDY_TABLES.replace("START", start))
    with sandbox_of(linked, replace(LIMITS, max_table_elements=limit)) as sandbox:
        assert call(sandbox, "grow") == (limit - limit % 3,)


def test_a_module_that_starts_with_more_table_elements_than_its_limit_is_refused(workshop: Workshop) -> None:
    linked = workshop.link('(module (table 60 funcref) (table 41 funcref) (func (export "f")))')
    fault = fault_of_start(linked, replace(LIMITS, max_table_elements=100))
    assert fault.code is ErrorCode.MEMORY_LIMIT
    assert "101 table elements" in fault.message
    fault = fault_of_start(linked, replace(LIMITS, max_table_elements=119))
    assert fault.code is ErrorCode.MEMORY_LIMIT
    assert "starts with 60 elements; the limit of 119 leaves 59 to each of its 2" in fault.message
    with sandbox_of(linked, replace(LIMITS, max_table_elements=120)) as sandbox:
        assert call(sandbox, "f") == ()


@pytest.mark.parametrize(
    ("address", "length"),
    [(0, WASM_PAGE_BYTES + 1), (WASM_PAGE_BYTES - 1, 2), (WASM_PAGE_BYTES, 1), (-1, 1), (-16, 256), (1, -1)],
)
def test_a_range_outside_of_the_memory_is_the_guests_fault(
    workshop: Workshop, address: int, length: int
) -> None:
    with sandbox_of(workshop.link("initialize")) as sandbox:
        with pytest.raises(GuestFault) as reading:
            sandbox.read_memory(address, length)
        assert reading.value.code is ErrorCode.GUEST_ERROR
        if length > 0:
            with pytest.raises(GuestFault):
                sandbox.write_memory(address, bytes(length))


def test_ranges_up_to_the_end_of_the_memory_are_read_and_written(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("initialize")) as sandbox:
        sandbox.write_memory(WASM_PAGE_BYTES - 3, b"end")
        assert sandbox.read_memory(WASM_PAGE_BYTES - 3, 3) == b"end"
        assert sandbox.read_memory(0, WASM_PAGE_BYTES) == bytes(WASM_PAGE_BYTES - 3) + b"end"


@pytest.mark.parametrize("module", ["initialize", "no_memory"])
@pytest.mark.parametrize("address", [0, 1, WASM_PAGE_BYTES, -1])
def test_an_empty_range_is_no_fault_wherever_it_is(workshop: Workshop, module: str, address: int) -> None:
    with sandbox_of(workshop.link(module)) as sandbox:
        assert sandbox.read_memory(address, 0) == b""
        sandbox.write_memory(address, b"")
        sandbox.log_from_memory(address, 0)
        assert sandbox.usage(0).stderr == b""


# --- host functions ---------------------------------------------------------------------------------------


def test_a_log_is_kept_in_order_and_as_it_was(workshop: Workshop) -> None:
    with sandbox_of(workshop.link(LOGS_ITS_MEMORY)) as sandbox:
        for address, length in ((4, 4), (0, 2), (1, 0)):
            call(sandbox, "say", address, length)
        usage = sandbox.usage(0)
    assert (usage.stderr, usage.output_truncated) == (b"efghab", False)


@pytest.mark.parametrize(
    ("room", "kept", "truncated"), [(7, b"abcdefa", True), (9, b"abcdefabc", False), (6, b"abcdef", True)]
)
def test_a_log_is_cut_at_its_limit_and_says_so(
    workshop: Workshop, room: int, kept: bytes, truncated: bool
) -> None:
    with sandbox_of(workshop.link(LOGS_ITS_MEMORY), replace(LIMITS, max_log_bytes=room)) as sandbox:
        call(sandbox, "say", 0, 6)
        call(sandbox, "say", 0, 3)
        usage = sandbox.usage(0)
    assert (usage.stderr, usage.output_truncated) == (kept, truncated)


def test_an_endless_log_stays_within_its_limit(workshop: Workshop) -> None:
    floods = """
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory 16)
      (func (export "flood") (loop $again (call $log (i32.const 0) (i32.const 0x100000)) (br $again))))"""
    with sandbox_of(workshop.link(floods), replace(LIMITS, max_log_bytes=100_000)) as sandbox:
        steps = start(sandbox, "flood")
        for _ in range(5):
            run_slice(sandbox, steps)
        usage = sandbox.usage(0)
        steps.close()
    assert (len(usage.stderr), usage.output_truncated) == (100_000, True)


def test_a_log_of_many_small_pieces_takes_little_more_room_than_its_bytes(workshop: Workshop) -> None:
    size = 1 << 16
    mumbles = f"""
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory 1)
      (func (export "mumble") (local $count i32)
        (loop $again
          (call $log (i32.const 0) (i32.const 2))
          (local.set $count (i32.add (local.get $count) (i32.const 2)))
          (br_if $again (i32.lt_u (local.get $count) (i32.const {size}))))))"""
    with sandbox_of(workshop.link(mumbles)) as sandbox:
        tracemalloc.start()
        try:
            call(sandbox, "mumble")
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(sandbox.usage(0).stderr) == size
    assert held < 2 * size


def test_a_log_out_of_a_range_that_is_not_there_ends_the_guest(workshop: Workshop) -> None:
    with sandbox_of(workshop.link(LOGS_ITS_MEMORY)) as sandbox:
        assert fault_of(sandbox, "say", -16, 256).code is ErrorCode.GUEST_ERROR


def test_a_memory_that_is_not_exported_can_be_logged_and_failed_from(workshop: Workshop) -> None:
    with sandbox_of(workshop.link("hidden_log")) as sandbox:
        call(sandbox, "say")
        fault = fault_of(sandbox, "complain")
        assert sandbox.usage(0).stderr == b"from a hidden memory"
    assert (fault.code, fault.message) == (ErrorCode.GUEST_ERROR, "from a hidden memory")


def test_a_message_of_failure_is_cut(workshop: Workshop) -> None:
    fails_at_length = """
    (module
      (import "spear" "fail" (func $fail (param i32 i32)))
      (memory 1)
      (func (export "fail")
        (memory.fill (i32.const 0) (i32.const 120) (i32.const 65536))
        (call $fail (i32.const 0) (i32.const 65536))))"""
    with sandbox_of(workshop.link(fails_at_length)) as sandbox:
        assert fault_of(sandbox, "fail").outcome().error_message == "x" * MAX_MESSAGE_CHARS


@pytest.mark.parametrize("name", ["write_log", "fail"])
@pytest.mark.parametrize("length", [0, 1])
def test_a_guest_without_memory_may_call_host_functions_that_read_it(
    workshop: Workshop, name: str, length: int
) -> None:
    calls_it = f"""
    (module
      (import "spear" "{name}" (func $it (param i32 i32)))
      (func (export "f") (call $it (i32.const 0) (i32.const {length}))))"""
    with sandbox_of(workshop.link(calls_it)) as sandbox:
        if (name, length) == ("write_log", 0):
            assert call(sandbox, "f") == ()
        else:
            assert fault_of(sandbox, "f").code is ErrorCode.GUEST_ERROR


@pytest.mark.parametrize("export", ["", '(export "memory")'], ids=["hidden", "exported"])
def test_a_start_function_logs_out_of_its_memory(workshop: Workshop, export: str) -> None:
    logs_at_start = f"""
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory {export} 1)
      (data (i32.const 0) "started")
      (func $begin (call $log (i32.const 0) (i32.const 0)) (call $log (i32.const 0) (i32.const 7)))
      (start $begin))"""
    with sandbox_of(workshop.link(logs_at_start)) as sandbox:
        assert sandbox.usage(0).stderr == b"started"


def test_what_a_start_function_used_is_known_though_it_was_stopped(workshop: Workshop) -> None:
    logs_and_spins_at_start = """
    (module
      (import "spear" "write_log" (func $log (param i32 i32)))
      (memory 2)
      (data (i32.const 0) "started")
      (func $begin (call $log (i32.const 0) (i32.const 7)) (loop $again (br $again)))
      (start $begin))"""
    with bare_sandbox(workshop.link(logs_and_spins_at_start)) as sandbox:
        steps = sandbox.instantiate()
        while not sandbox.log_from(0):  # a tick may cut the first slice before its first instruction
            run_slice(sandbox, steps)
        steps.close()
        usage = sandbox.usage(0)
    assert (usage.stderr, usage.peak_memory_bytes) == (b"started", 2 * WASM_PAGE_BYTES)


def test_a_guest_whose_start_function_was_stopped_is_closed_as_one_that_may_have_grown(
    workshop: Workshop,
) -> None:
    grows_and_spins_at_start = """
    (module
      (memory 0)
      (func $begin (drop (memory.grow (i32.const 100))) (loop $again (br $again)))
      (start $begin))"""
    linked = workshop.link(grows_and_spins_at_start)
    with bare_sandbox(linked) as sandbox:
        steps = sandbox.instantiate()
        run_slice(sandbox, steps)
        steps.close()
        assert sandbox.usage(0).peak_memory_bytes == 0, "which the library does not let us ask for"
        assert sandbox.slow_to_close


def test_a_guest_without_a_memory_is_closed_at_once_though_its_start_function_was_stopped(
    workshop: Workshop,
) -> None:
    with bare_sandbox(workshop.link("start_spin")) as sandbox:
        steps = sandbox.instantiate()
        run_slice(sandbox, steps)
        steps.close()
        assert not sandbox.slow_to_close


def host_function(
    implementation: Callable[..., int | float | None], function_type: FunctionType | None = None
) -> dict[tuple[str, str], HostFunction]:
    signature = FunctionType((I32,), (I32,)) if function_type is None else function_type
    return {("host", "call"): HostFunction("host", "call", signature, implementation)}


ASKS_ITS_HOST = """
(module
  (import "host" "call" (func $call (param i32) (result i32)))
  (func (export "ask") (param i32) (result i32) (call $call (local.get 0)))
  (func (export "spin") (loop $again (br $again))))
"""


def test_values_of_all_types_pass_between_guest_and_host(workshop: Workshop) -> None:
    heard: list[tuple[float, ...]] = []

    def hear(_sandbox: CallingSandbox, *values: float) -> float:
        heard.append(values)
        return values[-1]

    types = tuple(ValueType(name) for name in ("i32", "i64", "f32", "f64"))
    passes_on = """
    (module
      (import "host" "call" (func $call (param i32 i64 f32 f64) (result f64)))
      (func (export "pass") (param i32 i64 f32 f64) (result f64)
        (call $call (local.get 0) (local.get 1) (local.get 2) (local.get 3))))"""
    values = (-(2**31), 2**63 - 1, -0.5, 1e300)
    functions = host_function(hear, FunctionType(types, types[-1:]))
    with sandbox_of(workshop.link(passes_on, functions)) as sandbox:
        assert call(sandbox, "pass", *values) == (1e300,)
    assert heard == [values]


def raises(error: BaseException) -> Callable[..., int]:
    def implementation(_sandbox: CallingSandbox, _value: int) -> int:
        raise error

    return implementation


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_a_host_function_raises_ends_its_guest_alone(workshop: Workshop, error: BaseException) -> None:
    linked = workshop.link(ASKS_ITS_HOST, host_function(raises(error)))
    with sandbox_of(linked) as one, sandbox_of(linked) as other:
        with pytest.raises(type(error)) as caught:
            call(one, "ask", 1)
        assert caught.value is error
        steps = start(other, "spin")
        run_slice(other, steps)
        steps.close()


def test_a_host_function_that_returns_nonsense_ends_its_guest_with_an_error(workshop: Workshop) -> None:
    def nonsense(_sandbox: CallingSandbox, _value: int) -> float:
        return 0.5

    with (
        sandbox_of(workshop.link(ASKS_ITS_HOST, host_function(nonsense))) as sandbox,
        pytest.raises(struct.error),
    ):
        call(sandbox, "ask", 1)


def test_on_several_threads_each_guest_gets_its_own_outcome(workshop: Workshop) -> None:
    rounds = 300

    def raise_it(_sandbox: CallingSandbox, value: int) -> int:
        raise LookupError(value)

    linked = workshop.link(ASKS_ITS_HOST, host_function(raise_it), metered=True)
    limits = replace(LIMITS, max_fuel=FUEL)

    def raising(marks: range) -> list[object]:
        outcomes: list[object] = []
        for mark in marks:
            with sandbox_of(linked, limits) as sandbox, pytest.raises(LookupError) as caught:
                call(sandbox, "ask", mark)
            outcomes.append(caught.value.args[0])
        return outcomes

    def burning(count: int) -> list[object]:
        outcomes: list[object] = []
        for _ in range(count):
            with sandbox_of(linked, limits) as sandbox:
                outcomes.append(fault_of(sandbox, "spin").code)
        return outcomes

    of_one, of_another = range(rounds), range(rounds, 2 * rounds)
    assert at_once(
        [
            partial(raising, of_one),
            partial(burning, rounds),
            partial(raising, of_another),
            partial(burning, rounds),
        ]
    ) == [
        list(of_one),
        [ErrorCode.OUT_OF_FUEL] * rounds,
        list(of_another),
        [ErrorCode.OUT_OF_FUEL] * rounds,
    ]


def test_a_module_is_linked_with_functions_of_the_types_that_it_imports_or_not_at_all(
    workshop: Workshop,
) -> None:
    other_type = host_function(raises(LookupError()), FunctionType((ValueType.I64,), (I32,)))
    with pytest.raises(UnlinkableArtifact, match="incompatible"):
        workshop.link(ASKS_ITS_HOST, other_type)
    with pytest.raises(UnlinkableArtifact, match="host"):
        workshop.link(ASKS_ITS_HOST, {})


# --- what is left -----------------------------------------------------------------------------------------


def test_an_engine_whose_slots_are_taken_says_so_and_goes_on_when_one_is_free(workshop: Workshop) -> None:
    linked = workshop.link("initialize")
    sandboxes = [Sandbox(linked, LIMITS) for _ in range(POOL_SIZE * MAX_INSTANCES + 1)]
    try:
        for sandbox in sandboxes[:-1]:
            run_to_end(sandbox, sandbox.instantiate())
        with pytest.raises(GuestFault) as caught:
            run_to_end(sandboxes[-1], sandboxes[-1].instantiate())
        assert caught.value.code is ErrorCode.INSTANCE_FAILED
        sandboxes.pop(0).close()
        with sandbox_of(linked) as sandbox:
            assert call(sandbox, "get") == (0,)
    finally:
        for sandbox in sandboxes:
            sandbox.close()


def lives_of_a_sandbox(workshop: Workshop) -> Iterator[Callable[[], None]]:
    """Each way in which a sandbox is used up, for ever and in turn."""
    hostile, log, starting = map(workshop.link, ("hostile", "hidden_log", "start_spin"))

    def completes() -> None:
        with sandbox_of(hostile) as sandbox:
            call(sandbox, "spin_for", 1)

    def traps() -> None:
        with sandbox_of(hostile) as sandbox:
            fault_of(sandbox, "outer")

    def is_large() -> None:
        with sandbox_of(hostile, replace(LIMITS, max_memory_bytes=2 * LARGE_MEMORY_BYTES)) as sandbox:
            call(sandbox, "grow_forever")

    def fails() -> None:
        with sandbox_of(log) as sandbox:
            fault_of(sandbox, "complain")

    def is_stopped_at_the_start() -> None:
        with bare_sandbox(starting) as sandbox:
            steps = sandbox.instantiate()
            run_slice(sandbox, steps)
            steps.close()

    def is_never_used() -> None:
        with bare_sandbox(log):
            pass

    lives = (completes, traps, is_large, fails, completes, traps, is_never_used, is_stopped_at_the_start)
    return cycle(lives)


def open_files_and_memory_maps() -> tuple[int, int]:
    this = Path("/proc/self")
    return len(list((this / "fd").iterdir())), len((this / "maps").read_text().splitlines())


def test_sandboxes_that_were_closed_leave_nothing_behind(workshop: Workshop) -> None:
    lives = lives_of_a_sandbox(workshop)
    for _ in range(200):
        next(lives)()
    files, maps = open_files_and_memory_maps()
    callers = len(waiting_call._callers)
    for _ in range(2000):
        next(lives)()
    files_then, maps_then = open_files_and_memory_maps()
    assert files_then <= files  # other tests' garbage may have gone meanwhile
    assert maps_then < maps + 20
    assert len(waiting_call._callers) == callers


def test_sandboxes_are_made_and_closed_by_several_threads_at_once(workshop: Workshop) -> None:
    lives = [lives_of_a_sandbox(workshop) for _ in range(4)]

    def live(mine: Iterator[Callable[[], None]]) -> None:
        for _ in range(100):
            next(mine)()

    at_once([partial(live, mine) for mine in lives])


def test_code_that_was_not_compiled_for_the_engine_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    code, module = workshop.compiled("no_memory", metered=True)
    with pytest.raises(SandboxUnavailable, match="does not load"):
        workshop.plain.link(code, module, {})
    with pytest.raises(SandboxUnavailable, match="does not load"):
        workshop.plain.link(tmp_path / "missing", module, {})
