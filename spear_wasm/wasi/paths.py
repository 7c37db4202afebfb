"""From a path that a guest names to an entry of a directory, never beyond the directory that it was granted.

Every step is taken by us, through directories that are held open: a symbolic link is read, not followed by the
host, and `..` goes back to what is open. So whatever others rename meanwhile, no step leads outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from spear_wasm.wasi.errno import Errno, WasiError

MAX_PATH_BYTES = 4096
MAX_DEPTH = 64
"""Directories that one path may pass: each is open on the way."""
MAX_LINKS = 40
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def entry_at(directory: int, path: bytes, *, follow: bool) -> Iterator[tuple[int, bytes]]:
    """The directory that a path leads to, open, and the name in it; `.` where it is the directory itself.

    The entry need not exist. Where it does, and `follow` is set, it is no symbolic link.

    Raises:
        WasiError: NOTCAPABLE where it leads outside; others as a host has them.
        OSError: a step on the way fails.
    """
    walk = _Walk(directory, path)
    try:
        yield walk.parent_and_name(follow=follow or path.endswith(b"/"))
    finally:
        walk.close()


class _Walk:
    def __init__(self, directory: int, path: bytes) -> None:
        self._passed = [directory]
        self._links = 0
        self._ahead = deque(_steps(path))

    def parent_and_name(self, *, follow: bool) -> tuple[int, bytes]:
        while self._ahead:
            name = self._ahead.popleft()
            if name == b"..":
                self._go_back()
            elif not self._ahead:
                target = self._link_at(name) if follow else None
                if target is None:
                    return self._passed[-1], name
                self._go_along(target)
            else:
                self._go_into(name)
        return self._passed[-1], b"."

    def _go_into(self, name: bytes) -> None:
        if len(self._passed) > MAX_DEPTH:
            raise WasiError(Errno.NAMETOOLONG)
        try:
            self._passed.append(os.open(name, _STEP, dir_fd=self._passed[-1]))
        except OSError as error:
            target = self._link_at(name) if error.errno in {errno.ENOTDIR, errno.ELOOP} else None
            if target is None:
                raise
            self._go_along(target)

    def _go_back(self) -> None:
        if len(self._passed) == 1:
            raise WasiError(Errno.NOTCAPABLE)
        os.close(self._passed.pop())

    def _go_along(self, target: bytes) -> None:
        self._links += 1
        if self._links > MAX_LINKS:
            raise WasiError(Errno.LOOP)
        self._ahead.extendleft(reversed(_steps(target)))

    def _link_at(self, name: bytes) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=self._passed[-1])
        except OSError:
            return None

    def close(self) -> None:
        for descriptor in self._passed[1:]:
            os.close(descriptor)


def open_directory(path: Path) -> int:
    """Open a directory of the host by an absolute path on which there is no symbolic link: none is followed.

    Raises:
        OSError: it is not there, or something on the way is no directory any more.
    """
    here = os.open("/", _STEP)
    for step in path.parts[1:]:
        above = here
        try:
            here = os.open(step, _STEP, dir_fd=above)
        finally:
            os.close(above)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)


def _steps(path: bytes) -> list[bytes]:
    if not path:
        raise WasiError(Errno.NOENT)
    if len(path) > MAX_PATH_BYTES:
        raise WasiError(Errno.NAMETOOLONG)
    if path.startswith(b"/"):
        raise WasiError(Errno.NOTCAPABLE)
    if b"\0" in path:
        raise WasiError(Errno.ILSEQ)
    return [step for step in path.split(b"/") if step not in {b"", b"."}]
