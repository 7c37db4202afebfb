"""What a guest can have open: its standard streams, files and directories.

A descriptor answers what it can; everything else fails with the number that the standard has for that kind.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain, repeat
from typing import TYPE_CHECKING, Protocol

from spear_wasm.engine.wait import Wait
from spear_wasm.wasi.blocking_work import done_aside
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.open_files import OPEN_FILES
from spear_wasm.wasi.types import (
    OF_ANY_FILE,
    OF_DIRECTORIES,
    OF_WRITING,
    FdFlags,
    FdStat,
    FileType,
    Rights,
    type_of_mode,
)

if TYPE_CHECKING:
    from spear_wasm.wasi.volume import Volume

Written = Generator[Wait, None, int]


class Printing(Protocol):
    """The sandbox of a guest that has standard streams."""

    def print(self, content: bytes) -> Generator[Wait, None, object]:
        """Add bytes to its standard output; a GuestFault where that grows beyond its bound."""
        ...

    def log(self, content: bytes) -> None:
        """Add bytes to its log; what is over its bound is cut."""
        ...


RECENT_ENTRIES = 64
"""Of a directory that is read, those that are remembered: a guest asks again for the one that was cut, at least."""
ENTRIES_A_TURN = 1024
"""Entries that are read between two turns of others."""

MAX_OFFSET = 2**63 - 1

Entry = tuple[bytes, int, FileType]
"""An entry of a directory: its name, inode and type."""


def offset_of(value: int) -> int:
    """An offset or a size in a file.

    Raises:
        WasiError: INVAL, as no file is that large.
    """
    value &= 0xFFFF_FFFF_FFFF_FFFF
    if value > MAX_OFFSET:
        raise WasiError(Errno.INVAL)
    return value


class Descriptor:
    """Something open. `granted_as` is the path by which the guest knows it from the start, if it does."""

    granted_as: bytes | None = None

    def stat(self) -> FdStat:
        """What it is, and what may be done with it."""
        raise NotImplementedError

    def set_flags(self, flags: FdFlags) -> None:
        """Change how it behaves."""
        raise WasiError(Errno.BADF)

    def status(self) -> os.stat_result | None:
        """What its host says of it; None for a stream, which is nothing of the host's."""
        return None

    def read(self, size: int) -> bytes:
        """At most so many bytes from where it is; none at its end."""
        raise WasiError(Errno.BADF)

    def write(self, content: bytes) -> Written:
        """Write at least some of the bytes where it is; returns how many."""
        raise WasiError(Errno.BADF)

    def seek(self, offset: int, whence: int) -> int:
        """Go elsewhere; returns where that is."""
        raise WasiError(Errno.SPIPE)

    def readable_bytes(self) -> int:
        """How many bytes can be read at once without an end in between, as far as that is known."""
        raise WasiError(Errno.BADF)

    def check_writable(self) -> None:
        """WasiError where it cannot be written to."""
        raise WasiError(Errno.BADF)

    def file(self) -> File:
        """Itself, if it is a file."""
        raise WasiError(Errno.SPIPE)

    def directory(self) -> Directory:
        """Itself, if it is a directory."""
        raise WasiError(Errno.NOTDIR)

    def close(self) -> None:
        """Give it back."""


class Input(Descriptor):
    """Standard input: bytes that are all there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def stat(self) -> FdStat:
        return FdStat(FileType.UNKNOWN, FdFlags(0), Rights.FD_READ | Rights.POLL_FD_READWRITE)

    def read(self, size: int) -> bytes:
        chunk = self._content[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def readable_bytes(self) -> int:
        return len(self._content) - self._at


class _Output(Descriptor):
    def __init__(self, sandbox: Printing) -> None:
        self._sandbox = sandbox

    def stat(self) -> FdStat:
        return FdStat(FileType.UNKNOWN, FdFlags.APPEND, Rights.FD_WRITE | Rights.POLL_FD_READWRITE)

    def check_writable(self) -> None:
        pass


class Output(_Output):
    """Standard output, which whoever streams gets as it comes."""

    def write(self, content: bytes) -> Written:
        """Print; ends the guest where it has printed more than it may."""
        yield from self._sandbox.print(content)
        return len(content)


class ErrorOutput(_Output):
    """Standard error, which is the execution's log."""

    def write(self, content: bytes) -> Written:
        """Log; what there is no room for is cut, and its guest need not know."""
        yield from ()  # it never waits
        self._sandbox.log(content)
        return len(content)


class OnDisk(Descriptor):
    """A file or a directory of the host, open as `number`, which is closed where there may be none more."""

    def __init__(self, number: int, volume: Volume) -> None:
        try:
            OPEN_FILES.take()
        except WasiError:
            os.close(number)
            raise
        self.number = number
        self.volume = volume

    def status(self) -> os.stat_result:
        return os.fstat(self.number)

    def close(self) -> None:
        os.close(self.number)
        OPEN_FILES.give_back()


class File(OnDisk):
    """A regular file of a volume. Its number and its offset are the host's."""

    def __init__(self, number: int, volume: Volume, rights: Rights, flags: FdFlags) -> None:
        super().__init__(number, volume)
        self._rights = rights
        self._flags = flags
        volume.opened(number)

    def stat(self) -> FdStat:
        return FdStat(FileType.REGULAR_FILE, self._flags, self._rights)

    def set_flags(self, flags: FdFlags) -> None:
        """Append or not; others are as they were when it was opened."""
        if (flags ^ self._flags) & ~(FdFlags.APPEND | FdFlags.NONBLOCK):
            raise WasiError(Errno.NOTSUP)
        self._flags = flags

    def read(self, size: int) -> bytes:
        self._check(Rights.FD_READ)
        return os.read(self.number, size)

    def read_at(self, size: int, offset: int) -> bytes:
        """The same from another place, without going there."""
        self._check(Rights.FD_READ)
        return os.pread(self.number, size, offset)

    def write(self, content: bytes) -> Written:
        """Write where it is, or at its end where it appends."""
        whence = os.SEEK_END if self._flags & FdFlags.APPEND else os.SEEK_CUR
        self._check(Rights.FD_WRITE)
        yield from ()  # it never waits
        written = self.write_at(content, os.lseek(self.number, 0, whence))
        os.lseek(self.number, written, os.SEEK_CUR)
        return written

    def write_at(self, content: bytes, offset: int) -> int:
        """Write at another place, without going there; returns how many bytes."""
        self._check(Rights.FD_WRITE)
        if content:
            self.volume.admit_size(self.number, offset + len(content))
        written = os.pwrite(self.number, content, offset)
        self.volume.resized(self.number)
        return written

    def size(self) -> int:
        """How many bytes it has."""
        return self.status().st_size

    def copy(self) -> File:
        """The same file open once more, with the same rights."""
        return File(os.dup(self.number), self.volume, self._rights, self._flags)

    def check_readable(self) -> None:
        """WasiError where it cannot be read."""
        self._check(Rights.FD_READ)

    def resize(self, size: int) -> None:
        """Cut it, or fill it up with zeros."""
        self._check(Rights.FD_FILESTAT_SET_SIZE)
        self.volume.admit_size(self.number, size)
        os.ftruncate(self.number, size)
        self.volume.resized(self.number)

    def sync(self) -> Generator[Wait, None, None]:
        """Wait until what was written to it is on its disk."""
        # A disk takes as long as it likes, also after the guest and what it had open are gone.
        copy = os.dup(self.number)
        yield from done_aside(lambda: os.fdatasync(copy), lambda: os.close(copy))

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self.number, offset, whence)

    def readable_bytes(self) -> int:
        self._check(Rights.FD_READ)
        return max(self.size() - os.lseek(self.number, 0, os.SEEK_CUR), 0)

    def check_writable(self) -> None:
        self._check(Rights.FD_WRITE)

    def file(self) -> File:
        return self

    def close(self) -> None:
        self.volume.closing(self.number)
        super().close()

    def _check(self, right: Rights) -> None:
        if not self._rights & right:
            raise WasiError(Errno.BADF)


class Directory(OnDisk):
    """A directory of a volume."""

    def __init__(self, number: int, volume: Volume, granted_as: bytes | None = None) -> None:
        super().__init__(number, volume)
        self.granted_as = granted_as
        self._scan: Iterator[os.DirEntry[str]] | None = None
        self._recent: deque[Entry] = deque(maxlen=RECENT_ENTRIES)
        self._read = 0  # how many entries have been read; the last of them are the recent ones

    def stat(self) -> FdStat:
        inherited = OF_DIRECTORIES | OF_ANY_FILE | OF_WRITING | Rights.FD_READ | Rights.FD_ALLOCATE
        return FdStat(FileType.DIRECTORY, FdFlags(0), OF_DIRECTORIES, inherited)

    def directory(self) -> Directory:
        return self

    def copy(self) -> Directory:
        """The same directory open once more, by itself: what is read of one does not count for the other."""
        number = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.number)
        return Directory(number, self.volume)

    def file(self) -> File:
        raise WasiError(Errno.ISDIR)

    def seek(self, offset: int, whence: int) -> int:
        raise WasiError(Errno.BADF)

    def entries_from(self, place: int) -> Iterator[Entry | None]:
        """Its entries from a place on; None where more of them than a moment allows have gone by.

        From the first one on they are read anew. However many there are, few are remembered: who goes further back
        has them read again, too.
        """
        if place == 0 or place < self._read - len(self._recent):
            self._begin_scan()
        at = self._read - len(self._recent)
        for entry in chain(tuple(self._recent), repeat(None)):
            found = entry or self._next_entry()
            if found is None:
                return
            if at >= place:
                yield found
            at += 1
            if at % ENTRIES_A_TURN == 0:
                yield None

    def _begin_scan(self) -> None:
        self._close_scan()
        here = self.status().st_ino
        self._recent.extend([(b".", here, FileType.DIRECTORY), (b"..", 0, FileType.DIRECTORY)])
        self._read = 2
        self._scan = os.scandir(self.number)

    def _next_entry(self) -> Entry | None:
        found = next(self._scan, None) if self._scan is not None else None
        if found is None:
            return None
        entry = os.fsencode(found.name), found.inode(), _type_of(found)
        self._recent.append(entry)
        self._read += 1
        return entry

    def close(self) -> None:
        self._close_scan()
        super().close()

    def _close_scan(self) -> None:
        self._recent.clear()
        scan, self._scan = self._scan, None
        if scan is not None:
            scan.close()  # type: ignore[attr-defined]  # scandir's iterator has it


def _type_of(entry: os.DirEntry[str]) -> FileType:
    if entry.is_symlink():
        return FileType.SYMBOLIC_LINK
    if entry.is_dir(follow_symlinks=False):
        return FileType.DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return FileType.REGULAR_FILE
    return type_of_mode(entry.stat(follow_symlinks=False).st_mode)
