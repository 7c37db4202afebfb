"""Components for tests over the socket."""

from __future__ import annotations

import lzma
from functools import cache

from tests.rpc.serving import FIXTURES

COMPONENTS = FIXTURES.parent / "components"


@cache
def component(name: str) -> bytes:
    """One of fixtures/components; those that are kept compressed are unpacked once."""
    plain = COMPONENTS / f"{name}.wasm"
    if plain.exists():
        return plain.read_bytes()
    return lzma.decompress((COMPONENTS / f"{name}.wasm.xz").read_bytes())
