"""The sections of a core module: which there are, in which order, and where each lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from spear_wasm.engine.leb import ByteCursor, invalid

HEADER = b"\0asm\x01\0\0\0"
"""What every core module of version 1 begins with."""


class SectionId(IntEnum):
    """The sections that a module may have, in their order; custom ones may stand anywhere."""

    CUSTOM = 0
    TYPE = 1
    IMPORT = 2
    FUNCTION = 3
    TABLE = 4
    MEMORY = 5
    GLOBAL = 6
    EXPORT = 7
    START = 8
    ELEMENT = 9
    DATA_COUNT = 12
    CODE = 10
    DATA = 11

    @property
    def part(self) -> str:
        """What errors call it."""
        return f"{self.name.lower().replace('_', ' ')} section"


_TAG = 13
_BY_CODE = {int(section): section for section in SectionId}
_RANK = {section: rank for rank, section in enumerate(SectionId)}


@dataclass(frozen=True, slots=True)
class Section:
    """One section: the byte where it starts with its id, and a cursor over what it holds."""

    id: SectionId
    start: int
    body: ByteCursor

    def belongs_before(self, other: SectionId) -> bool:
        """Whether its place is fixed and before that of `other`."""
        return self.id is not SectionId.CUSTOM and _RANK[self.id] < _RANK[other]


def sections_of(module: memoryview) -> Iterator[Section]:
    """The sections of a module whose header has been checked, one after the other.

    Raises:
        InvalidArtifact: the next one is unknown, unsupported, not in its place, or longer than the module.
    """
    return sections_in(ByteCursor(module, len(HEADER), len(module), "module"))


def sections_in(cursor: ByteCursor) -> Iterator[Section]:
    """The same for a module that lies in something larger, from behind its header."""
    latest = SectionId.CUSTOM
    while cursor.position < cursor.end:
        start = cursor.position
        section = _section_id(cursor.byte(), start)
        if section is not SectionId.CUSTOM:
            _expect_after(latest, section, start)
            latest = section
        yield Section(section, start, cursor.within(cursor.u32(), section.part))


def _section_id(code: int, at: int) -> SectionId:
    if code == _TAG:
        raise invalid("the module defines tags (exception handling), which this server does not support", at)
    if code not in _BY_CODE:
        raise invalid(f"there is no section of id {code}", at)
    return _BY_CODE[code]


def _expect_after(latest: SectionId, section: SectionId, at: int) -> None:
    if section is latest:
        raise invalid(f"there is a second {section.part}", at)
    if _RANK[section] < _RANK[latest]:
        raise invalid(f"the {section.part} comes after the {latest.part}, out of order or a second time", at)
