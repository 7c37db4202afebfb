"""The content-addressed store of artifacts: their bytes in files, their names in the catalogue.

Below the data directory:

    lock                       held by the one process that uses it, or by a supervisor and its workers
    locks                      what those processes do one at a time
    catalog.db                 names, versions, labels, and what the modules say about themselves
    artifacts/<digest>.wasm    the bytes, never written again
    uploads/                   bytes that are on their way
    key, code/                 the code cache's

A file comes before its row and goes after it, so that a crash leaves a file without a row, which nobody sees
and the next start removes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from spear_wasm.artifacts.catalog import Catalog, Description, Entry, Removal, StoredArtifact
from spear_wasm.artifacts.code_cache import MAKING_PREFIX, CodeCache
from spear_wasm.artifacts.disk_budget import DiskBudget
from spear_wasm.artifacts.files import make_directory, make_private_directory, sync_directory
from spear_wasm.artifacts.references import (
    Reference,
    check_prefix,
    digest_reference,
    parse_checksum,
    parse_reference,
    quoted,
)
from spear_wasm.artifacts.upload import TEMPORARY_PREFIX, StagedBytes, Upload, UploadHeader, refuse_too_large
from spear_wasm.board import News
from spear_wasm.config import ArtifactsConfig
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactInUse,
    ArtifactNotFound,
    InvalidRequest,
    TooManyUploads,
)
from spear_wasm.locks.directory_lock import DirectoryLock
from spear_wasm.locks.keys import Key
from spear_wasm.model import ModuleInfo

__all__ = ["ArtifactStore", "StoredArtifact", "Upload"]

DEFAULT_PAGE = 100
MAX_PAGE = 1000
RETRY_SECONDS = 1.0
"""When to try again if all uploads are taken. A guess: how long an upload takes is its sender's affair."""

_ARTIFACT_FILE = re.compile(r"([0-9a-f]{64})\.wasm")
_MAX_SEQUENCE = (1 << 63) - 1


class ArtifactStore:
    """Stores artifacts in `directory`, within the bounds of `config`. Blocks; thread-safe; a context manager.

    It opens the code cache, which must have the same directory, and has the same seat on the board. `check_linkable`
    raises what the uploader of a module is told that nobody here could run. Files that a crash left behind are
    removed, and rows whose files are gone: by the process that has the first seat, before there are others. One that
    has the directory to itself holds its lock, too.

    Raises:
        ConfigurationError: another process has the directory, or what is in it cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        config: ArtifactsConfig,
        code: CodeCache,
        check_linkable: Callable[[ModuleInfo], object],
    ) -> None:
        self._config = config
        self._code = code
        self._check_linkable = check_linkable
        self._files = directory / "artifacts"
        self._uploads = directory / "uploads"
        self._slots = threading.BoundedSemaphore(config.max_uploads)
        self._seat = code.seat
        self._budget = DiskBudget(config.max_disk, code.seat, code.locks)
        # guards: that rows and files change together, and _finishing. Held while a file is renamed or removed and its
        # row committed, but never while anything is compiled, hashed or received.
        self._changing = partial(code.locks.held, Key.ARTIFACTS)
        self._finishing: Counter[str] = Counter()  # uploads that are compiling or publishing here, by digest
        with contextlib.ExitStack() as opened:
            make_directory(directory)
            if not code.seat.board.is_shared:
                opened.enter_context(DirectoryLock(directory))
            code.open(check_room=lambda: self._budget.check(0))
            self._catalog = Catalog(directory / "catalog.db")
            opened.callback(self._catalog.close)
            if not code.seat.number:
                self._reconcile()
            self._resources = opened.pop_all()

    def close(self) -> None:
        """Let go of the directory; uploads that are under way fail. Again is harmless."""
        with self._changing():
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin_upload(
        self, name: str, version: str, checksum: str, size_bytes: int, labels: Mapping[str, str]
    ) -> Upload:
        """An upload to write the bytes to; the caller closes it, best by `with`.

        An empty name stores by digest only, an empty version becomes the first 12 hex digits of the digest.
        An empty checksum and a size of 0 bytes are not checked.

        Raises:
            InvalidRequest: a field is malformed.
            ArtifactTooLarge: the announced size is above the server's bound.
            VersionExists: the name and version exist, and not with the announced checksum.
            StorageFull: there is no room for one more artifact, or for one of that size.
            TooManyUploads: as many are under way as may be at once.
        """
        header = UploadHeader(name, version, checksum, size_bytes, dict(labels))
        refuse_too_large(size_bytes, self._config.max_artifact)
        if header.digest:
            self._catalog.refuse_moved(name, header.version_of(header.digest), header.digest)
        self._catalog.refuse_if_full(self._config.max_artifacts)
        self._budget.check(size_bytes)
        if not self._slots.acquire(blocking=False):
            raise TooManyUploads(
                f"{self._config.max_uploads} uploads are under way, as many as the server takes at once",
                retry_after=RETRY_SECONDS,
                limit=self._config.max_uploads,
            )
        try:
            return Upload(
                header,
                self._uploads,
                self._seat.worker,
                max_artifact=self._config.max_artifact,
                budget=self._budget,
                publish=self._publish,
                on_close=self._slots.release,
            )
        except BaseException:
            self._slots.release()
            raise

    def resolve(self, reference: str, version: str = "") -> StoredArtifact:
        """The artifact that `name` (its newest upload), `name:version` or `sha256:<hex>` means.

        Raises:
            InvalidRequest: the reference or the version is malformed, or they name different versions.
            ArtifactNotFound: there is none.
        """
        return self.find(parse_reference(reference).at(version))

    def get(self, digest: str) -> StoredArtifact:
        """The artifact of a digest, under the name that it was uploaded with last.

        Raises:
            ArtifactNotFound: there is none.
        """
        return self.find(Reference(digest=parse_checksum(digest)))

    def list(self, prefix: str, page_size: int, page_token: str) -> tuple[list[StoredArtifact], str]:
        """A page of artifacts whose names begin with `prefix`, as they were created, and the next token.

        A `page_size` of 0 means 100; 1000 is the most. A page also ends before it grows beyond about 1 MiB.
        The token is empty on the last page.

        Raises:
            InvalidRequest: the prefix, the size or the token makes no sense.
        """
        check_prefix(prefix)
        if page_size < 0:
            raise InvalidRequest(f"page_size is {page_size}; it must not be negative")
        size = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        page, after = self._catalog.page(prefix, after=_read_token(page_token), size=size)
        return page, "" if after is None else _write_token(after)

    def delete(self, reference: str, *, force: bool, in_use: Callable[[str], bool]) -> None:
        """Remove a named version, a name's newest one, or a digest with all of its names.

        With its last name go an artifact's bytes and machine code; then `in_use`, called with the digest and
        without any lock of ours, has a say unless `force` is set.

        Raises:
            InvalidRequest: the reference is malformed.
            ArtifactNotFound: there is none.
            ArtifactInUse: the bytes would go, and are in use.
        """
        wanted = parse_reference(reference)
        while True:
            removal = self._catalog.removal(wanted)
            if removal is None:
                raise _not_found(wanted)
            if removal.last and not force and in_use(removal.digest):
                raise ArtifactInUse(
                    f"tasks refer to {wanted}; delete them first, or force", digest=removal.digest
                )
            with self._changing():
                # False: names came or went since we asked, so that the question was another one.
                if self._catalog.remove(removal):
                    self._discard(removal)
                    self._seat.tell(News.NAMES)
                    return

    def has(self, digest: str) -> bool:
        """Whether there is an artifact of that digest."""
        return self._catalog.has(parse_checksum(digest))

    def path(self, digest: str) -> Path:
        """The file that holds an artifact's bytes.

        Raises:
            ArtifactDeleted: there is none any more.
        """
        digest = parse_checksum(digest)
        path = self._file_of(digest)
        if not self._catalog.has(digest) or not path.exists():
            raise ArtifactDeleted(f"{digest_reference(digest)} was deleted; upload it again", digest=digest)
        return path

    @property
    def generation(self) -> bytes:
        """Changes whenever a name may have come to mean another digest, or none."""
        return self._seat.heard(News.NAMES)

    def counts(self) -> tuple[int, int]:
        """How many artifacts there are, and bytes on disk: theirs, their machine code's, those of uploads."""
        return self._catalog.count(), self._budget.taken()

    def find(self, reference: Reference) -> StoredArtifact:
        """The artifact that a parsed reference means.

        Raises:
            ArtifactNotFound: there is none.
        """
        found = self._catalog.find(reference)
        if found is None:
            raise _not_found(reference)
        return found

    def _file_of(self, digest: str) -> Path:
        return self._files / f"{digest}.wasm"

    def _publish(self, header: UploadHeader, staged: StagedBytes) -> tuple[StoredArtifact, bool]:
        version = header.version_of(staged.digest)
        self._catalog.refuse_moved(header.name, version, staged.digest)
        entry = Entry(header.name, version, staged.digest, header.labels, created_at=int(time.time() * 1000))
        with self._code_kept_while_finishing(staged.digest):
            description = self._catalog.describe(staged.digest) or self._compile(staged)
            with self._changing():
                created = self._enter(entry, description, staged)
                self._seat.tell(News.NAMES)
                return self.find(Reference(name=entry.name, version=version, digest=staged.digest)), created

    def _compile(self, staged: StagedBytes) -> Description:
        compiled = self._code.load(staged.digest, staged.path, metered=False)
        self._check_linkable(compiled.module)
        return Description(staged.size_bytes, compiled.compile_time_ms, compiled.module)

    def _enter(self, entry: Entry, description: Description, staged: StagedBytes) -> bool:
        target = self._file_of(entry.digest)
        created = not self._catalog.has(entry.digest)
        if created or not target.exists():
            staged.path.replace(target)
            sync_directory(self._files)
        try:
            self._catalog.enter(entry, description, max_entries=self._config.max_artifacts)
        except BaseException:
            if created:
                target.unlink()
            raise
        return created

    def _discard(self, removal: Removal) -> None:
        if not removal.last:
            return
        self._file_of(removal.digest).unlink(missing_ok=True)
        self._budget.count_artifacts(-removal.size_bytes)
        self._remove_unneeded_code(removal.digest)
        self._seat.tell(News.REMOVALS)

    @contextlib.contextmanager
    def _code_kept_while_finishing(self, digest: str) -> Iterator[None]:
        with self._changing():
            self._finishing[digest] += 1
        try:
            yield
        finally:
            with self._changing():
                self._finishing[digest] -= 1
                self._finishing += Counter()  # drops what is at zero
                self._remove_unneeded_code(digest)

    def _remove_unneeded_code(self, digest: str) -> None:
        if not self._finishing[digest] and not self._catalog.has(digest):
            self._code.remove(digest)

    def _reconcile(self) -> None:
        for directory in (self._files, self._uploads):
            make_private_directory(directory)
        sync_directory(self._files.parent)
        for leftover in self._uploads.glob(TEMPORARY_PREFIX + "*"):
            leftover.unlink()
        on_disk, known = _artifact_files(self._files), self._catalog.sizes()
        whole = known.items() & on_disk.items()  # by digest and size
        kept = {digest for digest, _ in whole}
        for digest in known.keys() - kept:
            self._catalog.forget(digest)
        for digest in on_disk.keys() - kept:
            self._file_of(digest).unlink()
        self._code.retain(kept)
        self._budget.count_artifacts(sum(size for _, size in whole))


def remove_leftovers(directory: Path, worker: int) -> None:
    """Remove what a worker has left in a data directory that has died: halves of uploads and of compilations."""
    for folder, prefix in ((directory / "uploads", TEMPORARY_PREFIX), (directory / "code", MAKING_PREFIX)):
        for left in folder.rglob(f"{prefix}{worker}-*"):
            left.unlink(missing_ok=True)


def _artifact_files(directory: Path) -> dict[str, int]:
    """Sizes by digest. Files of other names are not ours to touch."""
    matches = ((_ARTIFACT_FILE.fullmatch(path.name), path) for path in directory.iterdir())
    return {match[1]: path.stat().st_size for match, path in matches if match}


def _not_found(reference: Reference) -> ArtifactNotFound:
    return ArtifactNotFound(f"no artifact {reference}", reference=reference)


def _write_token(sequence: int) -> str:
    return base64.urlsafe_b64encode(str(sequence).encode()).decode()


def _read_token(token: str) -> int:
    if not token:
        return 0
    try:
        sequence = int(base64.urlsafe_b64decode(token.encode("ascii"))) if len(token) <= 32 else -1
    except (ValueError, binascii.Error):
        sequence = -1
    if not 0 <= sequence <= _MAX_SEQUENCE:
        raise InvalidRequest(f"page_token {quoted(token)} is none that this server gave")
    return sequence
