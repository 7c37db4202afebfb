"""What is made once for each WIT type, of what is made for the types within it: one walk, for all who need one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

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
    WitType,
    may_be_null,
)

Made = TypeVar("Made")


class Fold(ABC, Generic[Made]):
    """Each method makes something for one kind of type; where cases and sides have no value, they are None."""

    def of(self, kind: WitType) -> Made:
        """What is made for a type."""
        match kind:
            case Primitive():
                return self.of_primitive(kind)
            case ListType(element):
                return self.of_list(element)
            case EnumType(names):
                return self.of_enum(names)
            case FlagsType(names):
                return self.of_flags(names)
            case ResourceType():
                return self.of_resource(kind)
            case _:
                return self._of_parts(kind)

    def _of_parts(self, kind: TupleType | RecordType | VariantType | OptionType | ResultType) -> Made:
        match kind:
            case TupleType(elements):
                return self.of_tuple([self.of(each) for each in elements])
            case RecordType(fields):
                return self.of_record([(name, self.of(field), may_be_null(field)) for name, field in fields])
            case VariantType(cases):
                return self.of_variant({name: self._of_optional(payload) for name, payload in cases})
            case OptionType(some):
                return self.of_option(self.of(some), nested=may_be_null(some))
            case ResultType(ok, err):
                return self.of_result(self._of_optional(ok), self._of_optional(err))

    def _of_optional(self, kind: WitType | None) -> Made | None:
        return None if kind is None else self.of(kind)

    @abstractmethod
    def of_primitive(self, kind: Primitive) -> Made:
        """For numbers, texts and the like."""

    @abstractmethod
    def of_list(self, element: WitType) -> Made:
        """For a list: what is made for its elements may not be needed."""

    @abstractmethod
    def of_tuple(self, elements: list[Made]) -> Made:
        """For a tuple."""

    @abstractmethod
    def of_record(self, fields: list[tuple[str, Made, bool]]) -> Made:
        """For a record: of each field the name, and whether it may be null."""

    @abstractmethod
    def of_variant(self, cases: dict[str, Made | None]) -> Made:
        """For a variant."""

    @abstractmethod
    def of_enum(self, names: Sequence[str]) -> Made:
        """For an enum."""

    @abstractmethod
    def of_flags(self, names: Sequence[str]) -> Made:
        """For flags."""

    @abstractmethod
    def of_option(self, some: Made, *, nested: bool) -> Made:
        """For an option: `nested` where what is in it may be null, too."""

    @abstractmethod
    def of_result(self, ok: Made | None, err: Made | None) -> Made:
        """For a result."""

    @abstractmethod
    def of_resource(self, kind: ResourceType) -> Made:
        """For a handle."""
