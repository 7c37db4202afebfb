"""WebAssembly text, for people who write it by hand: converted where they sit, never by the server."""

from __future__ import annotations

import wasmtime

from spear_wasm.errors import InvalidArtifact


def wat_to_wasm(text: str | bytes) -> bytes:
    """The binary of a module in text form, UTF-8.

    Raises:
        InvalidArtifact: the text is no module; says where.
    """
    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise InvalidArtifact(f"the text is no WebAssembly module: {error}") from error
