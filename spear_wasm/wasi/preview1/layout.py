"""How preview 1 lays its values out in memory."""

from __future__ import annotations

import os
import struct

from spear_wasm.wasi.types import FdStat, FileType, type_of_mode

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
IOVEC = struct.Struct("<II")  # address, length
FDSTAT = struct.Struct("<BxH4xQQ")  # file type, flags, rights, rights of what is opened through it
FILESTAT = struct.Struct("<QQB7xQQQQQ")  # device, inode, type, links, size, times of access, change, metadata
PRESTAT = struct.Struct("<B3xI")  # 0 for a directory, length of its name
DIRENT = struct.Struct("<QQIB3x")  # cookie of the next one, inode, length of the name, type
SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")  # user's, kind, clock or descriptor, time, precision, flags
EVENT = struct.Struct("<QHB5xQH6x")  # user's, error, kind, bytes, flags


def packed_fdstat(stat: FdStat) -> bytes:
    """What a descriptor is."""
    return FDSTAT.pack(stat.type, stat.flags, stat.rights, stat.inherited)


def packed_filestat(status: os.stat_result) -> bytes:
    """What a file is like. Which device of the host it is on is nobody's business."""
    return FILESTAT.pack(
        0, status.st_ino, type_of_mode(status.st_mode), status.st_nlink, status.st_size,
        status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def filestat_of_stream(kind: FileType) -> bytes:
    """What a stream is like."""
    return FILESTAT.pack(0, 0, kind, 0, 0, 0, 0, 0)
