"""Sandboxes with a companion: what guests import from it, whose memory counts, and that nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.companion import AccompaniedModule, Companion, CompiledCompanion
from spear_wasm.engine.host_calls import HostFunction, Waits
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.sandbox import ExportedFunction
from spear_wasm.engine.wait import Wait
from spear_wasm.errors import UnlinkableArtifact
from spear_wasm.limits import Limits
from spear_wasm.model import WASM_PAGE_BYTES, ErrorCode, FunctionType, ValueType
from tests.workshop import (
    LIMITS,
    POOL_SIZE,
    Workshop,
    at_once,
    bare_sandbox,
    call,
    run_slice,
    run_to_end,
    start,
)

I32 = ValueType.I32
SHELF = """
(module
  (import "host" "grow" (func $grow (param i32) (result i32)))
  (import "host" "ask" (func $ask (result i32)))
  (memory (export "shelf") 2)
  (global $count (mut i32) (i32.const 0))
  (func (export "count") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.get $count))
  (func (export "put") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func (export "get") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "grow") (param i32) (result i32) (call $grow (local.get 0)))
  (func (export "grow_unasked") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "pages") (result i32) (memory.size))
  (func (export "ask") (result i32) (call $ask))
  (func (export "spin") (loop $again (br $again))))
"""
GUEST = """
(module
  (import "shelf" "count" (func $count (result i32)))
  (import "shelf" "put" (func $put (param i32 i32)))
  (import "shelf" "get" (func $get (param i32) (result i32)))
  (import "shelf" "grow" (func $grow (param i32) (result i32)))
  (import "shelf" "grow_unasked" (func $grow_unasked (param i32) (result i32)))
  (import "shelf" "pages" (func $pages (result i32)))
  (import "shelf" "ask" (func $ask (result i32)))
  (import "shelf" "spin" (func $spin))
  (memory (export "memory") 1)
  (func (export "count") (result i32) (call $count))
  (func (export "put") (param i32 i32) (call $put (local.get 0) (local.get 1)))
  (func (export "get") (param i32) (result i32) (call $get (local.get 0)))
  (func (export "grow_shelf") (param i32) (result i32) (call $grow (local.get 0)))
  (func (export "grow_shelf_unasked") (param i32) (result i32) (call $grow_unasked (local.get 0)))
  (func (export "shelf_pages") (result i32) (call $pages))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "peek") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "ask") (result i32) (call $ask))
  (func (export "spin") (call $spin))
  START)
"""
PAGES = 10
TEN_PAGES = replace(LIMITS, max_memory_bytes=PAGES * WASM_PAGE_BYTES)

Ask = Callable[..., "int | Waits"]


def grow(sandbox: AccompaniedSandbox, pages: int) -> int:
    return int(sandbox.grow_companion(pages))


def link(
    workshop: Workshop,
    guest: str = GUEST,
    *,
    start: str = "",
    ask: Ask = lambda _: 42,
    waits: bool = False,
    metered: bool = False,
) -> AccompaniedModule:
    functions = {
        ("host", "grow"): HostFunction("host", "grow", FunctionType((I32,), (I32,)), grow),
        ("host", "ask"): HostFunction("host", "ask", FunctionType((), (I32,)), ask, waits=waits),
    }
    beside_code, beside = workshop.compiled(SHELF, metered=metered)
    companion = CompiledCompanion("shelf", beside_code, beside, functions)
    code, module = workshop.compiled(guest.replace("START", start), metered=metered)
    engine = workshop.metered if metered else workshop.plain
    linked = engine.link(code, module, {}, companion)
    assert isinstance(linked, AccompaniedModule)
    return linked


class Made:
    """A sandbox with its instances, closed at the end of a block."""

    def __init__(self, linked: AccompaniedModule, limits: Limits = LIMITS) -> None:
        self.sandbox = linked.new_sandbox(limits)

    def __enter__(self) -> AccompaniedSandbox:
        try:
            run_to_end(self.sandbox, self.sandbox.instantiate())
        except GuestFault:
            self.sandbox.close()
            raise
        return self.sandbox

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()


def call_beside(sandbox: AccompaniedSandbox, name: str, *args: int) -> tuple[int | float, ...]:
    module = sandbox.linked.companion.module  # type: ignore[attr-defined]  # an AccompaniedModule
    kind = next(each.type for each in module.functions if each.name == name)
    return run_to_end(sandbox, sandbox.call_companion(ExportedFunction(name, kind), args))


# --- what guests import ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metered", [False, True])
def test_a_guest_calls_what_its_companion_exports(workshop: Workshop, metered: bool) -> None:
    with Made(link(workshop, metered=metered)) as sandbox:
        call(sandbox, "put", 100, 7)
        assert call(sandbox, "get", 100) == (7,)
        assert call(sandbox, "peek", 100) == (0,)


def test_each_sandbox_has_a_companion_of_its_own(workshop: Workshop) -> None:
    linked = link(workshop)
    with Made(linked) as one, Made(linked) as other:
        assert [call(one, "count") for _ in range(3)] == [(1,), (2,), (3,)]
        assert call(other, "count") == (1,)
    with Made(linked) as later:
        assert call(later, "count") == (1,)
        assert call(later, "get", 100) == (0,)


def test_the_host_calls_the_companion_and_reads_and_writes_its_memory(workshop: Workshop) -> None:
    with Made(link(workshop)) as sandbox:
        sandbox.write_companion(100, b"\x07\0\0\0")
        assert call(sandbox, "get", 100) == (7,)
        call(sandbox, "put", 200, 0x01020304)
        assert sandbox.read_companion(200, 4) == b"\x04\x03\x02\x01"
        assert call_beside(sandbox, "count") == (1,)
        assert call(sandbox, "count") == (2,)
        assert sandbox.read_memory(100, 4) == bytes(4)


@pytest.mark.parametrize(
    ("address", "length"),
    [(2 * WASM_PAGE_BYTES, 1), (2 * WASM_PAGE_BYTES - 1, 2), (-1, 1), (0, -1), (2**32 - 1, 2)],
)
def test_a_range_outside_of_the_companions_memory_is_the_guests_fault(
    workshop: Workshop, address: int, length: int
) -> None:
    with Made(link(workshop)) as sandbox:
        with pytest.raises(GuestFault) as caught:
            sandbox.read_companion(address, length)
        assert caught.value.code is ErrorCode.GUEST_ERROR
        assert sandbox.read_companion(address, 0) == b""
        assert len(sandbox.read_companion(0, 2 * WASM_PAGE_BYTES)) == 2 * WASM_PAGE_BYTES


def test_a_start_function_may_call_the_companion(workshop: Workshop) -> None:
    starts = "(func $start (call $put (i32.const 100) (call $ask))) (start $start)"
    with Made(link(workshop, start=starts)) as sandbox:
        assert call(sandbox, "get", 100) == (42,)


def test_a_companion_may_wait_for_the_host(workshop: Workshop) -> None:
    wait = Wait()

    def ask(_: AccompaniedSandbox) -> Waits:
        yield wait
        return 9

    with Made(link(workshop, ask=ask, waits=True)) as sandbox, closing(start(sandbox, "ask")) as steps:
        while sandbox.waits_for is None:  # a tick may end a slice before the guest comes there
            run_slice(sandbox, steps)
        assert sandbox.waits_for is wait
        wait.end()
        assert run_to_end(sandbox, steps) == (9,)


def test_what_a_host_function_of_the_companion_raises_is_the_guests_end(workshop: Workshop) -> None:
    def ask(_: AccompaniedSandbox) -> int:
        raise GuestFault(ErrorCode.GUEST_ERROR, "no answer")

    with Made(link(workshop, ask=ask)) as sandbox, pytest.raises(GuestFault, match="no answer"):
        call(sandbox, "ask")


@pytest.mark.parametrize(
    "wanted",
    ["(func (param i64))", "(func (result i64))", "(memory 1)", "(global i32)"],
)
def test_an_import_of_another_kind_or_type_does_not_fit(workshop: Workshop, wanted: str) -> None:
    with pytest.raises(UnlinkableArtifact, match=r"no 'shelf'\.'count'"):
        link(workshop, f'(module (import "shelf" "count" {wanted}))')


def test_an_import_that_the_companion_does_not_have_does_not_fit(workshop: Workshop) -> None:
    with pytest.raises(UnlinkableArtifact, match=r"no 'shelf'\.'table'"):
        link(workshop, '(module (import "shelf" "table" (func)))')


def test_an_import_from_elsewhere_that_nobody_provides_does_not_fit(workshop: Workshop) -> None:
    with pytest.raises(UnlinkableArtifact, match=r"no 'env'\.'x'"):
        link(workshop, '(module (import "env" "x" (func)))')


# --- memory ---------------------------------------------------------------------------------------------


def test_the_peak_counts_both_memories(workshop: Workshop) -> None:
    with Made(link(workshop)) as sandbox:
        assert sandbox.usage(0).peak_memory_bytes == 3 * WASM_PAGE_BYTES
        call(sandbox, "grow", 4)
        call(sandbox, "grow_shelf", 2)
        assert sandbox.usage(0).peak_memory_bytes == 9 * WASM_PAGE_BYTES


@pytest.mark.parametrize("shelf", [0, 3, 4, 5, 7])
def test_the_guest_grows_as_far_as_its_companion_leaves_room(workshop: Workshop, shelf: int) -> None:
    with Made(link(workshop), TEN_PAGES) as sandbox:
        assert call(sandbox, "grow_shelf", shelf) == (1,)
        room = PAGES - 3 - shelf
        assert call(sandbox, "grow", room + 1) == (-1,)
        assert call(sandbox, "grow", room) == (1,)
        assert call(sandbox, "grow", 1) == (-1,)
        assert call(sandbox, "grow_shelf", 1) == (0,)
        assert sandbox.usage(0).peak_memory_bytes == PAGES * WASM_PAGE_BYTES


@pytest.mark.parametrize("own", [0, 3, 4, 7])
def test_the_companion_grows_as_far_as_the_guest_leaves_room(workshop: Workshop, own: int) -> None:
    with Made(link(workshop), TEN_PAGES) as sandbox:
        assert call(sandbox, "grow", own) == (1,)
        room = PAGES - 3 - own
        assert call(sandbox, "grow_shelf", room + 1) == (0,)
        assert call(sandbox, "grow_shelf", room) == (1,)
        assert call(sandbox, "shelf_pages") == (2 + room,)
        assert call(sandbox, "grow", 1) == (-1,)


@pytest.mark.parametrize("pages", [2**16, 2**31 - 1, -1])
def test_no_companion_grows_beyond_all_limits(workshop: Workshop, pages: int) -> None:
    with Made(link(workshop)) as sandbox:
        assert not sandbox.grow_companion(pages & 0xFFFFFFFF)
        assert sandbox.memory_bytes() == 3 * WASM_PAGE_BYTES


def test_a_sandbox_that_is_armed_again_is_bounded_by_what_both_hold(workshop: Workshop) -> None:
    with Made(link(workshop), TEN_PAGES) as sandbox:
        assert call(sandbox, "grow_shelf", 5) == (1,)
        sandbox.arm(TEN_PAGES)
        assert call(sandbox, "grow", 3) == (-1,)
        assert call(sandbox, "grow", 2) == (1,)


@pytest.mark.parametrize("pages", [1, 2])
def test_a_guest_that_does_not_fit_beside_its_companion_is_refused(workshop: Workshop, pages: int) -> None:
    linked = link(workshop)
    with (
        pytest.raises(GuestFault) as caught,
        Made(linked, replace(LIMITS, max_memory_bytes=pages * WASM_PAGE_BYTES)),
    ):
        pass
    assert caught.value.code is ErrorCode.MEMORY_LIMIT
    with Made(linked, replace(LIMITS, max_memory_bytes=3 * WASM_PAGE_BYTES)) as sandbox:
        assert call(sandbox, "grow", 1) == (-1,)


# --- how they end ---------------------------------------------------------------------------------------


def test_sandboxes_with_companions_give_their_slots_back(workshop: Workshop) -> None:
    linked = link(workshop)
    for _ in range(3):
        made = [Made(linked) for _ in range(POOL_SIZE)]
        for each in made:
            assert call(each.__enter__(), "count") == (1,)
        for each in made:
            each.__exit__()


def test_a_guest_that_spins_in_its_companion_is_ended_like_any_other(workshop: Workshop) -> None:
    linked = link(workshop)
    for _ in range(2 * POOL_SIZE):
        with Made(linked) as sandbox, closing(start(sandbox, "spin")) as steps:
            run_slice(sandbox, steps)


def test_a_start_function_that_spins_is_ended_and_gives_its_slots_back(workshop: Workshop) -> None:
    linked = link(workshop, start="(start $spin)")
    for _ in range(2 * POOL_SIZE):
        with bare_sandbox(linked) as sandbox, closing(sandbox.instantiate()) as steps:
            run_slice(sandbox, steps)


def test_fuel_is_counted_in_the_companion_too(workshop: Workshop) -> None:
    with Made(link(workshop, metered=True), replace(LIMITS, max_fuel=10_000)) as sandbox:
        with pytest.raises(GuestFault) as caught:
            call(sandbox, "spin")
        assert caught.value.code is ErrorCode.OUT_OF_FUEL


def test_sandboxes_on_many_threads_keep_to_their_own_companions(workshop: Workshop) -> None:
    linked = link(workshop)

    def count_often() -> list[int | float]:
        counts: list[int | float] = []
        for _ in range(100):
            with Made(linked, TEN_PAGES) as sandbox:
                assert call(sandbox, "grow_shelf", 6) == (1,)
                assert call(sandbox, "grow", 2) == (-1,)
                counts += call(sandbox, "count")
        return counts

    assert at_once([count_often] * 4) == [[1] * 100] * 4


def test_a_companion_is_known_by_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "empty.wasm"
    file.write_bytes(b"\0asm\1\0\0\0")
    assert Companion("shelf", file, {}).digest == (
        "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476"
    )
