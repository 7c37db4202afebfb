"""Trees of files that guests are granted: directories of the host, and a scratch directory for one sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
from collections import Counter
from pathlib import Path

from spear_wasm.wasi.errno import Errno, WasiError

MAX_SCRATCH_ENTRIES = 1024
SCRATCH_HOME = f"spear-wasm-scratch-{os.getuid()}"
"""Below the host's directory for temporary files; in it a directory a sandbox, locked as long as that has it."""


class Volume:
    """A directory of the host, with all below it. What is written to one is the operator's to bound."""

    def __init__(self, name: str, path: Path, *, writable: bool) -> None:
        self.name = name
        self.path = path
        self.writable = writable

    def check_writable(self) -> None:
        """Refuse what changes a file or a directory.

        Raises:
            WasiError: it was granted for reading.
        """
        if not self.writable:
            raise WasiError(Errno.ROFS)

    def admit_size(self, descriptor: int, size: int) -> None:
        """An open file is about to become that large."""

    def admit_entry(self) -> None:
        """A file, directory or link is about to be made."""

    def entry_failed(self) -> None:
        """It was not made."""

    def opened(self, descriptor: int) -> None:
        """A file has been opened, and perhaps emptied by that."""

    def resized(self, descriptor: int) -> None:
        """An open file may have another size than before."""

    def closing(self, descriptor: int) -> None:
        """An open file is about to be closed."""

    def removed(self, status: os.stat_result) -> None:
        """An entry, which was like that, is there no more."""

    def close(self) -> None:
        """Its guest is gone."""


class Scratch(Volume):
    """A directory for one sandbox, gone with it, with all that was in it.

    Its files together never become larger than `limit`: everything that changes them comes through here. A file
    counts as long as it has a name or is open.
    """

    def __init__(self, name: str, limit: int) -> None:
        path, self._lock = _new_directory()
        super().__init__(name, path, writable=True)
        self._limit = limit
        self._sizes: dict[int, int] = {}  # by inode
        self._total = 0
        self._entries = 0
        self._open: Counter[int] = Counter()  # by inode

    def admit_size(self, descriptor: int, size: int) -> None:
        """Refuse what makes the files together larger than they may be.

        Raises:
            WasiError: NOSPC.
        """
        growth = size - self._sizes.get(os.fstat(descriptor).st_ino, 0)
        if growth > self._limit - self._total:
            raise WasiError(Errno.NOSPC)

    def admit_entry(self) -> None:
        """Count an entry.

        Raises:
            WasiError: NOSPC, as there are as many as there may be.
        """
        if self._entries >= MAX_SCRATCH_ENTRIES:
            raise WasiError(Errno.NOSPC)
        self._entries += 1

    def entry_failed(self) -> None:
        """Count one less."""
        self._entries -= 1

    def opened(self, descriptor: int) -> None:
        """Count a file as open."""
        self._open[os.fstat(descriptor).st_ino] += 1
        self.resized(descriptor)

    def resized(self, descriptor: int) -> None:
        """Count a file with the size that it has now."""
        status = os.fstat(descriptor)
        self._total += status.st_size - self._sizes.get(status.st_ino, 0)
        self._sizes[status.st_ino] = status.st_size

    def closing(self, descriptor: int) -> None:
        """Count a file no more if it has no name either."""
        status = os.fstat(descriptor)
        self._open[status.st_ino] -= 1
        if not status.st_nlink:
            self._forget_unless_open(status.st_ino)

    def removed(self, status: os.stat_result) -> None:
        """Count an entry no more, nor its file if that was its last name and nobody has it open."""
        self._entries -= 1
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            self._forget_unless_open(status.st_ino)

    def _forget_unless_open(self, inode: int) -> None:
        if not self._open[inode]:
            del self._open[inode]
            self._total -= self._sizes.pop(inode, 0)

    def close(self) -> None:
        """Remove it."""
        _remove_tree(self.path)
        os.close(self._lock)


def _scratch_home() -> Path:
    home = Path(tempfile.gettempdir()) / SCRATCH_HOME
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    status = home.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) & 0o077
    ):
        raise PermissionError(f"{home} is not a directory that is ours alone")
    return home


def _new_directory() -> tuple[Path, int]:
    """A directory below the home, and the descriptor by which it is locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=_scratch_home()))
        lock = _locked(path)
        if lock is not None:  # otherwise somebody took it for one that was left
            return path, lock


def _locked(path: Path) -> int | None:
    """A descriptor by which a directory is locked; None where another one has it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def sweep_scratch() -> None:
    """Remove what processes that are gone have left, however they went: the lock went with them."""
    for left in _scratch_home().iterdir():
        lock = _locked(left)
        if lock is not None:
            with contextlib.suppress(OSError):  # who sweeps at the same time may be faster
                _remove_tree(left)
            os.close(lock)


def _remove_tree(path: Path) -> None:
    # Without recursion, and with no more than one directory open: a guest chose how deep it is. What is in a
    # directory moves up to the top, under a name that nothing has, so that the directory can go.
    while entries := list(path.iterdir()):
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                for inner in list(entry.iterdir()):
                    inner.rename(path / secrets.token_hex(16))
                entry.rmdir()
            else:
                entry.unlink()
    path.rmdir()
