"""wasi:random: the host's randomness, also where a guest would be content with worse."""

from __future__ import annotations

import os

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wit.values import WitValue

SECURE = Interface("wasi:random/random")
INSECURE = Interface("wasi:random/insecure")
INSECURE_SEED = Interface("wasi:random/insecure-seed")

MAX_RANDOM_BYTES = 64 << 10


@SECURE.function("get-random-bytes", "func(len: u64) -> list<u8>")
@INSECURE.function("get-insecure-random-bytes", "func(len: u64) -> list<u8>")
def get_random_bytes(_: ComponentGuest, length: int) -> WitValue:
    # All of them come in one go, and by the standard none may be missing.
    if length > MAX_RANDOM_BYTES:
        raise GuestFault(
            ErrorCode.GUEST_ERROR,
            f"the guest asked for {length} random bytes at once; it may ask for {MAX_RANDOM_BYTES}",
        )
    return os.urandom(length)


@SECURE.function("get-random-u64", "func() -> u64")
@INSECURE.function("get-insecure-random-u64", "func() -> u64")
def get_random_u64(_: ComponentGuest) -> WitValue:
    return _random_u64()


@INSECURE_SEED.function("insecure-seed", "func() -> tuple<u64, u64>")
def insecure_seed(_: ComponentGuest) -> WitValue:
    return _random_u64(), _random_u64()


def _random_u64() -> int:
    return int.from_bytes(os.urandom(8), "little")


RANDOM = (SECURE, INSECURE, INSECURE_SEED)
