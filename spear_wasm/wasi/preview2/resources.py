"""What a guest of preview 2 has handles to: all that it holds of the host's, each by a number, and so many at most."""

from __future__ import annotations

from typing import Protocol, TypeVar

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode

MAX_RESOURCES = 1024


class Resource(Protocol):
    """Something that a guest has a handle to."""

    def close(self) -> None:
        """Give it back: the guest has dropped it, or is gone."""
        ...


ResourceT = TypeVar("ResourceT", bound=Resource)


class Resources:
    """All of them. A number is free again when its resource is gone."""

    def __init__(self) -> None:
        self._held: dict[int, Resource] = {}
        self._free: list[int] = []

    def add(self, resource: Resource) -> int:
        """Hold something more; the number of its handle.

        Raises:
            GuestFault: the guest holds as much as it may; what was to be added is closed.
        """
        if len(self._held) >= MAX_RESOURCES:
            resource.close()
            raise GuestFault(
                ErrorCode.GUEST_ERROR, f"the guest holds {MAX_RESOURCES} resources of WASI, which is the most"
            )
        number = self._free.pop() if self._free else len(self._held) + 1
        self._held[number] = resource
        return number

    def get(self, number: int, kind: type[ResourceT]) -> ResourceT:
        """What a handle stands for. The types of handles are the engine's to check."""
        resource = self._held[number]
        assert isinstance(resource, kind), f"{number} is {type(resource).__name__}, not {kind.__name__}"
        return resource

    def take(self, number: int, kind: type[ResourceT]) -> ResourceT:
        """The same, which the guest has given away with its handle: it is the caller's to close."""
        resource = self.get(number, kind)
        del self._held[number]
        self._free.append(number)
        return resource

    def drop(self, number: int) -> None:
        """The guest has dropped its handle."""
        resource = self._held.pop(number)
        self._free.append(number)
        resource.close()

    def count(self, *kinds: type[Resource]) -> int:
        """How many there are of some kinds."""
        return sum(isinstance(resource, kinds) for resource in self._held.values())

    def close(self) -> None:
        """The guest is gone."""
        while self._held:
            self._held.popitem()[1].close()


class HeldBytes:
    """How much of something a guest holds at its host, in bytes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._held = 0

    def take(self, size: int, most: int) -> None:
        """Hold more.

        Raises:
            GuestFault: it would be more than `most`.
        """
        if self._held + size > most:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the guest would hold {self._held + size} bytes of {self._what}; it may hold {most}",
            )
        self._held += size

    def give_back(self, size: int) -> None:
        """Hold less."""
        self._held -= size
