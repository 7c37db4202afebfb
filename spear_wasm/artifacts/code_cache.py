"""Machine code on disk, made once for each artifact and kind of engine, and believed only if it is ours.

Below the data directory:

    key                                 what our files are sealed with
    code/<fingerprint>/<digest>.cwasm   machine code
    code/<fingerprint>/<digest>.json    its sidecar: what we state about it, sealed

The statement names digest, fingerprint, size and the seal of the code, so that no file passes for another.
Whatever does not fit together is compiled again: nothing in the cache is worth an error.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
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
from spear_wasm.board import Account, Board, Seat
from spear_wasm.engine.compilation import Compilation
from spear_wasm.errors import ArtifactDeleted, ArtifactError
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key, making_code
from spear_wasm.model import ModuleInfo

MAKING_PREFIX = ".making-"
"""What the names of files begin with that are being made; the number of the worker that makes it follows."""
_FINGERPRINT = re.compile(r"[0-9a-f]{16,128}")

Identity: TypeAlias = tuple[int, int, int, int, int]
"""A file as it is at a moment."""


class Compiler(Protocol):
    """What the cache asks of a compiler; `spear_wasm.engine.compiler` has the real one."""

    def fingerprint(self, *, metered: bool) -> str:
        """16 or more lower-case hex digits that name the conditions which machine code depends on."""

    def compile(
        self, wasm: Path, output: Path, *, metered: bool, admit: Callable[[int], object]
    ) -> Compilation:
        """Write the machine code of the module in `wasm` to `output`. Blocks.

        `admit` is called with the code's size in bytes before any of it is written, and may raise to prevent that.

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

    The workers of one server share it: what one of them has compiled all of them map. The ArtifactStore calls `open`
    once the directory is this server's, and nothing works before. `companions` are the digests of modules that are
    no artifacts, but stand beside them.
    """

    def __init__(
        self,
        directory: Path,
        compiler: Compiler,
        companions: frozenset[str] = frozenset(),
        seat: Seat | None = None,
    ) -> None:
        self.seat = seat or Board().seat(0)
        self.locks = FileLocks(directory)
        self._key_file = directory / "key"
        self._root = directory / "code"
        self._compiler = compiler
        self._companions = companions
        self._flights: SingleFlight[tuple[str, bool], CompiledCode] = SingleFlight()
        self._seal: Seal | None = None
        self._check_room: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # guards: _verified
        # Code whose seal this process found right, as it was then: a file that changed is checked again.
        self._verified: dict[Path, tuple[Identity, str]] = {}
        # As they were counted; guarded by Key.CODE, as the files are.
        self._sizes: dict[Path, int] = {}

    def open(self, check_room: Callable[[], None]) -> None:
        """Read the key; where nobody else has, remove what other versions and broken-off compilations left.

        `check_room` raises StorageFull where more bytes are on disk, `bytes_on_disk` among them, than may be.
        """
        self._check_room = check_room
        make_directory(self._root.parent)
        make_private_directory(self._root)
        self._seal = Seal(open_key(self._key_file))
        if self.seat.number:
            return
        current = {self._fingerprint(metered=metered) for metered in (False, True)}
        for folder in self._folders():
            if folder.name in current:
                self._take_stock(folder)
            else:
                shutil.rmtree(folder)
        self.seat.count(Account.CODE, sum(self._sizes.values()))

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

    def has(self, digest: str, *, metered: bool) -> bool:
        """Whether `load` would have nothing to compile; what takes time of that is done by then."""
        fingerprint = self._fingerprint(metered=metered)
        return self._authentic(self._root / fingerprint / parse_checksum(digest), fingerprint) is not None

    def remove(self, digest: str) -> None:
        """Remove an artifact's machine code, for all kinds of engines."""
        digest = parse_checksum(digest)
        for folder in self._folders():
            self._remove_pair(folder / digest)

    def retain(self, digests: Collection[str]) -> None:
        """Remove the machine code of all artifacts but these; companions' stays."""
        with self.locks.held(Key.CODE):
            kept = self._companions.union(digests)
            strangers = {path.with_suffix("") for path in self._sizes if path.stem not in kept}
        for base in strangers:
            self._remove_pair(base)

    def bytes_on_disk(self) -> int:
        """Bytes of machine code and sidecars, as we wrote and found them, and of those about to be written."""
        return self.seat.total(Account.CODE) + self.seat.total(Account.COMPILATIONS)

    def _load(self, digest: str, wasm: Path, *, metered: bool) -> CompiledCode:
        fingerprint = self._fingerprint(metered=metered)
        base = self._root / fingerprint / digest
        known = self._authentic(base, fingerprint)
        if known is not None:
            return known
        with self.locks.held(making_code(f"{fingerprint}/{digest}")):  # another worker may be at it
            known = self._authentic(base, fingerprint)
            return known or self._compiled(base, fingerprint, wasm, metered=metered)

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
        self._remove_pair(base)  # nobody believes it, and what takes its place may need its room
        output = base.with_name(f"{MAKING_PREFIX}{self.seat.worker}-{secrets.token_hex(8)}")
        # What is under way is counted from before it is written until it is published, or gone.
        with contextlib.ExitStack() as counted:
            counted.callback(output.unlink, missing_ok=True)
            compilation = self._compile(
                base.name, wasm, output, metered=metered,
                admit=lambda size: counted.enter_context(self._room_for(size)),
            )  # fmt: skip
            with disk_full_refused():
                statement = self._describe(base.name, fingerprint, output, compilation)
                self._publish(base, output, statement)
        # An artifact's removal takes its bytes before its code: either it saw our code, or we see that here.
        if not wasm.exists():
            self._remove_pair(base)
            raise _gone(base.name)
        return CompiledCode(_code_of(base), statement.module, statement.compile_time_ms)

    def _compile(
        self, digest: str, wasm: Path, output: Path, *, metered: bool, admit: Callable[[int], object]
    ) -> Compilation:
        if not wasm.exists():
            raise _gone(digest)
        try:
            return self._compiler.compile(wasm, output, metered=metered, admit=admit)
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
            self._room_for(len(content)),
            written_sealed(output.with_suffix(".json"), content) as new_sidecar,
            self._changing(base),
        ):
            # Until the sidecar has followed, the code is not what the old one states, and nobody believes it.
            output.replace(code)
            new_sidecar.replace(sidecar)
            known = (_identity(code), statement.code_seal)
            with self._lock:
                self._verified[code] = known

    @contextlib.contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        with self.locks.held(Key.ROOM):
            self.seat.count(Account.COMPILATIONS, size)
            try:
                self._check_room()
            except BaseException:
                self.seat.count(Account.COMPILATIONS, -size)
                raise
        try:
            yield
        finally:
            self.seat.count(Account.COMPILATIONS, -size)

    def _remove_pair(self, base: Path) -> None:
        with self._changing(base):
            _sidecar_of(base).unlink(missing_ok=True)
            _code_of(base).unlink(missing_ok=True)
            with self._lock:
                self._verified.pop(_code_of(base), None)

    def _take_stock(self, folder: Path) -> None:
        for path in list(folder.iterdir()):
            if path.name.startswith(MAKING_PREFIX):
                path.unlink()
            else:
                self._sizes[path] = path.stat().st_size

    @contextlib.contextmanager
    def _changing(self, base: Path) -> Iterator[None]:
        """Change a pair of files, and count what there is of it afterwards."""
        paths = (_code_of(base), _sidecar_of(base))
        with self.locks.held(Key.CODE):
            if self.seat.board.is_shared:  # another worker may have changed it since we did
                counted = sum(map(_size_of, paths))
            else:
                counted = sum(self._sizes.pop(path, 0) for path in paths)
            try:
                yield
            finally:
                sizes = {path: _size_of(path) for path in paths}
                self._sizes |= {path: size for path, size in sizes.items() if size}
                self.seat.count(Account.CODE, sum(sizes.values()) - counted)

    def _opened(self) -> Seal:
        assert self._seal is not None, "the code cache is used before it was opened"
        return self._seal


def _code_of(base: Path) -> Path:
    return base.with_name(base.name + ".cwasm")


def _sidecar_of(base: Path) -> Path:
    return base.with_name(base.name + ".json")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _identity(path: Path) -> Identity:
    # With the change time, which unlike the modification time cannot be set back.
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _gone(digest: str) -> ArtifactDeleted:
    return ArtifactDeleted(f"{digest_reference(digest)} was deleted; upload it again", digest=digest)
