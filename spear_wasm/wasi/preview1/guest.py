"""What one guest of preview 1 has of the world: arguments, environment, and what it has open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from spear_wasm.wasi.descriptors import Descriptor, Directory, ErrorOutput, Input, Output
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.guest import MAX_DESCRIPTORS, GuestWorld, WasiCall
from spear_wasm.wasi.paths import open_directory
from spear_wasm.wasi.volume import Volume

if TYPE_CHECKING:
    from spear_wasm.engine.host_calls import CallingSandbox


class WasiGuest(GuestWorld):
    """The state of a sandbox whose guest uses WASI preview 1. Used by whoever runs the guest, one at a time.

    `arguments` and `environment` are as the guest gets them, without their closing zeros. Descriptors 0, 1 and 2 are
    the standard streams; the volumes follow.
    """

    def __init__(
        self, sandbox: CallingSandbox, environment: Mapping[str, str], volumes: Iterable[Volume]
    ) -> None:
        super().__init__(environment, volumes)
        self._environment: tuple[bytes, ...] | None = None
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

    @property
    def environment(self) -> tuple[bytes, ...]:
        """Its variables, written down when the guest first asks: many never do."""
        if self._environment is None:
            self._environment = tuple(f"{name}={value}".encode() for name, value in self.variables.items())
        return self._environment

    def begin(self, call: WasiCall) -> None:
        """Take what a call brings, standard input, too."""
        super().begin(call)
        self._environment = None
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
