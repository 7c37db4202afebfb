"""What descriptors are and what may be done with them, as preview 1 numbers it; preview 2 gives it other names."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import IntEnum, IntFlag


class FileType(IntEnum):
    """What a descriptor or a directory's entry is."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


class Rights(IntFlag):
    """What may be done with a descriptor. Nobody is held to them; guests read from them what they have."""

    FD_DATASYNC = 1 << 0
    FD_READ = 1 << 1
    FD_SEEK = 1 << 2
    FD_FDSTAT_SET_FLAGS = 1 << 3
    FD_SYNC = 1 << 4
    FD_TELL = 1 << 5
    FD_WRITE = 1 << 6
    FD_ADVISE = 1 << 7
    FD_ALLOCATE = 1 << 8
    FD_FILESTAT_GET = 1 << 21
    FD_FILESTAT_SET_SIZE = 1 << 22
    FD_FILESTAT_SET_TIMES = 1 << 23
    POLL_FD_READWRITE = 1 << 27


OF_ANY_FILE = (
    Rights.FD_SEEK | Rights.FD_TELL | Rights.FD_ADVISE | Rights.FD_FDSTAT_SET_FLAGS | Rights.FD_FILESTAT_GET
    | Rights.POLL_FD_READWRITE
)  # fmt: skip
OF_WRITING = (
    Rights.FD_WRITE | Rights.FD_DATASYNC | Rights.FD_SYNC | Rights.FD_FILESTAT_SET_SIZE
    | Rights.FD_FILESTAT_SET_TIMES
)  # fmt: skip
OF_DIRECTORIES = sum(1 << bit for bit in (*range(9, 19), 20, 21, 23, 24, 25, 26))
"""All that begin with path_, but for the one for sizes, which are set through files; entries, and its own state."""


class OpenFlags(IntFlag):
    """How path_open opens."""

    CREATE = 1
    DIRECTORY = 2
    EXCLUSIVE = 4
    TRUNCATE = 8


class FdFlags(IntFlag):
    """How a descriptor behaves."""

    APPEND = 1
    DSYNC = 2
    NONBLOCK = 4
    RSYNC = 8
    SYNC = 16


@dataclass(frozen=True, slots=True)
class FdStat:
    """What a descriptor is, and what may be done with it and with what is opened through it."""

    type: FileType
    flags: FdFlags
    rights: int
    inherited: int = 0


def type_of_mode(mode: int) -> FileType:
    """What a file is, by its mode on the host."""
    return _TYPE_OF_FORMAT.get(stat.S_IFMT(mode), FileType.UNKNOWN)


_TYPE_OF_FORMAT = {
    stat.S_IFREG: FileType.REGULAR_FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMBOLIC_LINK,
    stat.S_IFCHR: FileType.CHARACTER_DEVICE,
    stat.S_IFBLK: FileType.BLOCK_DEVICE,
    stat.S_IFSOCK: FileType.SOCKET_STREAM,
}
