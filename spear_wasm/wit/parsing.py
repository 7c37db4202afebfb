"""Types and functions from their WIT text, the way `str` of them writes it. Spaces between words are free."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, TypeVar

from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    VariantType,
    WitFunction,
    WitType,
)

_WORD = re.compile(r"\s*(->|[A-Za-z_][A-Za-z0-9-]*|[<>(){},:]|$)")
_PRIMITIVES = {str(primitive): primitive for primitive in Primitive}
_NOTHING = "_"

Entry = TypeVar("Entry")


@lru_cache(maxsize=1024)
def parse_function(text: str) -> WitFunction:
    """The function type `func(…)` or `func(…) -> …`.

    Raises:
        ValueError: the text is none; says where it goes wrong.
    """
    words = _Words(text)
    words.expect("func")
    params = words.list_of(words.named_type, "(", ")")
    result = words.type() if words.skip("->") else None
    words.expect("")
    return WitFunction(params, result)


def parse_type(text: str) -> WitType:
    """The type of a value.

    Raises:
        ValueError: the text is none; says where it goes wrong.
    """
    words = _Words(text)
    parsed = words.type()
    words.expect("")
    return parsed


class _Words:
    """The words of a text, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._next = self._read()

    def _read(self) -> str:
        found = _WORD.match(self._text, self._position)
        if found is None:
            raise self._unexpected(self._text[self._position :][:1])
        self._position = found.end()
        return found[1]

    def _unexpected(self, what: str) -> ValueError:
        near = self._text[max(0, self._position - 30) : self._position]
        return ValueError(f"no WIT type: unexpected {what!r} after {near!r}")

    def take(self) -> str:
        """The next word; empty at the end."""
        word, self._next = self._next, "" if self._next == "" else self._read()
        return word

    def skip(self, word: str) -> bool:
        """Go past a word if it comes next; says whether it did."""
        if self._next != word:
            return False
        self.take()
        return True

    def expect(self, word: str) -> None:
        """Go past a word that must come next."""
        if not self.skip(word):
            raise self._unexpected(self._next)

    def name(self) -> str:
        """The next word, as a name."""
        if not self._next[:1].isalpha():
            raise self._unexpected(self._next)
        return self.take()

    def list_of(self, entry: Callable[[], Entry], opening: str, closing: str) -> tuple[Entry, ...]:
        """Entries between brackets, with commas between them."""
        self.expect(opening)
        entries: list[Entry] = []
        while not self.skip(closing):
            entries.append(entry())
            if not self.skip(","):
                self.expect(closing)
                break
        return tuple(entries)

    def one_in_brackets(self) -> WitType:
        """`<type>`."""
        self.expect("<")
        parsed = self.type()
        self.expect(">")
        return parsed

    def named_type(self) -> tuple[str, WitType]:
        """`name: type`."""
        name = self.name()
        self.expect(":")
        return name, self.type()

    def case(self) -> tuple[str, WitType | None]:
        """`name`, or `name(type)`."""
        name = self.name()
        if not self.skip("("):
            return name, None
        payload = self.type()
        self.expect(")")
        return name, payload

    def type(self) -> WitType:
        """The type that comes next."""
        word = self.name()
        if word in _PRIMITIVES:
            return _PRIMITIVES[word]
        if word in {"own", "borrow"}:
            self.expect("<")
            name = self.name()
            self.expect(">")
            return ResourceType(name, owned=word == "own")
        if word not in self._READERS:
            raise self._unexpected(word)
        return self._READERS[word](self)

    def _result(self) -> ResultType:
        if not self.skip("<"):
            return ResultType(None, None)
        ok = None if self.skip(_NOTHING) else self.type()
        err = self.type() if self.skip(",") else None
        self.expect(">")
        return ResultType(ok, err)

    _READERS: ClassVar[dict[str, Callable[[_Words], WitType]]] = {
        "list": lambda words: ListType(words.one_in_brackets()),
        "option": lambda words: OptionType(words.one_in_brackets()),
        "tuple": lambda words: TupleType(words.list_of(words.type, "<", ">")),
        "record": lambda words: RecordType(words.list_of(words.named_type, "{", "}")),
        "variant": lambda words: VariantType(words.list_of(words.case, "{", "}")),
        "enum": lambda words: EnumType(words.list_of(words.name, "{", "}")),
        "flags": lambda words: FlagsType(words.list_of(words.name, "{", "}")),
        "result": _result,
    }
