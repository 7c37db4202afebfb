"""What the binary of a module or component says about itself, read before anything compiles it.

The reader checks a module's outline (sections, counts, sizes, the types at its edges) and skips what only the
compiler needs to see: code, the initial values of globals, element and data segments. A module that passes
is not thereby valid; the compiler has the last word. Time is linear in the module's size, and whatever is
kept of it is bounded by a `ModuleCeiling`.

A name or a list that is too long is refused, never cut: what a `ModuleInfo` shows is whole, and callable by
the name it shows. Error texts hold at most a hundred characters of what the guest chose, escaped.
"""

from __future__ import annotations

from mmap import mmap
from typing import TypeAlias

from spear_wasm.engine.components.sections import COMPONENT_HEADER, ComponentReader
from spear_wasm.engine.leb import encode_u32, invalid
from spear_wasm.engine.outline import ModuleCeiling, ModuleReader
from spear_wasm.engine.sections import HEADER, SectionId, sections_of
from spear_wasm.engine.type_codes import EXTERN_KINDS
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import ExternKind, ModuleInfo

__all__ = [
    "HEAD_BYTES", "ModuleBytes", "ModuleCeiling", "check_kind", "inspect", "is_component", "with_memory_exported",
]  # fmt: skip

ModuleBytes: TypeAlias = "bytes | memoryview | mmap"

HEAD_BYTES = 64
"""How much of a file `check_kind` wants to see; it makes do with less."""

_WASMTIME_OS_ABI = b"\xc8"
_OTHER_FILES = {
    b"\x7fELF": "is a native (ELF) file; upload a WebAssembly module instead",
    b"\x1f\x8b": "is compressed with gzip; upload the module unpacked",
    b"PK\x03\x04": "is a zip archive; upload the module itself",
    b"!<arch>": "is an archive of object files; link them into a module first",
    b"BC\xc0\xde": "is LLVM bitcode; compile it to WebAssembly first",
}


def check_kind(head: bytes) -> None:
    """Refuse whatever does not begin like a core module of version 1, or a component, saying what it is instead.

    `head` is how the file begins: `HEAD_BYTES`, or all of it where it is shorter.

    Raises:
        InvalidArtifact: with the `offset` of the byte that gives it away.
    """
    if head.startswith((HEADER, COMPONENT_HEADER)):
        return
    if not head:
        raise invalid("the artifact is empty", 0)
    if HEADER.startswith(head) or COMPONENT_HEADER.startswith(head):
        raise invalid("the artifact ends within the header of a module", len(head))
    if head.startswith(HEADER[:4]):
        raise _other_version(head[4:8])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"(", b";;")):
        at = len(head) - len(text)
        raise invalid("the artifact looks like WebAssembly text; convert it with wat2wasm", at)
    raise invalid(f"the artifact {_description(head)}", 0)


def _other_version(version: bytes) -> InvalidArtifact:
    if version[2:] == COMPONENT_HEADER[6:]:
        return invalid(f"the artifact is a component of another version ({version.hex(' ')})", 4)
    return invalid(f"the artifact is WebAssembly of another version ({version.hex(' ')})", 4)


def _description(head: bytes) -> str:
    if head.startswith(b"\x7fELF") and head[7:8] == _WASMTIME_OS_ABI:
        return "is code precompiled by wasmtime; upload the module it was made from"
    for magic, description in _OTHER_FILES.items():
        if head.startswith(magic):
            return description
    return f"is no WebAssembly module: it begins with the bytes {head[:4].hex(' ')}"


def inspect(module: ModuleBytes, ceiling: ModuleCeiling) -> ModuleInfo:
    """Read a module's or component's outline. Nothing is compiled, and nothing of `module` is held once this is over.

    Custom sections do not make a module invalid by what they hold: a function's parameters have names where
    a well-formed `name` section gives each a different one, and none otherwise.

    Raises:
        InvalidArtifact: the bytes are neither, use a feature that this server does not offer, or
            exceed the ceiling; says why and, also as `offset`, at which byte.
    """
    with memoryview(module) as view:
        check_kind(bytes(view[:HEAD_BYTES]))
        if is_component(view):
            return ComponentReader(ceiling).read(view)
        reader = ModuleReader(ceiling)
        for section in sections_of(view):
            reader.read(section)
        return reader.finish(len(view))


def is_component(head: bytes | memoryview) -> bool:
    """Whether what begins like this is a component."""
    return bytes(head[: len(COMPONENT_HEADER)]) == COMPONENT_HEADER


def with_memory_exported(module: bytes, info: ModuleInfo) -> bytes:
    """The module with one more export where it has a memory that it does not export; itself otherwise.

    `info` is what `inspect` said about these same bytes. The memory is exported as `info.memory_export`, so
    that the host can measure it; nothing in the module can tell.
    """
    if info.memory_export is None or info.memory_exported_by_guest:
        return module
    name = info.memory_export.encode()
    entry = encode_u32(len(name)) + name + bytes((EXTERN_KINDS.index(ExternKind.MEMORY), 0))
    with memoryview(module) as view:
        start, end, old_count, old_entries = _export_section(view)
        body = encode_u32(old_count + 1) + old_entries + entry
        return b"".join((view[:start], bytes((SectionId.EXPORT,)), encode_u32(len(body)), body, view[end:]))


def _export_section(module: memoryview) -> tuple[int, int, int, bytes]:
    """Where the export section starts and ends, how many exports it has, and their bytes.

    Where there is none, start and end are both where it belongs.
    """
    place = 0
    for section in sections_of(module):
        body = section.body
        if section.id is SectionId.EXPORT:
            return section.start, body.end, body.u32(), body.take(body.end - body.position)
        if section.belongs_before(SectionId.EXPORT):
            place = body.end
    return place, place, 0, b""
