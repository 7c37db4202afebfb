"""Files of ours alone, whole or absent whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from spear_wasm.errors import StorageFull

DIRECTORY_MODE = 0o700
SEALED_MODE = 0o400
"""Files that are never written again."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def make_directory(path: Path) -> Path:
    """A directory that only we can enter. One that exists keeps its mode: it may be its operator's."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    return path


def make_private_directory(path: Path) -> Path:
    """A directory of our own inside a directory of ours, closed to others even if it was open."""
    make_directory(path).chmod(DIRECTORY_MODE)
    return path


def write_sealed(path: Path, content: bytes, *, temporary_prefix: str) -> None:
    """Put `content` at `path` in one step, replacing what is there."""
    temporary = path.with_name(temporary_prefix + secrets.token_hex(8))
    try:
        temporary.write_bytes(content)
        temporary.chmod(SEALED_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_full_refused() -> Iterator[None]:
    """Turns a full disk (or quota) into StorageFull; other errors of the disk stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageFull("the disk under the data directory is full") from error
