"""How wasi:filesystem names what files are like, how they are opened, and what goes wrong with them."""

from __future__ import annotations

import os
import time

from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.preview2.clocks import DATETIME, NANOSECONDS, datetime_of
from spear_wasm.wasi.types import FdFlags, FileType, type_of_mode
from spear_wasm.wit.values import Case, WitValue

_CODES = {
    Errno.ACCES: "access", Errno.AGAIN: "would-block", Errno.ALREADY: "already", Errno.BADF: "bad-descriptor",
    Errno.BUSY: "busy", Errno.DEADLK: "deadlock", Errno.DQUOT: "quota", Errno.EXIST: "exist",
    Errno.FBIG: "file-too-large", Errno.ILSEQ: "illegal-byte-sequence", Errno.INPROGRESS: "in-progress",
    Errno.INTR: "interrupted", Errno.INVAL: "invalid", Errno.IO: "io", Errno.ISDIR: "is-directory", Errno.LOOP: "loop",
    Errno.MLINK: "too-many-links", Errno.MSGSIZE: "message-size", Errno.NAMETOOLONG: "name-too-long",
    Errno.NODEV: "no-device", Errno.NOENT: "no-entry", Errno.NOLCK: "no-lock", Errno.NOMEM: "insufficient-memory",
    Errno.NOSPC: "insufficient-space", Errno.NOTDIR: "not-directory", Errno.NOTEMPTY: "not-empty",
    Errno.NOTRECOVERABLE: "not-recoverable", Errno.NOTSUP: "unsupported", Errno.NOTTY: "no-tty",
    Errno.NXIO: "no-such-device", Errno.OVERFLOW: "overflow", Errno.PERM: "not-permitted", Errno.PIPE: "pipe",
    Errno.ROFS: "read-only", Errno.SPIPE: "invalid-seek", Errno.TXTBSY: "text-file-busy", Errno.XDEV: "cross-device",
}  # fmt: skip
_NEAREST = {
    Errno.NOTCAPABLE: "not-permitted",
    Errno.MFILE: "insufficient-memory",
    Errno.NFILE: "insufficient-memory",
}
"""For what this standard has no word for, the word that its other hosts use."""
_TYPES = {
    FileType.UNKNOWN: "unknown", FileType.BLOCK_DEVICE: "block-device", FileType.CHARACTER_DEVICE: "character-device",
    FileType.DIRECTORY: "directory", FileType.SYMBOLIC_LINK: "symbolic-link", FileType.REGULAR_FILE: "regular-file",
    FileType.SOCKET_STREAM: "socket",
}  # fmt: skip
SYNC_FLAGS = {
    "file-integrity-sync": FdFlags.SYNC,
    "data-integrity-sync": FdFlags.DSYNC,
    "requested-write-sync": FdFlags.RSYNC,
}
FOLLOW = "symlink-follow"

ERROR_CODE = f"enum {{ {', '.join(_CODES.values())} }}"
DESCRIPTOR_TYPE = (
    "enum { unknown, block-device, character-device, directory, fifo, symbolic-link, regular-file, socket }"
)
DESCRIPTOR_FLAGS = f"flags {{ read, write, {', '.join(SYNC_FLAGS)}, mutate-directory }}"
PATH_FLAGS = f"flags {{ {FOLLOW} }}"
OPEN_FLAGS = "flags { create, directory, exclusive, truncate }"
ADVICE = "enum { normal, sequential, random, will-need, dont-need, no-reuse }"
NEW_TIMESTAMP = f"variant {{ no-change, now, timestamp({DATETIME}) }}"
DIRECTORY_ENTRY = f"record {{ type: {DESCRIPTOR_TYPE}, name: string }}"
STAT = (
    f"record {{ type: {DESCRIPTOR_TYPE}, link-count: u64, size: u64, data-access-timestamp: option<{DATETIME}>, "
    f"data-modification-timestamp: option<{DATETIME}>, status-change-timestamp: option<{DATETIME}> }}"
)
MAX_SECONDS = 2**63 // NANOSECONDS


def code_of(number: Errno) -> str:
    """An error's name."""
    return _CODES.get(number) or _NEAREST.get(number, "io")


def name_of_type(kind: FileType) -> str:
    """A file type's name."""
    return _TYPES[kind]


def stat_of(status: os.stat_result) -> dict[str, WitValue]:
    """What a file is like."""
    return {
        "type": name_of_type(type_of_mode(status.st_mode)),
        "link-count": status.st_nlink,
        "size": status.st_size,
        "data-access-timestamp": _datetime(status.st_atime_ns),
        "data-modification-timestamp": _datetime(status.st_mtime_ns),
        "status-change-timestamp": _datetime(status.st_ctime_ns),
    }


def _datetime(nanoseconds: int) -> WitValue:
    # There is no time before 1970 in this standard.
    return datetime_of(nanoseconds) if nanoseconds >= 0 else None


def times_of(access: Case, modified: Case, now: os.stat_result) -> tuple[int, int]:
    """The times of access and of modification that are asked for, in nanoseconds; the others as they are.

    Raises:
        WasiError: OVERFLOW, as no host has such a time.
    """
    return _time(access, now.st_atime_ns), _time(modified, now.st_mtime_ns)


def _time(wanted: Case, kept: int) -> int:
    match wanted.name, wanted.payload:
        case "timestamp", {"seconds": int(seconds), "nanoseconds": int(nanoseconds)}:
            if seconds >= MAX_SECONDS:
                raise WasiError(Errno.OVERFLOW)
            return seconds * NANOSECONDS + nanoseconds
        case "now", _:
            return time.time_ns()
        case _:
            return kept
