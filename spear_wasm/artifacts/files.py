"""Files of ours alone, whole or absent whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
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


@contextlib.contextmanager
def written_sealed(path: Path, content: bytes) -> Iterator[Path]:
    """A new file at `path`, to be renamed to where it belongs; what is not renamed goes at the end."""
    try:
        path.write_bytes(content)
        path.chmod(SEALED_MODE)
        yield path
    finally:
        path.unlink(missing_ok=True)


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
