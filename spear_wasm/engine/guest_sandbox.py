"""What all sandboxes are, whatever their guests: a store with limits, what the guest wrote, what it used.

Whoever drives a guest knows it by this class; what is called in it is the affair of its kind, and of its runtime.
A guest's run is a generator. Each `next` runs the guest for one slice at most; the generator returns when the guest
does. Closing the generator kills the guest: its stack is unwound, nothing traps, and no other guest notices. A sandbox
may be driven by one thread now and another later, never by two at once.
"""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.waiting_call import WaitingCall, forget_caller, register_caller
from spear_wasm.model import ErrorCode, Usage

if TYPE_CHECKING:
    from spear_wasm.engine.host_calls import GuestState
    from spear_wasm.engine.linked import LinkedArtifact
    from spear_wasm.engine.wait import Wait
    from spear_wasm.limits import Limits

Steps: TypeAlias = "Generator[None, None, None]"
Piece: TypeAlias = "Callable[[int, int], bytes]"
"""Gives so many bytes of something from a place on, by (place, size)."""

UNLIMITED_FUEL = 2**63
LARGE_MEMORY_BYTES = 1 << 20
"""Sandboxes that may have grown beyond this are closed without the GIL: clearing their memory takes a while."""

# The layout of a call buffer, which the library reads and writes: an instance, an extern, a memory's extern,
# a trap and an error pointer, a fuel reading, then the arguments and the results of a call.
EXTERN_AT = capi.INSTANCE_SIZE
FUNC_AT = EXTERN_AT + capi.EXTERN_OFFSET
MEMORY_EXTERN_AT = EXTERN_AT + capi.EXTERN_SIZE
MEMORY_AT = MEMORY_EXTERN_AT + capi.EXTERN_OFFSET
TRAP_AT = MEMORY_EXTERN_AT + capi.EXTERN_SIZE
ERROR_AT = TRAP_AT + 8
_FUEL_AT = ERROR_AT + 8
ARGS_AT = _FUEL_AT + 8
_POINTERS = struct.Struct("<QQ")
_FUEL = struct.Struct("<Q")


class Reader(Protocol):
    """Whoever reads along what a guest emits."""

    largest: int
    """Bytes that a message may have; a guest's that is longer comes in pieces."""

    def room_for(self, size: int) -> Wait | None:
        """What to wait for before a message of that size is handed over; None where there is room."""
        ...

    def put(self, message: bytes) -> None:
        """Take a message for which there is room."""
        ...


class Watcher(Protocol):
    """Whoever wants to know that there is more in the log."""

    def logged(self) -> None:
        """There is. Called on the thread that runs the guest; must be short and must not raise."""
        ...


def call_buffer(widest_call: int) -> ctypes.Array[ctypes.c_char]:
    """A buffer for calls of up to that many arguments and results together."""
    return ctypes.create_string_buffer(ARGS_AT + widest_call * capi.VAL_SIZE)


class GuestSandbox(ABC):
    """One store with five limits; whoever makes it closes it.

    Fuel, where the engine meters it, is filled by `arm`, and so again for each call of a sandbox that was
    made ready earlier or serves again. Logs collect in the sandbox up to `limits.max_log_bytes`. `name` is given
    by whoever takes it first, and `prepared` is set by whoever has run all that comes before the first call.
    `doing` says what the guest runs where it is not what was called, for those who are told how it failed.
    What the guest emits and prints goes to `reader`; where there is none, the first goes nowhere, and the second
    collects in `output`. `watcher` hears of what it logs. `waiting_call` is the host call in which the guest waits.
    `state` is whatever the guest's runtime keeps for it, from one call to the next where there are several: the
    sandbox closes it.
    """

    __slots__ = (
        "_address", "_buffer", "_context", "_emitted", "_fuel", "_key", "_log", "_log_room", "_parked", "_peak",
        "_printed", "_store", "_truncated", "doing", "limits", "linked", "name", "prepared", "reader", "state",
        "waiting_call", "watcher",
    )  # fmt: skip

    def __init__(self, linked: LinkedArtifact, limits: Limits) -> None:
        self.linked = linked
        self.name = ""
        self.doing = ""
        self.prepared = False
        self._parked: BaseException | None = None
        self.waiting_call: WaitingCall | None = None
        self.state: GuestState | None = None
        self._key = register_caller(self) if linked.calls_host else 0
        try:
            self._buffer = linked.spare_buffers.pop()
        except IndexError:
            self._buffer = call_buffer(linked.widest_call)
        self._address = ctypes.addressof(self._buffer)
        self._store = capi.store_new(linked.engine.pointer, self._key or None, None)
        self._context = capi.store_context(self._store)
        if not linked.instantiates_at_once:
            self._yield_at_ticks()
        self.arm(limits)

    def arm(self, limits: Limits) -> None:
        """Put limits in force for what comes next, with a full tank, nothing written and nobody who reads along.

        It may have served before. Nothing that the limits count goes on from there, but for its memory and tables.
        """
        self.limits = limits
        self.reader: Reader | None = None
        self.watcher: Watcher | None = None
        self._emitted = 0
        self._printed: bytes | bytearray = b""
        self._peak = 0
        self._log: bytes | bytearray = b""
        self._log_room = limits.max_log_bytes
        self._truncated = False
        self._limit_store()
        self._fuel = limits.max_fuel or UNLIMITED_FUEL
        if self.linked.engine.metered:
            capi.context_set_fuel(self._context, self._fuel)
        # An epoch deadline is relative to the moment it is set, and one that passed means: yield at once.
        capi.context_set_epoch_deadline(self._context, 1)

    def _yield_at_ticks(self) -> None:
        """From now on what runs in the store ends its slice at a tick, and has to be polled."""
        capi.context_epoch_yield(self._context, 1)

    @abstractmethod
    def _limit_store(self) -> None:
        """Set the store's five limits from `limits`."""

    @abstractmethod
    def instantiate(self) -> Steps:
        """Make the instance; runs what the guest runs on its own.

        Raises:
            GuestFault: that trapped, or the guest's own needs exceed the limits.
        """

    @abstractmethod
    def memory_bytes(self) -> int:
        """All memory that the guest holds, as far as can be told. It never shrinks, so at the end this is its peak."""

    def held_bytes(self) -> int:
        """What it keeps from others while it waits for a call."""
        return self.memory_bytes()

    def _run(self, future: int) -> Steps:
        """Run what the library has begun, to its end; raises the fault that it ended with."""
        # Most end in their first slice.
        if capi.call_future_poll(future):
            capi.call_future_delete(future)
        else:
            yield from self._poll_on(future)
        self._raise_fault()

    @staticmethod
    def _poll_on(future: int) -> Steps:
        """Go on with what did not end in its first slice."""
        poll = capi.call_future_poll
        try:
            yield
            while not poll(future):
                yield
        finally:
            # For an unfinished future this is the kill.
            capi.call_future_delete(future)

    def _raise_fault(self) -> None:
        """Raise what the library has left in the buffer, where it has."""
        trap, error = _POINTERS.unpack_from(self._buffer, TRAP_AT)
        if trap or error:
            raise self._take_fault(trap, error)

    def _take_fault(self, trap: int, error: int) -> BaseException:
        # Not in `_raise_fault`: its frame, to which the traceback leads, would keep the fault and so itself, and with
        # it the call's arguments, until the garbage collector comes.
        _POINTERS.pack_into(self._buffer, TRAP_AT, 0, 0)
        fault = self._fault_of(trap, error)
        parked, self._parked = self._parked, None
        return fault if parked is None else parked

    @abstractmethod
    def _fault_of(self, trap: int, error: int) -> GuestFault:
        """The fault that a trap or an error of the library stands for, one of which is not 0; frees it."""

    def log(self, content: bytes) -> None:
        """Add to the log what there is room for."""
        kept = min(len(content), self._log_room)
        self._truncated |= kept < len(content)
        self._log_room -= kept
        if kept:
            # One growing array, not a list: a guest that logs byte by byte must not cost an object for each.
            self._log = self._log or bytearray()
            self._log += content[:kept]
            if self.watcher is not None:
                self.watcher.logged()

    def log_from(self, start: int) -> bytes:
        """What the guest has logged so far, behind that many bytes. On any thread: it is read in one step."""
        return bytes(self._log[start:])

    def print(self, content: bytes) -> Generator[Wait, None, None]:
        """Add to the guest's standard output, which a reader gets as it comes, and `output` keeps for others.

        Raises:
            GuestFault: the guest has written more than it may; what there is room for is kept.
        """
        reader = self.reader
        if reader is None:
            self._keep_printed(content)
        else:
            self._count_emitted(len(content))
            if content:
                yield from self._hand_over(reader, len(content), lambda at, size: content[at : at + size])

    def _hand_over(self, reader: Reader, length: int, piece: Piece) -> Generator[Wait, None, None]:
        # What waits is still where it has been paid for: only what fits is copied.
        for start in range(0, max(length, 1), reader.largest):
            size = min(length - start, reader.largest)
            while (wait := reader.room_for(size)) is not None:
                yield wait
            reader.put(piece(start, size))

    def _keep_printed(self, content: bytes) -> None:
        kept = min(len(content), self.output_room)
        if kept:
            self._printed = self._printed or bytearray()
            self._printed += content[:kept]
        self._truncated |= kept < len(content)
        self._count_emitted(len(content))

    def _count_emitted(self, length: int) -> None:
        self._emitted += length
        if self._emitted > self.limits.max_output_bytes:
            raise GuestFault(
                ErrorCode.OUTPUT_LIMIT,
                f"the guest emitted {self._emitted} bytes; the limit is {self.limits.max_output_bytes}",
            )

    @property
    def output(self) -> bytes:
        """What the guest has printed that no reader got."""
        return bytes(self._printed)

    @property
    def output_room(self) -> int:
        """How many bytes the guest's result may have: what its messages have left of the limit."""
        return self.limits.max_output_bytes - self._emitted

    def check_result(self, size: int) -> None:
        """Whether a result of so many bytes may be given.

        Raises:
            GuestFault: it is more than the guest's messages have left of the limit.
        """
        if size > self.output_room:
            beside = f", after {self._emitted} bytes emitted" if self._emitted else ""
            raise GuestFault(
                ErrorCode.OUTPUT_LIMIT,
                f"the result is {size} bytes{beside}; the limit is {self.limits.max_output_bytes}",
            )

    @property
    def waits_for(self) -> Wait | None:
        """What must be over before the guest can go on; None where it can."""
        call = self.waiting_call
        return None if call is None else call.wait

    def park(self, error: BaseException) -> None:
        """Keep what a host function raised; the run raises it when the guest has been left."""
        self._parked = error

    def usage(self, cpu_ns: int) -> Usage:
        """What the guest used so far; `cpu_ns` is measured by whoever ran it."""
        self._peak = self.memory_bytes()
        return Usage(
            cpu_ns=cpu_ns,
            peak_memory_bytes=self._peak,
            fuel=self._fuel_used() if self.linked.engine.metered else None,
            stdout=bytes(self._printed),
            stderr=bytes(self._log),
            output_truncated=self._truncated,
        )

    def _fuel_used(self) -> int:
        error = capi.context_get_fuel(self._context, self._address + _FUEL_AT)
        if error:
            capi.take_error(error)
            return 0
        return self._fuel - int(_FUEL.unpack_from(self._buffer, _FUEL_AT)[0])

    @property
    def slow_to_close(self) -> bool:
        """Whether closing it takes long enough for somebody to notice who waits for that."""
        return self._may_be_large or (self.state is not None and self.state.slow_to_close)

    @property
    @abstractmethod
    def _may_be_large(self) -> bool:
        """Whether its memories may be so large that clearing them takes a while."""

    def close(self) -> None:
        """Give the slot back. No run may be under way; the sandbox must not be used again."""
        if self._key:
            forget_caller(self._key)
        is_large = self._peak > LARGE_MEMORY_BYTES if self._peak else self._may_be_large
        delete = capi.store_delete_released if is_large else capi.store_delete
        delete(self._store)
        self.linked.spare_buffers.append(self._buffer)
        if self.state is not None:
            self.state.close()
