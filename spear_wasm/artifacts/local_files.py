"""Artifacts in files of this machine, below directories that its operator allowed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spear_wasm.artifacts.references import quoted
from spear_wasm.errors import ArtifactNotFound, FetchFailed, InvalidRequest, LocationForbidden

CHUNK_BYTES = 1 << 18


def path_in(location: str) -> Path:
    """The path in a `file://` URL.

    Raises:
        InvalidRequest: it is no URL, has none, or is on another machine.
    """
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise InvalidRequest(f"location {quoted(location)} is no URL: {error}") from error
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
        raise InvalidRequest(f"location {quoted(location)} is no file:///PATH of this machine")
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"location {quoted(location)} holds no absolute path")
    return Path(path)


@contextlib.contextmanager
def file_opened(path: Path, allowed: Iterable[str]) -> Iterator[FileIO]:
    """A regular file that is below one of the allowed directories, when all symbolic links are followed.

    Raises:
        LocationForbidden: it is not below them, whether there is such a file or not.
        ArtifactNotFound: there is none.
        FetchFailed: it is no regular file, or cannot be read.
    """
    roots = [os.path.realpath(directory) for directory in allowed]
    resolved = os.path.realpath(path)
    _check_below(roots, resolved, path)
    try:
        # Not followed, as it is no link any more; and whoever makes it a FIFO does not make us wait.
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ArtifactNotFound(f"there is no file {quoted(str(path))}") from None
    except OSError as error:
        raise FetchFailed(f"the file {quoted(str(path))} cannot be read: {error.strerror}") from error
    try:
        # Directories on the way may have become links meanwhile: what counts is what is open now.
        _check_below(roots, os.path.realpath(f"/proc/self/fd/{descriptor}"), path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FetchFailed(f"{quoted(str(path))} is no regular file")
        yield FileIO(descriptor, closefd=False)
    finally:
        os.close(descriptor)


def chunks_of(file: FileIO) -> Iterator[bytes]:
    """What is in a file, piece by piece."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _check_below(roots: Iterable[str], resolved: str, path: Path) -> None:
    if not any(Path(resolved).is_relative_to(root) for root in roots):
        raise LocationForbidden(
            f"{quoted(str(path))} is not below a directory that artifacts may be fetched from; "
            "the operator names those in fetch.directories"
        )
