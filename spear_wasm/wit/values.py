"""Values of WIT types, as host functions get and return them.

- bool: bool
- s8 … u64: int
- f32, f64: float; an int is taken, too
- char, string: str
- list<u8>: bytes
- list<T>: list
- tuple<…>: tuple
- record { … }: dict, by WIT names
- variant { … }: Case
- enum { … }: str
- flags { … }: frozenset of str
- option<T>: None, or the value; Some(value) where T is itself an option
- result<…>: Ok or Err
- own<R>, borrow<R>: the representation that the host gave the resource, an int
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

WitValue: TypeAlias = (
    "bool | int | float | str | bytes | list[WitValue] | tuple[WitValue, ...] | dict[str, WitValue] | frozenset[str]"
    " | Case | Some | Ok | Err | None"
)


class Case(msgspec.Struct, frozen=True):
    """One case of a variant, with its value where it has one."""

    name: str
    payload: WitValue = None


class Some(msgspec.Struct, frozen=True):
    """A value of an option of an option, which may be None itself."""

    value: WitValue


class Ok(msgspec.Struct, frozen=True):
    """It went well, with this where there is something to say."""

    value: WitValue = None


class Err(msgspec.Struct, frozen=True):
    """It went badly, with this where there is something to say."""

    value: WitValue = None
