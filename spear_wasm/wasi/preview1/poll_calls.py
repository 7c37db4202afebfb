"""poll_oneoff: wait until something of what is open can be read or written, or until a time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import IntEnum

from spear_wasm.engine.host_calls import CallingSandbox
from spear_wasm.engine.wait import Wait
from spear_wasm.wasi.errno import Errno, WasiError, number_of
from spear_wasm.wasi.preview1.calling import check_range, guest_of, put_u32, wasi_waiting
from spear_wasm.wasi.preview1.guest import WasiGuest
from spear_wasm.wasi.preview1.layout import EVENT, SUBSCRIPTION, U32
from spear_wasm.wasi.preview1.process_calls import time_of

MAX_SUBSCRIPTIONS = 1024
ABSOLUTE = 1
"""The one flag of a clock: its time is a point, not a duration."""


class Kind(IntEnum):
    """What is waited for."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


@dataclass(frozen=True, slots=True)
class Subscription:
    """One thing that is waited for; `over_at` in nanoseconds of the monotonic clock, 0 for what is not a time.

    One that has an `error` cannot be waited for.
    """

    user_data: int
    kind: Kind
    descriptor: int
    over_at: int
    error: Errno = Errno.SUCCESS

    def event(self, guest: WasiGuest, now: int) -> bytes | None:
        """What has come about, as it lies in memory; None as long as nothing has."""
        if self.kind is Kind.CLOCK:
            return self._told(self.error) if self.over_at <= now else None
        try:
            descriptor = guest.open(self.descriptor)
            if self.kind is Kind.FD_WRITE:
                descriptor.check_writable()
                return self._told(count=1)
            return self._told(count=descriptor.readable_bytes())
        except (WasiError, OSError) as error:
            return self._told(number_of(error))

    def _told(self, error: Errno = Errno.SUCCESS, count: int = 0) -> bytes:
        return EVENT.pack(self.user_data, error, self.kind, count, 0)


@wasi_waiting("poll_oneoff", "iiii")
def poll_oneoff(
    sandbox: CallingSandbox, subscriptions_at: int, events_at: int, count: int, result_at: int
) -> Generator[Wait, None, None]:
    if not 0 < count <= MAX_SUBSCRIPTIONS:
        raise WasiError(Errno.INVAL)
    check_range(sandbox, events_at & 0xFFFFFFFF, count * EVENT.size)
    check_range(sandbox, result_at & 0xFFFFFFFF, U32.size)
    guest, subscriptions = guest_of(sandbox), list(_subscriptions(sandbox, subscriptions_at, count))
    # Streams and files are always ready: if there is anything else than times, nothing is waited for.
    first = min(each.over_at for each in subscriptions)
    if first > time.monotonic_ns():
        yield Wait(until=first / 1e9)
    now = max(first, time.monotonic_ns())
    events = [event for each in subscriptions if (event := each.event(guest, now)) is not None]
    sandbox.write_memory(events_at, b"".join(events))
    put_u32(sandbox, result_at, len(events))


def _subscriptions(sandbox: CallingSandbox, address: int, count: int) -> Iterator[Subscription]:
    content = sandbox.read_memory(address, count * SUBSCRIPTION.size)
    for user_data, kind, number, when, _, flags in SUBSCRIPTION.iter_unpack(content):
        if kind not in set(Kind):
            raise WasiError(Errno.INVAL)
        over_at, error = 0, Errno.SUCCESS
        if kind == Kind.CLOCK:
            try:
                over_at = _over_at(guest_of(sandbox), number, when, absolute=bool(flags & ABSOLUTE))
            except WasiError as refused:
                error = refused.number
        yield Subscription(user_data, Kind(kind), number, over_at, error)


def _over_at(guest: WasiGuest, clock: int, when: int, *, absolute: bool) -> int:
    now = time_of(guest, clock)
    return time.monotonic_ns() + when - (now if absolute else 0)
