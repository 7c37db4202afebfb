"""Modules in files on the caller's side, as binary or as text."""

from __future__ import annotations

import tempfile
from pathlib import Path

from spear_wasm.config import Config
from spear_wasm.engine.binary import ModuleCeiling, inspect, is_component
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


def outline_of(module: bytes) -> ModuleInfo:
    """What a module says about itself, whatever its size; of a component not what it imports and exports.

    Raises:
        InvalidArtifact: it is no module.
    """
    return inspect(module, _NO_CEILING)


def inspected(module: bytes) -> ModuleInfo:
    """All that can be known of a module. A component is compiled for that, within a server's limits.

    Raises:
        InvalidArtifact: it is no module.
        CompileRefused: compiling the component took too much.
    """
    if is_component(module):
        return _compiled(module)
    return outline_of(module)


def _compiled(component: bytes) -> ModuleInfo:
    from spear_wasm.engine.compiler import Compiler  # noqa: PLC0415  loads wasmtime, which components alone need
    from spear_wasm.host import engine_settings  # noqa: PLC0415  the same

    config = Config()
    with tempfile.TemporaryDirectory(prefix="spear-wasm-inspect-") as folder:
        wasm = Path(folder) / "component.wasm"
        wasm.write_bytes(component)
        compiler = Compiler(*engine_settings(config), config.compile)
        return compiler.compile(wasm, wasm.with_suffix(".cwasm"), metered=False).module


def _is_text(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(4096)
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    return not head.startswith(b"\0asm") and (file.suffix == ".wat" or text.startswith((b"(", b";;")))
