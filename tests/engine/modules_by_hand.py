"""Modules assembled byte by byte, the engine that judges them, and a ceiling for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import wasmtime

from spear_wasm.engine.binary import ModuleCeiling
from spear_wasm.engine.leb import encode_u32

CEILING = ModuleCeiling(
    max_functions=50_000,
    max_function_bytes=1 << 20,
    max_memory_bytes=256 << 20,
    max_table_elements=100_000,
)

HEADER = b"\0asm\1\0\0\0"
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, EXPORT, CODE, DATA = 0, 1, 2, 3, 4, 5, 7, 10, 11
I32, I64, FUNCREF, EXTERNREF = b"\x7f", b"\x7e", b"\x70", b"\x6f"
EMPTY_BODY = b"\x02\x00\x0b"
NULLARY = b"\x60\x00\x00"


def vector(entries: Sequence[bytes]) -> bytes:
    return encode_u32(len(entries)) + b"".join(entries)


def sized(content: bytes) -> bytes:
    return encode_u32(len(content)) + content


def name(text: str) -> bytes:
    return sized(text.encode())


def section(number: int, *entries: bytes) -> bytes:
    return bytes((number,)) + sized(vector(entries))


def custom(title: str, content: bytes = b"") -> bytes:
    return bytes((CUSTOM,)) + sized(name(title) + content)


def module(*sections: bytes) -> bytes:
    return HEADER + b"".join(sections)


def function_type(params: bytes = b"", results: bytes = b"") -> bytes:
    return b"\x60" + sized(params) + sized(results)


def export(title: str, kind: int = 0, index: int = 0) -> bytes:
    return name(title) + bytes((kind,)) + encode_u32(index)


def functions(count: int, *exports: bytes, kind: bytes = NULLARY, after: bytes = b"") -> bytes:
    """A module of that many empty functions of one type; `after` follows the code."""
    return module(
        section(TYPE, kind),
        section(FUNCTION, *[b"\0"] * count),
        section(EXPORT, *exports),
        section(CODE, *[EMPTY_BODY] * count),
        after,
    )


def local_names(*of_functions: tuple[int, Sequence[tuple[int, bytes]]]) -> bytes:
    """A `name` section with names of locals: (function, [(local, name)])."""
    entries = [
        encode_u32(function) + vector([encode_u32(local) + sized(text) for local, text in names])
        for function, names in of_functions
    ]
    return custom("name", b"\x02" + sized(vector(entries)))


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


@cache
def engine() -> wasmtime.Engine:
    """With the features of the engines that sandboxes run on."""
    config = wasmtime.Config()
    for feature in (
        "threads", "multi_memory", "memory64", "gc", "function_references", "exceptions", "stack_switching",
        "custom_page_sizes", "wide_arithmetic", "relaxed_simd",
    ):  # fmt: skip
        setattr(config, f"wasm_{feature}", False)
    return wasmtime.Engine(config)


def is_valid(binary: bytes) -> bool:
    try:
        wasmtime.Module.validate(engine(), binary)
    except wasmtime.WasmtimeError:
        return False
    return True
