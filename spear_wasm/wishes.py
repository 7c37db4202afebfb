"""Reading a task's runtime_config: who knows a key asks for it, and what nobody asked for is refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from spear_wasm.errors import InvalidRequest
from spear_wasm.units import parse_duration, parse_size
from spear_wasm.values import shown


class Wishes:
    """Reads a runtime_config key by key. Each kind of value raises InvalidRequest, naming the key, where it is another.

    A key that nobody has asked for when `refuse_others` is called is not one of ours.
    """

    def __init__(self, runtime_config: Mapping[str, object], part: str = "") -> None:
        self._given = runtime_config
        self._prefix = part
        self._known: set[str] = set()
        self._parts: list[Wishes] = []

    def part(self, key: str) -> Wishes:
        """An object with keys of its own, which are asked for like these; empty unless said."""
        value = self._take(key, default={})
        if not isinstance(value, dict):
            raise self._refused(key, value, "an object")
        part = Wishes(value, f"{self._prefix}{key}.")
        self._parts.append(part)
        return part

    def flag(self, key: str) -> bool:
        """True or false; false unless said."""
        value = self._take(key, default=False)
        if not isinstance(value, bool):
            raise self._refused(key, value, "true or false")
        return value

    def count(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number."""
        value = self._take(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise self._refused(key, value, "a whole number")
        if not least <= value <= most:
            raise self._refused(key, value, f"{least} to {most}")
        return int(value)

    def seconds(self, key: str, most: float) -> float:
        """A duration above zero, in seconds or as text with units; the most unless said."""
        value = self._take(key, default=most)
        try:
            seconds = parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            raise self._malformed(key, error) from None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
            raise self._refused(key, value, "a duration: 30, 2s, 1h30m")
        if not 0 < seconds <= most:
            raise self._refused(key, value, f"above 0 and at most {most:g} s")
        return float(seconds)

    def choice(self, key: str, default: str, options: Collection[str]) -> str:
        """One of some words."""
        value = self._take(key, default=default)
        if not isinstance(value, str) or value not in options:
            raise self._refused(key, value, f"one of {', '.join(options)}")
        return value

    def text(self, key: str) -> str:
        """A text; empty unless said."""
        value = self._take(key, default="")
        if not isinstance(value, str):
            raise self._refused(key, value, "a text")
        return value

    def size(self, key: str, *, most: int) -> int:
        """A number of bytes, or text with units; 0 unless said."""
        value = self._take(key, default=0)
        try:
            size = parse_size(value) if isinstance(value, str) else value
        except ValueError as error:
            raise self._malformed(key, error) from None
        if isinstance(size, bool) or not isinstance(size, int | float) or not float(size).is_integer():
            raise self._refused(key, value, "a size: 1000, 64KiB, 1MiB")
        if not 0 <= size <= most:
            raise self._refused(key, value, f"0 to {most} bytes")
        return int(size)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty unless said."""
        value = self._take(key, default=[])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._refused(key, value, "a list of texts")
        return tuple(value)

    def table(self, key: str) -> dict[str, str]:
        """Texts by name; empty unless said."""
        value = self._take(key, default={})
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self._refused(key, value, "an object whose values are texts")
        return dict(value)

    def refuse_others(self) -> None:
        """Refuse keys that are not ours."""
        unknown = self._given.keys() - self._known
        if unknown:
            key, known = self._prefix + min(unknown), sorted(self._prefix + each for each in self._known)
            raise InvalidRequest(
                f"runtime_config has no key {shown(key)}; it has: {', '.join(known)}", key=key
            )
        for part in self._parts:
            part.refuse_others()

    def _take(self, key: str, *, default: object) -> object:
        self._known.add(key)
        return self._given.get(key, default)

    def _refused(self, key: str, value: object, expected: str) -> InvalidRequest:
        given, key = f"{value:g}" if isinstance(value, float) else shown(value), self._prefix + key
        return InvalidRequest(f"runtime_config.{key} is {given}; it must be {expected}", key=key)

    def _malformed(self, key: str, error: ValueError) -> InvalidRequest:
        key = self._prefix + key
        return InvalidRequest(f"runtime_config.{key}: {shown(str(error), 300)}", key=key)
