"""What one guest has of the world: arguments, environment, and what it has open."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spear_wasm.wasi.descriptors import Descriptor, Directory, ErrorOutput, Input, Output
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.paths import open_directory
from spear_wasm.wasi.volume import Scratch, Volume

if TYPE_CHECKING:
    from spear_wasm.engine.host_calls import CallingSandbox

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


class WasiGuest(GuestWorld):
    """The state of a sandbox whose guest uses WASI preview 1. Used by whoever runs the guest, one at a time.

    `arguments` and `environment` are as the guest gets them, without their closing zeros. Descriptors 0, 1 and 2 are
    the standard streams; the volumes follow.
    """

    def __init__(
        self, sandbox: CallingSandbox, environment: Mapping[str, str], volumes: Iterable[Volume]
    ) -> None:
        super().__init__(environment, volumes)
        self.environment = _entries(environment)
        self._open: dict[int, Descriptor] = {
            0: Input(b""), 1: Output(sandbox), 2: ErrorOutput(sandbox)
        }  # fmt: skip
        try:
            for volume in self.volumes:
                self.add(Directory(open_directory(volume.path), volume, volume.name.encode()))
        except BaseException:
            self.close()
            raise

    @property
    def wasi(self) -> WasiGuest:
        """Itself: there is nothing else to its sandbox's state."""
        return self

    def begin(self, call: WasiCall) -> None:
        """Take what a call brings, standard input, too."""
        super().begin(call)
        self.environment = _entries(self.variables)
        self._open[0] = Input(call.stdin)

    def open(self, number: int) -> Descriptor:
        """A descriptor.

        Raises:
            WasiError: BADF, as there is none of that number.
        """
        try:
            return self._open[number & 0xFFFFFFFF]
        except KeyError:
            raise WasiError(Errno.BADF) from None

    def check_room(self) -> None:
        """WasiError where it has as many open as it may."""
        if len(self._open) >= MAX_DESCRIPTORS:
            raise WasiError(Errno.MFILE)

    def add(self, descriptor: Descriptor) -> int:
        """Give it the lowest number that is free."""
        number = next(number for number in range(MAX_DESCRIPTORS + 1) if number not in self._open)
        self._open[number] = descriptor
        return number

    def shut(self, number: int) -> None:
        """Close a descriptor; its number is free again.

        Raises:
            WasiError: BADF.
        """
        self.open(number).close()
        del self._open[number & 0xFFFFFFFF]

    def renumber(self, source: int, target: int) -> None:
        """Give a descriptor the number of another one, which is closed.

        Raises:
            WasiError: BADF, as one of them is not there.
        """
        moved, replaced = self.open(source), self.open(target)
        if moved is not replaced:
            replaced.close()
            self._open[target & 0xFFFFFFFF] = self._open.pop(source & 0xFFFFFFFF)

    def close(self) -> None:
        """Close all that is open, and remove the scratch directory."""
        while self._open:
            self._open.popitem()[1].close()
        super().close()


def _entries(variables: Mapping[str, str]) -> tuple[bytes, ...]:
    return tuple(f"{name}={value}".encode() for name, value in variables.items())
