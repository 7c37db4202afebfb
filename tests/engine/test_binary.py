"""The reader of module binaries: what it sees, and what it refuses and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from mmap import mmap
from pathlib import Path

import pytest
import wasmtime

from spear_wasm.engine.binary import ModuleCeiling, check_kind, inspect, with_memory_exported
from spear_wasm.engine.local_names import MAX_LOCALS_READ
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import ExternKind, FunctionExport, FunctionType, Import, ModuleInfo, ValueType
from tests.engine.modules_by_hand import (
    CEILING,
    CODE,
    DATA,
    EMPTY_BODY,
    EXPORT,
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
    local_names,
    module,
    name,
    section,
    sized,
    wat,
)


@pytest.fixture(scope="module", autouse=True)
def _no_engine_outlives_the_module() -> Iterator[None]:
    yield
    engine.cache_clear()


def refusal(binary: bytes, ceiling: ModuleCeiling = CEILING) -> InvalidArtifact:
    with pytest.raises(InvalidArtifact) as caught:
        inspect(binary, ceiling)
    return caught.value


# --- kinds of files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "offset", "words"),
    [
        (b"", 0, "empty"),
        (b"\0as", 3, "ends within the header"),
        (b"\0asm\1\0\0", 7, "ends within the header"),
        (b"\0asm\2\0\0\0", 4, "another version (02 00 00 00)"),
        (b"\0asm\2", 4, "another version (02)"),
        (b"\0asm\x0e\0\1\0", 4, "component of another version"),
        (b"\0asm\x0d\0\1", 7, "ends within the header"),
        (b"(module)", 0, "wat2wasm"),
        (b"  \n;; hello\n(module)", 3, "wat2wasm"),
        (b"\xef\xbb\xbf(component)", 3, "wat2wasm"),
        (b"\x7fELF\2\1\1\0" + bytes(56), 0, "native (ELF)"),
        (b"\x1f\x8b\x08\0", 0, "gzip"),
        (b"PK\x03\x04", 0, "zip"),
        (b"!<arch>\n", 0, "archive of object files"),
        (b"BC\xc0\xde", 0, "bitcode"),
        (b"\x89PNG\r\n", 0, "no WebAssembly module: it begins with the bytes 89 50 4e 47"),
        (b"x", 0, "no WebAssembly module"),
    ],
)
def test_whatever_is_no_core_module_is_told_apart(head: bytes, offset: int, words: str) -> None:
    for check in (check_kind, refusal_of_inspect):
        with pytest.raises(InvalidArtifact) as caught:
            check(head)
        assert words in caught.value.message
        assert f"at byte {offset}" in caught.value.message
        assert caught.value.metadata["offset"] == str(offset)


def refusal_of_inspect(head: bytes) -> None:
    inspect(head, CEILING)


def test_code_precompiled_by_wasmtime_is_refused() -> None:
    compiled = wasmtime.Module(engine(), wat("(module)")).serialize()
    with pytest.raises(InvalidArtifact, match="precompiled by wasmtime"):
        check_kind(bytes(compiled[:64]))


def test_a_component_is_accepted() -> None:
    check_kind(wat("(component)"))


def test_the_header_of_a_core_module_is_accepted_whatever_follows() -> None:
    check_kind(HEADER)
    check_kind(HEADER + b"rubbish")


# --- what is seen -----------------------------------------------------------------------------------------


def test_an_empty_module_has_nothing() -> None:
    assert inspect(HEADER, CEILING) == ModuleInfo()


def test_everything_at_the_edges_of_a_module_is_seen() -> None:
    binary = wat("""
        (module
          (import "env" "log" (func $log (param i32 i64)))
          (import "env" "table" (table 1 2 funcref))
          (import "env" "limit" (global i32))
          (import "env" "counter" (global (mut i64)))
          (memory (export "memory") 2 16)
          (table 3 funcref)
          (table 4 8 externref)
          (global (export "level") i32 (i32.const 1))
          (func $add (export "add") (param $left i32) (param $right i32) (result i32)
            (i32.add (local.get $left) (local.get $right)))
          (func $start (call $log (i32.const 1) (i64.const 2)))
          (export "log" (func $log))
          (export "sum" (func $add))
          (start $start))
    """)
    log = FunctionType((ValueType.I32, ValueType.I64))
    add = FunctionType((ValueType.I32, ValueType.I32), (ValueType.I32,))
    assert inspect(binary, CEILING) == ModuleInfo(
        functions=(
            FunctionExport("add", add, ("left", "right")),
            FunctionExport("log", log),
            FunctionExport("sum", add, ("left", "right")),
        ),
        imports=(
            Import("env", "log", ExternKind.FUNCTION, "(i32, i64) -> ()", log),
            Import("env", "table", ExternKind.TABLE, "funcref 1..2"),
            Import("env", "limit", ExternKind.GLOBAL, "i32"),
            Import("env", "counter", ExternKind.GLOBAL, "mut i64"),
        ),
        memory_export="memory",
        memory_exported_by_guest=True,
        memory_min_pages=2,
        memory_max_pages=16,
        tables=2,
        table_elements=7,
        largest_table=4,
        function_count=2,
        has_start=True,
    )


def test_all_value_types_that_the_engine_runs_are_told_apart() -> None:
    everything = "i32 i64 f32 f64 v128 funcref externref"
    binary = wat(f'(module (func (export "f") (param {everything})))')
    assert inspect(binary, CEILING).functions[0].type.params == tuple(map(ValueType, everything.split()))


def test_an_imported_memory_is_an_import_and_nothing_else() -> None:
    info = inspect(wat('(module (import "env" "m" (memory 1)) (export "memory" (memory 0)))'), CEILING)
    assert info == ModuleInfo(imports=(Import("env", "m", ExternKind.MEMORY, "1.. pages"),))


def test_an_imported_tag_is_an_import() -> None:
    binary = module(section(TYPE, function_type(I32)), section(IMPORT, name("e") + name("t") + b"\4\0\0"))
    assert inspect(binary, CEILING).imports == (Import("e", "t", ExternKind.TAG, "(i32) -> ()"),)


def test_a_table_with_an_initial_value_is_read() -> None:
    for value in (b"\xd0\x70", b"\xd2\x00", b"\x23\x00"):
        binary = module(section(TABLE, b"\x40\x00" + FUNCREF + b"\x01\x05\x09" + value + b"\x0b"))
        assert inspect(binary, CEILING).table_elements == 5


def test_padded_numbers_are_read_as_the_engine_reads_them() -> None:
    padded = module(b"\x01\x88\x80\x80\x80\x00" + b"\x81\x80\x80\x80\x00" + NULLARY)
    assert is_valid(padded)
    assert inspect(padded, CEILING) == ModuleInfo()


def test_a_file_can_be_closed_after_reading_it_and_after_refusing_it(tmp_path: Path) -> None:
    path = tmp_path / "module.wasm"
    for binary in (wat("(module (memory 1))"), module(section(MEMORY, b"\0\1") + b"\x63")):
        path.write_bytes(binary)
        refused: InvalidArtifact | None = None
        with path.open("rb") as file, closing(mmap(file.fileno(), 0, prot=1)) as mapped:
            try:
                inspect(mapped, CEILING)
            except InvalidArtifact as error:
                refused = error  # whose traceback holds every frame of the reader
        assert (refused is None) is is_valid(binary)


def test_a_view_is_as_good_as_bytes_and_stays_usable() -> None:
    binary = wat('(module (func (export "f")))')
    view = memoryview(b"before" + binary)[6:]
    assert inspect(view, CEILING) == inspect(binary, CEILING)
    assert bytes(view) == binary


# --- names of parameters ----------------------------------------------------------------------------------

TWO_PARAMS = function_type(I32 + I64)


def names_with(section_of_names: bytes) -> tuple[str, ...]:
    binary = functions(2, export("f", index=1), kind=TWO_PARAMS, after=section_of_names)
    return inspect(binary, CEILING).functions[0].param_names


def test_parameters_have_the_names_that_the_name_section_gives_them() -> None:
    others = [(0, [(0, b"other")])]
    of_f = [(1, [(0, b"left"), (1, b"right"), (2, b"local")])]
    assert names_with(local_names(*others, *of_f, (2, [(0, b"later")]))) == ("left", "right")


@pytest.mark.parametrize(
    "names",
    [
        [(0, b"only")],
        [(1, b"second")],
        [(0, b"same"), (1, b"same")],
        [(0, b""), (1, b"right")],
        [(0, b"left"), (2, b"local")],
        [],
    ],
)
def test_parameters_have_no_names_unless_each_has_one_of_its_own(names: list[tuple[int, bytes]]) -> None:
    assert names_with(local_names((1, names))) == ()


@pytest.mark.parametrize(
    "content",
    [
        b"\x02",
        b"\x02\x7f\x01",
        b"\x02\x80\x80\x80\x80\x80\x80",
        b"\x02" + sized(b"\x01\x01\x02\x00\x04left\x01\x7fright"),
        b"\x02" + sized(b"\x01\x01\x02\x00\x04left\x01\x02\xff\xff"),
        b"\x02" + sized(b"\x01\x01\x02\x01\x04left\x00\x05right"),
        b"\x02" + sized(b"\x02\x01\x02\x00\x01a\x01\x01b\x01\x02\x00\x01a\x01\x01b"),
        b"\x02" + sized(b"\xff\xff\xff\xff\x0f\x01\x02\x00\x01a\x01\x01b"),
        b"\x01\x00\x01\x00" + b"\x02" + sized(b"\x01\x01\x02\x00\x01a\x01\x01b"),
    ],
)
def test_a_malformed_name_section_names_nothing_and_harms_nothing(content: bytes) -> None:
    assert names_with(custom("name", content)) == ()


def test_only_the_first_name_section_counts() -> None:
    first, second = (local_names((1, [(0, a), (1, b)])) for a, b in ((b"a", b"b"), (b"c", b"d")))
    assert names_with(first + second) == ("a", "b")


def test_names_far_down_a_vast_name_section_are_not_looked_for() -> None:
    count = MAX_LOCALS_READ // 10
    many = [(index, [(local, b"n") for local in range(10)]) for index in range(count)]
    binary = functions(
        count,
        export("first"),
        export("last", index=count - 1),
        kind=function_type(I32),
        after=local_names(*many),
    )
    first, last = inspect(binary, CEILING).functions
    assert (first.param_names, last.param_names) == (("n",), ())


def test_names_of_parameters_are_left_out_where_they_would_exceed_the_interface() -> None:
    names = local_names((0, [(0, b"n" * 60)]))
    ceiling = ModuleCeiling(10, 10, 10, 10, max_interface_bytes=100)
    short, long = (
        functions(1, export("f"), *others, kind=function_type(I32), after=names)
        for others in ((), (export("g" * 50),))
    )
    assert inspect(short, ceiling).functions[0].param_names == ("n" * 60,)
    assert all(function.param_names == () for function in inspect(long, ceiling).functions)


# --- what is refused, and where ---------------------------------------------------------------------------


# One line for each.
# fmt: off
FRAME_REFUSALS = [
    (module(b"\x01"), 9, "the module ends too early"),
    (module(b"\x01\x80\x80"), 11, "the module ends too early"),
    (module(b"\x01\x80\x80\x80\x80\x80\x01"), 9, "more than 32 bits or five bytes"),
    (module(b"\x01\x80\x80\x80\x80\x10"), 9, "more than 32 bits or five bytes"),
    (module(b"\x01\x05\x01\x60\x00\x00"), 10, "the type section runs past the end of the module"),
    (module(b"\x0e\x00"), 8, "no section of id 14"),
    (module(b"\x0d\x01\x00"), 8, "tags (exception handling)"),
    (module(section(TYPE), section(TYPE)), 11, "a second type section"),
    (module(section(TYPE), custom("x"), section(TYPE)), 15, "a second type section"),
    (module(section(MEMORY), section(TABLE)), 11, "the table section comes after the memory section"),
    (module(section(DATA), b"\x0c\x01\x00"), 11, "the data count section comes after the data section"),
    (module(b"\x01\x02\x00\x00"), 11, "the type section has 1 bytes too many"),
    (module(b"\x01\x00"), 10, "the type section ends too early"),
    (module(b"\x00\x00"), 10, "the custom section ends too early"),
    (module(b"\x00\x02\x05x"), 12, "the custom section ends too early"),
    (module(b"\x00\x02\x01\xff"), 11, "not UTF-8"),
]
TYPE_REFUSALS = [
    (module(section(TYPE, b"\x5f\x00")), 11, "type form 0x5f (garbage collection)"),
    (module(section(TYPE, b"\x4e\x00")), 11, "type form 0x4e (garbage collection)"),
    (module(section(TYPE, function_type(b"\x7f\x6e"))), 14, "value type 0x6e"),
    (module(section(TYPE, function_type(b"", b"\x63\x70"))), 14, "value type 0x63"),
    (module(section(TYPE, function_type(I32 * 1001))), 13, "1001 parameters or results; 1000 are accepted"),
    (module(b"\x01\x04\x01\x60\x02\x7f"), 14, "the type section ends too early"),
]
IMPORT_REFUSALS = [
    (module(section(IMPORT, b"\x01m\x01n\x00\x00")), 16, "type 0 does not exist; there are 0"),
    (module(section(IMPORT, b"\x01m\x01n\x05")), 15, "kind 0x05"),
    (module(section(IMPORT, b"\x01\xff\x00\x02\x00")), 12, "not UTF-8"),
    (module(section(IMPORT, b"\x03\xed\xa0\x80\x00\x02\x00")), 12, "not UTF-8"),
    (module(section(IMPORT, b"\0\0\x03\x7f\x02")), 15, "mutability 0x02"),
    (module(section(IMPORT, b"\0\0\x03\x6e\x00")), 14, "value type 0x6e"),
    (module(section(TYPE, NULLARY), section(IMPORT, b"\0\0\x04\x01\x00")), 20, "unknown attribute"),
    (module(section(IMPORT, *[b"\0\0\x02\x00\x01"] * 2)), 19, "2 memories; 1 are accepted"),
]
CODE_REFUSALS = [
    (module(section(FUNCTION, b"\x00")), 11, "type 0 does not exist"),
    (module(section(TYPE, NULLARY), section(FUNCTION, b"\0")), 18, "1 functions are declared, 0 have code"),
    (module(section(CODE, EMPTY_BODY)), 10, "0 functions are declared, 1 have code"),
    (functions(1)[:-4] + b"\x05" + EMPTY_BODY, 23, "1 functions are declared, 5 have code"),
    (functions(1)[:-3] + b"\x03\x00\x0b", 27, "the code section ends too early"),
    (module(b"\x08\x01\x00"), 10, "func 0 does not exist"),
    (functions(1)[:18] + b"\x08\x02\x00\x00", 21, "the start section has 1 bytes too many"),
    (module(b"\x0c\x01\x01"), 11, "1 data segments are announced, not 0"),
    (module(b"\x0c\x01\x01", section(DATA)), 14, "1 data segments are announced, not 0"),
    (module(b"\x0c\x02\x00\x00"), 11, "the data count section has 1 bytes too many"),
]
TABLE_REFUSALS = [
    (module(section(TABLE, I32 + b"\x00\x01")), 11, "a table holds references, not i32"),
    (module(section(TABLE, b"\x64\x00\x01")), 11, "value type 0x64"),
    (module(section(TABLE, FUNCREF + b"\x04\x01")), 12, "a table is 64-bit"),
    (module(section(TABLE, FUNCREF + b"\x03\x01\x01")), 12, "a table is shared (threads)"),
    (module(section(TABLE, FUNCREF + b"\x10\x01")), 12, "unknown flags 0x10"),
    (module(section(TABLE, FUNCREF + b"\x01\x02\x01")), 12, "maximum of 1 is below its minimum of 2"),
    (module(section(TABLE, *[FUNCREF + b"\x00\x01"] * 11)), 10, "11 tables; 10 are accepted"),
    (module(section(TABLE, *[FUNCREF + b"\0\xd1\x86\x03"] * 2)), 10, "100002 initial table elements; 100000"),
    (module(section(TABLE, b"\x40\x00" + FUNCREF + b"\x00\x01\x41\x00\x0b")), 16, "instruction 0x41"),
    (module(section(TABLE, b"\x40\x00" + FUNCREF + b"\x00\x01\xd2\x00\x6a")), 18, "does not end after one"),
    (module(section(TABLE, b"\x40\x01")), 11, "value type 0x40"),
]
MEMORY_REFUSALS = [
    (module(section(MEMORY, *[b"\x00\x01"] * 2)), 10, "2 memories; 1 are accepted"),
    (module(section(MEMORY, b"\x03\x01\x01")), 11, "a memory is shared (threads)"),
    (module(section(MEMORY, b"\x04\x01")), 11, "a memory is 64-bit"),
    (module(section(MEMORY, b"\x08\x01\x00")), 11, "a memory is of a custom page size"),
    (module(section(MEMORY, b"\x20\x01")), 11, "unknown flags 0x20"),
    (module(section(MEMORY, b"\x01\x02\x01")), 11, "maximum of 1 is below its minimum of 2"),
    (module(section(MEMORY, b"\x00\x81\x80\x04")), 11, "65537.. pages is beyond 32-bit addresses"),
    (module(section(MEMORY, b"\x01\x00\x81\x80\x04")), 11, "0..65537 pages is beyond 32-bit addresses"),
    (module(section(MEMORY, b"\x00\x81\x20")), 10, "268500992 bytes of initial memory; 268435456 are"),
]
EXPORT_REFUSALS = [
    (module(section(EXPORT, export("f"))), 14, "func 0 does not exist; there are 0"),
    (module(section(EXPORT, export("g", 3, 7))), 14, "global 7 does not exist"),
    (module(section(EXPORT, name("k") + b"\x05\x00")), 13, "kind 0x05"),
    (module(section(EXPORT, b"\x01\xff\x00\x00")), 12, "not UTF-8"),
    (functions(1, export("f"), export("f")), 25, "a second export named 'f'"),
]
# fmt: on
REFUSALS = [
    *FRAME_REFUSALS,
    *TYPE_REFUSALS,
    *IMPORT_REFUSALS,
    *CODE_REFUSALS,
    *TABLE_REFUSALS,
    *MEMORY_REFUSALS,
    *EXPORT_REFUSALS,
]  # fmt: skip


@pytest.mark.parametrize(("binary", "offset", "words"), REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_a_module_that_cannot_run_here_is_refused_at_the_byte_in_question(
    binary: bytes, offset: int, words: str
) -> None:
    error = refusal(binary)
    assert words in error.message
    assert error.message.endswith(f"(at byte {offset})")
    assert error.metadata == {"offset": str(offset)}


TINY = ModuleCeiling(
    max_functions=2,
    max_function_bytes=2,
    max_memory_bytes=1 << 16,
    max_table_elements=3,
    max_tables=2,
    max_types=2,
    max_imports=2,
    max_exports=2,
    max_name_bytes=5,
    max_interface_bytes=30,
    max_custom_sections=2,
)
A_GLOBAL = b"\x01m\x01g\x03\x7f\x00"


def exporting(params: bytes, results: bytes) -> bytes:
    return functions(1, export("a"), kind=function_type(params, results))


def importing(params: bytes) -> bytes:
    return module(section(TYPE, function_type(params)), section(IMPORT, b"\x01m\x01f\x00\x00"))


NO_ELEMENTS = FUNCREF + b"\x00\x00"
# One line for each.
# fmt: off
BOUNDARIES = [
    (functions(2), functions(3), "3 functions; 2"),
    (functions(1), functions(1)[:-5] + b"\x05\x01\x03\x00\x01\x0b", "3 bytes of code in one function; 2"),
    (module(section(MEMORY, b"\0\1")), module(section(MEMORY, b"\0\2")), "131072 bytes of initial memory"),
    (module(section(TABLE, FUNCREF + b"\0\3")), module(section(TABLE, FUNCREF + b"\0\4")), "4 initial table"),
    (module(section(TABLE, *[NO_ELEMENTS] * 2)), module(section(TABLE, *[NO_ELEMENTS] * 3)), "3 tables; 2"),
    (module(section(TYPE, *[NULLARY] * 2)), module(section(TYPE, *[NULLARY] * 3)), "3 types; 2"),
    (module(section(IMPORT, *[A_GLOBAL] * 2)), module(section(IMPORT, *[A_GLOBAL] * 3)), "3 imports; 2"),
    (functions(1, *map(export, "ab")), functions(1, *map(export, "abc")), "3 exports; 2"),
    (functions(1, export("a" * 5)), functions(1, export("a" * 6)), "a name has 6 bytes; 5"),
    (module(custom("x" * 5)), module(custom("x" * 6)), "a name has 6 bytes; 5"),
    (module(custom("x") * 2), module(custom("x") * 3), "3 custom sections; 2"),
    (exporting(I32 * 20, I32 * 8), exporting(I32 * 20, I32 * 9), "imports and exports take more than 30"),
    (importing(I32 * 4), importing(I32 * 5), "imports and exports take more than 30"),
]
# fmt: on


@pytest.mark.parametrize(
    ("at_most", "beyond", "words"), BOUNDARIES, ids=[words for _, _, words in BOUNDARIES]
)
def test_each_ceiling_holds_to_the_last_unit(at_most: bytes, beyond: bytes, words: str) -> None:
    inspect(at_most, TINY)
    assert words in refusal(beyond, TINY).message


def test_a_name_of_a_megabyte_is_refused_without_repeating_it() -> None:
    assert len(refusal(functions(1, export("x" * (1 << 20)))).message) < 100


@pytest.mark.parametrize("letter", ["x", "\n", "\x1b", "\u202e", "\U0001f980", "\\", "'", "\0"])
@pytest.mark.parametrize("length", [1, 20, 99, 100, 101, 20_000])
def test_an_error_holds_at_most_a_hundred_characters_of_the_guests_choice(letter: str, length: int) -> None:
    title = letter * length
    message = refusal(functions(1, export(title), export(title))).message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) <= len("there is a second export named  (at byte 123456)") + 100


def test_a_hundred_thousand_exports_are_accepted() -> None:
    binary = functions(1, *[export(f"export number {index}") for index in range(100_000)])
    assert len(inspect(binary, CEILING).functions) == 100_000


# --- with_memory_exported ---------------------------------------------------------------------------------


def test_a_hidden_memory_can_be_reached_once_it_is_exported() -> None:
    binary = wat("""
        (module
          (memory 3)
          (func (export "pages") (result i32) (memory.size))
          (func (export "grow") (result i32) (memory.grow (i32.const 2))))
    """)
    info = inspect(binary, CEILING)
    assert (info.memory_export, info.memory_exported_by_guest) == ("spear:memory", False)
    store = wasmtime.Store(engine())
    prepared = wasmtime.Module(engine(), with_memory_exported(binary, info))
    exports = wasmtime.Instance(store, prepared, []).exports(store)
    memory, grow = exports["spear:memory"], exports["grow"]
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(grow, wasmtime.Func)
    assert memory.size(store) == 3
    assert grow(store) == 3
    assert memory.size(store) == 5


@pytest.mark.parametrize(
    "text",
    [
        "(module)",
        '(module (memory (export "memory") 1))',
        '(module (memory (export "other") 1))',
        '(module (import "env" "memory" (memory 1)))',
    ],
)
def test_a_module_without_a_hidden_memory_stays_as_it_is(text: str) -> None:
    binary = wat(text)
    assert with_memory_exported(binary, inspect(binary, CEILING)) is binary


def test_a_module_without_exports_gets_its_export_section_in_its_place() -> None:
    binary = wat('(module (memory 1) (func $f) (start $f) (data (i32.const 0) "x"))')
    binary = binary.replace(HEADER, HEADER + custom("front")) + custom("back")
    prepared = with_memory_exported(binary, inspect(binary, CEILING))
    assert [item.name for item in wasmtime.Module(engine(), prepared).exports] == ["spear:memory"]


def test_the_added_export_avoids_the_guests_names() -> None:
    binary = wat("""
        (module (memory 1) (func (export "spear:memory")) (func (export "spear:memory:2")))
    """)
    info = inspect(binary, CEILING)
    assert info.memory_export == "spear:memory:3"
    again = inspect(with_memory_exported(binary, info), CEILING)
    assert (again.memory_export, again.memory_exported_by_guest) == ("spear:memory:3", True)


def test_of_several_names_the_usual_one_is_taken_for_the_memory() -> None:
    several = '(export "a" (memory 0)) (export "memory" (memory 0)) (export "z" (memory 0))'
    unusual = '(export "z" (memory 0)) (export "a" (memory 0))'
    assert inspect(wat(f"(module (memory 1) {several})"), CEILING).memory_export == "memory"
    assert inspect(wat(f"(module (memory 1) {unusual})"), CEILING).memory_export == "z"


def test_export_sections_grow_across_the_lengths_of_their_numbers() -> None:
    for count in (126, 127, 128, 16_382, 16_383):
        binary = module(
            section(TYPE, NULLARY),
            section(FUNCTION, b"\0"),
            section(MEMORY, b"\0\1"),
            section(EXPORT, *[export(str(index)) for index in range(count)]),
            section(CODE, EMPTY_BODY),
        )
        prepared = with_memory_exported(binary, inspect(binary, CEILING))
        assert is_valid(prepared)
        assert inspect(prepared, CEILING).memory_exported_by_guest
