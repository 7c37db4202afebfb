"""Keyed digests, by which we know our own files again."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32
_BLOCK_BYTES = 1 << 20


class Seal:
    """HMAC-SHA256 under one key, in hex. What is sealed as one kind of thing never passes for another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of_code(self, path: Path) -> str:
        """The seal of a file of machine code, read in blocks."""
        mac = hmac.new(self._key, b"machine code\0", hashlib.sha256)
        block = bytearray(_BLOCK_BYTES)
        view = memoryview(block)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                mac.update(view[:count])
        return mac.hexdigest()

    def of_statement(self, statement: bytes) -> str:
        """The seal of what we state about machine code."""
        return hmac.new(self._key, b"statement\0" + statement, hashlib.sha256).hexdigest()


def same_seal(one: str, other: str) -> bool:
    """Whether two seals are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def open_key(path: Path) -> bytes:
    """The key in a file, made where there is none or what is there cannot be one.

    However many callers make it at once, all get the same.
    """
    if _read_key(path) is None:
        _make_key(path)
    key = _read_key(path)
    if key is None:
        raise OSError(f"{path} does not keep the key that was written to it")
    return key


def _read_key(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if len(content) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.unlink()  # it has a wrong length, or there would be nothing to make
        # A link, unlike a rename, does not replace the key that somebody else made just now.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
