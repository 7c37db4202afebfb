"""A guest that calls what it is told to, with what it is told to: numbers that no compiler would write, too."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.engine.sandbox import Sandbox, Values
from spear_wasm.engine.wait import Wait
from spear_wasm.limits import Limits
from spear_wasm.model import ValueType
from spear_wasm.wasi.errno import Errno
from spear_wasm.wasi.guest import WasiCall
from spear_wasm.wasi.preview1.functions import WASI_FUNCTIONS
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.volume import Volume
from tests.workshop import LIMITS, Workshop, bare_sandbox, exported, run_slice, run_to_end

PAGES = 2
MEMORY_BYTES = PAGES * 65536
OUT = 60_000
"""Where tests have answers written to."""
NOTHING = WasiCall()


@cache
def caller_module() -> str:
    """A module that exports every function that it imports: all of WASI."""
    imports = "".join(_import_of(function) for function in WASI_FUNCTIONS)
    exports = "".join(_export_of(function) for function in WASI_FUNCTIONS)
    return f'(module {imports} (memory (export "memory") {PAGES}) {exports})'


def _type_of(function: HostFunction) -> str:
    results = f"(result {' '.join(function.type.results)})" if function.type.results else ""
    return f"(param {' '.join(function.type.params)}) {results}"


def _import_of(function: HostFunction) -> str:
    return f'(import "{function.module}" "{function.name}" (func ${function.name} {_type_of(function)}))'


def _export_of(function: HostFunction) -> str:
    arguments = " ".join(f"(local.get {number})" for number in range(len(function.type.params)))
    return f'(func (export "{function.name}") {_type_of(function)} (call ${function.name} {arguments}))'


TYPES = {function.name: function.type for function in WASI_FUNCTIONS}


def _signed(number: int, kind: ValueType) -> int:
    bits = 32 if kind is ValueType.I32 else 64
    return number - (1 << bits) if number >> (bits - 1) == 1 else number


class Guest:
    """The module's one instance, and its memory."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._under_way: Values | None = None

    @property
    def wasi(self) -> WasiGuest:
        assert isinstance(self.sandbox.state, WasiGuest)
        return self.sandbox.state

    def call(self, name: str, *args: int) -> Errno:
        """Call a function to its end."""
        (errno,) = run_to_end(self.sandbox, self.start(name, *args))
        return Errno(int(errno))

    def start(self, name: str, *args: int) -> Values:
        """A call of which nothing has run yet; it ends with the guest, if not before."""
        kinds = TYPES[name].params
        numbers = tuple(_signed(arg, kind) for arg, kind in zip(args, kinds, strict=True))
        self._under_way = self.sandbox.call(exported(self.sandbox.linked, name), numbers)
        return self._under_way

    def wait(self, steps: Values) -> Wait:
        """What a call waits for, run so far. A tick may end a slice before it has begun to wait."""
        while (wait := self.sandbox.waits_for) is None:
            run_slice(self.sandbox, steps)
        return wait

    def end(self) -> None:
        """Unwind it."""
        if self._under_way is not None:
            self._under_way.close()

    def write(self, address: int, content: bytes) -> None:
        self.sandbox.write_memory(address, content)

    def read(self, address: int, size: int) -> bytes:
        return self.sandbox.read_memory(address, size)

    def number(self, address: int = OUT) -> int:
        number: int = struct.unpack("<I", self.read(address, 4))[0]
        return number

    def long_number(self, address: int = OUT) -> int:
        number: int = struct.unpack("<Q", self.read(address, 8))[0]
        return number

    def buffers(self, *ranges: tuple[int, int], at: int = 50_000) -> tuple[int, int]:
        """An array of ranges in its memory: where it is, and how many there are."""
        self.write(at, b"".join(struct.pack("<II", *each) for each in ranges))
        return at, len(ranges)

    def print(self, fd: int, content: bytes) -> Errno:
        """Write from one buffer."""
        self.write(0, content)
        return self.call("fd_write", fd, *self.buffers((0, len(content))), OUT)


class Guests:
    """Makes guests, each in a sandbox of its own."""

    def __init__(self, workshop: Workshop) -> None:
        functions = {(each.module, each.name): each for each in WASI_FUNCTIONS}
        self._linked = workshop.link(caller_module(), functions)

    @contextmanager
    def one(
        self,
        wasi_call: WasiCall = NOTHING,
        *volumes: Volume,
        environment: Mapping[str, str] | None = None,
        limits: Limits = LIMITS,
    ) -> Iterator[Guest]:
        """A guest, from its instance to its end."""
        with bare_sandbox(self._linked, limits) as sandbox:
            guest = Guest(sandbox)
            sandbox.state = WasiGuest(sandbox, environment or {}, volumes)
            guest.wasi.begin(wasi_call)
            run_to_end(sandbox, sandbox.instantiate())
            try:
                yield guest
            finally:
                guest.end()
