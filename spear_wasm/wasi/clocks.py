"""The clocks of guests, whichever preview they use: the time of day, and one that begins with the guest."""

from __future__ import annotations

import time

from spear_wasm.wasi.guest import GuestWorld

RESOLUTION = 1
"""Of all clocks, in nanoseconds."""


def monotonic_ns(guest: GuestWorld) -> int:
    """How long a guest has been there."""
    return time.monotonic_ns() - guest.began
