"""Modules in files on the caller's side, as binary or as text."""

from __future__ import annotations

from pathlib import Path

from spear_wasm.engine.binary import ModuleCeiling, inspect
from spear_wasm.model import ModuleInfo

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_CEILING = ModuleCeiling(
    max_functions=1 << 32, max_function_bytes=1 << 32, max_memory_bytes=1 << 32, max_table_elements=1 << 32
)  # a server has one; here somebody looks at a file of their own


def source_of(file: Path) -> Path | bytes:
    """What to upload for a file: itself, or the binary that its text stands for.

    Raises:
        InvalidArtifact: the file holds text that is no module.
        OSError: it cannot be read.
    """
    if not _is_text(file):
        return file
    from spear_wasm.engine.text import wat_to_wasm  # noqa: PLC0415  loads wasmtime, which text alone needs

    return wat_to_wasm(file.read_bytes().removeprefix(_BYTE_ORDER_MARK))


def binary_of(file: Path) -> bytes:
    """The module in a file as binary; raises what `source_of` does."""
    source = source_of(file)
    return source if isinstance(source, bytes) else source.read_bytes()


def inspected(module: bytes) -> ModuleInfo:
    """What a module says about itself, whatever its size.

    Raises:
        InvalidArtifact: it is no module.
    """
    return inspect(module, _NO_CEILING)


def _is_text(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(4096)
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    return not head.startswith(b"\0asm") and (file.suffix == ".wat" or text.startswith((b"(", b";;")))
