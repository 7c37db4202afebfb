"""Components for tests: those in fixtures/components, and ones made to order, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from spear_wasm.engine.components.host_functions import ComponentImports
from spear_wasm.engine.components.linked import LinkedComponent
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.limits import Limits
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
from spear_wasm.wit.values import WitValue
from tests.workshop import LIMITS, Workshop, run_to_end

FIXTURES = Path(__file__).parents[1] / "fixtures" / "components"
SHAPES = "lab:calc/shapes@0.1.0"
CALC = (FIXTURES / "calc.wasm").read_bytes()

MEMORY = """
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $size i32) (param $alignment i32) (param $wanted i32) (result i32)
      (local $start i32)
      (local.set $start (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $start) (local.get $wanted)))
      (block $fits
        (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u
          (i32.sub (global.get $free) (i32.mul (memory.size) (i32.const 65536))) (i32.const 16))))))
        unreachable)
      (local.get $start))"""
"""A memory with an allocator that never frees, within a core module."""


def text(name: str) -> str:
    """A component of the fixtures that is text."""
    return (FIXTURES / f"{name}.wat").read_text(encoding="utf-8")


def link(
    workshop: Workshop, source: str | bytes, imports: ComponentImports | None = None, *, metered: bool = False
) -> LinkedComponent:
    """A component linked with host functions."""
    return cast(
        "LinkedComponent",
        workshop.link(source, imports or ComponentImports(), metered=metered),
    )


@contextmanager
def bare(linked: LinkedComponent, limits: Limits = LIMITS) -> Iterator[ComponentSandbox]:
    """A sandbox without an instance, closed at the end."""
    sandbox = linked.new_sandbox(limits)
    try:
        yield sandbox
    finally:
        sandbox.close()


@contextmanager
def sandbox_of(linked: LinkedComponent, limits: Limits = LIMITS) -> Iterator[ComponentSandbox]:
    """A sandbox with its instance, closed at the end."""
    with bare(linked, limits) as sandbox:
        run_to_end(sandbox, sandbox.instantiate())
        yield sandbox


def call(sandbox: ComponentSandbox, name: str, *args: WitValue, interface: str = "") -> WitValue:
    """Call a function and see it to its end."""
    return run_to_end(sandbox, sandbox.call(interface, name, args))


def echoing(types: Mapping[str, WitType]) -> str:
    """A component with a function for each of some types, which takes a list of that type and returns it."""
    writer = _TypeWriter()
    functions = []
    for name, kind in types.items():
        element = writer.name_of(kind)
        functions.append(
            f'(func (export "{name}") (param "values" (list {element})) (result (list {element}))\n'
            '    (canon lift (core func $i "echo") (memory $memory) (realloc (core func $i "realloc"))))'
        )
    return f"""(component
  (core module $guest {MEMORY}
    (func (export "echo") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0))
      (i32.store (i32.const 20) (local.get 1))
      (i32.const 16)))
  (core instance $i (instantiate $guest))
  (alias core export $i "memory" (core memory $memory))
  {" ".join(writer.definitions)}
  {" ".join(functions)})"""


class _TypeWriter:
    """Writes types as a component's text has them: what has names of its own is defined and exported first."""

    def __init__(self) -> None:
        self.definitions: list[str] = []

    def name_of(self, kind: WitType) -> str:
        match kind:
            case Primitive():
                return str(kind)
            case ListType(element):
                return f"(list {self.name_of(element)})"
            case OptionType(some):
                return f"(option {self.name_of(some)})"
            case TupleType(elements):
                return f"(tuple {' '.join(map(self.name_of, elements))})"
            case ResultType(ok, err):
                parts = [
                    "" if ok is None else self.name_of(ok),
                    "" if err is None else f"(error {self.name_of(err)})",
                ]
                return f"(result {' '.join(parts)})"
            case RecordType(fields):
                return self._defined(
                    "record", [f'(field "{name}" {self.name_of(field)})' for name, field in fields]
                )
            case VariantType(cases):
                written = [
                    f'(case "{name}" {"" if payload is None else self.name_of(payload)})'
                    for name, payload in cases
                ]
                return self._defined("variant", written)
            case EnumType(names):
                return self._defined("enum", [f'"{name}"' for name in names])
            case FlagsType(names):
                return self._defined("flags", [f'"{name}"' for name in names])
        raise AssertionError(kind)

    def _defined(self, form: str, parts: list[str]) -> str:
        number = len(self.definitions)
        self.definitions.append(
            f'(type $t{number} ({form} {" ".join(parts)})) (export $e{number} "t{number}" (type $t{number}))'
        )
        return f"$e{number}"
