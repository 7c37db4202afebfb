"""One process per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from spear_wasm.errors import ConfigurationError


class DirectoryLock:
    """Holds the file `lock` in a directory; the kernel lets go of it with the process, however that ends.

    Raises:
        ConfigurationError: another process holds it; the message and the metadata say which.
    """

    def __init__(self, directory: Path) -> None:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"{directory} is in use by process {holder}; one server at a time may have a data directory",
                pid=holder,
            ) from None
        os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0))
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another process have the directory; again is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
