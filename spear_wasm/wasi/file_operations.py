"""What can be done with what a path below a directory leads to, whichever preview asks for it.

Paths are bytes, relative to an open directory. Each function raises WasiError or OSError, of which its guest is told.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spear_wasm.wasi.descriptors import Descriptor, Directory, File
from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.paths import entry_at
from spear_wasm.wasi.types import OF_ANY_FILE, OF_WRITING, FdFlags, OpenFlags, Rights
from spear_wasm.wasi.volume import Volume

_ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Opening:
    """How something is opened; `follow` where a symbolic link at the end of its path is followed."""

    wanted: OpenFlags
    flags: FdFlags
    reads: bool
    writes: bool
    follow: bool


@contextlib.contextmanager
def _entry(
    directory: Directory, path: bytes, *, follow: bool = False, may_be_new: bool = False
) -> Iterator[tuple[int, bytes]]:
    """The directory on the host and the name in it that a path leads to.

    One that ends in a slash leads to a directory, which `may_be_new` or has to be there.
    """
    with entry_at(directory.number, path, follow=follow) as (parent, name):
        if path.endswith(b"/"):
            _check_directory(parent, name, may_be_new=may_be_new)
        yield parent, name


def _check_directory(parent: int, name: bytes, *, may_be_new: bool) -> None:
    kind = _kind_of(parent, name)
    if kind is None and not may_be_new:
        raise WasiError(Errno.NOENT)
    if kind not in {None, stat.S_IFDIR}:
        raise WasiError(Errno.NOTDIR)


def _kind_of(parent: int, name: bytes) -> int | None:
    try:
        return stat.S_IFMT(_status(parent, name).st_mode)
    except FileNotFoundError:
        return None


def _status(parent: int, name: bytes) -> os.stat_result:
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


@contextlib.contextmanager
def _counted(volume: Volume) -> Iterator[None]:
    volume.admit_entry()
    try:
        yield
    except BaseException:
        volume.entry_failed()
        raise


def make_directory(directory: Directory, path: bytes) -> None:
    """Make a directory."""
    with _entry(directory, path, may_be_new=True) as (parent, name):
        directory.volume.check_writable()
        with _counted(directory.volume):
            os.mkdir(name, 0o777, dir_fd=parent)


def status_at(directory: Directory, path: bytes, *, follow: bool) -> os.stat_result:
    """What is there is like."""
    with _entry(directory, path, follow=follow) as (parent, name):
        return _status(parent, name)


def set_times_at(
    directory: Directory, path: bytes, times: Callable[[os.stat_result], tuple[int, int]], *, follow: bool
) -> None:
    """Set the times of access and modification, in nanoseconds, to what `times` makes of how it is."""
    with _entry(directory, path, follow=follow) as (parent, name):
        directory.volume.check_writable()
        os.utime(name, ns=times(_status(parent, name)), dir_fd=parent, follow_symlinks=False)


def link(source: Directory, source_path: bytes, target: Directory, target_path: bytes) -> None:
    """Give a file a further name."""
    with (
        _entry(source, source_path) as (source_parent, source_name),
        _entry(target, target_path) as (target_parent, target_name),
    ):
        _check_same(source.volume, target.volume)
        with _counted(target.volume):
            os.link(
                source_name,
                target_name,
                src_dir_fd=source_parent,
                dst_dir_fd=target_parent,
                follow_symlinks=False,
            )


def _check_same(source: Volume, target: Volume) -> None:
    source.check_writable()
    target.check_writable()
    if source is not target:
        raise WasiError(Errno.XDEV)


def open_at(directory: Directory, path: bytes, how: Opening) -> Descriptor:
    """Open a file or a directory, or make a file."""
    follow = how.follow and OpenFlags.EXCLUSIVE not in how.wanted
    with _entry(directory, path, follow=follow) as (parent, name):
        return _opened(directory.volume, parent, name, how)


def _opened(volume: Volume, parent: int, name: bytes, how: Opening) -> Descriptor:
    kind, wanted = _kind_of(parent, name), how.wanted
    if kind is None and OpenFlags.CREATE not in wanted:
        raise WasiError(Errno.NOENT)
    if kind is not None and OpenFlags.CREATE | OpenFlags.EXCLUSIVE in wanted:
        raise WasiError(Errno.EXIST)
    if kind == stat.S_IFDIR or OpenFlags.DIRECTORY in wanted:
        if wanted & (OpenFlags.CREATE | OpenFlags.TRUNCATE):
            raise WasiError(Errno.INVAL if OpenFlags.DIRECTORY in wanted else Errno.ISDIR)
        if how.writes and kind == stat.S_IFDIR:
            raise WasiError(Errno.ISDIR)
        return Directory(os.open(name, _ALWAYS | os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent), volume)
    if kind == stat.S_IFLNK:
        raise WasiError(Errno.LOOP)
    if kind not in {None, stat.S_IFREG}:
        raise WasiError(Errno.NOTSUP)
    return _opened_file(volume, parent, name, how, is_new=kind is None)


def _opened_file(volume: Volume, parent: int, name: bytes, how: Opening, *, is_new: bool) -> File:
    truncates = OpenFlags.TRUNCATE in how.wanted
    if how.writes or truncates or is_new:
        volume.check_writable()
    host = _ALWAYS | (os.O_RDWR if how.writes or truncates else os.O_RDONLY)
    host |= os.O_CREAT * (OpenFlags.CREATE in how.wanted) | os.O_EXCL * is_new | os.O_TRUNC * truncates
    host |= os.O_SYNC * bool(how.flags & (FdFlags.SYNC | FdFlags.RSYNC))
    host |= os.O_DSYNC * bool(how.flags & FdFlags.DSYNC)
    with _counted(volume) if is_new else contextlib.nullcontext():
        number = os.open(name, host, 0o666, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(number).st_mode):  # it was one a moment ago: somebody else is at work here
        os.close(number)
        raise WasiError(Errno.NOTSUP)
    granted = OF_ANY_FILE | Rights.FD_READ * how.reads | (OF_WRITING if how.writes else Rights(0))
    return File(number, volume, granted, how.flags)


def read_link(directory: Directory, path: bytes) -> bytes:
    """Where a symbolic link leads."""
    with _entry(directory, path) as (parent, name):
        return os.readlink(name, dir_fd=parent)


def remove_directory(directory: Directory, path: bytes) -> None:
    """Remove a directory with nothing in it."""
    with _entry(directory, path) as (parent, name):
        directory.volume.check_writable()
        if name == b".":
            raise WasiError(Errno.INVAL)
        status = _status(parent, name)
        os.rmdir(name, dir_fd=parent)
        directory.volume.removed(status)


def rename(source: Directory, source_path: bytes, target: Directory, target_path: bytes) -> None:
    """Give something another name, instead of what has that name."""
    with (
        _entry(source, source_path) as (source_parent, source_name),
        _entry(target, target_path, may_be_new=True) as (target_parent, target_name),
    ):
        _check_same(source.volume, target.volume)
        if target_path.endswith(b"/"):
            _check_directory(source_parent, source_name, may_be_new=False)
        replaced = None
        with contextlib.suppress(FileNotFoundError):
            replaced = _status(target_parent, target_name)
        moved = _status(source_parent, source_name)
        os.rename(source_name, target_name, src_dir_fd=source_parent, dst_dir_fd=target_parent)
        if replaced is not None and replaced.st_ino != moved.st_ino:
            target.volume.removed(replaced)


def make_symbolic_link(directory: Directory, target: bytes, path: bytes) -> None:
    """Make a symbolic link, which may lead nowhere."""
    if target.startswith(b"/"):
        raise WasiError(Errno.NOTCAPABLE)
    with _entry(directory, path) as (parent, name):
        directory.volume.check_writable()
        with _counted(directory.volume):
            os.symlink(target, name, dir_fd=parent)


def remove_file(directory: Directory, path: bytes) -> None:
    """Remove a file or a symbolic link."""
    with _entry(directory, path) as (parent, name):
        directory.volume.check_writable()
        status = _status(parent, name)
        os.unlink(name, dir_fd=parent)
        directory.volume.removed(status)
