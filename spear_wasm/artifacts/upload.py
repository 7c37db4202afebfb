"""One upload: a header that was checked, then bytes, kept aside until they are what was announced."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from spear_wasm.artifacts.catalog import StoredArtifact
from spear_wasm.artifacts.disk_budget import DiskBudget
from spear_wasm.artifacts.files import SEALED_MODE, disk_full_refused
from spear_wasm.artifacts.references import (
    check_name,
    check_version,
    digest_reference,
    parse_checksum,
    quoted,
)
from spear_wasm.errors import ArtifactTooLarge, ChecksumMismatch, InvalidRequest
from spear_wasm.units import format_size

MAX_LABELS = 32
MAX_LABEL_KEY_BYTES = 128
MAX_LABEL_VALUE_BYTES = 1024
TEMPORARY_PREFIX = "upload-"
"""What the names of such files begin with; the number of the worker whose upload it is follows."""


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What an upload announces. An empty version or digest, and a size of 0 bytes, mean: not said.

    Raises:
        InvalidRequest: a field is malformed; the message says which.
    """

    name: str
    version: str
    digest: str
    size_bytes: int
    labels: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name)
        if self.version:
            check_version(self.version)
        if self.version and not self.name:
            raise InvalidRequest(f"version {quoted(self.version)} comes without a name")
        if self.digest:
            object.__setattr__(self, "digest", parse_checksum(self.digest))
        if self.size_bytes < 0:
            raise InvalidRequest(f"size_bytes is {self.size_bytes}; it must not be negative")
        _check_labels(self.labels)

    def version_of(self, digest: str) -> str:
        """The version that bytes of this digest get."""
        return self.version or digest[:12]


@dataclass(frozen=True, slots=True)
class StagedBytes:
    """An upload's bytes, complete and on disk, in a file that the upload still owns."""

    path: Path
    digest: str
    size_bytes: int


Publish: TypeAlias = Callable[[UploadHeader, StagedBytes], tuple[StoredArtifact, bool]]


class Upload:
    """Takes the bytes of an artifact. A context manager; what was not finished leaves nothing behind.

    Any error ends it, as if it had been closed. Calls from several threads wait for each other: closing an
    upload that is being finished waits until it is.
    """

    def __init__(
        self,
        header: UploadHeader,
        directory: Path,
        worker: int,
        *,
        max_artifact: int,
        budget: DiskBudget,
        publish: Publish,
        on_close: Callable[[], object],
    ) -> None:
        self._header = header
        self._max_artifact = max_artifact
        self._budget = budget
        self._publish = publish
        self._on_close = on_close
        # guards: everything below; re-entrant, because an error closes the upload. Held for as long as a call takes.
        self._turn = threading.RLock()
        self._hash = hashlib.sha256()
        self._size = 0
        self._taken = 0  # of the budget, not yet given back
        with disk_full_refused():
            descriptor, path = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{worker}-", dir=directory)
        self._path = Path(path)
        # Unbuffered: nothing is left to be written, and to fail, when a broken-off upload is closed.
        self._file: FileIO | None = FileIO(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        """Append bytes, as many as the caller likes.

        Raises:
            ArtifactTooLarge: the server takes no artifact of that size.
            ChecksumMismatch: they are more than the header announced.
            StorageFull: there is no room for them on disk.
            ValueError: the upload is over.
        """
        with self._turn, self._closed_on_error():
            file = self._open_file()
            self._admit(len(chunk))
            with disk_full_refused():
                _write_all(file, chunk)
            self._hash.update(chunk)

    def finish(self) -> tuple[StoredArtifact, bool]:
        """Check, compile and store what was written; blocks. The flag says whether the bytes are new here.

        Bytes that are here already keep their labels, and are not compiled again.

        Raises:
            ChecksumMismatch: the bytes are not the ones that the header announced.
            InvalidArtifact: they are no module that this server runs.
            CompileRefused: compiling them took more than one upload may take.
            UnlinkableArtifact: they import what no runtime of this server provides.
            VersionExists: the name and version exist with other bytes.
            StorageFull: there is no room for one more artifact.
            ValueError: the upload is over.
        """
        with self._turn, self._closed_on_error(), disk_full_refused():
            stored, created = self._publish(self._header, self._staged(self._open_file()))
            if created:
                self._budget.keep(self._taken)
                self._taken = 0
            self.close()
            return stored, created

    def close(self) -> None:
        """End the upload. Unless it was finished, nothing of it stays; again is harmless."""
        with self._turn:
            if self._file is None:
                return
            file, self._file = self._file, None
            try:
                file.close()
            finally:
                self._path.unlink(missing_ok=True)
                self._budget.give_back(self._taken)
                self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _open_file(self) -> FileIO:
        if self._file is None:
            raise ValueError("the upload is over")
        return self._file

    def _admit(self, count: int) -> None:
        size = self._size + count
        refuse_too_large(size, self._max_artifact)
        announced = self._header.size_bytes
        if announced and size > announced:
            raise ChecksumMismatch(f"more bytes came than the {announced} announced", announced=announced)
        self._budget.take(count)
        self._taken += count
        self._size = size

    def _staged(self, file: FileIO) -> StagedBytes:
        announced = self._header.size_bytes
        if announced and self._size != announced:
            raise ChecksumMismatch(
                f"{self._size} bytes came of the {announced} announced",
                announced=announced,
                actual=self._size,
            )
        digest = self._hash.hexdigest()
        if self._header.digest and digest != self._header.digest:
            raise ChecksumMismatch(
                f"the bytes are {digest_reference(digest)}, not {digest_reference(self._header.digest)}",
                announced=self._header.digest,
                actual=digest,
            )
        os.fchmod(file.fileno(), SEALED_MODE)
        os.fsync(file.fileno())
        return StagedBytes(self._path, digest, self._size)


def refuse_too_large(size_bytes: int, max_artifact: int) -> None:
    """ArtifactTooLarge if no artifact may have that size."""
    if size_bytes > max_artifact:
        raise ArtifactTooLarge(
            f"an artifact of {size_bytes} bytes is above the server's bound of {format_size(max_artifact)}",
            limit=max_artifact,
        )


def _write_all(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"{len(labels)} labels are more than the {MAX_LABELS} that an artifact may have")
    for key, value in labels.items():
        if not 0 < _utf8_length(key, "a label's key") <= MAX_LABEL_KEY_BYTES:
            raise InvalidRequest(f"label {quoted(key)}: a key has 1 to {MAX_LABEL_KEY_BYTES} bytes")
        if _utf8_length(value, f"the value of label {quoted(key)}") > MAX_LABEL_VALUE_BYTES:
            raise InvalidRequest(f"label {quoted(key)}: a value has at most {MAX_LABEL_VALUE_BYTES} bytes")


def _utf8_length(text: str, whose: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{whose} is not valid Unicode") from error
