"""What a guest of either preview has of the world, and what a call brings it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spear_wasm.wasi.volume import Scratch, Volume

MAX_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class WasiCall:
    """What a call brings a program: its arguments, the first of which is its name, standard input, and variables."""

    arguments: Sequence[bytes] = ()
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        variables = sum(len(name.encode()) + len(value.encode()) for name, value in self.environment.items())
        return len(self.stdin) + sum(map(len, self.arguments)) + variables


class GuestWorld:
    """What a guest of either preview is given, but for what it has open.

    `began` is when, a time.monotonic_ns() value. `variables` is its environment.
    """

    def __init__(self, variables: Mapping[str, str], volumes: Iterable[Volume]) -> None:
        self.began = time.monotonic_ns()
        self.arguments: tuple[bytes, ...] = ()
        self.variables = self._of_task = variables
        self.volumes = tuple(volumes)

    @property
    def slow_to_close(self) -> bool:
        """Whether there are files to remove."""
        return any(isinstance(volume, Scratch) for volume in self.volumes)

    def begin(self, call: WasiCall) -> None:
        """Take what a call brings, before the guest runs; of a variable that the task has, too, the call's counts."""
        self.arguments = tuple(call.arguments)
        self.variables = {**self._of_task, **call.environment}

    def close(self) -> None:
        """Remove the scratch directory."""
        for volume in self.volumes:
            volume.close()
