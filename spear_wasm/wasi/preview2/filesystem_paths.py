"""wasi:filesystem's functions on what a path below a directory leads to."""

from __future__ import annotations

import os

from spear_wasm.wasi import file_operations
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.file_operations import Opening
from spear_wasm.wasi.preview2 import file_types as types
from spear_wasm.wasi.preview2.filesystem import (
    FILES,
    HASH,
    NOTHING,
    PREOPENS,
    SELF,
    STAT,
    TIMES,
    check_room,
    directory_of,
    hash_of,
    text_of,
    told,
)
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.types import FdFlags, OpenFlags
from spear_wasm.wit.values import Case, WitValue

_PATH = f"{SELF}, path: string"
_FOLLOWED_PATH = f"{SELF}, path-flags: {types.PATH_FLAGS}, path: string"


@FILES.function("[method]descriptor.set-times-at", f"func({_FOLLOWED_PATH}, {TIMES}) -> {NOTHING}")
@told
def set_times_at(
    guest: ComponentGuest, number: int, flags: frozenset[str], path: str, access: Case, modified: Case
) -> WitValue:
    file_operations.set_times_at(
        directory_of(guest, number),
        path.encode(),
        lambda status: types.times_of(access, modified, status),
        follow=types.FOLLOW in flags,
    )
    return None


@FILES.function("[method]descriptor.create-directory-at", f"func({_PATH}) -> {NOTHING}")
@told
def create_directory_at(guest: ComponentGuest, number: int, path: str) -> WitValue:
    file_operations.make_directory(directory_of(guest, number), path.encode())
    return None


@FILES.function("[method]descriptor.stat-at", f"func({_FOLLOWED_PATH}) -> {STAT}")
@told
def stat_at(guest: ComponentGuest, number: int, flags: frozenset[str], path: str) -> WitValue:
    return types.stat_of(_status_at(guest, number, flags, path))


def _status_at(guest: ComponentGuest, number: int, flags: frozenset[str], path: str) -> os.stat_result:
    directory = directory_of(guest, number)
    return file_operations.status_at(directory, path.encode(), follow=types.FOLLOW in flags)


@FILES.function(
    "[method]descriptor.link-at",
    f"func({SELF}, old-path-flags: {types.PATH_FLAGS}, old-path: string, new-descriptor: borrow<descriptor>, "
    f"new-path: string) -> {NOTHING}",
)
@told
def link_at(
    guest: ComponentGuest, number: int, flags: frozenset[str], path: str, target: int, target_path: str
) -> WitValue:
    if types.FOLLOW in flags:
        raise WasiError(Errno.INVAL)
    file_operations.link(
        directory_of(guest, number), path.encode(), directory_of(guest, target), target_path.encode()
    )
    return None


@FILES.function(
    "[method]descriptor.open-at",
    f"func({_FOLLOWED_PATH}, open-flags: {types.OPEN_FLAGS}, flags: {types.DESCRIPTOR_FLAGS}) -> "
    f"result<own<descriptor>, {types.ERROR_CODE}>",
)
@told
def open_at(
    guest: ComponentGuest,
    number: int,
    lookup: frozenset[str],
    path: str,
    wanted: frozenset[str],
    flags: frozenset[str],
) -> WitValue:
    directory = directory_of(guest, number)
    check_room(guest)
    how = Opening(
        wanted=OpenFlags(sum(OpenFlags[name.upper()] for name in wanted)),
        flags=FdFlags(sum(flag for name, flag in types.SYNC_FLAGS.items() if name in flags)),
        reads="read" in flags,
        writes="write" in flags,
        follow=types.FOLLOW in lookup,
    )
    return guest.resources.add(file_operations.open_at(directory, path.encode(), how))


@FILES.function("[method]descriptor.readlink-at", f"func({_PATH}) -> result<string, {types.ERROR_CODE}>")
@told
def readlink_at(guest: ComponentGuest, number: int, path: str) -> WitValue:
    return text_of(file_operations.read_link(directory_of(guest, number), path.encode()))


@FILES.function("[method]descriptor.remove-directory-at", f"func({_PATH}) -> {NOTHING}")
@told
def remove_directory_at(guest: ComponentGuest, number: int, path: str) -> WitValue:
    file_operations.remove_directory(directory_of(guest, number), path.encode())
    return None


@FILES.function(
    "[method]descriptor.rename-at",
    f"func({SELF}, old-path: string, new-descriptor: borrow<descriptor>, new-path: string) -> {NOTHING}",
)
@told
def rename_at(guest: ComponentGuest, number: int, path: str, target: int, target_path: str) -> WitValue:
    file_operations.rename(
        directory_of(guest, number), path.encode(), directory_of(guest, target), target_path.encode()
    )
    return None


@FILES.function(
    "[method]descriptor.symlink-at", f"func({SELF}, old-path: string, new-path: string) -> {NOTHING}"
)
@told
def symlink_at(guest: ComponentGuest, number: int, target: str, path: str) -> WitValue:
    file_operations.make_symbolic_link(directory_of(guest, number), target.encode(), path.encode())
    return None


@FILES.function("[method]descriptor.unlink-file-at", f"func({_PATH}) -> {NOTHING}")
@told
def unlink_file_at(guest: ComponentGuest, number: int, path: str) -> WitValue:
    file_operations.remove_file(directory_of(guest, number), path.encode())
    return None


@FILES.function("[method]descriptor.metadata-hash-at", f"func({_FOLLOWED_PATH}) -> {HASH}")
@told
def metadata_hash_at(guest: ComponentGuest, number: int, flags: frozenset[str], path: str) -> WitValue:
    return hash_of(_status_at(guest, number, flags, path))


FILESYSTEM = (FILES, PREOPENS)
