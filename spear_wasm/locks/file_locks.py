"""Locks between the processes of a server, in a file of its data directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_FLOCK = "hhqqi4x"
"""The layout of `struct flock` where `off_t` has 64 bits."""


class FileLocks:
    """As many locks as there are numbers, in a file of `directory`; `keys` says which stand for what.

    The kernel lets go of them with the process, however that ends. Threads exclude each other as processes do.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "locks"

    @contextlib.contextmanager
    def held(self, key: int) -> Iterator[None]:
        """Hold a lock; wait for it first."""
        descriptor = self._opened()
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _of_one_byte(key))
            yield
        finally:
            os.close(descriptor)

    def try_to_hold(self, key: int) -> int | None:
        """Hold a lock until the descriptor is closed that is returned; None where it cannot be had now.

        Somebody else holds it then, or there is no descriptor left.
        """
        try:
            descriptor = self._opened()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            return None
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _of_one_byte(key))
        except OSError as error:
            os.close(descriptor)
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            return None
        return descriptor

    def _opened(self) -> int:
        # One for each holder: the lock belongs to what was opened, and goes when that is closed.
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _of_one_byte(key: int) -> bytes:
    """A lock on a byte, which need not be there."""
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, key, 1, 0)
