"""What a kind of guest may import, and what to say to one that imports something else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from spear_wasm.missing_imports import MAX_NAMED, nearest, refusal
from spear_wasm.model import FunctionType, Import, ModuleInfo
from spear_wasm.values import shown

ImportName = tuple[str, str]
"""A module and a name in it."""


class Offer(Protocol):
    """A function that guests may import."""

    @property
    def module(self) -> str:
        """The module to import it from."""
        ...

    @property
    def name(self) -> str:
        """Its name in there."""
        ...

    @property
    def type(self) -> FunctionType:
        """What it takes and returns."""
        ...


OfferT = TypeVar("OfferT", bound=Offer)


class HostInterface(Generic[OfferT]):
    """The functions that a runtime offers, mostly the host's. Read-only once made.

    Several may have one name and differ in their types; a module gets the one of the type that it asks for.
    """

    def __init__(self, runtime: str, functions: Iterable[OfferT]) -> None:
        self._runtime = runtime
        self._offers: defaultdict[ImportName, list[OfferT]] = defaultdict(list)
        for function in functions:
            self._offers[function.module, function.name].append(function)

    def provides_all(self, module: ModuleInfo) -> bool:
        """Whether the module imports nothing else."""
        return not self._resolved(module)[1]

    def needed_by(self, module: ModuleInfo) -> dict[ImportName, OfferT]:
        """Those of the functions that a module imports.

        Raises:
            UnlinkableArtifact: it imports something else.
        """
        found, missing = self._resolved(module)
        if missing:
            raise refusal(
                "module",
                self._runtime,
                list(map(_shown, missing)),
                list(map(self._hint, missing[:MAX_NAMED])),
            )
        return found

    def _resolved(self, module: ModuleInfo) -> tuple[dict[ImportName, OfferT], list[Import]]:
        found: dict[ImportName, OfferT] = {}
        missing = []
        for wanted in module.imports:
            key = (wanted.module, wanted.name)
            # What was found for the first import of a name is all that there is for another of the same name.
            offers = [found[key]] if key in found else self._offers.get(key, ())
            fitting = next((each for each in offers if each.type == wanted.function), None)
            if fitting is None:
                missing.append(wanted)
            else:
                found[key] = fitting
        return found, missing

    def _hint(self, wanted: Import) -> str:
        if offers := self._offers.get((wanted.module, wanted.name)):
            return f" (here it is {' or '.join(str(each.type) for each in offers)})"
        return nearest((wanted.module, wanted.name), self._offers, ".")


def _shown(wanted: Import) -> str:
    return f"{shown(wanted.module)}.{shown(wanted.name)} {wanted.type}"
