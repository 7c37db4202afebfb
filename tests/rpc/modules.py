"""Modules that no compiler would write: wrong, bulky, or expensive to compile."""

from __future__ import annotations

from functools import cache

from spear_wasm.engine.leb import encode_u32
from tests.engine.modules_by_hand import (
    CODE,
    EXPORT,
    FUNCTION,
    I32,
    IMPORT,
    NULLARY,
    TYPE,
    custom,
    export,
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


def long_import(length: int) -> bytes:
    """A module that imports a function from a module, both with names of that length."""
    imported = name("m" * length) + name("i" * length) + b"\0\0"
    return module(section(TYPE, NULLARY), section(IMPORT, imported))


def long_names(length: int) -> bytes:
    """Two exports with names of that length."""
    return module(
        section(TYPE, NULLARY),
        section(FUNCTION, b"\0"),
        section(EXPORT, export("e" * length), export("\n\x1b[31m" + "é" * (length // 2 - 3))),
        section(CODE, b"\x02\x00\x0b"),
    )


def long_export(length: int) -> bytes:
    """A linkable module whose only function has a name of that length."""
    return functions(1, export("e" * length))


@cache
def compile_bomb(locals_: int = 1000, loops: int = 250) -> bytes:
    """Valid, a few KiB, and much work for a compiler: every variable is alive in every loop."""
    update = b"".join(
        b"\x20" + encode_u32(local) + b"\x41\x01\x6a\x21" + encode_u32(local) for local in range(locals_)
    )
    body = b"\x01" + encode_u32(locals_) + I32
    body += b"\x03\x40" * loops + update + b"\x20\x00\x0d\x00\x0b" * loops + b"\x0b"
    return module(
        section(TYPE, NULLARY), section(FUNCTION, b"\0"), section(EXPORT, export("answer")),
        section(CODE, sized(body)),
    )  # fmt: skip
