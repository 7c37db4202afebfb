"""What holds of the reader of module binaries whatever the bytes: it answers or refuses, and soon."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import process_time
from types import FrameType

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_wasm.engine.binary import ModuleCeiling, inspect, with_memory_exported
from spear_wasm.engine.leb import encode_u32
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import ExternKind, ModuleInfo
from tests.engine.modules_by_hand import (
    CEILING,
    CODE,
    EXPORT,
    EXTERNREF,
    FUNCREF,
    FUNCTION,
    HEADER,
    I32,
    I64,
    IMPORT,
    MEMORY,
    NULLARY,
    TABLE,
    TYPE,
    custom,
    engine,
    export,
    function_type,
    functions,
    is_valid,
    module,
    name,
    section,
    sized,
    wat,
)

WIDE_OPEN = ModuleCeiling(
    max_functions=1 << 32, max_function_bytes=1 << 32, max_memory_bytes=1 << 32, max_table_elements=1 << 36
)
FIXTURES = sorted(Path(__file__).parents[2].glob("fixtures/wasm/*.wasm"))
PROPERTY = settings(deadline=None, max_examples=200)


@pytest.fixture(scope="module", autouse=True)
def _no_engine_outlives_the_module() -> Iterator[None]:
    yield
    engine.cache_clear()


# --- time and memory --------------------------------------------------------------------------------------


def large_module() -> bytes:
    """Close to 64 MiB, 50,000 functions, each exported."""
    count, body = 50_000, b"\x00" + b"\x01" * 1297 + b"\x0b"
    return module(
        section(TYPE, NULLARY),
        section(FUNCTION, *[b"\0"] * count),
        section(EXPORT, *[export(f"f{index}", index=index) for index in range(count)]),
        section(CODE, *[sized(body)] * count),
    )


def wide_types() -> bytes:
    """Types of a thousand parameters, all different."""
    return module(
        section(
            TYPE, *[function_type(f"{index:0500b}".encode().translate(BITS) * 2) for index in range(50_000)]
        )
    )


BITS = bytes.maketrans(b"01", I32 + I64)


def vast_name_section() -> bytes:
    entries = b"".join(encode_u32(index) + b"\x01\x00\x01n" for index in range(1_000_000))
    names = custom("name", b"\x02" + sized(encode_u32(1_000_000) + entries))
    return functions(50_000, export("f", index=49_999), kind=function_type(I32), after=names)


def seconds_to_inspect(binary: bytes) -> float:
    """Of processor time, in which what others are given meanwhile may be counted."""
    began = process_time()
    inspect(binary, CEILING)
    return process_time() - began


@pytest.mark.parametrize(
    "make", [large_module, wide_types, vast_name_section], ids=lambda make: make.__name__
)
def test_a_module_of_the_largest_size_takes_well_under_a_second_and_little_memory(
    make: Callable[[], bytes],
) -> None:
    binary = make()
    assert min(seconds_to_inspect(binary) for _ in range(3)) < 2  # 0.2 s where it was measured
    tracemalloc.start()
    try:
        inspect(binary, CEILING)
        assert tracemalloc.get_traced_memory()[1] < len(binary) + (20 << 20)
    finally:
        tracemalloc.stop()


def test_millions_of_empty_custom_sections_are_not_counted_to_the_end() -> None:
    assert steps(module(b"\0\1\0" * 1_000_000)) < 50_000


def steps(binary: bytes) -> int:
    """How many calls, of Python and of C, looking at a module takes, refused or not."""
    count = 0

    def tick(_frame: FrameType, _event: str, _argument: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        inspect(binary, WIDE_OPEN)
    except InvalidArtifact:
        pass
    finally:
        sys.setprofile(before)
    return count


# --- whatever the bytes -----------------------------------------------------------------------------------


@cache
def samples() -> tuple[bytes, ...]:
    by_hand = wat("""
        (module
          (type $wide (func (param i32 i64 f32 f64 v128 funcref externref) (result i32 i64)))
          (import "a" "f" (func (type $wide)))
          (import "a" "t" (table 1 2 funcref))
          (import "a" "g" (global (mut i32)))
          (memory 1 2)
          (table 1 externref)
          (global i32 (i32.const 5))
          (func $f (export "f") (param $x i32) (param $y i32) (result i32) (local.get $x))
          (func $s)
          (export "t" (table 0))
          (start $s)
          (elem declare func $f)
          (data (i32.const 0) "abc"))
    """)
    small = [path.read_bytes() for path in FIXTURES]
    return (by_hand, *[binary for binary in small if len(binary) < 4096])


def assert_only_ever_refused(binary: bytes) -> ModuleInfo | None:
    """Whatever the bytes: an answer or InvalidArtifact, soon; nothing that the engine takes is refused."""
    assert steps(binary) <= 200 + 30 * len(binary)
    refused: InvalidArtifact | None = None
    info: ModuleInfo | None = None
    try:
        info = inspect(binary, WIDE_OPEN)
    except InvalidArtifact as error:
        refused = error
    if refused is not None:
        assert 0 <= int(refused.metadata["offset"]) <= len(binary)
        assert not is_valid(binary), refused
    return info


@PROPERTY
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_read_or_refused(rubbish: bytes, with_header: bool) -> None:
    assert_only_ever_refused(HEADER + rubbish if with_header else rubbish)


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 14), st.binary(max_size=40)), max_size=6))
def test_sections_of_random_bytes_are_read_or_refused(sections: list[tuple[int, bytes]]) -> None:
    assert_only_ever_refused(module(*[bytes((number,)) + sized(content) for number, content in sections]))


@PROPERTY
@given(st.data())
def test_damaged_modules_are_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(samples())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        removed = data.draw(st.integers(0, 2))
        damaged[at : at + removed] = data.draw(st.binary(max_size=3))
    assert_only_ever_refused(bytes(damaged))


def test_a_module_cut_at_any_byte_is_read_or_refused() -> None:
    for binary in samples():
        for length in range(0, len(binary), max(1, len(binary) // 400)):
            assert_only_ever_refused(binary[:length])


# --- as the engine sees it ---------------------------------------------------------------------------------


@st.composite
def extents(draw: st.DrawFn, most: int) -> bytes:
    low = draw(st.integers(0, most))
    if draw(st.booleans()):
        return b"\x00" + encode_u32(low)
    return b"\x01" + encode_u32(low) + encode_u32(draw(st.integers(low, most)))


NAMES = st.text(max_size=8)
# Without v128: asked for such a type, the library's reflection aborts the process.
VALUE_TYPES = st.lists(st.sampled_from(b"\x7f\x7e\x7d\x7c\x70\x6f"), max_size=5).map(bytes)
TABLES = st.builds(bytes.__add__, st.sampled_from([FUNCREF, EXTERNREF]), extents(20))
GLOBAL_TYPES = st.builds(
    bytes.__add__, st.sampled_from([I32, I64, FUNCREF]), st.sampled_from([b"\x00", b"\x01"])
)


@st.composite
def valid_modules(draw: st.DrawFn) -> bytes:
    """Types, imports of every kind, functions that trap, tables, perhaps a memory, and exports of them."""
    types = draw(st.lists(st.builds(function_type, VALUE_TYPES, VALUE_TYPES), min_size=1, max_size=4))
    type_indices = st.integers(0, len(types) - 1).map(encode_u32)
    imported: list[tuple[int, bytes]] = [
        *[(0, index) for index in draw(st.lists(type_indices, max_size=3))],
        *[(1, table) for table in draw(st.lists(TABLES, max_size=2))],
        *[(3, kind) for kind in draw(st.lists(GLOBAL_TYPES, max_size=2))],
    ]
    memory = draw(st.none() | st.tuples(st.booleans(), extents(30)))
    if memory is not None and memory[0]:
        imported.append((2, memory[1]))
    memories = [memory[1]] if memory is not None and not memory[0] else []
    imported = draw(st.permutations(imported))
    defined = draw(st.lists(type_indices, max_size=4))
    tables = draw(st.lists(TABLES, max_size=3))
    counts = [0, 0, 0, 0]
    for kind, _ in imported:
        counts[kind] += 1
    counts = [counts[0] + len(defined), counts[1] + len(tables), counts[2] + len(memories), counts[3]]
    exportable = [(kind, index) for kind, count in enumerate(counts) for index in range(count)]
    chosen = draw(st.lists(st.sampled_from(exportable), max_size=6)) if exportable else []
    names = draw(st.lists(NAMES, unique=True, min_size=len(chosen), max_size=len(chosen)))
    sections = [
        section(TYPE, *types),
        section(
            IMPORT, *[name(draw(NAMES)) + name(draw(NAMES)) + bytes((kind,)) + of for kind, of in imported]
        ),
        section(FUNCTION, *defined),
        section(TABLE, *tables),
        section(MEMORY, *memories),
        section(EXPORT, *[export(title, *what) for title, what in zip(names, chosen, strict=True)]),
        section(CODE, *[b"\x03\x00\x00\x0b"] * len(defined)),
    ]
    drawn = [part for part in sections if part[2:] != b"\x00" or draw(st.booleans())]
    return module(*[custom("c") * draw(st.integers(0, 1)) + part for part in drawn])


def assert_agrees_with_wasmtime(binary: bytes) -> None:
    info = inspect(binary, CEILING)
    compiled = wasmtime.Module(engine(), binary)
    exported = {item.name: item.type for item in compiled.exports}
    assert {function.name: str(function.type) for function in info.functions} == {
        title: signature_of(kind) for title, kind in exported.items() if isinstance(kind, wasmtime.FuncType)
    }
    assert [(item.module, item.name, item.kind, item.type) for item in info.imports] == [
        (item.module, item.name, *described(item.type)) for item in compiled.imports
    ]
    memories = [kind for kind in exported.values() if isinstance(kind, wasmtime.MemoryType)]
    if memories and not any(item.kind is ExternKind.MEMORY for item in info.imports):
        assert info.memory_exported_by_guest
        assert isinstance(exported[info.memory_export or ""], wasmtime.MemoryType)
        assert info.memory_min_pages == memories[0].limits.min
        assert info.memory_max_pages == memories[0].limits.max
    else:
        assert not info.memory_exported_by_guest
        assert info.memory_export not in exported


def described(kind: object) -> tuple[ExternKind, str]:
    match kind:
        case wasmtime.FuncType():
            return ExternKind.FUNCTION, signature_of(kind)
        case wasmtime.TableType():
            return ExternKind.TABLE, f"{value_type(kind.element)} {range_of(kind.limits)}"
        case wasmtime.MemoryType():
            return ExternKind.MEMORY, f"{range_of(kind.limits)} pages"
        case wasmtime.GlobalType():
            return ExternKind.GLOBAL, f"{'mut ' if kind.mutable else ''}{value_type(kind.content)}"
        case _:
            raise AssertionError(kind)


def signature_of(kind: wasmtime.FuncType) -> str:
    params, results = (", ".join(map(value_type, values)) for values in (kind.params, kind.results))
    return f"({params}) -> ({results})"


def value_type(kind: wasmtime.ValType) -> str:
    return "externref" if kind == wasmtime.ValType.externref() else str(kind)


def range_of(limits: wasmtime.Limits) -> str:
    return f"{limits.min}.." if limits.max is None else f"{limits.min}..{limits.max}"


@PROPERTY
@given(valid_modules())
def test_the_engine_sees_the_same_exports_and_imports(binary: bytes) -> None:
    assert is_valid(binary)
    assert_agrees_with_wasmtime(binary)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_our_own_guests_are_read_as_the_engine_sees_them(path: Path) -> None:
    assert_agrees_with_wasmtime(path.read_bytes())


@PROPERTY
@given(valid_modules())
def test_exporting_the_memory_leaves_a_module_valid_and_all_else_as_it_was(binary: bytes) -> None:
    before = inspect(binary, CEILING)
    prepared = with_memory_exported(binary, before)
    after = inspect(prepared, CEILING)
    assert is_valid(prepared)
    assert (after.functions, after.imports, after.memory_export) == (
        before.functions, before.imports, before.memory_export,
    )  # fmt: skip
    assert after.memory_exported_by_guest is (before.memory_export is not None)


@PROPERTY
@given(st.data())
def test_exporting_the_memory_of_a_damaged_module_that_still_runs_leaves_it_valid(
    data: st.DataObject,
) -> None:
    binary = data.draw(st.sampled_from(samples()))
    at = data.draw(st.integers(8, len(binary) - 1))
    damaged = binary[:at] + bytes((data.draw(st.integers(0, 255)),)) + binary[at + 1 :]
    info = assert_only_ever_refused(damaged)
    if info is not None and is_valid(damaged):
        assert is_valid(with_memory_exported(damaged, info))
