"""Names of parameters, from the custom section in which toolchains leave names for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spear_wasm.engine.leb import ByteCursor, invalid
from spear_wasm.errors import InvalidArtifact

_LOCAL_NAMES = 2
MAX_LOCALS_READ = 200_000
"""Where there are more, functions further on have no names: they are a comfort, not worth more than this."""


def parameter_names(section: ByteCursor, param_counts: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
    """The names of all parameters of those functions that have a different, nonempty one for each.

    `section` stands behind the name of a `name` section, `param_counts` says which functions are asked for,
    by their index. A section that is not well formed names nothing, and is no error.
    """
    wanted = {index: count for index, count in param_counts.items() if count}
    try:
        local_names = _subsection(section, _LOCAL_NAMES)
        named = _read_functions(local_names, wanted) if local_names and wanted else {}
    except InvalidArtifact:
        return {}
    return {index: names for index, names in named.items() if _is_complete(names, wanted[index])}


def _is_complete(names: tuple[str, ...], count: int) -> bool:
    return len(names) == count == len(set(names)) and all(names)


def _subsection(section: ByteCursor, wanted: int) -> ByteCursor | None:
    # Subsections come once each, in ascending order: a section of nothing but empty ones ends here soon.
    latest = -1
    while section.position < section.end:
        at = section.position
        found = section.byte()
        if found <= latest:
            raise invalid("subsections are out of order", at)
        latest = found
        body = section.within(section.u32(), "subsection")
        if found == wanted:
            return body
    return None


def _read_functions(cursor: ByteCursor, wanted: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
    last_wanted = max(wanted)
    locals_left = MAX_LOCALS_READ
    named: dict[int, tuple[str, ...]] = {}
    for function in _ascending_indices(cursor, cursor.u32()):
        local_count = cursor.u32()
        locals_left -= local_count + 1
        if function > last_wanted or locals_left < 0:
            break
        names = _read_locals(cursor, local_count, wanted.get(function, 0))
        if names:
            named[function] = names
    return named


def _read_locals(cursor: ByteCursor, count: int, params: int) -> tuple[str, ...]:
    """The names of the first `params` locals, as far as they have any; goes past those of the others."""
    names: list[str] = []
    for local in _ascending_indices(cursor, count):
        size = cursor.u32()
        if local < params:
            names.append(_decode(cursor.take(size), cursor.position))
        else:
            cursor.skip(size)
    return tuple(names)


def _decode(name: bytes, end: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise invalid("a local's name is not UTF-8", end) from None


def _ascending_indices(cursor: ByteCursor, count: int) -> Iterator[int]:
    """The indices of a map's entries; the caller reads what follows each before asking for the next."""
    latest = -1
    for _ in range(count):
        at = cursor.position
        index = cursor.u32()
        if index <= latest:
            raise invalid("indices are not in ascending order", at)
        latest = index
        yield index
