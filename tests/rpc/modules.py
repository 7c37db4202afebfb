"""Modules that no compiler would write: wrong, bulky, or expensive to compile."""

from __future__ import annotations

from functools import cache

from spear_wasm.engine.text import wat_to_wasm
from tests.engine.modules_by_hand import (
    CODE,
    EXPORT,
    FUNCTION,
    HEADER,
    I32,
    IMPORT,
    NULLARY,
    TYPE,
    custom,
    export,
    function_type,
    functions,
    module,
    name,
    section,
    sized,
)

COMPONENT = b"\0asm\x0d\0\1\0"


def unique_module(label: str) -> bytes:
    """A module with bytes of its own and a function `answer`."""
    return functions(1, export("answer"), after=custom(label))


def many_exports(count: int) -> bytes:
    return functions(1, *(export(f"function-{number}") for number in range(count)))


def long_names(length: int) -> bytes:
    """An import and two exports, one callable, with names of that length."""
    return module(
        section(TYPE, NULLARY),
        section(IMPORT, name("m" * length) + name("i" * length) + b"\0\0"),
        section(FUNCTION, b"\0"),
        section(EXPORT, export("e" * length, index=1), export("\n\x1b[31m" + "é" * (length // 2), index=1)),
        section(CODE, b"\x02\x00\x0b"),
    )


def long_export(length: int) -> bytes:
    """A linkable module whose only function has a name of that length."""
    return functions(1, export("e" * length))


@cache
def compile_bomb() -> bytes:
    """Valid, below a few MiB, and seconds of work for the compiler."""
    step = b"\x20\x00\x41\x07\x6c\x41\x03\x6a\x22\x00\x1a"  # local 0 = local 0 * 7 + 3, kept on the stack and dropped
    body = sized(b"\0" + step * 20_000 + b"\x20\x00\x0b")
    kind = function_type(I32, I32)
    return module(
        section(TYPE, kind), section(FUNCTION, *[b"\0"] * 15), section(EXPORT, export("answer")),
        section(CODE, *[body] * 15),
    )  # fmt: skip


__all__ = ["COMPONENT", "HEADER", "wat_to_wasm"]
