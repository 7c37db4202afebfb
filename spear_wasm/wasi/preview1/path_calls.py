"""Functions on what a path leads to."""

from __future__ import annotations

from spear_wasm.engine.host_calls import CallingSandbox
from spear_wasm.wasi import file_operations
from spear_wasm.wasi.descriptors import Directory
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.file_operations import Opening
from spear_wasm.wasi.preview1.calling import guest_of, path_at, put_u32, wasi
from spear_wasm.wasi.preview1.descriptor_calls import times_of
from spear_wasm.wasi.preview1.layout import packed_filestat
from spear_wasm.wasi.types import FdFlags, OpenFlags, Rights

FOLLOW = 1
"""The one flag of a lookup: a symbolic link at the end of a path is followed."""


def _place(sandbox: CallingSandbox, fd: int, address: int, length: int) -> tuple[Directory, bytes]:
    """An open directory, and a path below it."""
    return guest_of(sandbox).open(fd).directory(), path_at(sandbox, address, length)


@wasi("path_create_directory", "iii")
def path_create_directory(sandbox: CallingSandbox, fd: int, address: int, length: int) -> None:
    file_operations.make_directory(*_place(sandbox, fd, address, length))


@wasi("path_filestat_get", "iiiii")
def path_filestat_get(
    sandbox: CallingSandbox, fd: int, flags: int, address: int, length: int, result_at: int
) -> None:
    place = _place(sandbox, fd, address, length)
    status = file_operations.status_at(*place, follow=bool(flags & FOLLOW))
    sandbox.write_memory(result_at, packed_filestat(status))


@wasi("path_filestat_set_times", "iiiiIIi")
def path_filestat_set_times(
    sandbox: CallingSandbox,
    fd: int,
    flags: int,
    address: int,
    length: int,
    access: int,
    modified: int,
    which: int,
) -> None:
    file_operations.set_times_at(
        *_place(sandbox, fd, address, length),
        lambda status: times_of(which, access, modified, status),
        follow=bool(flags & FOLLOW),
    )


@wasi("path_link", "iiiiiii")
def path_link(
    sandbox: CallingSandbox,
    source_fd: int,
    flags: int,
    source_at: int,
    source_length: int,
    target_fd: int,
    target_at: int,
    target_length: int,
) -> None:
    if flags & FOLLOW:
        raise WasiError(Errno.INVAL)
    file_operations.link(
        *_place(sandbox, source_fd, source_at, source_length),
        *_place(sandbox, target_fd, target_at, target_length),
    )


@wasi("path_open", "iiiiiIIii")
def path_open(
    sandbox: CallingSandbox,
    fd: int,
    lookup: int,
    address: int,
    length: int,
    open_flags: int,
    rights: int,
    _inherited: int,
    fd_flags: int,
    result_at: int,
) -> None:
    guest = guest_of(sandbox)
    guest.check_room()
    how = Opening(
        wanted=OpenFlags(open_flags & 15),
        flags=FdFlags(fd_flags & 31),
        reads=bool(rights & Rights.FD_READ),
        writes=bool(rights & Rights.FD_WRITE),
        follow=bool(lookup & FOLLOW),
    )
    opened = file_operations.open_at(*_place(sandbox, fd, address, length), how)
    put_u32(sandbox, result_at, guest.add(opened))


@wasi("path_readlink", "iiiiii")
def path_readlink(
    sandbox: CallingSandbox,
    fd: int,
    path_address: int,
    path_length: int,
    address: int,
    length: int,
    result_at: int,
) -> None:
    target = file_operations.read_link(*_place(sandbox, fd, path_address, path_length))
    target = target[: length & 0xFFFFFFFF]
    sandbox.write_memory(address, target)
    put_u32(sandbox, result_at, len(target))


@wasi("path_remove_directory", "iii")
def path_remove_directory(sandbox: CallingSandbox, fd: int, address: int, length: int) -> None:
    file_operations.remove_directory(*_place(sandbox, fd, address, length))


@wasi("path_rename", "iiiiii")
def path_rename(
    sandbox: CallingSandbox,
    source_fd: int,
    source_at: int,
    source_length: int,
    target_fd: int,
    target_at: int,
    target_length: int,
) -> None:
    file_operations.rename(
        *_place(sandbox, source_fd, source_at, source_length),
        *_place(sandbox, target_fd, target_at, target_length),
    )


@wasi("path_symlink", "iiiii")
def path_symlink(
    sandbox: CallingSandbox, target_at: int, target_length: int, fd: int, address: int, length: int
) -> None:
    target = path_at(sandbox, target_at, target_length)
    directory, path = _place(sandbox, fd, address, length)
    file_operations.make_symbolic_link(directory, target, path)


@wasi("path_unlink_file", "iii")
def path_unlink_file(sandbox: CallingSandbox, fd: int, address: int, length: int) -> None:
    file_operations.remove_file(*_place(sandbox, fd, address, length))


PATH_CALLS = (
    path_create_directory, path_filestat_get, path_filestat_set_times, path_link, path_open, path_readlink,
    path_remove_directory, path_rename, path_symlink, path_unlink_file,
)  # fmt: skip
