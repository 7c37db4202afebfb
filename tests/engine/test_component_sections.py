"""What is seen of a component before it is compiled, and what is refused there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spear_wasm.engine.binary import ModuleCeiling, inspect
from spear_wasm.engine.components.sections import COMPONENT_HEADER, MAX_DEPTH, MAX_MODULES
from spear_wasm.engine.leb import encode_u32
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.errors import CompileRefused, InvalidArtifact, SpearError
from spear_wasm.model import ComponentInfo, ModuleInfo
from tests.components import CALC
from tests.workshop import Workshop

CEILING = ModuleCeiling(
    max_functions=10, max_function_bytes=100, max_memory_bytes=4 << 16, max_table_elements=20
)
MODULE, COMPONENT = 1, 4


def section(number: int, content: bytes) -> bytes:
    return bytes((number,)) + encode_u32(len(content)) + content


def component(*sections: bytes) -> bytes:
    return COMPONENT_HEADER + b"".join(sections)


def nested(depth: int) -> bytes:
    content = component()
    for _ in range(depth - 1):
        content = component(section(COMPONENT, content))
    return content


def refusal_of(binary: bytes) -> InvalidArtifact:
    with pytest.raises(InvalidArtifact) as caught:
        inspect(binary, CEILING)
    assert caught.value.metadata["offset"].isdigit()
    return caught.value


def test_an_empty_component_has_nothing() -> None:
    assert inspect(component(), CEILING) == ModuleInfo(component=ComponentInfo())


def test_core_modules_are_counted_together_however_deep_they_lie() -> None:
    seen = inspect(
        wat_to_wasm("""(component
            (core module (memory 1) (table 3 funcref) (func) (func))
            (component (core module (memory 2) (table 4 funcref) (func) (func $s) (start $s))))"""),
        CEILING,
    )
    assert (seen.memory_min_pages, seen.tables, seen.table_elements, seen.largest_table) == (3, 2, 7, 4)
    assert (seen.function_count, seen.has_start) == (4, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "(component (core module (memory 3)) (component (core module (memory 2))))",
            "bytes of initial memory",
        ),
        (
            "(component (core module (table 15 funcref)) (core module (table 6 funcref)))",
            "initial table elements",
        ),
        (f"(component (core module {'(func) ' * 6}) (core module {'(func) ' * 5}))", "functions"),
        (f"(component (core module (func {'nop ' * 200})))", "bytes of code in one function"),
        ("(component (core module (memory 1) (memory 1)))", "2 memories"),
        ("(component (core module (memory i64 1)))", "64-bit"),
    ],
)
def test_what_a_server_bounds_is_bounded_for_all_modules_together(text: str, words: str) -> None:
    assert words in refusal_of(wat_to_wasm(text)).message


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (component(section(12, b"")), "no section of id 12 in a component"),
        (component(b"\1\xff\xff\xff\xff\x0f"), "runs past the end"),
        (component(section(MODULE, b"\0asm\2\0\0\0")), "does not begin like one of version 1"),
        (component(section(MODULE, b"\0as")), "does not begin like one"),
        (component(section(COMPONENT, b"\0asm\1\0\0\0")), "a component does not begin like one"),
        (component(section(MODULE, b"\0asm\1\0\0\0\x3f\0")), "no section of id 63"),
        (nested(MAX_DEPTH + 1), f"{MAX_DEPTH + 1} levels of components"),
        (component(*[section(COMPONENT, component())] * (MAX_MODULES + 1)), "modules and components"),
        (component(*[section(0, b"\1x")] * 1001), "custom sections"),
    ],
)
def test_what_is_no_component_is_refused_at_its_byte(binary: bytes, words: str) -> None:
    assert words in refusal_of(binary).message


def test_components_in_each_other_are_taken_up_to_a_depth() -> None:
    assert inspect(nested(MAX_DEPTH), CEILING).component == ComponentInfo()


@pytest.mark.parametrize("length", range(0, len(CALC), 97))
def test_no_beginning_of_a_component_costs_more_than_a_refusal(length: int) -> None:
    try:
        inspect(CALC[:length], ModuleCeiling(1 << 20, 1 << 20, 1 << 30, 1 << 20))
    except InvalidArtifact as refusal:
        assert refusal.metadata["offset"].isdigit()  # noqa: PT017  a cut between sections is no refusal


# --- what compiling finds ---------------------------------------------------------------------------------


def refusal_to_compile(workshop: Workshop, source: str | bytes) -> SpearError:
    with pytest.raises((InvalidArtifact, CompileRefused)) as caught:
        workshop.compiled(source)
    return caught.value


def doubling(levels: int) -> str:
    """A type that is written once and is 2^levels of another."""
    types = "".join(f"(type $t{n} (tuple $t{n - 1} $t{n - 1}))" for n in range(1, levels + 1))
    return f"""(component
      (type $t0 u8) {types}
      (core module $m (memory (export "m") 1) (func (export "f") (param i32)))
      (core instance $i (instantiate $m))
      (import "f" (func (param "x" $t{levels}))))"""


def multiplying(levels: int) -> str:
    """A component that is 2^levels instances of a module."""
    inner = "(core module $m (memory 1)) (core instance (instantiate $m))"
    for _ in range(levels):
        inner = f"(component $c {inner}) (instance (instantiate $c)) (instance (instantiate $c))"
    return f"(component {inner})"


def deep(levels: int) -> str:
    """A type that lies in as many others."""
    types = "".join(f"(type $t{n} (list $t{n - 1}))" for n in range(1, levels + 1))
    return f'(component (type $t0 u8) {types} (import "f" (func (param "x" $t{levels}))))'


@pytest.mark.parametrize(
    "source",
    [
        lambda: doubling(18),
        lambda: doubling(40),
        lambda: multiplying(8),
        lambda: multiplying(14),
        lambda: deep(1000),
    ],
    ids=["types-2^18", "types-2^40", "instances-2^8", "instances-2^14", "depth-1000"],
)
def test_a_bomb_costs_its_uploader_a_refusal(workshop: Workshop, source: Callable[[], str]) -> None:
    assert refusal_to_compile(workshop, source()).message


def test_what_instances_memories_and_tables_a_sandbox_has_is_known(workshop: Workshop) -> None:
    _, info = workshop.compiled("""(component
      (core module $m (memory 1) (table 1 funcref) (table 1 funcref))
      (core module $n (func))
      (core instance (instantiate $m)) (core instance (instantiate $n))
      (component $c (core instance (instantiate $n))
        (core module $n (func)))
      (instance (instantiate $c)) (instance (instantiate $c)))""".replace(
        "(core instance (instantiate $n))\n        (core module $n (func))",
        "(core module $n (func)) (core instance (instantiate $n))"))  # fmt: skip
    assert info.component is not None
    assert (info.component.instances, info.component.memories, info.component.tables) == (4, 1, 2)


def test_an_invalid_component_is_refused_at_its_byte(workshop: Workshop) -> None:
    broken = wat_to_wasm("(component (core module $m) (core instance (instantiate $m)))")
    assert broken.count(b"\2\4\1\0\0\0") == 1
    refusal = refusal_to_compile(workshop, broken.replace(b"\2\4\1\0\0\0", b"\2\4\1\0\7\0"))
    assert "the component is not valid" in refusal.message
    assert refusal.metadata["offset"].isdigit()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('(component (import "f" (func async (param "x" u8))))', "async"),
        ('(component (import "f" (func (param "x" (stream u8)))))', "valid"),
        ('(component (import "f" (func (param "x" (future u8)))))', "valid"),
    ],
)
def test_what_belongs_to_later_versions_is_refused(workshop: Workshop, source: str, words: str) -> None:
    assert words in refusal_to_compile(workshop, source).message


def test_imported_modules_are_told_as_what_they_are(workshop: Workshop) -> None:
    _, info = workshop.compiled('(component (import "m" (core module)))')
    assert [(each.name, each.type) for each in info.imports] == [("m", "module or component")]
