"""Machine code on disk, made once for each artifact and kind of engine, and believed only if it is ours.

Below the data directory:

    key                                 what our files are sealed with
    code/<fingerprint>/<digest>.cwasm   machine code
    code/<fingerprint>/<digest>.json    its sidecar: what we state about it, sealed

The statement names digest, fingerprint, size and the seal of the code, so that no file passes for another.
Whatever does not fit together is compiled again: nothing in the cache is worth an error.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from spear_wasm.artifacts.files import (
    SEALED_MODE,
    disk_full_refused,
    make_directory,
    make_private_directory,
    written_sealed,
)
from spear_wasm.artifacts.references import digest_reference, parse_checksum
from spear_wasm.artifacts.seal import Seal, open_key, same_seal
from spear_wasm.artifacts.sidecar import Statement, read_sidecar, sealed
from spear_wasm.artifacts.single_flight import SingleFlight
from spear_wasm.engine.compilation import Compilation
from spear_wasm.errors import ArtifactDeleted, ArtifactError
from spear_wasm.model import ModuleInfo

_TEMPORARY_PREFIX = ".making-"
_FINGERPRINT = re.compile(r"[0-9a-f]{16,128}")

Identity: TypeAlias = tuple[int, int, int, int, int]
"""A file as it is at a moment."""


class Compiler(Protocol):
    """What the cache asks of a compiler; `spear_wasm.engine.compiler` has the real one."""

    def fingerprint(self, *, metered: bool) -> str:
        """16 or more lower-case hex digits that name the conditions which machine code depends on."""

    def compile(self, wasm: Path, output: Path, *, metered: bool) -> Compilation:
        """Write the machine code of the module in `wasm` to `output`. Blocks.

        Raises:
            InvalidArtifact: it is no module that we run.
            CompileRefused: it took more than one compilation may take.
        """


@dataclass(frozen=True, slots=True)
class CompiledCode:
    """Machine code that is ours, in a file to be mapped; `compile_time_ms` is wall time."""

    path: Path
    module: ModuleInfo
    compile_time_ms: float


class CodeCache:
    """The machine code of artifacts, by digest. Thread-safe; `load` blocks while it compiles.

    One process at a time may have the directory, which the ArtifactStore's lock on it sees to: the store
    calls `open` once it has that lock, and nothing works before.
    """

    def __init__(self, directory: Path, compiler: Compiler) -> None:
        self._key_file = directory / "key"
        self._root = directory / "code"
        self._compiler = compiler
        self._flights: SingleFlight[tuple[str, bool], CompiledCode] = SingleFlight()
        self._seal: Seal | None = None
        self._check_room: Callable[[], None] = lambda: None
        # guards: _verified, _sizes, _total, and that what is on disk changes by one pair of files at a time
        self._lock = threading.Lock()
        self._admitting = threading.Lock()  # guards: that of those who need room, one at a time asks for it
        # Code whose seal this process found right, as it was then: a file that changed is checked again.
        self._verified: dict[Path, tuple[Identity, str]] = {}
        self._sizes: dict[Path, int] = {}
        self._total = 0

    def open(self, check_room: Callable[[], None]) -> None:
        """Read the key, remove what other versions and broken-off compilations left, count the rest.

        `check_room` raises StorageFull where more bytes are on disk, `bytes_on_disk` among them, than may be.
        """
        self._check_room = check_room
        make_directory(self._root.parent)
        make_private_directory(self._root)
        self._seal = Seal(open_key(self._key_file))
        current = {self._fingerprint(metered=metered) for metered in (False, True)}
        for folder in self._folders():
            if folder.name in current:
                self._take_stock(folder)
            else:
                shutil.rmtree(folder)

    def load(self, digest: str, wasm: Path, *, metered: bool) -> CompiledCode:
        """The machine code of an artifact, compiled from the module in `wasm` where the cache has none.

        `wasm` must hold the bytes of that digest. Callers who want the same code at once wait for one
        compilation and share its error.

        Raises:
            InvalidArtifact: it is no module that we run.
            CompileRefused: compiling it took more than one compilation may take.
            ArtifactDeleted: it has to be compiled and `wasm` is not there, or went away meanwhile.
            StorageFull: the disk is full, or has no room for the code within the server's bound.
        """
        digest = parse_checksum(digest)
        while True:
            try:
                return self._flights.do((digest, metered), lambda: self._load(digest, wasm, metered=metered))
            except ArtifactDeleted:
                # It may have been another caller's copy of the bytes that went away.
                if not wasm.exists():
                    raise

    def remove(self, digest: str) -> None:
        """Remove an artifact's machine code, for all kinds of engines."""
        digest = parse_checksum(digest)
        for folder in self._folders():
            self._remove_pair(folder / digest)

    def retain(self, digests: Collection[str]) -> None:
        """Remove the machine code of all artifacts but these."""
        with self._lock:
            strangers = {path.with_suffix("") for path in self._sizes if path.stem not in digests}
        for base in strangers:
            self._remove_pair(base)

    def bytes_on_disk(self) -> int:
        """Bytes of machine code and sidecars, as we wrote and found them, and of those about to be published."""
        with self._lock:
            return self._total

    def _load(self, digest: str, wasm: Path, *, metered: bool) -> CompiledCode:
        fingerprint = self._fingerprint(metered=metered)
        base = self._root / fingerprint / digest
        return self._authentic(base, fingerprint) or self._compiled(base, fingerprint, wasm, metered=metered)

    def _folders(self) -> list[Path]:
        return [path for path in self._root.iterdir() if _FINGERPRINT.fullmatch(path.name) and path.is_dir()]

    def _fingerprint(self, *, metered: bool) -> str:
        fingerprint = self._compiler.fingerprint(metered=metered)
        if _FINGERPRINT.fullmatch(fingerprint) is None:
            raise ValueError(
                f"a compiler's fingerprint is 16 to 128 lower-case hex digits, not {fingerprint!r}"
            )
        return fingerprint

    def _authentic(self, base: Path, fingerprint: str) -> CompiledCode | None:
        statement = read_sidecar(_sidecar_of(base), self._opened())
        if statement is None or (statement.digest, statement.fingerprint) != (base.name, fingerprint):
            return None
        code = _code_of(base)
        try:
            if not self._is_as_stated(code, statement):
                return None
        except OSError:
            return None
        return CompiledCode(code, statement.module, statement.compile_time_ms)

    def _is_as_stated(self, code: Path, statement: Statement) -> bool:
        known = (_identity(code), statement.code_seal)
        with self._lock:
            if self._verified.get(code) == known:
                return True
        if code.stat().st_size != statement.size_bytes:
            return False
        if not same_seal(self._opened().of_code(code), statement.code_seal):
            return False
        with self._lock:
            self._verified[code] = known
        return True

    def _compiled(self, base: Path, fingerprint: str, wasm: Path, *, metered: bool) -> CompiledCode:
        make_private_directory(base.parent)
        output = base.with_name(_TEMPORARY_PREFIX + secrets.token_hex(8))
        try:
            compilation = self._compile(base.name, wasm, output, metered=metered)
            with disk_full_refused():
                statement = self._describe(base.name, fingerprint, output, compilation)
                self._publish(base, output, statement)
        finally:
            output.unlink(missing_ok=True)
        # An artifact's removal takes its bytes before its code: either it saw our code, or we see that here.
        if not wasm.exists():
            self._remove_pair(base)
            raise _gone(base.name)
        return CompiledCode(_code_of(base), statement.module, statement.compile_time_ms)

    def _compile(self, digest: str, wasm: Path, output: Path, *, metered: bool) -> Compilation:
        if not wasm.exists():
            raise _gone(digest)
        try:
            return self._compiler.compile(wasm, output, metered=metered)
        except ArtifactError as error:
            if wasm.exists():
                raise
            raise _gone(digest) from error

    def _describe(self, digest: str, fingerprint: str, output: Path, compilation: Compilation) -> Statement:
        output.chmod(SEALED_MODE)
        return Statement(
            digest=digest,
            fingerprint=fingerprint,
            size_bytes=output.stat().st_size,
            code_seal=self._opened().of_code(output),
            compile_time_ms=compilation.seconds * 1000,
            module=compilation.module,
        )

    def _publish(self, base: Path, output: Path, statement: Statement) -> None:
        code, sidecar = _code_of(base), _sidecar_of(base)
        content = sealed(statement, self._opened())
        with (
            self._room_for(base, statement.size_bytes + len(content)),
            written_sealed(output.with_suffix(".json"), content) as new_sidecar,
            self._lock,
        ):
            # Until the sidecar has followed, the code is not what the old one states, and nobody believes it.
            output.replace(code)
            new_sidecar.replace(sidecar)
            self._verified[code] = (_identity(code), statement.code_seal)
            self._account(base)

    @contextmanager
    def _room_for(self, base: Path, size: int) -> Iterator[None]:
        with self._lock:
            growth = size - sum(self._sizes.get(path, 0) for path in (_code_of(base), _sidecar_of(base)))
        # Counted from its admission until it is published, when it is counted as what is on disk.
        with self._admitting:
            self._count(growth)
            try:
                self._check_room()
            except BaseException:
                self._count(-growth)
                raise
        try:
            yield
        finally:
            self._count(-growth)

    def _count(self, growth: int) -> None:
        with self._lock:
            self._total += growth

    def _remove_pair(self, base: Path) -> None:
        with self._lock:
            _sidecar_of(base).unlink(missing_ok=True)
            _code_of(base).unlink(missing_ok=True)
            self._verified.pop(_code_of(base), None)
            self._account(base)

    def _take_stock(self, folder: Path) -> None:
        for path in list(folder.iterdir()):
            if path.name.startswith(_TEMPORARY_PREFIX):
                path.unlink()
            else:
                with self._lock:
                    self._account(path.with_suffix(""))

    def _account(self, base: Path) -> None:
        for path in (_code_of(base), _sidecar_of(base)):
            size = path.stat().st_size if path.exists() else 0
            self._total += size - self._sizes.pop(path, 0)
            if size:
                self._sizes[path] = size

    def _opened(self) -> Seal:
        assert self._seal is not None, "the code cache is used before it was opened"
        return self._seal


def _code_of(base: Path) -> Path:
    return base.with_name(base.name + ".cwasm")


def _sidecar_of(base: Path) -> Path:
    return base.with_name(base.name + ".json")


def _identity(path: Path) -> Identity:
    # With the change time, which unlike the modification time cannot be set back.
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _gone(digest: str) -> ArtifactDeleted:
    return ArtifactDeleted(f"{digest_reference(digest)} was deleted; upload it again", digest=digest)
